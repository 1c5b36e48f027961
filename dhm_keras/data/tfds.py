"""Image data sets through tensorflow-datasets (TFDS)."""

import logging
import os

import numpy as np

BATCH_SIZE = 1000
SPLITS = ("train", "test")
LOCAL_COPY = "read the official release from a local path (--data_dir of the recipes)"


def from_tfds(name, train_examples=None, download=False):
    """Loads a data set of labelled images that TFDS has prepared, such as `"cifar100"`.

    TFDS keeps the examples in an order of its own; here they come in the order of their ids, for CIFAR that of the
    official release, so that `from_tfds("cifar100")` equals `cifar100(folder)`.

    Args:
        name: String, a TFDS data set whose examples have an `id`, an `image` and a `label` and whose images are all of
            one size.
        train_examples: Integer. Takes only the first training images. Defaults to all.
        download: Boolean. Whether TFDS may download and prepare the data set if it is not there, in
            `~/tensorflow_datasets` or what the environment variable `TFDS_DATA_DIR` says. Defaults to `False`.

    Returns:
        `(train_images, train_labels), (test_images, test_labels)`: uint8 `(n, height, width, channels)` and int64
        `(n,)`.

    Raises:
        ImportError: if tensorflow-datasets or TensorFlow, which it reads its files with, cannot be imported.
        OSError: if the data set is not there and cannot, or must not, be downloaded.
        ValueError: if it cannot be read, or has fewer training images than asked for.
    """
    try:
        import tensorflow_datasets as tfds  # isort: skip  (the name that a message gives first)
        import requests
        import tensorflow as tf
        from tensorflow_datasets.core.download import downloader
        from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
        from tensorflow_datasets.core.download.util import DownloadError
    except Exception as error:  # protobuf's own error, of versions that do not fit, is no ImportError
        raise ImportError(
            f"{name} by its name needs tensorflow-datasets and TensorFlow, which could not be imported ({error}): "
            f"install them with pip install 'dhm_keras[demo]', or {LOCAL_COPY}."
        ) from None

    builder = tfds.builder(name)
    if not os.path.isdir(builder.data_dir):
        if not download:
            raise FileNotFoundError(f"{name} is not in {builder.data_dir}: set `download`, or {LOCAL_COPY}.")
        print(f"Downloading {name} with tensorflow-datasets to {builder.data_dir}", flush=True)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for every attempt
    downloader.MAX_RETRIES = 4  # six seconds; its own ten tell after three minutes that there is no network
    tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except (requests.exceptions.RequestException, DownloadError, NonMatchingChecksumError) as error:
        raise OSError(
            f"{name} could not be downloaded ({_reason(error)}): try again with a network, or {LOCAL_COPY}."
        ) from None
    try:
        train, test = (_in_order(tfds.as_numpy(builder.as_dataset(split=split).batch(BATCH_SIZE))) for split in SPLITS)
    except tf.errors.OpError as error:
        raise ValueError(
            f"The data set in {builder.data_dir} cannot be read ({_reason(error)}). Remove that folder to have it "
            "made anew."
        ) from None
    n = len(train[0]) if train_examples is None else train_examples
    if not isinstance(n, (int, np.integer)) or not 1 <= n <= len(train[0]):
        raise ValueError(
            f"Invalid value for argument `train_examples`. Expected 1 to {len(train[0])}. Received: {train_examples!r}."
        )
    return tuple(array[:n] for array in train), test


def _in_order(batches):
    """Images and labels of a split, in the order of the ids."""
    batches = list(batches)
    ids, images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("id", "image", "label"))
    order = np.argsort(ids, kind="stable")
    return images[order], labels[order].astype("int64")


def _reason(error):
    """The first line of an error, of a failed request the innermost cause."""
    return str(error).strip().splitlines()[0].split("(Caused by ")[-1][:200]
