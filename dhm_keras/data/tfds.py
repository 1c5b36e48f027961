"""CIFAR-10 and CIFAR-100 through tensorflow-datasets (TFDS), and what all its data sets have in common."""

import contextlib
import logging
import os

import keras
import numpy as np

from dhm_keras.data.cifar import checked_number

NAMES = ("cifar10", "cifar100")
SPLITS = ("train", "test")
BATCH_SIZE = 1000
LOCAL_COPY = "read the official release from a local path (--data_dir of the recipes)"


def from_tfds(name, train_examples=None, download=False):
    """Loads CIFAR as TFDS has prepared it.

    TFDS keeps the images in an order of its own; here they come in the official one, so that `from_tfds("cifar100")`
    equals `cifar100(folder)`.

    Args:
        name: `"cifar10"` or `"cifar100"`.
        train_examples: Integer. Takes only the first training images. Defaults to all.
        download: Boolean. Whether TFDS may download and prepare the data set if it is not there, in
            `~/tensorflow_datasets` or what the environment variable `TFDS_DATA_DIR` says. Defaults to `False`.

    Returns:
        `(train_images, train_labels), (test_images, test_labels)`: uint8 `(n, 32, 32, 3)` and int64 `(n,)`.

    Raises:
        ImportError: if tensorflow-datasets or TensorFlow, which it reads its files with, cannot be imported.
        OSError: if the data set is not there and cannot, or must not, be downloaded.
        ValueError: if it cannot be read, or has fewer training images than asked for.
    """
    if name not in NAMES:
        raise ValueError(f"Invalid value for argument `name`. Expected one of {NAMES}. Received: {name!r}.")
    builder = prepared(name, download, LOCAL_COPY)
    import tensorflow as tf
    import tensorflow_datasets as tfds

    try:
        train, test = (_in_order(tfds.as_numpy(builder.as_dataset(split=split).batch(BATCH_SIZE))) for split in SPLITS)
    except (tf.errors.OpError, KeyError, ValueError, AssertionError) as error:
        raise ValueError(
            f"The data set in {builder.data_dir} cannot be read ({_reason(error)}). Remove that folder to have it made "
            "anew."
        ) from None
    n = checked_number(train_examples, len(train[0]))
    return tuple(array[:n] for array in train), test


def prepared(name, download, instead):
    """A data set of TFDS, on the disk.

    Args:
        name: String, as of `tfds.builder`.
        download: Boolean. Whether TFDS may download and prepare it.
        instead: String: what to do without it, for messages.

    Returns:
        `tfds.core.DatasetBuilder`.

    Raises:
        ImportError: if tensorflow-datasets or TensorFlow cannot be imported.
        OSError: if the data set is not there and cannot, or must not, be downloaded.
        ValueError: if TFDS knows no such data set.
    """
    try:
        import tensorflow_datasets as tfds  # isort: skip  (the name that a message gives first)
        import requests
        import tensorflow as tf
        from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
        from tensorflow_datasets.core.download.util import DownloadError
    except Exception as error:  # protobuf's own error, of versions that do not fit, is no ImportError
        raise ImportError(
            f"{name} by its name needs tensorflow-datasets and TensorFlow, which could not be imported ({error}): "
            f"install them with pip install 'dhm_keras[demo]', or {instead}."
        ) from None
    if keras.backend.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):  # it is at work already
            tf.config.set_visible_devices([], "GPU")  # which another backend trains on

    try:
        builder = tfds.builder(name)
    except ValueError as error:
        raise ValueError(f"tensorflow-datasets has no data set {name!r} ({_reason(error)}).") from None
    remedy = "set `download`"
    if by_hand := builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        page = f"https://tensorflow.org/datasets/catalog/{builder.name}"
        remedy = f"get its archives by hand ({page}) and prepare them with `tfds build {name}`"
    if not os.path.isdir(builder.data_dir):
        if not download:
            raise FileNotFoundError(f"{name} is not in {builder.data_dir}: {remedy}, or {instead}.")
        print(f"Downloading {name} with tensorflow-datasets to {builder.data_dir}", flush=True)
    try:
        with _quick_to_fail():
            builder.download_and_prepare()
    except AssertionError as error:
        if not by_hand:
            raise
        raise FileNotFoundError(f"{name} cannot be prepared ({_reason(error)}): {remedy}, or {instead}.") from None
    except (requests.exceptions.RequestException, DownloadError, NonMatchingChecksumError) as error:
        raise OSError(
            f"{name} could not be downloaded ({_reason(error)}): try again with a network, or {instead}."
        ) from None
    return builder


@contextlib.contextmanager
def _quick_to_fail():
    """Within, TFDS tells after six seconds, not three minutes, that there is no network, and without a line a try."""
    from tensorflow_datasets.core.download import downloader

    urllib3 = logging.getLogger("urllib3")
    retries, level = downloader.MAX_RETRIES, urllib3.level
    downloader.MAX_RETRIES = 4
    urllib3.setLevel(logging.ERROR)
    try:
        yield
    finally:
        downloader.MAX_RETRIES = retries
        urllib3.setLevel(level)


def _in_order(batches):
    """Images and labels of a split, in the order of the ids."""
    batches = list(batches)
    ids, images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("id", "image", "label"))
    order = np.argsort(ids, kind="stable")
    return images[order], labels[order].astype("int64")


def _reason(error):
    """The first line of an error, of a failed request the innermost cause."""
    return str(error).strip().splitlines()[0].split("(Caused by ")[-1][:200]
