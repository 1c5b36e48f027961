"""What is done to the images of persons that a network learns from; every number follows from draws in [0, 1)."""

import math

import numpy as np

from dhm_keras.data import IMAGENET_MEAN_STD
from dhm_keras.data.crops import padded

LARGER = 1.125  # 288 x 144 for crops of 256 x 128
PADDING, WIDTH = 10, 128  # pixels on every side of an image of this width
AREAS, RATIOS, TRIES = (0.02, 0.4), (0.3, 1 / 0.3), 100  # of random erasing
PATCH_AREAS, PATCH_RATIOS, ANGLE = (0.01, 0.5), (0.1, 10.0), 10  # of random patches; degrees
COLOUR = tuple(round(255 * mean) for mean in IMAGENET_MEAN_STD[0])  # about zero, once an image is normalised


def crop_window(width, height, size, place):
    """The window of an image that is a crop of `size` once it is resized to 1.125 times that, in its own pixels.

    Args:
        width, height: Integers, of the image.
        size: (height, width).
        place: Floats in [0, 1) `(2,)`: the place of the top and the left edge.

    Returns:
        Floats `(left, top, right, bottom)`.
    """
    larger = [round(side * LARGER) for side in size]  # height, width
    top, left = corner(larger, size, place)
    down, across = height / larger[0], width / larger[1]
    return left * across, top * down, (left + size[1]) * across, (top + size[0]) * down


def pad_and_crop(pixels, place):
    """Crops an image from itself with black around it, in place: 10 pixels on every side at a width of 128.

    At other widths they are in proportion, rounded, but one at least.

    Args:
        pixels: uint8 `(height, width, 3)`.
        place: As of `crop_window`.
    """
    height, width, _ = pixels.shape
    pad = max(round(PADDING * width / WIDTH), 1)
    top, left = corner((height + 2 * pad, width + 2 * pad), (height, width), place)
    pixels[:] = padded(pixels[None], pad)[0, top : top + height, left : left + width]


def erase(pixels, probability, draws):
    """Gives a rectangle of an image ImageNet's mean colour, in place (Zhong et al., AAAI 2020).

    Args:
        pixels: uint8 `(height, width, 3)`.
        probability: Float.
        draws: Floats in [0, 1): whether, an area and an aspect ratio for each try, the place of top and left edge.
    """
    erased, *tries, down, across = draws
    size = pixels.shape[:2]
    sides = rectangle(size, AREAS, RATIOS, tries) if erased < probability else None
    if sides:
        pixels[area(sides, corner(size, sides, (down, across)))] = COLOUR


def paste(pixels, other, draws):
    """Pastes a patch of another image at a uniform place, in place; as torchreid's RandomPatch does.

    The patch is cut at a uniform place, mirrored in one case of two, and in one of two turned by a whole number of
    degrees, -10 to 10, its corners then black.

    Args:
        pixels, other: uint8 `(height, width, 3)`.
        draws: Floats in [0, 1): an area and an aspect ratio for each try, the place of top and left edge in `other` and
            that in `pixels`, whether the patch is mirrored, whether it is turned, and by which angle.
    """
    from PIL import Image

    *tries, other_down, other_across, down, across, mirrored, turned, angle = draws
    size = pixels.shape[:2]
    sides = rectangle(size, PATCH_AREAS, PATCH_RATIOS, tries)
    if not sides:
        return
    patch = other[area(sides, corner(size, sides, (other_down, other_across)))]
    if mirrored < 0.5:
        patch = patch[:, ::-1]
    if turned < 0.5:
        patch = np.asarray(Image.fromarray(patch).rotate(int(angle * (2 * ANGLE + 1)) - ANGLE))
    pixels[area(sides, corner(size, sides, (down, across)))] = patch


def rectangle(size, areas, ratios, tries):
    """Height and width of a rectangle that is smaller than an image; of the tries the first that fits.

    Args:
        size: (height, width) of the image.
        areas: Least and greatest share of its area.
        ratios: Least and greatest ratio of height to width.
        tries: Floats in [0, 1): an area and a ratio for each try.

    Returns:
        Integers (height, width); `None` where no try fits.
    """
    for share, ratio in zip(tries[::2], tries[1::2], strict=True):
        pixels = size[0] * size[1] * (areas[0] + (areas[1] - areas[0]) * share)
        ratio = ratios[0] + (ratios[1] - ratios[0]) * ratio
        height, width = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < height < size[0] and 0 < width < size[1]:
            return height, width
    return None


def corner(whole, size, place):
    """Integers (top, left): where a part of `size` begins in a whole; `place` as of `crop_window`."""
    return [int(share * (outer - inner + 1)) for share, outer, inner in zip(place, whole, size, strict=True)]


def area(size, begin):
    """The slices that a part of `size`, beginning at (top, left), is of an image."""
    return tuple(slice(first, first + side) for first, side in zip(begin, size, strict=True))
