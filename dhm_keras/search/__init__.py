"""Architecture search: Top-k Sample Search of CDNet and CNet."""

from dhm_keras.search.figure import plot_alphas
from dhm_keras.search.searching import TopKSearch
from dhm_keras.search.selection import SelectOnTest
from dhm_keras.search.split import split
from dhm_keras.search.supernet import Supernet, supernet
from dhm_keras.search.topk import choose, mix, straight_through

__all__ = [
    "SelectOnTest",
    "Supernet",
    "TopKSearch",
    "choose",
    "mix",
    "plot_alphas",
    "split",
    "straight_through",
    "supernet",
]
