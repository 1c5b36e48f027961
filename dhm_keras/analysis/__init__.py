"""Pictures and numbers of runs."""

from dhm_keras.analysis.activation import activation_maps
from dhm_keras.analysis.activation_figure import plot_activations
from dhm_keras.analysis.agreement import agreement, measuring, stem
from dhm_keras.analysis.agreement_figure import plot_agreement
from dhm_keras.analysis.correlation import correlation, matching_convolutions, plot_correlation
from dhm_keras.analysis.cost import multiply_adds
from dhm_keras.analysis.curves import plot_curves
from dhm_keras.analysis.embeddings import plot_embeddings, project
from dhm_keras.analysis.network import plot_network
from dhm_keras.analysis.numbers import mean_std

__all__ = [
    "activation_maps",
    "agreement",
    "correlation",
    "matching_convolutions",
    "mean_std",
    "measuring",
    "multiply_adds",
    "plot_activations",
    "plot_agreement",
    "plot_correlation",
    "plot_curves",
    "plot_embeddings",
    "plot_network",
    "project",
    "stem",
]
