"""Decoding, crops and antialiased resizing with Pillow: the same pixels on every backend."""

import io
import math

import numpy as np

AREAS, RATIOS, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


class CorruptImage(ValueError):
    """Bytes that are no image; the message says why."""


def require_pillow():
    """Raises `ImportError` if Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError("JPEGs are decoded with Pillow. Install it: pip install 'dhm_keras[demo]'") from error


def decode(content):
    """Decodes a JPEG or a PNG, whatever the name of its file, of any colours (grey, CMYK, a palette) to RGB.

    Grey of 16 bits is scaled to 8: Pillow would take all but the darkest for white.

    A rotation noted in a photograph's EXIF data is not applied, as ImageNet's users do.

    Args:
        content: Bytes.

    Returns:
        `PIL.Image.Image` of mode RGB.

    Raises:
        CorruptImage: if it cannot be decoded to its end.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise CorruptImage("it is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
        image.load()
        if image.mode == "I" or image.mode.startswith("I;16"):  # the name depends on Pillow's version
            image = Image.fromarray(np.round(np.asarray(image) / 257).astype("uint8"))
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    except UnidentifiedImageError:
        raise CorruptImage("it is neither a JPEG nor a PNG") from None
    except Exception as error:  # besides OSError: SyntaxError, struct.error, zlib.error, DecompressionBombError, ...
        raise CorruptImage(str(error) or type(error).__name__) from None


def resized(image, box, size, mirrored=False):
    """A window of an image at another size, antialiased and bilinear.

    It is what would be cut out of the whole image if that were resized first: at the edges of the window the pixels
    beyond it count.

    Args:
        image: `PIL.Image.Image` of mode RGB.
        box: Floats `(left, top, right, bottom)`, in pixels within the image.
        size: (height, width), integers.
        mirrored: Boolean. Whether left and right are exchanged. Defaults to `False`.

    Returns:
        uint8 `(height, width, 3)`.
    """
    from PIL import Image

    window = image.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(window.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else window)


def scale_window(width, height, draws):
    """The window of an Inception crop: of a random area, aspect ratio and place.

    Of ten tries the first that lies within the image is taken, otherwise the largest central window with an aspect
    ratio in the limits (Szegedy et al., "Going deeper with convolutions", 2015; torchvision's RandomResizedCrop).

    Args:
        width, height: Integers, of the image.
        draws: Floats in [0, 1), `(22,)`: an area and an aspect ratio for each try, then the place of the left and the
            top edge.

    Returns:
        Integers `(left, top, right, bottom)`.
    """
    *tries, across, down = draws
    log_low, log_high = map(math.log, RATIOS)
    for area, ratio in zip(tries[::2], tries[1::2], strict=True):
        area = width * height * (AREAS[0] + (AREAS[1] - AREAS[0]) * area)
        ratio = math.exp(log_low + (log_high - log_low) * ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized_window(width, height, size, place=None):
    """The window of an image that is a crop of `size` once its shorter side is resized to 256/224 of that.

    Args:
        width, height: Integers, of the image.
        size: Integer.
        place: Floats in [0, 1) `(2,)`: the place of the left and the top edge. Defaults to `None`: the centre.

    Returns:
        Floats `(left, top, right, bottom)`, in pixels of the image as it is.
    """
    shorter = round(size * 256 / 224)
    new = [shorter * side // min(width, height) for side in (width, height)]
    if place is None:
        corner = [round((side - size) / 2) for side in new]
    else:
        corner = [int(share * (side - size + 1)) for share, side in zip(place, new, strict=True)]
    across, down = width / new[0], height / new[1]
    (left, top), (right, bottom) = corner, [edge + size for edge in corner]
    return left * across, top * down, min(right * across, width), min(bottom * down, height)
