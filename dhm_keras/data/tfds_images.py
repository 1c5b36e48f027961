"""ImageNet, and other sets of encoded images, as tensorflow-datasets (TFDS) has prepared them."""

import mmap
import os

import numpy as np

from dhm_keras.data.image_folder import LAYOUT, ImageFiles
from dhm_keras.data.tfds import prepared

FOLDER = f"give a folder that holds {LAYOUT} to image_folder (--data_dir of the recipe)"


def imagenet_from_tfds(split="train", name="imagenet2012", download=False):
    """Finds the images of a TFDS data set in its files; they are read from there one by one, still encoded.

    The order of training is exact, as of a folder: each image of the TFRecord files has a number. Labels and places of
    all images are read first, without the images: of ImageNet a minute or so. TensorFlow is needed for that alone.

    Args:
        split: String, as the data set calls it: of ImageNet `"train"` or `"validation"`. Defaults to `"train"`.
        name: String, of a data set with one image, stored as JPEG or PNG, and one label an example, such as
            `"imagenette/320px-v2"`. Defaults to `"imagenet2012"`.
        download: Boolean. Whether TFDS may download and prepare the data set if it is not there, in
            `~/tensorflow_datasets` or what the environment variable `TFDS_DATA_DIR` says. ImageNet it cannot download:
            its archives must have been put where TFDS says. Defaults to `False`.

    Returns:
        `ImageFiles`, in the order of the data set.

    Raises:
        ImportError: if tensorflow-datasets or TensorFlow cannot be imported.
        OSError: if the data set is not there and cannot, or must not, be downloaded.
        ValueError: if it has no such split, is no set of images with labels, or its files cannot be read here.
    """
    builder = prepared(name, download, FOLDER)
    if split not in builder.info.splits:
        raise ValueError(
            f"Invalid value for argument `split`. Expected one of {list(builder.info.splits)}. Received: {split!r}."
        )
    image, label = builder.info.supervised_keys or (None, None)
    class_names = getattr(builder.info.features[label], "names", None) if label else None
    if not class_names:
        raise ValueError(f"Invalid value for argument `name`. Expected images with one label each. Received: {name!r}.")
    if (form := builder.info.file_format.value) != "tfrecord":
        raise ValueError(
            f"The data set in {builder.data_dir} is prepared as {form}. Prepare it as tfrecord, TFDS's default, or "
            f"{FOLDER}."
        )
    names, spans, labels = [], [], []
    for path in map(os.fspath, builder.info.splits[split].filepaths):
        found = list(_examples(path, image.encode(), label.encode()))
        names += [os.path.basename(path)] * len(found)
        spans += [span for span, _ in found]
        labels += [number for _, number in found]
    return ImageFiles(os.fspath(builder.data_dir), tuple(names), np.array(labels), class_names, np.array(spans))


def _examples(path, image, label):
    """Yields `(begin, end)` of each image in a TFRecord file, and its label; `ValueError` if it is not one."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = 0
            while at < len(data):  # a record: length of 8 bytes, checksum of 4, content, checksum of 4
                begin = at + 12
                end = begin + int.from_bytes(data[at : at + 8], "little")
                at = end + 4
                if at > len(data):
                    raise ValueError("its last record is cut")
                features = _features(data, begin, end)
                place, number = (_value(data, *features[name]) for name in (image, label))
                yield place, _varint(data, number[0])[0]
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a TFRecord file of images with labels ({error!r}).") from None


def _features(data, begin, end):
    """`{name: (begin, end)}` of the features of a `tf.train.Example`."""
    features = {}
    for entries in _fields(data, begin, end):  # Example: the one field `features`
        for entry in _fields(data, *entries):  # Features: entries of a map
            key, feature = _fields(data, *entry)
            features[data[slice(*key)]] = feature
    return features


def _value(data, begin, end):
    """Where the one value of a feature begins and ends."""
    [values] = _fields(data, begin, end)  # Feature: bytes_list or int64_list
    [value] = _fields(data, *values)
    return value


def _fields(data, begin, end):
    """Yields where the content of each field of a protocol buffer begins and ends; for fields with a length."""
    at = begin
    while at < end:
        tag, at = _varint(data, at)
        if tag & 7 == 0:  # an integer by itself
            length = _varint(data, at)[1] - at
        elif tag & 7 == 2:
            length, at = _varint(data, at)
        else:
            raise ValueError("it has fields of another kind")
        yield at, at + length
        at += length
    if at != end:
        raise ValueError("a field is longer than its message")


def _varint(data, at):
    """A protocol buffer's integer, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
