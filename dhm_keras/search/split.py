"""The training images of a search in two: some to train the weights on, some to train the alphas on."""

import dataclasses

import numpy as np

from dhm_keras.data.batches import check_integers

IMAGES = 4  # of each person that the alphas learn from


def split(images, seed=0, overlap=False):
    """Splits the images of every person: some train the network's weights, the others the alphas.

    Of each person four images, drawn at random, are for the alphas; of one with fewer than eight half of them, rounded
    down, so that the weights keep at least as many. A person with a single image is among those of the weights alone.
    No image is in both.

    `overlap=True` is the split of the authors' code, where the splits share images. Of a person with n images: with
    n < 4 each split has four draws with replacement; else n mod 4 (or 4) images go to the alphas, and more are copied
    to have four; of a person with exactly 4 images all are in both. On Market-1501 these are 11,160 and 3,004 images.

    Example:

    ```python
    people = dhm_keras.reid.market1501("Market-1501-v15.09.15")
    of_weights, of_alphas = dhm_keras.search.split(people.train, seed=4)
    ```

    Args:
        images: `PersonImages`.
        seed: Integer >= 0. Defaults to `0`.
        overlap: Boolean. Defaults to `False`.

    Returns:
        Two `PersonImages`, for the weights and for the alphas, with the labels of `images`.

    Raises:
        ValueError: if no person has two images, and `overlap` is false, or the seed is no such integer.
    """
    check_integers(seed=(seed, 0))
    generator = np.random.default_rng([seed, 2])
    part = _overlapping if overlap else _disjoint
    of_person = (np.flatnonzero(images.labels == label) for label in np.unique(images.labels))
    parts = [part(generator.permutation(rows), generator) for rows in of_person]
    of_weights, of_alphas = (np.sort(np.concatenate(rows)) for rows in zip(*parts, strict=True))
    if not len(of_alphas):
        raise ValueError(
            "Invalid value for argument `images`. Expected persons with two images or more, to be split. Received: "
            f"{len(images)} images of as many persons."
        )
    return _rows(images, of_weights), _rows(images, of_alphas)


def _disjoint(rows, generator):
    """The images of a person, in random order, as those of the weights and those of the alphas."""
    n = min(IMAGES, len(rows) // 2)
    return rows[n:], rows[:n]


def _overlapping(rows, generator):
    """As `_disjoint`, in the way of the authors' code."""
    if len(rows) < IMAGES:
        return generator.choice(rows, IMAGES), generator.choice(rows, IMAGES)
    moved = len(rows) % IMAGES or IMAGES
    return rows if len(rows) == IMAGES else rows[moved:], rows[:IMAGES]


def _rows(images, rows):
    """Some of the images; unlike with `PersonImages.take` every person keeps its label, on images or not."""
    camids, spans = (None if of_each is None else of_each[rows] for of_each in (images.camids, images.spans))
    names = tuple(images.names[i] for i in rows)
    return dataclasses.replace(images, names=names, labels=images.labels[rows], camids=camids, spans=spans)
