"""Training and test batches of images of persons, as pure functions of (seed, epoch, step)."""

import functools
import zlib

import numpy as np

from dhm_keras.data import jpeg
from dhm_keras.data.batches import _ORDER, _generator, check_integers
from dhm_keras.data.jpeg_batches import EncodedTestBatches, EncodedTrainBatches
from dhm_keras.reid.augmentation import TRIES, crop_window, erase, pad_and_crop, paste

ERASE_DRAWS, PATCH_DRAWS = 2 * TRIES + 3, 2 * TRIES + 9


class PersonTrainBatches(EncodedTrainBatches):
    """Endless shuffled batches of persons with random crops, flips and erasing, for `DHM.fit`.

    As `data.JpegTrainBatches`, what is in a batch is a function of (seed, epoch, step), the same on TensorFlow and JAX.
    An image is resized to 1.125 times the size and cropped, or, with a probability of one half, resized as a whole;
    mirrored with a probability of one half (DHM, section 4.2, with what torchreid fills in). The last, incomplete batch
    of an epoch is left out, as there.

    Example:

    ```python
    people = dhm_keras.reid.market1501("Market-1501-v15.09.15")
    train = dhm_keras.reid.PersonTrainBatches(people.train, batch_size=32, label_smoothing=0.1)
    model.fit(train, epochs=60)
    ```

    Args:
        source: `PersonImages`.
        batch_size: Integer > 0, at most the number of images.
        image_size: (height, width). Defaults to `(256, 128)`.
        crop: `True`: as above. `False`: every image is resized as a whole. `"pad"`: so it is, mirrored or not, and then
            cropped from itself with black around it: 10 pixels on every side at a width of 128, at others in
            proportion, rounded, but one at least (CDNet; Luo et al., "Bag of Tricks", 2019). Defaults to `True`.
        flip: Boolean. Whether every other image, at random, is mirrored left to right. Defaults to `True`.
        erasing: Float in [0, 1]. Probability that a rectangle of an image gets ImageNet's mean colour, which is zero
            once the image is normalised: 2 to 40 % of the area, aspect ratio 0.3 to 1 / 0.3 (Zhong et al., "Random
            Erasing Data Augmentation", AAAI 2020). Defaults to `0.0`.
        label_smoothing: Float in [0, 1). With e > 0 the labels are distributions, (1 - e) onehot + e / K. Defaults to
            `0.0`: integers.
        seed: Integer >= 0. Defaults to `0`.
        on_corrupt: As of `data.JpegTrainBatches`. An image that gives a patch only is treated likewise: with `"skip"`
            it is noted in `skipped`, and no patch is pasted. Defaults to `"raise"`.
        patch: Float in [0, 1]. Probability that a patch of another image is pasted onto an image, before erasing: 1 to
            50 % of the area, aspect ratio 0.1 to 10, mirrored and turned by up to 10 degrees with a probability of one
            half each (random patch of Zhou et al., "Learning Generalisable Omni-Scale Representations", with
            torchreid's numbers). torchreid cuts patches from the images of the batches before; ours are cut from
            images drawn uniformly from all those of `source`, resized as a whole, so that a batch depends on no other.
            Each costs the decoding of an image more. Defaults to `0.0`.

    Attributes:
        skipped: List of the files that were left out until now, each once.

    Raises:
        ImportError: if Pillow is not installed.
        ValueError: if an argument is not as above.
    """

    def __init__(
        self,
        source,
        batch_size,
        image_size=(256, 128),
        crop=True,
        flip=True,
        erasing=0.0,
        label_smoothing=0.0,
        seed=0,
        on_corrupt="raise",
        patch=0.0,
    ):
        size = check_size(image_size)
        if crop not in (True, False, "pad"):
            raise ValueError(f"Invalid value for argument `crop`. Expected a Boolean or 'pad'. Received: {crop!r}.")
        for argument, value in {"erasing": erasing, "patch": patch}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"Invalid value for argument `{argument}`. Expected 0 to 1. Received: {value!r}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"Invalid value for argument `label_smoothing`. Expected a number in [0, 1). Received: "
                f"{label_smoothing!r}."
            )
        draws = 4 + (ERASE_DRAWS if erasing else 0) + (PATCH_DRAWS if patch else 0)
        super().__init__(source, batch_size, size, seed, on_corrupt, draws)
        if not self.examples_per_epoch:
            raise ValueError(
                f"Invalid value for argument `batch_size`. Expected at most {len(source)}, the number of images. "
                f"Received: {batch_size}."
            )
        self.image_size, self.crop, self.flip = list(size), crop, flip
        self.erasing, self.label_smoothing, self.patch = erasing, label_smoothing, patch

    @property
    def examples_per_epoch(self):
        """Number of images that the batches of an epoch have together: whole batches alone."""
        return len(self.source) // self.batch_size * self.batch_size

    @property
    def settings(self):
        """What the batches follow from, besides epoch and step: a dict of JSON values, the files as a checksum."""
        names = ("batch_size", "image_size", "crop", "flip", "erasing", "label_smoothing", "seed")
        return {
            "images": self.source.checksum,
            "labels": zlib.crc32(self.labels.tobytes()),
            **{name: getattr(self, name) for name in names},
            **({"patch": self.patch} if self.patch else {}),  # checkpoints from before it was there go on
        }

    @property
    def target_signature(self):
        return ("float32", (None, self.source.num_classes)) if self.label_smoothing else super().target_signature

    def targets(self, labels):
        """What is learnt of images with these labels.

        Args:
            labels: int64 `(b,)`.

        Returns:
            The labels; with label smoothing float32 `(b, persons)`.
        """
        if not self.label_smoothing:
            return labels
        smoothed = np.full((len(labels), self.source.num_classes), self.label_smoothing / self.source.num_classes)
        smoothed[np.arange(len(labels)), labels] += 1 - self.label_smoothing
        return smoothed.astype("float32")

    def _window(self, width, height, draws):
        mirrored, cropped, *draws = draws
        box = (0, 0, width, height)
        if self.crop and self.crop != "pad" and cropped < 0.5:
            box = crop_window(width, height, self.image_size, draws[:2])
        return box, self.flip and mirrored < 0.5, functools.partial(self._finish, draws)

    def _finish(self, draws, pixels):
        """What is done to an image, uint8 `(height, width, 3)`, when it is resized."""
        if self.crop == "pad":
            pad_and_crop(pixels, draws[:2])
        if self.patch:
            self._paste(draws[-PATCH_DRAWS:], pixels)
        if self.erasing:
            erase(pixels, self.erasing, draws[2 : 2 + ERASE_DRAWS])

    def _paste(self, draws, pixels):
        """Pastes a patch of an image of `source`, or does not, as the first of its draws says."""
        pasted, which, *draws = draws
        other = self.reader.image(int(which * len(self.source))) if pasted < self.patch else None
        if other is not None:
            paste(pixels, jpeg.resized(other, (0, 0, *other.size), self.reader.size), draws)


class IdentityBatches(PersonTrainBatches):
    """Endless batches of P persons with K images each, for losses that compare images, such as `BatchHardTriplet`.

    In an epoch the images of each person are shuffled and cut into groups of K; of a person with fewer images K are
    drawn with replacement. A batch takes a group each of P persons drawn among those that have groups left (Hermans et
    al., 2017; torchreid's sampler). Where fewer than P persons have, all groups are made anew, so that every epoch has
    the same number of batches: that of all groups, divided by P.

    Args:
        source: `PersonImages`.
        persons: Integer > 0. P, at most the number of persons. Defaults to `16`.
        images: Integer > 0. K. Defaults to `4`.
        **kwargs: `image_size`, `crop`, `flip`, `erasing`, `label_smoothing`, `seed`, `on_corrupt`, `patch`, as
            of `PersonTrainBatches`.

    Raises:
        ImportError: if Pillow is not installed.
        ValueError: if an argument is not as above.
    """

    def __init__(self, source, persons=16, images=4, **kwargs):
        check_integers(persons=(persons, 1), images=(images, 1))
        present = len(np.unique(source.labels))
        if persons > present:
            raise ValueError(
                f"Invalid value for argument `persons`. Expected at most {present}, as many as there are. Received: "
                f"{persons}."
            )
        self.persons, self.images = persons, images
        self._made = None, None  # an epoch, and its images in order
        super().__init__(source, persons * images, **kwargs)

    @property
    def examples_per_epoch(self):
        """Number of images that the batches of an epoch have together."""
        counts = np.unique(self.source.labels, return_counts=True)[1]
        groups = np.maximum(counts // self.images, 1).sum()
        return int(groups // self.persons) * self.batch_size

    @property
    def settings(self):
        return {**super().settings, "persons": self.persons, "images_of_each": self.images}

    def _rows(self, epoch, step):
        made, order = self._made
        if made != epoch:
            order = self._order_of(epoch)
            self._made = epoch, order
        return order[step * self.batch_size : (step + 1) * self.batch_size]

    def _order_of(self, epoch):
        """The images of an epoch, batch after batch."""
        generator = _generator(self.seed, _ORDER, epoch)
        of_person = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        batches, left = [], []
        while len(batches) * self.batch_size < self.examples_per_epoch:
            if len(left) < self.persons:
                left = [self._groups(rows, generator) for rows in of_person]
            chosen = generator.permutation(len(left))[: self.persons]
            batches.append(np.concatenate([left[person].pop() for person in chosen]))
            left = [groups for groups in left if groups]
        return np.concatenate(batches)

    def _groups(self, rows, generator):
        """The images of one person in groups of K, a list of arrays."""
        if len(rows) < self.images:
            return [generator.choice(rows, self.images)]
        groups = generator.permutation(rows)[: len(rows) // self.images * self.images]
        return list(groups.reshape(-1, self.images))


class PersonTestBatches(EncodedTestBatches):
    """Batches of persons for evaluation: each image once, in order, resized as a whole, antialiased and bilinear.

    Args:
        source: `PersonImages`, or another `data.ImageFiles`.
        batch_size: Integer > 0. Defaults to `64`.
        image_size: (height, width). Defaults to `(256, 128)`.
        on_corrupt: As of `data.JpegTrainBatches`. Defaults to `"raise"`.

    Raises:
        ImportError: if Pillow is not installed.
        ValueError: if an argument is not as above.
    """

    def __init__(self, source, batch_size=64, image_size=(256, 128), on_corrupt="raise"):
        super().__init__(source, batch_size, check_size(image_size), on_corrupt)

    def _window(self, width, height, _):
        return (0, 0, width, height), False, None


def check_size(image_size):
    """(height, width) as a tuple; `ValueError` if it is none of integers."""
    size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size,)
    if len(size) != 2 or not all(isinstance(side, (int, np.integer)) and side > 0 for side in size):
        raise ValueError(
            f"Invalid value for argument `image_size`. Expected (height, width), integers. Received: {image_size!r}."
        )
    return size
