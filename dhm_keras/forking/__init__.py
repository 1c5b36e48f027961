"""Branches for any functional Keras CNN."""

from dhm_keras.forking.blocks import Stage
from dhm_keras.forking.branches import Branch
from dhm_keras.forking.build import fork, stages

__all__ = ["Branch", "Stage", "fork", "stages"]
