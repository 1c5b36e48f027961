"""Images and labels: data sets from local files, training batches, label corruption."""

from dhm_keras.data.batches import TrainBatches, corrupt_labels, crop_and_flip
from dhm_keras.data.cifar import CIFAR10_MEAN_STD, CIFAR100_MEAN_STD, cifar10, cifar100
from dhm_keras.data.digits import DIGITS_MEAN_STD, digits
from dhm_keras.data.tfds import from_tfds

__all__ = [
    "CIFAR10_MEAN_STD",
    "CIFAR100_MEAN_STD",
    "DIGITS_MEAN_STD",
    "TrainBatches",
    "cifar10",
    "cifar100",
    "corrupt_labels",
    "crop_and_flip",
    "digits",
    "from_tfds",
]
