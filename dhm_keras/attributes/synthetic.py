"""A set of drawn pedestrians with their attributes, in PA-100K's layout, for tests and demonstrations."""

import pathlib

import numpy as np

from dhm_keras import files
from dhm_keras.attributes.folders import ANNOTATION, PLACES, SPLITS, scipy_io
from dhm_keras.data.jpeg import require_pillow
from dhm_keras.reid.pedestrians import Person
from dhm_keras.reid.scenes import FACINGS, VERSION, Camera, picture
from dhm_keras.reid.synthetic import SETTINGS, _compare, _save, check_drawing

# PA-100K's names, in its order, of what is drawn; the last it has not.
ATTRIBUTES = {
    "Front": lambda person, facing: facing == "front",
    "Side": lambda person, facing: facing in ("left", "right"),
    "Back": lambda person, facing: facing == "back",
    "HandBag": lambda person, facing: person.bag == "handbag",
    "Backpack": lambda person, facing: person.bag == "backpack",
    "ShortSleeve": lambda person, facing: not person.long_sleeves,
    "LongSleeve": lambda person, facing: person.long_sleeves,
    "UpperStride": lambda person, facing: person.pattern == "stripes",
    "UpperLogo": lambda person, facing: person.pattern == "logo" and facing == "front",  # where it can be seen
    "UpperSplice": lambda person, facing: person.pattern == "block",
    "Trousers": lambda person, facing: person.cut == "long",
    "Shorts": lambda person, facing: person.cut == "shorts",
    "Skirt&Dress": lambda person, facing: person.cut == "skirt",
    "LongHair": lambda person, facing: person.long_hair,
}
CAMERAS = 6


def synthetic_attributes(folder, train=800, val=200, test=200, size=(128, 64), difficulty=0.5, seed=0):
    """Draws pedestrians into a folder laid out as PA-100K, and writes down which attributes they have.

    Every image is of another person, drawn by one of six cameras, as in `reid.synthetic_people`. The attributes are
    those of PA-100K that the drawings have, and `LongHair`. Whether a logo is worn counts where it can be seen, from
    the front.

    The folder appears when it is whole. One that was made with the same settings is kept.

    Example:

    ```python
    folder = dhm_keras.attributes.synthetic_attributes("drawn", train=2000)
    people = dhm_keras.attributes.attribute_folder(folder)
    ```

    Args:
        folder: Path.
        train, val, test: Integers > 0. Numbers of images. Default to `800`, `200` and `200`.
        size: Integers `(height, width)` of the images in pixels, at least 16. Defaults to `(128, 64)`.
        difficulty: Float in [0, 1], as of `reid.synthetic_people`. Defaults to `0.5`.
        seed: Integer, not negative. The same draws the same pixels. Defaults to `0`.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        ImportError: if Pillow or SciPy is not installed.
        ValueError: if an argument is none of these; if the folder holds anything else than images with these settings.
        OSError: if it cannot be written.
    """
    numbers = {"train": train, "val": val, "test": test, "seed": seed}
    _check(numbers, size, difficulty)
    require_pillow()
    scipy_io()
    settings = {"drawn by": "dhm_keras.attributes.synthetic_attributes", "version": VERSION, **numbers}
    settings |= {"size": list(size), "difficulty": float(difficulty)}
    folder = pathlib.Path(folder).expanduser()
    if folder.exists():
        _compare(folder, settings)
        return folder
    with files.new_folder(folder) as partial:
        rows = []
        for name, pixels, attributes in _images(settings):
            _save(partial / PLACES[0] / name, pixels)
            rows.append((name, attributes))
        _write_annotation(partial / ANNOTATION, rows, numbers)
        files.write_json(partial / SETTINGS, settings)
    return folder


def _images(settings):
    """Names, pixels and attributes of all images; each has its own stream of random numbers."""
    seed, difficulty, size = settings["seed"], settings["difficulty"], settings["size"]
    cameras = [Camera.drawn(np.random.default_rng((seed, 0, i)), difficulty, size) for i in range(CAMERAS)]
    of_split = {split: number for number, split in enumerate(SPLITS, start=1)}
    numbers = [(of_split[split], i) for split in SPLITS for i in range(settings[split])]
    for number, place in enumerate(numbers, start=1):
        rng = np.random.default_rng((seed, *place))
        person, facing = Person.drawn(rng, difficulty), FACINGS[rng.integers(len(FACINGS))]
        pixels = picture(cameras[rng.integers(CAMERAS)], person, rng, difficulty, size, facing=facing)
        yield f"{number:06d}.jpg", pixels, [has(person, facing) for has in ATTRIBUTES.values()]


def _write_annotation(path, rows, numbers):
    cell = lambda strings: np.array([[string] for string in strings], dtype=object)
    content, rows = {"attributes": cell(ATTRIBUTES)}, iter(rows)
    for split in SPLITS:
        names, attributes = zip(*(next(rows) for _ in range(numbers[split])))
        content |= {f"{split}_images_name": cell(names), f"{split}_label": np.array(attributes, "uint8")}
    scipy_io().savemat(path, content)


def _check(numbers, size, difficulty):
    """Refuses what cannot be drawn."""
    for name, value in numbers.items():
        least = 0 if name == "seed" else 1
        if type(value) is not int or value < least:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected an integer of at least {least}. Received: {value!r}."
            )
    check_drawing(size, difficulty)
