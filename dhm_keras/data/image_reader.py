"""Reads, decodes, crops and resizes encoded images in threads, ahead of their use."""

import concurrent.futures
import functools
import itertools
import os

import numpy as np

from dhm_keras.data import jpeg

AHEAD = 2  # batches that are made while one is trained on


class Reader:
    """Reads, decodes, crops and resizes images in threads, and remembers which it could not.

    Args:
        source: `ImageFiles`.
        size: (height, width) of the images given, integers.
        on_corrupt: `"raise"` or `"skip"`.
    """

    def __init__(self, source, size, on_corrupt):
        if on_corrupt not in ("raise", "skip"):
            raise ValueError(
                f"Invalid value for argument `on_corrupt`. Expected 'raise' or 'skip'. Received: {on_corrupt!r}."
            )
        jpeg.require_pillow()
        self.source, self.size, self.on_corrupt = source, size, on_corrupt
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
            window: Function of width, height and an image's draws to a box, as of `jpeg.resized`, whether the image is
                mirrored, and what else is done: `None`, or a function that changes the resized image, uint8
                `(height, width, 3)`, in place.
            draws: Sequence of b draws.

        Returns:
            uint8 `(b, height, width, 3)` and int64 `(b,)`, both without the images that were left out.

        Raises:
            ValueError: if an image cannot be decoded, and is not to be left out; or if none is left.
            OSError: if a file cannot be read.
        """
        images = np.empty((len(rows), *self.size, 3), "uint8")
        read = functools.partial(self._read_one, window)
        try:
            whole = np.fromiter(threads().map(read, rows, draws, images), bool, len(rows))
            if len(rows) and not whole.any():  # an empty batch can be neither trained nor evaluated on
                return images[:1], self.source.labels[[self._next_whole(rows[-1], read, draws[-1], images[0])]]
        except Exception as error:
            self.errors.append(error)
            raise
        return (images, self.source.labels[rows]) if whole.all() else (images[whole], self.source.labels[rows[whole]])

    def image(self, row):
        """Decodes one image, in the thread of who asks.

        Args:
            row: Integer: which.

        Returns:
            `PIL.Image.Image` of mode RGB; `None` if it cannot be decoded and is left out.

        Raises:
            ValueError: if it cannot be decoded, and is not to be left out.
            OSError: if the file cannot be read.
        """
        content = self.source.read(row)
        try:
            return jpeg.decode(content)
        except jpeg.CorruptImage as error:
            where = self.source.where(row)
            if self.on_corrupt == "skip":
                self._skipped[where] = True
                return None
            raise ValueError(
                f"{where} is not an image that can be decoded ({error}). Remove it, or leave "
                "such images out with on_corrupt='skip', of a recipe --on_corrupt skip."
            ) from None

    def _next_whole(self, row, read, draws, pixels):
        """Fills `pixels` with the first image behind `row` that can be decoded; returns its number."""
        for other in itertools.chain(range(row + 1, len(self.source)), range(row)):
            if read(other, draws, pixels):
                return other
        raise ValueError(f"None of the {len(self.source)} images in {self.source.folder} can be decoded.")

    def _read_one(self, window, row, draws, pixels):
        """Fills `pixels`, `(height, width, 3)`; returns whether the image is whole."""
        image = self.image(row)
        if image is None:
            return False
        box, mirrored, finish = window(*image.size, draws)
        pixels[:] = jpeg.resized(image, box, self.size, mirrored)
        if finish:
            finish(pixels)
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
def threads():
    """The threads that read images: two for each core that this process may use, as some wait for the disk."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return concurrent.futures.ThreadPoolExecutor(2 * cores, "dhm_keras images")


@functools.cache
def _makers():
    """The threads that wait for the images of a batch; not those that read them, which would wait for one another."""
    return concurrent.futures.ThreadPoolExecutor(AHEAD, "dhm_keras batches")
