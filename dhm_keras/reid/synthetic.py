"""A re-identification set of drawn pedestrians, for tests, demonstrations and benchmarks: nobody's picture is in it."""

import pathlib

import numpy as np

from dhm_keras import files
from dhm_keras.data.jpeg import require_pillow
from dhm_keras.reid.pedestrians import Person
from dhm_keras.reid.scenes import VERSION, Camera, picture

SETTINGS = "settings.json"


def synthetic_people(
    folder, train=24, test=24, cameras=3, images=2, size=(128, 64), distractors=8, junk=8, difficulty=0.5, seed=0
):
    """Draws pedestrians into a folder laid out, and the files named, as Market-1501.

    Every camera sees every person: of skin, hair, clothes, bag and build. A camera has its scene, colours, contrast,
    sharpness and scale; on each image the person walks in its own way, the box is off a little, and something may be
    in front. What the training persons teach about cameras and poses holds for the others, whom it does not contain.

    `bounding_box_train` holds all images of the persons 1 to `train`. Of each other person and camera `query` holds
    one image, `bounding_box_test` the rest, and with them the distractors (pid 0: passers-by whom no query shows, and
    boxes without anybody) and the junk (pid -1: bad boxes of the persons of the queries).

    The folder appears when it is whole. One that was made with the same settings is kept.

    Example:

    ```python
    folder = dhm_keras.reid.synthetic_people("synthetic", train=100, test=100)
    people = dhm_keras.reid.person_folder(folder)
    ```

    Args:
        folder: Path.
        train, test: Integers. Persons to train on, and to search for. Default to `24`.
        cameras: Integer, 2 to 9. Defaults to `3`.
        images: Integer, at least 2. Images of each person by each camera. Defaults to `2`.
        size: Integers `(height, width)` of the images in pixels. Defaults to `(128, 64)`, Market-1501's.
        distractors, junk: Integers. Such images, of all cameras together. Default to `8`.
        difficulty: Float in [0, 1]: how much cameras, poses, boxes and light differ, how noisy the images are, and how
            alike the clothes. At 0 raw pixels suffice, at 1 they fail. Defaults to `0.5`.
        seed: Integer, not negative. The same draws the same pixels. At another difficulty the persons differ in the
            colours of their clothes alone. Defaults to `0`.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        ImportError: if Pillow is not installed.
        ValueError: if an argument is none of these; if the folder holds anything else than images with these settings.
        OSError: if it cannot be written.
    """
    numbers = {"train": train, "test": test, "cameras": cameras, "images": images, "distractors": distractors}
    numbers |= {"junk": junk, "seed": seed}
    size = _check(numbers, size, difficulty)
    require_pillow()
    settings = {"drawn by": "dhm_keras.reid.synthetic_people", "version": VERSION, **numbers}
    settings |= {"size": size, "difficulty": float(difficulty)}
    folder = pathlib.Path(folder).expanduser()
    if folder.exists():
        _compare(folder, settings)
        return folder
    with files.new_folder(folder) as partial:
        for name, pixels in _images(settings):
            _save(partial / name, pixels)
        files.write_json(partial / SETTINGS, settings)
    return folder


def _images(settings):
    """Names and pixels of all images; each person, camera and image has its own stream of random numbers."""
    seed, difficulty, size = settings["seed"], settings["difficulty"], settings["size"]
    stream = lambda *place: np.random.default_rng((seed, *place))
    person = lambda number: Person.drawn(stream(0, number), difficulty)
    cameras = [Camera.drawn(stream(1, number), difficulty, size) for number in range(settings["cameras"])]

    def image(kind, folder, pid, camera, number, of, loose=0.0):
        name = f"{pid:04d}" if pid >= 0 else str(pid)
        name = f"{folder}/{name}_c{camera + 1}s1_{number:06d}_{0 if folder == 'query' else 1:02d}.jpg"
        return name, picture(cameras[camera], of, stream(kind, camera, number), difficulty, size, loose)

    train, total = settings["train"], settings["train"] + settings["test"]
    for pid in range(1, total + 1):
        walker = person(pid)
        for camera in range(len(cameras)):
            for i in range(settings["images"]):
                folder = "bounding_box_train" if pid <= train else "bounding_box_test" if i else "query"
                yield image(2, folder, pid, camera, pid * settings["images"] + i, walker)
    for i in range(settings["distractors"]):
        passer_by = None if i % 2 else person(total + 1 + i)
        yield image(3, "bounding_box_test", 0, i % len(cameras), i, passer_by)
    for i in range(settings["junk"]):
        walker = person(train + 1 + i % settings["test"])
        yield image(4, "bounding_box_test", -1, i % len(cameras), i, walker, loose=0.6)


def _save(path, pixels):
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, quality=92)


def _compare(folder, settings):
    """Refuses a folder that was not made with these settings."""
    found = files.read_json(folder / SETTINGS) if folder.is_dir() else None
    if found is None:
        raise ValueError(f"{folder} is there, and is no folder of drawn pedestrians. Choose another.")
    if differ := files.differences(found, settings):
        raise ValueError(f"{folder} holds pedestrians drawn with other settings ({differ}). Choose another folder.")


def _check(numbers, size, difficulty):
    """Refuses what cannot be drawn, and gives `size` as JSON has it."""
    limits = {"train": (1, 9998), "test": (1, 9998), "cameras": (2, 9), "images": (2, None)}
    for name, value in numbers.items():
        low, high = limits.get(name, (0, None))
        if type(value) is not int or value < low or value > (high or value):
            up_to = f"from {low} to {high}" if high else f"of at least {low}"
            raise ValueError(f"Invalid value for argument `{name}`. Expected an integer {up_to}. Received: {value!r}.")
    if numbers["train"] + numbers["test"] > 9999:
        raise ValueError(
            "Invalid value for arguments `train` and `test`. Expected at most 9999 persons, as names have four digits. "
            f"Received: {numbers['train']} and {numbers['test']}."
        )
    check_drawing(size, difficulty)
    return list(size)


def check_drawing(size, difficulty):
    """Raises `ValueError` for a size or a difficulty that cannot be drawn."""
    if not isinstance(size, (tuple, list)) or len(size) != 2 or any(type(n) is not int or n < 16 for n in size):
        raise ValueError(
            "Invalid value for argument `size`. Expected two integers (height, width) of at least 16. Received: "
            f"{size!r}."
        )
    if isinstance(difficulty, bool) or not isinstance(difficulty, (int, float)) or not 0 <= difficulty <= 1:
        raise ValueError(
            f"Invalid value for argument `difficulty`. Expected a number in [0, 1]. Received: {difficulty!r}."
        )
