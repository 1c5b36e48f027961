"""The drawn pedestrians: layout, names, the same pixels for the same seed, and how difficult they are."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from dhm_keras.reid import pedestrians, scenes, synthetic_people
from dhm_keras.reid.synthetic import _images

NAME = re.compile(r"(-1|\d{4})_c([1-9])s1_\d{6}_\d\d\.jpg")


def listed(folder, split):
    """File names, pids and cameras of a split, and the pixels at a quarter of the size, `(n, d)`."""
    paths = sorted((folder / split).iterdir())
    found = [NAME.fullmatch(path.name) for path in paths]
    pixels = [np.asarray(Image.open(path).reduce(4), "float32").ravel() for path in paths]
    return np.array([int(m[1]) for m in found]), np.array([int(m[2]) for m in found]), np.stack(pixels)


def test_layout_and_names(tmp_path):
    folder = synthetic_people(tmp_path / "people", train=3, test=4, cameras=3, images=2, distractors=5, junk=2)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("bounding_box_test", "bounding_box_train", "query", "settings.json")
    ]
    pids, camids, _ = listed(folder, "bounding_box_train")
    assert sorted(zip(pids, camids)) == [(pid, camera) for pid in (1, 2, 3) for camera in (1, 2, 3) for _ in range(2)]
    pids, camids, _ = listed(folder, "query")
    assert sorted(zip(pids, camids)) == [(pid, camera) for pid in (4, 5, 6, 7) for camera in (1, 2, 3)]
    pids, camids, _ = listed(folder, "bounding_box_test")
    assert np.unique(pids, return_counts=True)[1].tolist() == [2, 5, 3, 3, 3, 3]  # junk, distractors, a person each
    assert np.unique(pids).tolist() == [-1, 0, 4, 5, 6, 7]
    image = Image.open(next((folder / "query").iterdir()))
    assert (image.size, image.mode, image.format) == ((64, 128), "RGB", "JPEG")


def settings(**changed):
    """What `_images` reads."""
    numbers = {"train": 2, "test": 1, "cameras": 2, "images": 2, "distractors": 2, "junk": 1, "seed": 0}
    return {**numbers, "size": (64, 32), "difficulty": 0.5, **changed}


def test_same_seed_same_pixels():
    first, again, other = (dict(_images(settings(seed=seed))) for seed in (0, 0, 1))
    assert list(first) == list(again) == list(other) and len(first) == 2 * 2 * 3 + 3
    for name, pixels in first.items():
        assert (pixels.dtype, pixels.shape) == (np.uint8, (64, 32, 3))
        assert (pixels == again[name]).all() and (pixels != other[name]).any()


def test_the_pixels_of_this_version():
    """Who changes them counts `VERSION` on, and changes the numbers here: the mean of each colour."""
    images = dict(_images(settings()))
    means = {
        "bounding_box_train/0001_c1s1_000002_01.jpg": (141.3, 131.1, 127.3),
        "bounding_box_test/0000_c1s1_000000_01.jpg": (115.5, 102.4, 97.6),
        "bounding_box_test/0000_c2s1_000001_01.jpg": (176.5, 161.3, 165.3),
        "bounding_box_test/-1_c1s1_000000_01.jpg": (110.9, 89.3, 93.6),
    }
    assert scenes.VERSION == 1
    for name, expected in means.items():  # not to the digit: shapes are Pillow's
        np.testing.assert_allclose(images[name].mean((0, 1)), expected, atol=0.5)


def test_more_cameras_or_persons_leave_the_others_as_they_are():
    few, many = dict(_images(settings())), dict(_images(settings(train=3, cameras=3)))
    train = [name for name in few if "train" in name]
    assert len(train) == 8 and all((few[name] == many[name]).all() for name in train)


def test_a_thousand_persons_differ():
    persons = [pedestrians.Person.drawn(np.random.default_rng((0, 0, pid)), 1.0) for pid in range(1000)]
    kinds = [(each.pattern, each.cut, each.bag, each.long_sleeves, each.long_hair) for each in persons]
    assert len(set(persons)) == 1000 and len(set(kinds)) < 150  # many are alike but for colours
    dull = [max(each.upper) - min(each.upper) < 70 for each in persons]
    assert np.mean(dull) > 0.8


def test_what_is_drawn():
    """The colour of the trunk is in the middle of the image, and the background beside it."""
    rng = np.random.default_rng(0)
    camera = scenes.Camera.drawn(rng, 0.0, (128, 64))
    person = pedestrians.Person.drawn(rng, 0.0)
    pixels = scenes.picture(camera, person, rng, 0.0, (128, 64)).astype(int)
    empty = scenes.picture(camera, None, rng, 0.0, (128, 64)).astype(int)
    wanted = person.second if person.pattern == "block" else person.upper
    assert np.abs(np.median(pixels[56:64, 29:35], axis=(0, 1)) - wanted).max() < 12
    edges = [image[:, [0, 1, -2, -1]].reshape(-1, 3).mean(0) for image in (pixels, empty)]
    assert np.abs(edges[0] - edges[1]).max() < 15


def rank1(folder):
    """Rank-1 in % of the pixels' nearest neighbours, without junk and images of the same person and camera."""
    (pids, camids, queries), (others, cameras, gallery) = listed(folder, "query"), listed(folder, "bounding_box_test")
    hits = []
    for pid, camid, pixels in zip(pids, camids, queries):
        distances = ((gallery - pixels) ** 2).sum(1)
        distances[(others == -1) | ((others == pid) & (cameras == camid))] = np.inf
        hits.append(others[distances.argmin()] == pid)
    return 100 * np.mean(hits)


def test_difficulty(tmp_path):
    """For 30 persons chance is 3 %."""
    found = [
        rank1(synthetic_people(tmp_path / str(difficulty), train=1, test=30, difficulty=difficulty))
        for difficulty in (0, 0.25, 1)
    ]
    assert found[0] > 95 and 30 < found[1] < 90 and found[2] < 20, found


def test_a_folder_is_kept_and_no_other_replaced(tmp_path):
    folder = synthetic_people(tmp_path / "people", train=1, test=1, size=(32, 16))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert synthetic_people(str(folder), train=1, test=1, size=[32, 16]) == folder
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 there, 3 here\)"):
        synthetic_people(folder, train=1, test=1, size=(32, 16), seed=3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("mine", "file"):
        with pytest.raises(ValueError, match="no folder of drawn pedestrians"):
            synthetic_people(tmp_path / name)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert json.loads((folder / "settings.json").read_text())["version"] == scenes.VERSION


def test_a_folder_appears_whole(tmp_path, monkeypatch):
    drawn, calls = scenes.picture, []

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return drawn(*arguments)

    monkeypatch.setattr("dhm_keras.reid.synthetic.picture", fails)
    with pytest.raises(KeyboardInterrupt):
        synthetic_people(tmp_path / "people", train=2, test=2)
    assert len(calls) == 5 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": 0},
        {"test": 1.5},
        {"cameras": 1},
        {"cameras": 10},
        {"images": 1},
        {"distractors": -1},
        {"junk": True},
        {"seed": -1},
        {"size": 128},
        {"size": (8, 64)},
        {"difficulty": 1.1},
        {"difficulty": "hard"},
    ],
)
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"Invalid value for argument `{next(iter(wrong))}`"):
        synthetic_people(tmp_path / "people", **wrong)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="at most 9999 persons"):
        synthetic_people(tmp_path / "people", train=5000, test=5000)
