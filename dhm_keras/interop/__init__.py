"""Weights from PyTorch and back: the checkpoints of the authors' release, and torchvision's ResNets."""

from dhm_keras.interop.weights import load_torch, save_torch, to_torch

__all__ = ["load_torch", "save_torch", "to_torch"]
