"""Small folders of generated images in ImageNet's layout."""

import io
import pathlib

import numpy as np
from PIL import Image

CLASSES = ("bird", "cat", "dog")
SIZES = ((40, 30), (30, 44), (33, 33), (60, 25))  # width, height
EACH = 4


def picture(number, mode="RGB"):
    """An image whose red tells its number, see `number_of`, with gradients in green and blue."""
    width, height = SIZES[number % len(SIZES)]
    pixels = np.full((height, width, 3), 10 * number + 5, "uint8")
    pixels[..., 1] = np.linspace(90, 130, width)
    pixels[..., 2] = np.linspace(140, 100, height)[:, None]
    return Image.fromarray(pixels).convert(mode)


def number_of(images):
    """Numbers of images that `picture` made, `(n,)`, from crops `(n, height, width, 3)` of them."""
    return np.round((images[..., 0].mean(axis=(1, 2)) - 5) / 10).astype(int)


def encoded(image, form="JPEG"):
    """The bytes of an image's file."""
    file = io.BytesIO()
    image.save(file, form, **({"quality": 95} if form == "JPEG" else {}))
    return file.getvalue()


def write_images(folder, each=EACH):
    """Writes `train` and `val` with `each` images of each class; the number of an image is its place among all."""
    for split in ("train", "val"):
        for i, name in enumerate(CLASSES):
            path = pathlib.Path(folder) / split / name
            path.mkdir(parents=True)
            for j in range(each):
                (path / f"{name}_{j}.JPEG").write_bytes(encoded(picture(i * each + j)))
    return pathlib.Path(folder)


def cut(path):
    """Cuts a file in the middle."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
