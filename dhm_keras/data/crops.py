"""Crops and flips of images, all of a batch by one gather, and holes; the same for NumPy, TensorFlow and JAX."""

import numpy as np


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
    return padded(images, pad).reshape(-1, channels).take(crops, axis=0)


def draw_holes(generator, n, height, width):
    """Draws the centres of holes: int64 `(2, n)`, uniform rows and columns of images of that height and width."""
    return np.stack([generator.integers(0, side, n) for side in (height, width)])


def cut_out(where, images, rows, columns, side, colour):
    """Gives a square of each image one colour (DeVries and Taylor, "Improved Regularization of ... Cutout", 2017).

    Args:
        where: NumPy's function of that name, or TensorFlow's.
        images: `(n, height, width, channels)`.
        rows, columns: int64 `(n,)`: the squares' centres, of an even side the pixel below and to the right of it.
        side: Integer. What of a square is outside its image is left off.
        colour: `(channels,)`, of the dtype of `images`.

    Returns:
        As `images`.
    """
    height, width = images.shape[1:3]
    inside = _covered(rows, side, height)[:, :, None] & _covered(columns, side, width)[:, None, :]
    return where(inside[..., None], colour, images)


def _covered(centers, side, length):
    """Whether each of `length` pixels in a line is in the hole around each centre: `(n, length)`."""
    begin = centers[:, None] - side // 2
    return (begin <= np.arange(length)) & (begin + side > np.arange(length))


def padded(images, pad):
    """`(n, height, width, channels)` with `pad` zero pixels on every side; faster than `np.pad`."""
    n, height, width, channels = images.shape
    larger = np.zeros((n, height + 2 * pad, width + 2 * pad, channels), images.dtype)
    larger[:, pad : pad + height, pad : pad + width] = images
    return larger


def cut(take, pixels, labels, draws, height, width, pad):
    """The batch that a row of draws an example says.

    Args:
        take: Function of an array and indices to the rows of the array, NumPy's, TensorFlow's or JAX's.
        pixels: `(pixels of all padded images, channels)`.
        labels: `(images, ...)`.
        draws: Integers `(n, 4)`: of each example the number of its image, and as of `draw_crops`.
        height, width, pad: As of `windows`.

    Returns:
        Images `(n, height, width, channels)` and labels `(n, ...)`, of the dtypes of `pixels` and `labels`.
    """
    rows, top, left, mirrored = (draws[:, column] for column in range(4))
    return take(pixels, windows(rows, top, left, mirrored, height, width, pad)), take(labels, rows)
