"""Pictures of runs."""

from dhm_keras.analysis.curves import plot_curves

__all__ = ["plot_curves"]
