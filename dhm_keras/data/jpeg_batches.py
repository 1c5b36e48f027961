"""Batches of encoded images, decoded, cropped and resized in threads: for training and for evaluation."""

import concurrent.futures
import functools
import itertools
import os
import zlib

import keras
import numpy as np

from dhm_keras.data import jpeg
from dhm_keras.data.batches import _CROPS, ShuffledBatches, _generator, check_integers
from dhm_keras.data.image_folder import ImageFiles

AHEAD = 2  # batches that are made while one is trained on
DRAWS = {"scale": 2 * jpeg.TRIES + 2, "crop": 2}  # of each image, and one for the flip


class _Reported:
    """What a reader has to tell."""

    @property
    def skipped(self):
        return self.reader.skipped

    @property
    def errors(self):
        return self.reader.errors  # see `distribute.plain_errors`


class JpegTrainBatches(_Reported, ShuffledBatches):
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
        super().__init__(_checked_source(source).labels, batch_size, seed)
        if augmentation not in DRAWS:
            raise ValueError(
                f"Invalid value for argument `augmentation`. Expected one of {tuple(DRAWS)}. Received: "
                f"{augmentation!r}."
            )
        self.source, self.augmentation, self.flip = source, augmentation, flip
        self.image_size, self.on_corrupt = image_size, on_corrupt
        self.reader = Reader(source, image_size, on_corrupt)
        self._ahead = Ahead()

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

    def starting_at(self, epoch, step=0):
        later = super().starting_at(epoch, step)
        later._ahead = Ahead()
        return later

    def for_backend(self, strategy=None):
        """What `keras.Model.fit` takes best.

        Args:
            strategy: `tf.distribute.Strategy` whose replicas share the batches. Defaults to None.

        Returns:
            On TensorFlow a `tf.data.Dataset` of the batches, under a strategy one that is distributed; otherwise
            `self`.
        """
        return _for_backend(self, strategy, first_batch=self.first_batch)

    def part(self, epoch, first, last):
        """Some of an epoch's examples, those from `first` to `last` in its order; all of one batch.

        Args:
            epoch, first, last: Integers.

        Returns:
            uint8 `(b, image_size, image_size, 3)` and int64 `(b,)`.
        """
        step = first // self.batch_size
        rows = self._rows(epoch, step)
        draws = _generator(self.seed, _CROPS, epoch, step).random((len(rows), DRAWS[self.augmentation] + 1))
        here = slice(first - step * self.batch_size, last - step * self.batch_size)
        return self.reader.read(rows[here], self._window, draws[here].tolist())

    def _window(self, width, height, draws):
        *of_window, mirrored = draws
        if self.augmentation == "scale":
            box = jpeg.scale_window(width, height, of_window)
        else:
            box = jpeg.resized_window(width, height, self.image_size, of_window)
        return box, self.flip and mirrored < 0.5

    def __getitem__(self, index):
        return self._ahead.get(index, lambda i: _batch(self, *divmod(self.first_batch + i, self.steps_per_epoch)))


class JpegTestBatches(_Reported, keras.utils.PyDataset):
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
        super().__init__()
        check_integers(batch_size=(batch_size, 1))
        self.source, self.labels = source, _checked_source(source).labels
        self.batch_size, self.image_size, self.on_corrupt = batch_size, image_size, on_corrupt
        self.reader = Reader(source, image_size, on_corrupt)
        self._ahead = Ahead()

    @property
    def num_batches(self):
        """Number of batches, a smaller last one counted."""
        return -(-len(self.source) // self.batch_size)

    def for_backend(self, strategy=None):
        """As of `JpegTrainBatches`; the distributed one is endless, `num_batches` steps are all images once."""
        return _for_backend(self, strategy, batches=self.num_batches)

    def part(self, epoch, first, last):
        """As of `JpegTrainBatches`; of every epoch the same."""
        rows = np.arange(first, last)
        return self.reader.read(rows, self._window, [None] * len(rows))

    def _window(self, width, height, _):
        return jpeg.resized_window(width, height, self.image_size), False

    def __getitem__(self, index):
        return self._ahead.get(index, lambda i: _batch(self, 0, i), self.num_batches)


def _checked_source(source):
    if not isinstance(source, ImageFiles):
        raise ValueError(
            "Invalid value for argument `source`. Expected `ImageFiles`, as image_folder(folder, split) gives. "
            f"Received: {source!r}."
        )
    return source


def _batch(batches, epoch, step):
    first = step * batches.batch_size
    return batches.part(epoch, first, min(first + batches.batch_size, len(batches.source)))


def _for_backend(data, strategy, **bounds):
    if keras.backend.backend() != "tensorflow":
        return data
    from dhm_keras.distribute.tensorflow_data import from_function

    size = data.image_size
    signature = ("uint8", (None, size, size, 3)), ("int64", (None,))
    return from_function(data.part, len(data.source), data.batch_size, signature, strategy, **bounds)


class Reader:
    """Reads, decodes, crops and resizes images in threads, and remembers which it could not.

    Args:
        source: `ImageFiles`.
        image_size: Integer.
        on_corrupt: `"raise"` or `"skip"`.
    """

    def __init__(self, source, image_size, on_corrupt):
        check_integers(image_size=(image_size, 1))
        if on_corrupt not in ("raise", "skip"):
            raise ValueError(
                f"Invalid value for argument `on_corrupt`. Expected 'raise' or 'skip'. Received: {on_corrupt!r}."
            )
        jpeg.require_pillow()
        self.source, self.image_size, self.on_corrupt = source, image_size, on_corrupt
        self.errors = []  # those raised, in whatever thread
        self._skipped = {}  # a dict is a set in order that threads can share

    @property
    def skipped(self):
        """List of the files that were left out, each once."""
        return list(self._skipped)

    def read(self, rows, window, draws):
        """Reads some images.

        Args:
            rows: Integers `(b,)`: which.
            window: Function of width, height and an image's draws to a box, as of `jpeg.resized`, and whether the
                image is mirrored.
            draws: Sequence of b draws.

        Returns:
            uint8 `(b, image_size, image_size, 3)` and int64 `(b,)`, both without the images that were left out.

        Raises:
            ValueError: if an image cannot be decoded, and is not to be left out; or if none is left.
            OSError: if a file cannot be read.
        """
        images = np.empty((len(rows), self.image_size, self.image_size, 3), "uint8")
        read = functools.partial(self._read_one, window)
        try:
            whole = np.fromiter(_threads().map(read, rows, draws, images), bool, len(rows))
            if len(rows) and not whole.any():  # an empty batch can be neither trained nor evaluated on
                return images[:1], self.source.labels[[self._next_whole(rows[-1], read, draws[-1], images[0])]]
        except Exception as error:
            self.errors.append(error)
            raise
        return (images, self.source.labels[rows]) if whole.all() else (images[whole], self.source.labels[rows[whole]])

    def _next_whole(self, row, read, draws, pixels):
        """Fills `pixels` with the first image behind `row` that can be decoded; returns its number."""
        for other in itertools.chain(range(row + 1, len(self.source)), range(row)):
            if read(other, draws, pixels):
                return other
        raise ValueError(f"None of the {len(self.source)} images in {self.source.folder} can be decoded.")

    def _read_one(self, window, row, draws, pixels):
        """Fills `pixels`, `(image_size, image_size, 3)`; returns whether the image is whole."""
        content = self.source.read(row)
        try:
            image = jpeg.decode(content)
        except jpeg.CorruptImage as error:
            where = self.source.where(row)
            if self.on_corrupt == "skip":
                self._skipped[where] = True
                return False
            raise ValueError(
                f"{where} is not an image that can be decoded ({error}). Remove it, or leave "
                "such images out with on_corrupt='skip', of a recipe --on_corrupt skip."
            ) from None
        box, mirrored = window(*image.size, draws)
        pixels[:] = jpeg.resized(image, box, self.image_size, mirrored)
        return True


class Ahead:
    """Makes the next things while one is used, where they are asked for one after the other."""

    def __init__(self):
        self._last, self._made = -1, {}

    def get(self, index, make, end=None):
        """The thing of a number.

        Args:
            index: Integer >= 0.
            make: Function of such a number.
            end: Integer. There are no things from this number on. Defaults to None.

        Returns:
            What `make` returns.
        """
        is_next, self._last = index == self._last + 1, index
        following = range(index + 1, min(index + AHEAD, index + AHEAD if end is None else end - 1) + 1)
        before, self._made = self._made, {}
        if is_next:
            self._made = {i: before.get(i) or _makers().submit(make, i) for i in following}
        return before[index].result() if index in before else make(index)


@functools.cache
def _threads():
    """The threads that read images: two for each core that this process may use, as some wait for the disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return concurrent.futures.ThreadPoolExecutor(2 * cores, "dhm_keras images")


@functools.cache
def _makers():
    """The threads that wait for the images of a batch; not those that read them, which would wait for one another."""
    return concurrent.futures.ThreadPoolExecutor(AHEAD, "dhm_keras batches")
