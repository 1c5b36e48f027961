"""Weights from PyTorch and back: of the authors' release, torchvision, torchreid; and from one network to another."""

from dhm_keras.interop.transfer import transfer
from dhm_keras.interop.weights import load_torch, save_torch, to_torch

__all__ = ["load_torch", "save_torch", "to_torch", "transfer"]
