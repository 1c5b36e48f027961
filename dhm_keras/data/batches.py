"""Training batches as pure functions of (seed, epoch, step), the same on every backend."""

import copy
import functools
import itertools
import zlib

import keras
import numpy as np

from dhm_keras.data.crops import crop_and_flip, cut, cut_out, draw_crops, draw_holes, padded
from dhm_keras.data.on_device import DrawnCalls, ImagesOnDevice

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

    A subclass has the attributes `labels`, `(n, ...)`, `batch_size` and `seed`.
    """

    first_batch = 0

    @property
    def examples_per_epoch(self):
        """Number of examples that the batches of an epoch have together."""
        return len(self.labels)

    @property
    def steps_per_epoch(self):
        """Number of batches in an epoch, a smaller last one counted."""
        return -(-self.examples_per_epoch // self.batch_size)

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
        on_device: Boolean. Keeps all the images on the accelerator and crops them there, the same pixels: with
            `steps_per_execution` in `compile`, a divisor of `steps_per_epoch`, so many steps are one call, and a small
            network keeps a large GPU busy. For training on one device. The padded images stay there, uint8 at two bytes
            a number, until the model is trained on other batches, or compiled anew. Defaults to `False`.
        cutout: Integer. Side of a square that each crop loses, its centre uniform within the crop, what is outside left
            off (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017). It
            gets the mean colour of `images`, rounded if they are integers: about zero, once normalised. Not with
            `on_device`. Defaults to `0`: none.

    Attributes:
        source: With `on_device` the `ImagesOnDevice`, made at the first use, else `None`.

    Raises:
        ValueError: if images and labels do not fit one another, or a number is out of range.
    """

    def __init__(self, images, labels, batch_size, pad=0, flip=False, crop="image", seed=0, on_device=False, cutout=0):
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim != 4 or len(images) != len(labels) or not len(images):
            raise ValueError(
                "Invalid value for arguments `images` and `labels`. Expected (n, height, width, channels) and n "
                f"labels, n > 0. Received: shapes {images.shape} and {labels.shape}."
            )
        super().__init__()
        check_integers(batch_size=(batch_size, 1), seed=(seed, 0), pad=(pad, 0), cutout=(cutout, 0))
        if cutout and on_device:
            raise ValueError(
                "Invalid value for argument `cutout`. Expected 0 with on_device=True: squares are cut out on the CPU. "
                f"Received: {cutout}."
            )
        self.labels, self.batch_size, self.seed = labels, batch_size, seed
        if crop not in ("image", "batch"):
            raise ValueError(f"Invalid value for argument `crop`. Expected 'image' or 'batch'. Received: {crop!r}.")
        self.images, self.pad, self.flip, self.crop, self.on_device = images, pad, flip, crop, on_device
        self.cutout = cutout

    @functools.cached_property
    def source(self):
        return ImagesOnDevice(self.images, self.labels, self.pad) if self.on_device else None

    @functools.cached_property
    def _mean_colour(self):
        mean = self.images.mean(axis=(0, 1, 2), dtype="float64")
        return (np.round(mean) if self.images.dtype.kind in "iu" else mean).astype(self.images.dtype)

    @property
    def settings(self):
        """What the batches follow from, besides epoch and step: a dict of JSON values, the arrays as checksums."""
        return {
            "images": zlib.crc32(np.ascontiguousarray(self.images)),
            "labels": zlib.crc32(np.ascontiguousarray(self.labels)),
            **{name: getattr(self, name) for name in ("batch_size", "pad", "flip", "crop", "seed")},
            **({"cutout": self.cutout} if self.cutout else {}),  # checkpoints from before it was there go on
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

        from dhm_keras.distribute.tensorflow_data import distributed

        height, width, channels = self.images.shape[1:]
        with tf.device("CPU"):
            pixels = tf.constant(padded(self.images, self.pad).reshape(-1, channels))
            labels = tf.constant(self.labels)

        def batch(draws):
            crops, targets = cut(tf.gather, pixels, labels, draws, height, width, self.pad)
            return self._with_holes(tf.where, crops, draws[:, 4:]), targets

        pipeline = lambda context: self._pipeline(lambda draws: draws.map(batch, num_parallel_calls=2), context)
        return distributed(pipeline, strategy)

    def draws_for_backend(self, steps):
        """What `for_backend` gives, before the batches are cut: for `source.batch`.

        Args:
            steps: Integer, a divisor of `steps_per_epoch`. Steps that one call of the training takes.

        Returns:
            On TensorFlow a `tf.data.Dataset` of int64 `(b, 4)`, an element a step; otherwise `DrawnCalls`.
        """
        if keras.backend.backend() != "tensorflow":
            return DrawnCalls(self._draws_of_step, self.steps_per_epoch, self.batch_size, steps, self.first_batch)
        return self._pipeline(lambda draws: draws)

    def _pipeline(self, cut_all, context=None):
        """The endless `tf.data.Dataset` of a replica's shares, from that of their draws, int64 `(b, 4 or 6)` each."""
        import tensorflow as tf

        from dhm_keras.distribute.tensorflow_data import shares, without_autotune

        first_epoch, first_step = divmod(self.first_batch, self.steps_per_epoch)
        bounds = shares(len(self.images), self.batch_size, context)
        first_share = first_step * (len(bounds) // self.steps_per_epoch)
        steps = lambda draws: tf.data.Dataset.from_tensor_slices(bounds).map(lambda at: draws[at[0] : at[1]])
        epochs = tf.data.Dataset.from_generator(
            lambda: map(self._draws, itertools.count(first_epoch)),
            output_signature=tf.TensorSpec((len(self.images), 6 if self.cutout else 4), "int64"),
        )
        return without_autotune(cut_all(epochs.flat_map(steps).skip(first_share)).prefetch(4))

    def _draws(self, epoch):
        """What an epoch's batches are made of: int64 `(n, 4)`, see `crops.cut`; with holes their centres, `(n, 6)`."""
        return np.concatenate([self._draws_of_step(epoch, step) for step in range(self.steps_per_epoch)])

    def _draws_of_step(self, epoch, step):
        """Those of one batch, int64 `(b, 4)` or `(b, 6)`."""
        rows, generator = self._rows(epoch, step), _generator(self.seed, _CROPS, epoch, step)
        crops = draw_crops(generator, len(rows), self.pad, self.flip, self.crop)
        holes = self._draw_holes(generator, len(rows))
        return np.stack([rows, *np.broadcast_to(crops, (3, len(rows))), *holes], axis=1)

    def _draw_holes(self, generator, n):
        """Centres of `n` images' holes, int64 `(2, n)`; `(0, n)` without holes."""
        return draw_holes(generator, n, *self.images.shape[1:3]) if self.cutout else np.empty((0, n), "int64")

    def _with_holes(self, where, images, centers):
        """Images `(b, ...)` with holes around `(b, 2)`, as of `crops.cut_out`; as they are without holes."""
        if not self.cutout:
            return images
        return cut_out(where, images, centers[:, 0], centers[:, 1], self.cutout, self._mean_colour)

    def __getitem__(self, index):
        epoch, step = divmod(self.first_batch + index, self.steps_per_epoch)
        rows, generator = self._rows(epoch, step), _generator(self.seed, _CROPS, epoch, step)
        images = crop_and_flip(self.images[rows], generator, self.pad, self.flip, self.crop)
        return self._with_holes(np.where, images, self._draw_holes(generator, len(rows)).T), self.labels[rows]


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
