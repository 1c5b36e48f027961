"""Images and labels: data sets from local files, training batches, label corruption."""

from dhm_keras.data.batches import TrainBatches, corrupt_labels
from dhm_keras.data.cifar import CIFAR10_MEAN_STD, CIFAR100_MEAN_STD, cifar10, cifar100
from dhm_keras.data.cifar_classes import CIFAR10_CLASS_NAMES, CIFAR100_CLASS_NAMES
from dhm_keras.data.crops import crop_and_flip
from dhm_keras.data.digits import DIGITS_MEAN_STD, digits
from dhm_keras.data.image_folder import IMAGENET_MEAN_STD, ImageFiles, image_folder
from dhm_keras.data.jpeg_batches import JpegTestBatches, JpegTrainBatches
from dhm_keras.data.tfds import from_tfds
from dhm_keras.data.tfds_images import imagenet_from_tfds

__all__ = [
    "CIFAR10_CLASS_NAMES",
    "CIFAR10_MEAN_STD",
    "CIFAR100_CLASS_NAMES",
    "CIFAR100_MEAN_STD",
    "DIGITS_MEAN_STD",
    "IMAGENET_MEAN_STD",
    "ImageFiles",
    "JpegTestBatches",
    "JpegTrainBatches",
    "TrainBatches",
    "cifar10",
    "cifar100",
    "corrupt_labels",
    "crop_and_flip",
    "digits",
    "from_tfds",
    "image_folder",
    "imagenet_from_tfds",
]
