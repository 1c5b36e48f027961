"""Batches of encoded images, decoded, cropped and resized in threads: for training and for evaluation."""

import zlib

import keras
import numpy as np

from dhm_keras.data import jpeg
from dhm_keras.data.batches import _CROPS, ShuffledBatches, _generator, check_integers
from dhm_keras.data.image_folder import ImageFiles
from dhm_keras.data.image_reader import Ahead, Reader

DRAWS = {"scale": 2 * jpeg.TRIES + 2, "crop": 2}  # of each image, and one for the flip


class EncodedBatches(keras.utils.PyDataset):
    """Batches of encoded images; a base of those below, and of others.

    A subclass gives `_rows_and_draws(epoch, step)`, which images a batch has and a draw for each, and `_window(width,
    height, draw)`, as `Reader.read` takes it.

    Args:
        source: `ImageFiles`.
        batch_size: Integer > 0.
        size: (height, width) of the images given, integers.
        on_corrupt: As of `JpegTrainBatches`.
    """

    first_batch = 0
    target_signature = ("int64", (None,))

    def __init__(self, source, batch_size, size, on_corrupt):
        super().__init__()
        if not isinstance(source, ImageFiles):
            raise ValueError(
                "Invalid value for argument `source`. Expected `ImageFiles`, as image_folder(folder, split) gives. "
                f"Received: {source!r}."
            )
        check_integers(batch_size=(batch_size, 1))
        self.source, self.labels, self.batch_size, self.on_corrupt = source, source.labels, batch_size, on_corrupt
        self.reader = Reader(source, size, on_corrupt)
        self._ahead = Ahead()

    @property
    def examples_per_epoch(self):
        """Number of images that the batches of an epoch have together."""
        return len(self.source)

    @property
    def skipped(self):
        return self.reader.skipped

    @property
    def errors(self):
        return self.reader.errors  # see `distribute.plain_errors`

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
        from dhm_keras.distribute.tensorflow_data import from_function

        signature = ("uint8", (None, *self.reader.size, 3)), self.target_signature
        of_epoch = self.examples_per_epoch, self.batch_size
        return from_function(self.part, *of_epoch, signature, strategy, self.first_batch, self.num_batches)

    def part(self, epoch, first, last):
        """Some of an epoch's examples, those from `first` to `last` in its order; all of one batch.

        Args:
            epoch, first, last: Integers.

        Returns:
            uint8 `(b, height, width, 3)` and what `targets` gives.
        """
        step = first // self.batch_size
        rows, draws = self._rows_and_draws(epoch, step)
        here = slice(first - step * self.batch_size, last - step * self.batch_size)
        images, labels = self.reader.read(rows[here], self._window, draws[here])
        return images, self.targets(labels)

    def targets(self, labels):
        """What is learnt of images with these labels: the labels, int64 `(b,)`.

        Args:
            labels: int64 `(b,)`.
        """
        return labels

    def _batch(self, epoch, step):
        first = step * self.batch_size
        return self.part(epoch, first, min(first + self.batch_size, self.examples_per_epoch))


class EncodedTrainBatches(EncodedBatches, ShuffledBatches):
    """Endless shuffled batches of encoded images; a base of `JpegTrainBatches` and others.

    Args:
        source, batch_size, size, on_corrupt: As of `EncodedBatches`.
        seed: Integer >= 0.
        draws: Integer. Random numbers in [0, 1) that `_window` takes for each image.
    """

    def __init__(self, source, batch_size, size, seed, on_corrupt, draws):
        super().__init__(source, batch_size, size, on_corrupt)
        check_integers(seed=(seed, 0))
        self.seed, self._num_draws = seed, draws

    def starting_at(self, epoch, step=0):
        later = super().starting_at(epoch, step)
        later._ahead = Ahead()
        return later

    def _rows_and_draws(self, epoch, step):
        rows = self._rows(epoch, step)
        draws = _generator(self.seed, _CROPS, epoch, step).random((len(rows), self._num_draws))
        return rows, draws.tolist()

    def __getitem__(self, index):
        return self._ahead.get(index, lambda i: self._batch(*divmod(self.first_batch + i, self.steps_per_epoch)))


class EncodedTestBatches(EncodedBatches):
    """Batches of encoded images for evaluation, each once, in order; a base of `JpegTestBatches` and others."""

    @property
    def num_batches(self):
        """Number of batches, a smaller last one counted."""
        return -(-len(self.source) // self.batch_size)

    def _rows_and_draws(self, epoch, step):
        rows = np.arange(len(self.source))[step * self.batch_size : (step + 1) * self.batch_size]
        return rows, [None] * len(rows)

    def __getitem__(self, index):
        return self._ahead.get(index, lambda i: self._batch(0, i), self.num_batches)


class JpegTrainBatches(EncodedTrainBatches):
    """Endless shuffled batches of encoded images with random crops and flips, for `DHM.fit`.

    As `TrainBatches`: order, crops and flips are functions of (seed, epoch, step), every image comes once an epoch, the
    last batch of an epoch may be smaller, and TensorFlow and JAX see the same pixels. Images are decoded by Pillow in
    threads, on all the cores that this process may use, while the network trains on the batch before.

    Example:

    ```python
    files = dhm_keras.data.image_folder("imagenet", "train")
    train = dhm_keras.data.JpegTrainBatches(files, batch_size=256)
    test = dhm_keras.data.JpegTestBatches(dhm_keras.data.image_folder("imagenet", "val"), batch_size=256)
    model.fit(train, epochs=90, validation_data=test)
    ```

    Args:
        source: `ImageFiles`, as `image_folder` and `imagenet_from_tfds` give.
        batch_size: Integer > 0.
        image_size: Integer. Height and width of the images given. Defaults to `224`.
        augmentation: `"scale"`: a crop of 8 to 100 % of the area with an aspect ratio of 3/4 to 4/3, resized (the
            paper, for its deeper ResNets). `"crop"`: the shorter side is resized to 256/224 of `image_size`, then a
            crop is taken (ours, for the shallow ones, where the paper drops the first and does not say what replaces
            it). Defaults to `"scale"`.
        flip: Boolean. Whether every other image, at random, is mirrored left to right. Defaults to `True`.
        seed: Integer >= 0. Defaults to `0`.
        on_corrupt: `"raise"`: a file that cannot be decoded stops the training with a `ValueError` that names it.
            `"skip"`: it is left out of its batch, which then is smaller, and noted in `skipped`; where nothing of a
            batch is left, the next image that can be decoded takes its place. Defaults to `"raise"`.

    Attributes:
        skipped: List of the files that were left out until now, each once. On several machines those of this one.

    Raises:
        ImportError: if Pillow is not installed.
        ValueError: if an argument is not as above.
    """

    def __init__(self, source, batch_size, image_size=224, augmentation="scale", flip=True, seed=0, on_corrupt="raise"):
        check_integers(image_size=(image_size, 1))
        if augmentation not in DRAWS:
            raise ValueError(
                f"Invalid value for argument `augmentation`. Expected one of {tuple(DRAWS)}. Received: "
                f"{augmentation!r}."
            )
        super().__init__(source, batch_size, (image_size, image_size), seed, on_corrupt, DRAWS[augmentation] + 1)
        self.image_size, self.augmentation, self.flip = image_size, augmentation, flip

    @property
    def settings(self):
        """What the batches follow from, besides epoch and step: a dict of JSON values, the files as a checksum.

        What becomes of corrupt files is not among them: who meets one can go on from a checkpoint without it.
        """
        return {
            "images": self.source.checksum,
            "labels": zlib.crc32(self.labels.tobytes()),
            **{name: getattr(self, name) for name in ("batch_size", "image_size", "augmentation", "flip", "seed")},
        }

    def _window(self, width, height, draws):
        *of_window, mirrored = draws
        if self.augmentation == "scale":
            box = jpeg.scale_window(width, height, of_window)
        else:
            box = jpeg.resized_window(width, height, self.image_size, of_window)
        return box, self.flip and mirrored < 0.5, None


class JpegTestBatches(EncodedTestBatches):
    """Batches of encoded images for evaluation: each image once, in order, its centre.

    The shorter side is resized to 256/224 of `image_size`, antialiased, and the central square taken.

    Args:
        source: `ImageFiles`.
        batch_size: Integer > 0.
        image_size: Integer. Defaults to `224`.
        on_corrupt: As of `JpegTrainBatches`.

    Attributes:
        skipped: As of `JpegTrainBatches`.

    Raises:
        ImportError: if Pillow is not installed.
        ValueError: if an argument is not as above.
    """

    def __init__(self, source, batch_size, image_size=224, on_corrupt="raise"):
        check_integers(image_size=(image_size, 1))
        super().__init__(source, batch_size, (image_size, image_size), on_corrupt)
        self.image_size = image_size

    def _window(self, width, height, _):
        return jpeg.resized_window(width, height, self.image_size), False, None
