"""Images and labels: data sets from local files, training batches, label corruption."""

from dhm_keras.data.batches import TrainBatches, corrupt_labels, crop_and_flip
from dhm_keras.data.digits import DIGITS_MEAN_STD, digits

__all__ = ["DIGITS_MEAN_STD", "TrainBatches", "corrupt_labels", "crop_and_flip", "digits"]
