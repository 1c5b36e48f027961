"""The main head for TensorFlow Serving: a complete folder, and whether it is the trained model."""

from dhm_keras.export.bundle import export_main
from dhm_keras.export.card import read_card
from dhm_keras.export.check import check
from dhm_keras.export.convert import to_litert, to_onnx
from dhm_keras.export.heads import float32_logits

__all__ = [
    "check",
    "export_main",
    "float32_logits",
    "read_card",
    "to_litert",
    "to_onnx",
]
