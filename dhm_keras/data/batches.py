"""Training batches as pure functions of (seed, epoch, step), the same on every backend."""

import copy
import functools
import itertools
import zlib

import keras
import numpy as np

# What a generator draws; the second word of its key.
_ORDER, _CROPS, _CORRUPTION = 1, 2, 3


def _generator(seed, purpose, epoch=0, step=0):
    """NumPy's counter-based Philox: key and counter say everything, nothing is carried over from batch to batch."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, step, epoch]))


@functools.lru_cache(maxsize=4)
def _order(seed, epoch, n):
    """The order of `n` images in an epoch, `(n,)`; kept, because every batch of the epoch asks for it."""
    order = _generator(seed, _ORDER, epoch).permutation(n)
    order.flags.writeable = False
    return order


class ShuffledBatches(keras.utils.PyDataset):
    """Endless batches of examples in an order that follows from (seed, epoch); a base of those below.

    Args:
        labels: Array `(n, ...)`.
        batch_size: Integer > 0.
        seed: Integer >= 0.
    """

    def __init__(self, labels, batch_size, seed):
        super().__init__()
        check_integers(batch_size=(batch_size, 1), seed=(seed, 0))
        self.labels, self.batch_size, self.seed = labels, batch_size, seed
        self.first_batch = 0

    @property
    def steps_per_epoch(self):
        """Number of batches in an epoch, a smaller last one counted."""
        return -(-len(self.labels) // self.batch_size)

    @property
    def num_batches(self):
        return None  # endless: Keras then asks for batch 0, 1, 2, ... through all epochs, in order

    def starting_at(self, epoch, step=0):
        """The same batches from a later one on.

        Args:
            epoch: Integer >= 0.
            step: Integer >= 0, within the epoch. Defaults to `0`.

        Returns:
            Batches whose batch 0 is that of `epoch` and `step`; they share the data.
        """
        later = copy.copy(self)
        later.first_batch = epoch * self.steps_per_epoch + step
        return later

    def _rows(self, epoch, step):
        """Numbers of a batch's images, `(b,)`."""
        order = _order(self.seed, epoch, len(self.labels))
        return order[step * self.batch_size : (step + 1) * self.batch_size]


class TrainBatches(ShuffledBatches):
    """Endless shuffled batches of images with random crops and flips, for `DHM.fit`.

    Batch `i` is step `i % steps_per_epoch` of epoch `i // steps_per_epoch`. Order, crops and flips are functions of
    (seed, epoch, step), so a run that starts later, see `starting_at`, sees what it would have seen. The last batch
    of an epoch may be smaller; every image comes once an epoch.

    Example:

    ```python
    train = dhm_keras.data.TrainBatches(images, labels, batch_size=128, pad=4, flip=True)
    model.fit(train, epochs=164, validation_data=(test_images, test_labels))
    ```

    Args:
        images: Array `(n, height, width, channels)`, raw 0-255, uint8 or float.
        labels: Integers `(n,)`, or soft labels `(n, classes)`.
        batch_size: Integer > 0.
        pad: Integer. Zero pixels added on every side before a crop of the old size is taken at random. Defaults to `0`.
        flip: Boolean. Whether every other image, at random, is mirrored left to right. Defaults to `False`.
        crop: `"image"`: each image has its own crop and flip. `"batch"`: one for all images of a batch, a weaker
            augmentation. Defaults to `"image"`.
        seed: Integer >= 0. Defaults to `0`.

    Raises:
        ValueError: if images and labels do not fit one another, or a number is out of range.
    """

    def __init__(self, images, labels, batch_size, pad=0, flip=False, crop="image", seed=0):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim != 4 or len(images) != len(labels) or not len(images):
            raise ValueError(
                "Invalid value for arguments `images` and `labels`. Expected (n, height, width, channels) and n "
                f"labels, n > 0. Received: shapes {images.shape} and {labels.shape}."
            )
        super().__init__(labels, batch_size, seed)
        check_integers(pad=(pad, 0))
        if crop not in ("image", "batch"):
            raise ValueError(f"Invalid value for argument `crop`. Expected 'image' or 'batch'. Received: {crop!r}.")
        self.images, self.pad, self.flip, self.crop = images, pad, flip, crop

    @property
    def settings(self):
        """What the batches follow from, besides epoch and step: a dict of JSON values, the arrays as checksums."""
        return {
            "images": zlib.crc32(np.ascontiguousarray(self.images)),
            "labels": zlib.crc32(np.ascontiguousarray(self.labels)),
            **{name: getattr(self, name) for name in ("batch_size", "pad", "flip", "crop", "seed")},
        }

    def for_backend(self, strategy=None):
        """What `keras.Model.fit` takes best.

        Args:
            strategy: `tf.distribute.Strategy` whose replicas share the batches. Defaults to None.

        Returns:
            On TensorFlow a `tf.data.Dataset` of the batches, under a strategy one that is distributed; otherwise
            `self`.
        """
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        from dhm_keras.distribute.tensorflow_data import distributed, shares, without_autotune

        first_epoch, first_step = divmod(self.first_batch, self.steps_per_epoch)
        height, width, channels = self.images.shape[1:]
        with tf.device("CPU"):
            pixels = tf.constant(_padded(self.images, self.pad).reshape(-1, channels))
            labels = tf.constant(self.labels)

        def batch(draws):  # (b, 4) -> (b, height, width, channels), (b, ...)
            rows, top, left, mirrored = tf.unstack(draws, axis=1)
            crops = windows(rows, top, left, mirrored, height, width, self.pad)
            return tf.gather(pixels, crops), tf.gather(labels, rows)

        def pipeline(context):
            bounds = shares(len(self.images), self.batch_size, context)
            first_share = first_step * (len(bounds) // self.steps_per_epoch)
            steps = lambda draws: tf.data.Dataset.from_tensor_slices(bounds).map(lambda at: draws[at[0] : at[1]])
            epochs = tf.data.Dataset.from_generator(
                lambda: map(self._draws, itertools.count(first_epoch)),
                output_signature=tf.TensorSpec((len(self.images), 4), "int64"),
            )
            batches = epochs.flat_map(steps).skip(first_share).map(batch, num_parallel_calls=2)
            return without_autotune(batches.prefetch(4))

        return distributed(pipeline, strategy)

    def _draws(self, epoch):
        """What an epoch's batches are made of: int64 `(n, 4)`, a row an example: image, top, left, mirrored."""
        draws = []
        for step in range(self.steps_per_epoch):
            rows, generator = self._rows(epoch, step), _generator(self.seed, _CROPS, epoch, step)
            crops = draw_crops(generator, len(rows), self.pad, self.flip, self.crop)
            draws.append(np.stack([rows, *np.broadcast_to(crops, (3, len(rows)))], axis=1))
        return np.concatenate(draws)

    def __getitem__(self, index):
        epoch, step = divmod(self.first_batch + index, self.steps_per_epoch)
        rows, generator = self._rows(epoch, step), _generator(self.seed, _CROPS, epoch, step)
        return crop_and_flip(self.images[rows], generator, self.pad, self.flip, self.crop), self.labels[rows]


def check_integers(**arguments):
    """Raises `ValueError` where an argument is no integer, or too small.

    Args:
        **arguments: Name of the argument to `(value, least)`.
    """
    for argument, (value, least) in arguments.items():
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected an integer >= {least}. Received: {value!r}."
            )


def draw_crops(generator, n, pad, flip, crop="image"):
    """Draws the crops of `n` images.

    Args:
        generator: `numpy.random.Generator`.
        n: Integer.
        pad: Integer. Zero pixels on every side of the image.
        flip: Boolean.
        crop: `"image"` or `"batch"`: whether each image has its own draw, or all have one. Defaults to `"image"`.

    Returns:
        int64 `(3, n)`, `(3, 1)` with one draw for all: top and left of each crop within the padded image, and 1 where
        it is mirrored, else 0.
    """
    draws = n if crop == "image" else 1
    corners = generator.integers(0, 2 * pad + 1, (2, draws))
    mirrored = generator.random((1, draws)) < (0.5 if flip else 0.0)
    return np.concatenate([corners, mirrored])


def windows(image, top, left, mirrored, height, width, pad):
    """Numbers of the pixels of crops, so that one gather takes them all; for NumPy and TensorFlow alike.

    Args:
        image, top, left, mirrored: int64 `(n,)`: of each crop the number of its image, and as of `draw_crops`.
        height, width: Integers, of an image without the padding and of a crop.
        pad: Integer.

    Returns:
        int64 `(n, height, width)`: positions among the pixels of all padded images.
    """
    image, top, left, mirrored = (value[:, None] for value in (image, top, left, mirrored))
    rows = image * (height + 2 * pad) + top + np.arange(height)  # (n, height)
    columns = left + mirrored * (width - 1) + (1 - 2 * mirrored) * np.arange(width)  # (n, width)
    return rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]


def crop_and_flip(images, generator, pad, flip, crop="image"):
    """Crops each image at random from itself with zeros around it, and mirrors half of them.

    Args:
        images: Array `(n, height, width, channels)`.
        generator, pad, flip, crop: As of `draw_crops`.

    Returns:
        Array of the same shape and dtype.
    """
    n, height, width, channels = images.shape
    crops = windows(np.arange(n), *draw_crops(generator, n, pad, flip, crop), height, width, pad)
    return _padded(images, pad).reshape(-1, channels).take(crops, axis=0)


def _padded(images, pad):
    """`(n, height, width, channels)` with `pad` zero pixels on every side; faster than `np.pad`."""
    n, height, width, channels = images.shape
    padded = np.zeros((n, height + 2 * pad, width + 2 * pad, channels), images.dtype)
    padded[:, pad : pad + height, pad : pad + width] = images
    return padded


def corrupt_labels(labels, ratio, num_classes, seed=0):
    """Replaces labels by random ones (supplement E).

    Args:
        labels: Integers `(n,)`.
        ratio: Float in [0, 1]. Exactly `round(ratio * n)` labels are drawn anew, uniformly over all classes, the right
            one included.
        num_classes: Integer.
        seed: Integer >= 0; chooses which, and what they become. Defaults to `0`.

    Returns:
        New array `(n,)`, int64.

    Raises:
        ValueError: if the labels are not integers `(n,)`, or `ratio` or `seed` is out of range.
    """
    corrupt = np.array(labels)
    if corrupt.ndim != 1 or corrupt.dtype.kind not in "iu":
        raise ValueError(
            f"Invalid value for argument `labels`. Expected integers (n,). Received: {corrupt.dtype} {corrupt.shape}."
        )
    if not 0 <= ratio <= 1:
        raise ValueError(f"Invalid value for argument `ratio`. Expected a number in [0, 1]. Received: {ratio!r}.")
    if seed < 0:
        raise ValueError(f"Invalid value for argument `seed`. Expected an integer >= 0. Received: {seed!r}.")
    corrupt = corrupt.astype("int64")
    generator = _generator(seed, _CORRUPTION)
    chosen = generator.permutation(len(corrupt))[: round(ratio * len(corrupt))]
    corrupt[chosen] = generator.integers(0, num_classes, len(chosen))
    return corrupt
