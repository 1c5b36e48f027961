"""Images of persons, sets of them, Market-1501 and DukeMTMC-reID."""

import dataclasses
import os
import shutil

import pytest

import dhm_keras as dhm
from dhm_keras.reid import PersonImages, PersonSet, market, person_folder


def images(pids, camids=None, folder="gallery"):
    names = [f"{i}.jpg" for i in range(len(pids))]
    return PersonImages.of(folder, names, pids, camids)


def people(query, gallery, train=None):
    return PersonSet("ours", train or images(["x"]), query, gallery)


def test_images_know_their_persons_and_cameras():
    crops = PersonImages.of("crops", ["b.jpg", "a.jpg", "c.jpg"], pids=[10, 9, 10], camids=["north", "south", "north"])
    assert crops.class_names == ("10", "9") and crops.labels.tolist() == [0, 1, 0]  # in the order of strings
    assert crops.pids.tolist() == ["10", "9", "10"] and crops.camids.tolist() == ["north", "south", "north"]
    assert (len(crops), crops.num_classes, crops.where(1)) == (3, 2, os.path.join("crops", "a.jpg"))


def test_some_images_keep_their_persons_and_cameras():
    crops = images(["ann", "bob", "cid", "bob"], [3, 1, 2, 0])
    some = crops.take([3, 2, 1])
    assert isinstance(some, PersonImages) and some.class_names == ("bob", "cid")  # nobody else is on them
    assert some.names == ("3.jpg", "2.jpg", "1.jpg") and some.labels.tolist() == [0, 1, 0]
    assert some.pids.tolist() == ["bob", "cid", "bob"] and some.camids.tolist() == [0, 2, 1]
    masked = crops.take(crops.pids == "bob")
    assert masked.names == crops.take([1, 3]).names == ("1.jpg", "3.jpg") and masked.camids.tolist() == [1, 0]
    for rows in ([True, False], [1.0], [[1]]):
        with pytest.raises(ValueError, match=r"`rows`. Expected integers, or booleans \(4,\)"):
            crops.take(rows)
    assert crops.subset(2).pids.tolist() == ["ann", "cid"] and images(["ann", "bob"]).take([1]).camids is None


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: images(["ann", "bob"], [1]), "`camids`. Expected 2 integers or strings"),
        (lambda: images(["ann", "bob"], [1.0, 2.0]), "`camids`. Expected 2 integers or strings"),
        (lambda: images(["ann", "bob"], [1, None]), "`camids`. Expected 2 integers or strings"),
        (lambda: images([1.0, 2.0]), "`pids`. Expected integers or strings. Received: 1.0, float"),
        (lambda: images([]), "Expected n names and n integers"),
        (lambda: PersonImages.of("f", ["a.jpg"], ["ann", "bob"]), "Received: 1 names, labels int64 (2,)"),
    ],
)
def test_images_that_do_not_fit_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)


def test_a_set_is_printed_as_a_table():
    ours = people(images(["1", "2"], [0, 1], "q"), images(["1", "2", "2"], [1, 0, 2]), images(["7", "8"], [0, 0]))
    assert ours.statistics() == {"train": (2, 2, 1), "query": (2, 2, 2), "gallery": (2, 3, 3)}
    assert str(ours).splitlines() == [
        "ours",
        "subset      |  # ids | # images | # cameras",
        "train       |      2 |        2 |         1",
        "query       |      2 |        2 |         2",
        "gallery     |      2 |        3 |         3",
    ]
    assert repr(ours) == "PersonSet(title='ours')"
    more = dataclasses.replace(ours, multi_query=images(["1"] * 4, [0] * 4, "gt"))
    assert str(more).splitlines()[5:] == ["multi_query |      1 |        4 |         1"]
    unknown = people(images(["1"], folder="q"), images(["1"]), images(["1", "1", "2"]))
    assert unknown.statistics()["query"] == (1, 1, 0)
    assert "query       |      1 |        1 |   unknown" in str(unknown)
    assert str(unknown).splitlines()[-1].startswith("Note: 1 of the 1 pids of the query are in train, too.")


@pytest.mark.parametrize(
    "query, gallery, notes",
    [
        (
            images(["1", "02", "3", "4"], list("1111")),
            images(["1", "2", "3"], list("212")),
            [
                "Note: 2 of 4 queries have nothing to find: the persons of 2 are not in the gallery ('02', '4'). Some "
                "pids would match without leading zeros, blanks and '.0': write them alike."
            ],
        ),
        (
            images(["1", "2"], [1, 1]),
            images(["1", "2"], [2, 1]),
            [
                "Note: 1 of 2 queries have nothing to find: those of 1 are there by the query's own camera alone.",
            ],
        ),
        (images(["1"], ["01"]), images(["1", "1"], ["1", "2"]), ["Note: the camids '01', '1' are taken for different"]),
        (images(["1"], ["1"]), images(["1", "1"], ["1.0", "2"]), ["Note: the camids '1', '1.0' are taken for differe"]),
        (images(["1"], ["a"]), images(["1"], ["b"]), []),
        (images(["1"], folder="q"), images(["1"]), []),
    ],
)
def test_a_set_notes_what_cannot_be_found(query, gallery, notes):
    printed = str(people(query, gallery)).splitlines()[5:]
    printed = [line for line in printed if "are in train" not in line]
    assert len(printed) == len(notes) and all(line.startswith(note) for line, note in zip(printed, notes))


@pytest.mark.parametrize(
    "query, gallery, words",
    [
        (images(["01"]), images(list("123456")), "query: '01'; of the gallery: '1', '2', '3', '4', '5', ..."),
        (images(["1"], [0]), images(["1", "2"], [0, 1]), "Cameras of the query: 0; of the gallery: 0, 1."),
        (images(["1"], [0]), images(["1"]), "Received: 0 and None"),
        (images(["1"], [0]), images(["1"], ["1"]), "Received: 0 and '1'"),
        (images(["1"]), images(["1"], folder="./gallery"), "1 of the 1 images of the query are in the gallery, too"),
    ],
)
def test_a_gallery_with_nothing_to_find_is_refused(query, gallery, words):
    with pytest.raises(ValueError) as error:
        people(query, gallery)
    assert words in str(error.value)


def write(folder, names):
    """Empty files; hard links, which are made three times as fast."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".empty").touch()
    for name in names:
        os.link(folder / ".empty", f"{folder}/{name}")


def spread(n, pids, cameras, form, first=0):
    """Names of n images, of all the persons and by all the cameras."""
    pids = list(pids)
    return [form.format(pids[i % len(pids)], (i + i // len(pids)) % cameras + 1, first + i) for i in range(n)]


def market_files(folder):
    """Empty files with the names and numbers of Market-1501, and what else lies about in it."""
    form, stray = "{:04}_c{}s1_{:06}_01.jpg", ["Thumbs.db", "._0001_c1s1_000001_01.jpg", "notes_c1.txt"]
    write(folder / "bounding_box_train", spread(12_936, range(2, 1504, 2), 6, form) + stray)
    write(folder / "query", spread(3_368, range(1, 1501, 2), 6, form) + stray)
    write(folder / "bounding_box_test", spread(13_115, range(1, 1501, 2), 6, form, first=9) + stray)
    write(folder / "bounding_box_test", spread(2_798, [0], 6, form))
    write(folder / "bounding_box_test", spread(3_819, [-1], 6, "{}_c{}s1_{:06}_01.jpg"))
    # Two of a query's person and camera, one of its person alone, one of a person of the training.
    hand_drawn = ["0001_c1s1_000000_00", "0001_c1s1_000009_00", "0001_c6s1_000000_00", "0002_c1s1_000000_00"]
    write(folder / "gt_bbox", [f"{name}.jpg" for name in hand_drawn])


def duke_files(folder):
    form = "{:04}_c{}_f{:07}.jpg"
    write(folder / "bounding_box_train", spread(16_522, range(1, 703), 8, form))
    write(folder / "query", spread(2_228, range(2_001, 2_703), 8, form))
    write(folder / "bounding_box_test", spread(17_661, range(2_001, 3_111), 8, form, first=9))


@pytest.fixture
def kept_short(tmp_path):
    """A folder that goes with the test: it takes many files."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_market(kept_short):
    market_files(kept_short / "market1501" / "Market-1501-v15.09.15")
    ours = dhm.reid.market1501(kept_short)
    assert ours.statistics() == {"train": (751, 12_936, 6), "query": (750, 3_368, 6), "gallery": (751, 15_913, 6)}
    assert str(ours).splitlines()[0] == "Market-1501" and "Note" not in str(ours)
    # Distractors stay, junk does not.
    assert (ours.gallery.pids == "0000").sum() == 2_798 and "-1" not in ours.gallery.class_names
    # Two of the hand-drawn boxes are of a query's person and camera.
    assert ours.multi_query.names == ("0001_c1s1_000000_00.jpg", "0001_c1s1_000009_00.jpg")
    assert ours.multi_query.pids.tolist() == ["0001", "0001"] and ours.multi_query.camids.tolist() == [0, 0]
    for images in (ours.train, ours.query, ours.gallery):
        assert list(images.names) == sorted(images.names) and os.path.isfile(images.where(0))
        for name, pid, camid in zip(images.names, images.pids, images.camids):
            assert name.startswith(f"{pid}_c{camid + 1}s")


@pytest.mark.slow  # not much, but Market's is enough for every day
def test_duke(kept_short):
    duke_files(kept_short / "dukemtmc-reid" / "DukeMTMC-reID")
    ours = dhm.reid.dukemtmc(kept_short)
    assert ours.statistics() == {"train": (702, 16_522, 8), "query": (702, 2_228, 8), "gallery": (1_110, 17_661, 8)}
    assert len(set(ours.gallery.class_names) - set(ours.query.class_names)) == 408
    assert ours.multi_query is None and ours.title == "DukeMTMC-reID"
    assert (ours.query.names[0], ours.query.pids[0], ours.query.camids[0]) == ("2001_c1_f0000000.jpg", "2001", 0)


def test_the_numbers_add_up():
    """To the images that the papers tell: all of Duke's; Market's but for the queries, which were drawn by hand."""
    images = {split: n for split, (_, n, _) in market.MARKET.statistics.items()}
    assert images["train"] + images["gallery"] + market.MARKET.junk == 32_668
    assert sum(n for _, n, _ in market.DUKE.statistics.values()) == 36_411


def small(monkeypatch, folder, junk=1):
    """A set in Market's layout, as if there were no more."""
    form = "{:04}_c{}s1_{:06}_01.jpg"
    write(folder / "bounding_box_train", spread(12, [2, 4], 2, form))
    write(folder / "query", spread(4, [1, 3], 2, form))
    write(folder / "bounding_box_test", [*spread(6, [1, 3, 0], 2, form), *["-1_c1s1_000000_01.jpg"] * junk])
    statistics = {"train": (2, 12, 2), "query": (2, 4, 2), "gallery": (3, 6, 2)}
    monkeypatch.setattr(market, "MARKET", dataclasses.replace(market.MARKET, statistics=statistics, junk=1))
    return folder


@pytest.mark.parametrize("place", ["", "Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15"])
def test_market_is_found(monkeypatch, tmp_path, place):
    ours = dhm.reid.market1501(small(monkeypatch, tmp_path / place) and tmp_path)
    assert ours.query.folder == str(tmp_path / place / "query") and ours.multi_query is None
    # Read as any folder it is the same set, with the cameras as in the names.
    same = person_folder(tmp_path / place)
    for split in ("train", "query", "gallery"):
        theirs, other = getattr(ours, split), getattr(same, split)
        assert theirs.names == other.names and theirs.pids.tolist() == other.pids.tolist()
        assert [str(camid + 1) for camid in theirs.camids] == other.camids.tolist()
    assert same.title == (tmp_path / place).name


def test_what_market_lacks_is_told(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no Market-1501 in .*Looked for .*query.*v15.09.15, "):
        dhm.reid.market1501(tmp_path)
    folder = small(monkeypatch, tmp_path / "Market-1501-v15.09.15", junk=0)
    (folder / "query" / "0003_c2s1_000001_01.jpg").unlink()
    with pytest.raises(ValueError) as error:
        dhm.reid.market1501(tmp_path)
    assert f"{folder} is not Market-1501" in str(error.value) and "bounding_box_train" not in str(error.value)
    for words in (
        "query has 3 images of 2 persons by 2 cameras instead of 4 images of 2 persons by 2 cameras; bounding_box_",
        "bounding_box_test has 0 images of junk (pid -1) instead of 1. Unpack the archive again",
        "is read by dhm_keras.reid.person_folder",
    ):
        assert words in str(error.value)
    shutil.rmtree(folder / "query")
    with pytest.raises(FileNotFoundError, match=r"09.15 is not the whole of Market-1501: it lacks query. Unpack"):
        dhm.reid.market1501(tmp_path)
