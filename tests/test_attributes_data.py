"""Attributes: PA-100K's layout, the drawn set, and batches."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from attribute_files import drawn
from PIL import Image
from scipy.io import loadmat, savemat

from dhm_keras import attributes, reid
from dhm_keras.attributes.folders import STATISTICS
from dhm_keras.attributes.synthetic import ATTRIBUTES, _images

NAMES = ("Hat", "Backpack")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "people"
    drawn(folder)
    return folder


def images_of(count=5, names=NAMES):
    rows = np.arange(count * len(names)).reshape(count, -1) % 3 == 0
    return attributes.AttributeImages.of("nowhere", [f"{i}.jpg" for i in range(count)], rows, names)


def annotation(**changed):
    """What `annotation.mat` holds of a set with two images in each split."""
    cell = lambda *strings: np.array([[each] for each in strings], dtype=object)
    content = {"attributes": cell(*NAMES)}
    for split in ("train", "val", "test"):
        content |= {f"{split}_images_name": cell("a.jpg", "b.jpg"), f"{split}_label": np.array([[1, 0], [0, 1]])}
    return {name: value for name, value in {**content, **changed}.items() if value is not None}


def write(folder, content, place="data"):
    (folder / place).mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (folder / place / name).touch()
    savemat(folder / "annotation.mat", content)
    return folder


def test_a_set_in_pa100ks_layout_is_read_as_it_was_drawn(folder):
    people = attributes.attribute_folder(folder)
    assert [len(getattr(people, split)) for split in ("train", "val", "test")] == [26, 8, 6]
    assert people.attribute_names == tuple(ATTRIBUTES) and people.train.names[:2] == ("000001.jpg", "000002.jpg")
    settings = json.loads((folder / "settings.json").read_text())
    rows = np.array([has for _, _, has in _images({**settings, "size": (32, 16)})])
    both = [getattr(people, split).attributes for split in ("train", "val", "test")]
    np.testing.assert_array_equal(np.concatenate(both), rows)
    assert loadmat(folder / "annotation.mat")["attributes"].shape == (14, 1)  # as the official file has them
    with Image.open(f"{people.test.folder}/{people.test.names[-1]}") as image:
        assert (image.size, image.format, people.test.names[-1]) == ((16, 32), "JPEG", "000040.jpg")
    assert str(people).splitlines()[2].split() == ["train", "|", "26", "|", "14", "|", f"{both[0].sum(1).mean():.2f}"]


def test_what_is_drawn_is_what_is_written_down(tmp_path):
    """Of each person one or the other; each attribute has some; facing is seen: from the back there is no face."""
    people = drawn(tmp_path / "people", train=150, size=(64, 32), difficulty=0.0)
    has = dict(zip(people.attribute_names, people.train.attributes.T.astype(bool), strict=True))
    for group in (("Front", "Side", "Back"), ("ShortSleeve", "LongSleeve"), ("Trousers", "Shorts", "Skirt&Dress")):
        assert (sum(has[name].astype(int) for name in group) == 1).all()
    assert not (has["UpperLogo"] & ~has["Front"]).any() and not (has["HandBag"] & has["Backpack"]).any()
    assert all(0.02 < each.mean() < 0.7 for each in has.values())
    pixels, _ = reid.PersonTestBatches(people.train, 150, (64, 32))[0]
    legs = pixels[:, 46:50, 12:20].astype(float)  # bare below shorts and skirts: skin, which is red
    redness = (legs[..., 0] - legs[..., 2]).mean((1, 2))
    assert np.median(redness[~has["Trousers"]]) > np.median(redness[has["Trousers"]]) + 10


def test_drawn_twice_is_the_same_and_other_settings_are_refused(tmp_path, folder):
    again = tmp_path / "again"
    drawn(again)
    for path in (folder / "data").iterdir():
        assert path.read_bytes() == (again / "data" / path.name).read_bytes()
    drawn(folder)  # kept
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 there, 1 here\)"):
        drawn(folder, seed=1)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"train": 0}, "`train`. Expected an integer of at least 1"),
        ({"seed": -1}, "`seed`. Expected an integer of at least 0"),
        ({"size": (64, 8)}, "`size`"),
        ({"difficulty": True}, "`difficulty`"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        attributes.synthetic_attributes(tmp_path / "people", **arguments)


@pytest.mark.parametrize("place", ["data", "release_data/release_data", "release_data", "images"])
def test_images_are_found_wherever_they_are_kept(tmp_path, place):
    people = attributes.attribute_folder(write(tmp_path, annotation(), place))
    assert people.val.folder == str(tmp_path / place) and people.val.attributes.tolist() == [[1, 0], [0, 1]]


def test_a_row_of_names_is_read_as_a_column(tmp_path):
    row = np.array([["Hat", "Bag"]], dtype=object)
    assert attributes.attribute_folder(write(tmp_path, annotation(attributes=row))).attribute_names == ("Hat", "Bag")


@pytest.mark.parametrize(
    "content, error, words",
    [
        (annotation(val_label=None), ValueError, "lacks val_label"),
        (annotation(test_label=np.array([[1, 0]])), ValueError, r"test_label: .*Expected the shape \(2, 2\)"),
        (annotation(train_label=np.array([[1, 0], [2, 0]])), ValueError, r"train_label: .*zeros and ones.*\[2\]"),
        (annotation(train_images_name=np.array([[1.0], [2.0]])), ValueError, "train_images_name: expected a cell of s"),
        (annotation(attributes=np.zeros((0, 1), object)), ValueError, "attributes: expected a cell of strings, at"),
        (
            annotation(val_images_name=np.array([["../data/a.jpg"], ["c.jpg"]], object)),
            FileNotFoundError,
            r"lacks 2 of the 2 images of val, the first is '\.\./data/a\.jpg'",
        ),
    ],
)
def test_a_wrong_annotation_is_told(tmp_path, content, error, words):
    with pytest.raises(error, match=words):
        attributes.attribute_folder(write(tmp_path, content))


def test_folders_that_are_none_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*annotation\.mat\. Give the folder that holds"):
        attributes.attribute_folder(tmp_path)
    savemat(tmp_path / "annotation.mat", annotation())
    with pytest.raises(FileNotFoundError, match=r"no images in .*data, release_data/release_data, release_data,"):
        attributes.attribute_folder(tmp_path)
    (tmp_path / "annotation.mat").write_bytes(b"\x80\x04no MATLAB")
    with pytest.raises(ValueError, match=r"annotation\.mat is not a file of MATLAB's version 5"):
        attributes.attribute_folder(tmp_path)


def test_scipy_is_asked_for_before_anything_is_drawn(tmp_path, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    for read in (attributes.pa100k, attributes.attribute_folder):
        with pytest.raises(ImportError, match=r"SciPy reads and writes. Install it: pip install"):
            read(folder)
    with pytest.raises(ImportError, match="SciPy"):
        attributes.synthetic_attributes(tmp_path / "people")
    assert not list(tmp_path.iterdir())


def test_pa100k_has_its_numbers_of_images(tmp_path, folder, monkeypatch):
    with pytest.raises(
        ValueError, match=r"26 \+ 8 \+ 6 images x 14 .* instead of 80,000 \+ 10,000 \+ 10,000 images x 26"
    ):
        attributes.pa100k(folder)
    assert sum(STATISTICS.values()) == 100_000
    monkeypatch.setattr("dhm_keras.attributes.folders.STATISTICS", dict.fromkeys(STATISTICS, 2))
    monkeypatch.setattr("dhm_keras.attributes.folders.NUM_ATTRIBUTES", 2)
    assert attributes.pa100k(write(tmp_path, annotation())).title == "PA-100K"


def test_some_images_keep_their_attributes_and_are_numbered_anew():
    images = images_of()
    some = images.take([4, 1])
    assert some.names == ("4.jpg", "1.jpg") and some.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(some.attributes, images.attributes[[4, 1]])
    assert images.subset(2).names == ("0.jpg", "2.jpg") and images.subset(None).checksum == images.checksum
    np.testing.assert_array_equal(images.positive_ratios, [0.4, 0.4])
    other = images.attributes.copy()
    other[0, 0] ^= 1
    assert images.checksum != dataclasses.replace(images, attributes=other).checksum


@pytest.mark.parametrize(
    "rows, names, words",
    [
        ([[1, 0], [0, 1]], ("Hat",), r"`attributes`. Expected the shape \(2, 1\)"),
        ([1, 0], NAMES, r"`attributes`. Expected the shape \(2, 2\)"),
        ([[1, 0], [0, -1]], NAMES, r"zeros and ones. .* \[-1\]"),
        ([[1, 0], [0, float("nan")]], NAMES, "zeros and ones"),
        ([["1", "0"], ["0", "1"]], NAMES, "zeros and ones"),
        ([[1, 0], [0, 1]], ("Hat", "Hat"), "`attribute_names`. Expected strings, each once"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(rows, names, words):
    with pytest.raises(ValueError, match=words):
        attributes.AttributeImages.of("nowhere", ["a.jpg", "b.jpg"], rows, names)


def test_a_set_has_the_same_attributes_everywhere():
    with pytest.raises(ValueError, match=r"`test`. Expected the attributes of train, Hat, Backpack. Received"):
        attributes.AttributeSet("Few", images_of(), images_of(), images_of(names=("Hat", "Bag")))


def test_batches_are_functions_of_seed_epoch_and_step(folder):
    train = attributes.attribute_folder(folder).train
    make = lambda **changed: attributes.AttributeTrainBatches(train, 8, (32, 16), **changed)
    batches, later = make(), make().starting_at(1, 1)
    assert batches.steps_per_epoch == 3  # 26 images: the last two are left out
    images, targets = batches[0]
    assert (images.dtype, images.shape, targets.dtype, targets.shape) == ("uint8", (8, 32, 16, 3), "float32", (8, 14))
    for one, two in zip(batches[4], later[0], strict=True):
        np.testing.assert_array_equal(one, two)
    assert (make(seed=1)[0][0] != images).any() and (batches[3][0] != images).any()
    np.testing.assert_array_equal(targets, train.attributes[batches._rows(0, 0)])
    assert make().settings != attributes.AttributeTrainBatches(train.take(np.arange(26)[::-1]), 8, (32, 16)).settings


def test_translation_is_that_of_the_persons_batches(folder):
    """The same images, crops and flips as in re-identification; without both, images as a whole."""
    train = attributes.attribute_folder(folder).train
    pictures = reid.PersonTrainBatches(train, 8, (32, 16), seed=3)[1][0]
    np.testing.assert_array_equal(attributes.AttributeTrainBatches(train, 8, (32, 16), seed=3)[1][0], pictures)
    plain = attributes.AttributeTrainBatches(train, 8, (32, 16), crop=False, flip=False)
    whole, numbers = reid.PersonTestBatches(train, 26, (32, 16))[0]
    np.testing.assert_array_equal(numbers, np.arange(26))
    np.testing.assert_array_equal(plain[0][0], whole[plain._rows(0, 0)])


def test_targets_belong_to_the_images_that_are_left(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    train = attributes.attribute_folder(tmp_path / "copy").train
    arguments = {"batch_size": 26, "image_size": (32, 16), "crop": False, "flip": False}
    images, targets = attributes.AttributeTrainBatches(train, **arguments)[0]
    (tmp_path / "copy" / "data" / "000007.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"000007\.jpg is not an image"):
        attributes.AttributeTrainBatches(train, **arguments)[0]
    batches = attributes.AttributeTrainBatches(train, **arguments, on_corrupt="skip")
    left, of_left = batches[0]
    kept = batches._rows(0, 0) != 6
    np.testing.assert_array_equal(left, images[kept])
    np.testing.assert_array_equal(of_left, targets[kept])


def test_batches_want_attributes(folder):
    people = attributes.attribute_folder(folder)
    with pytest.raises(ValueError, match=r"`source`. Expected `AttributeImages`"):
        attributes.AttributeTrainBatches(reid.PersonImages.of("x", ["a.jpg"], ["ann"]))
    with pytest.raises(ValueError, match=r"`batch_size`. Expected at most 8"):
        attributes.AttributeTrainBatches(people.val, 9)
