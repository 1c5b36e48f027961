"""Pictures and numbers of runs."""

from dhm_keras.analysis.curves import plot_curves
from dhm_keras.analysis.network import plot_network
from dhm_keras.analysis.numbers import mean_std

__all__ = ["mean_std", "plot_curves", "plot_network"]
