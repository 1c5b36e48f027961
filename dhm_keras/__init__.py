"""Train CNNs with side branches that teach one another, ship the main branch alone."""

from dhm_keras import (
    analysis,
    attributes,
    callbacks,
    data,
    distribute,
    export,
    forking,
    initializers,
    interop,
    layers,
    models,
    objective,
    optimizers,
    reid,
    sampling,
    schedules,
    search,
)
from dhm_keras.forking import Branch, fork
from dhm_keras.trainer import DHM

__version__ = "0.1.0"
__all__ = [
    "DHM",
    "Branch",
    "analysis",
    "attributes",
    "callbacks",
    "data",
    "distribute",
    "export",
    "fork",
    "forking",
    "initializers",
    "interop",
    "layers",
    "models",
    "objective",
    "optimizers",
    "reid",
    "sampling",
    "schedules",
    "search",
]
