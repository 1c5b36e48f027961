"""Images of persons in any folder, told by their names, or listed in a table."""

import re
import shutil

import pytest
from jpeg_files import encoded, picture

from dhm_keras.data.jpeg import decode
from dhm_keras.reid import MARKET_PATTERN, person_folder, person_table

OURS = r"(?P<pid>\w+)/cam(?P<camid>\d)_"


@pytest.fixture
def folder(tmp_path):
    """A folder for each person, the camera in the name; real images."""
    for split, persons in {"train": ("cid", "dan"), "query": ("ann",), "gallery": ("ann", "bob")}.items():
        for person in persons:
            (tmp_path / split / person).mkdir(parents=True)
            for camera in (1, 2):
                path = tmp_path / split / person / f"cam{camera}_{split}.png"
                path.write_bytes(encoded(picture(camera), "PNG"))
    return tmp_path


def in_folder(folder, pattern=OURS, **settings):
    return person_folder(folder, pattern, "train", "query", "gallery", **settings)


def test_any_folder(folder):
    for name in (".hidden.png", "notes.txt", ".cache/cam1_a.png"):
        (folder / "query" / name).parent.mkdir(exist_ok=True)
        (folder / "query" / name).touch()
    junk = folder / "gallery" / "-1"
    junk.mkdir()
    (junk / "cam1_a.jpg").touch()
    ours = in_folder(folder, r"(?P<pid>-?\w+)/cam(?P<camid>\d)_")
    assert ours.statistics() == {"train": (2, 4, 2), "query": (1, 2, 2), "gallery": (2, 4, 2)}
    assert ours.gallery.names == tuple(f"{name}/cam{i}_gallery.png" for name in ("ann", "bob") for i in (1, 2))
    assert ours.gallery.pids.tolist() == ["ann", "ann", "bob", "bob"]
    assert ours.gallery.camids.tolist() == ["1", "2"] * 2 and ours.title == folder.name
    assert decode(ours.query.read(1)).size == picture(2).size
    assert in_folder(folder, r"(?P<pid>-?\w+)/").query.camids is None
    assert in_folder(folder, r"(?P<pid>-?\w+)/cam(?P<camid>\d)_", cameras=False, title="t").gallery.camids is None


def test_splits_elsewhere_and_links(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(folder / "gallery", elsewhere / "gallery")
    ours = person_folder(folder, OURS, "train", "query", gallery=elsewhere / "gallery")
    assert ours.gallery.folder == str(elsewhere / "gallery") and len(ours.gallery) == 4
    (folder / "gallery").mkdir()
    (folder / "gallery" / "ann").symlink_to(elsewhere / "gallery" / "ann")
    (folder / "gallery" / "back").symlink_to(folder / "gallery")  # is not followed for ever
    (folder / "query" / "bob").mkdir()
    (folder / "query" / "bob" / "cam1_link.png").symlink_to(elsewhere / "gallery" / "bob" / "cam1_gallery.png")
    linked = in_folder(folder)
    assert linked.gallery.pids.tolist() == ["ann", "ann"] and linked.query.pids.tolist() == ["ann", "ann", "bob"]
    assert decode(linked.query.read(2)).size == decode(linked.gallery.read(0)).size == picture(1).size


@pytest.mark.parametrize(
    "name, pid, camid",
    [
        ("0002_c1s1_000451_03.jpg", "0002", "1"),
        ("0001_c2_f0046182.jpg", "0001", "2"),
        ("-1_c6s4_000000_00.jpg", "-1", "6"),
        ("0001_c013_00016450_0.jpg", "0001", "13"),
        ("day2/0007_c3/0002_c1s1_000451_03.jpg", "0002", "1"),  # of the file, not of a folder
    ],
)
def test_the_pattern_of_market(name, pid, camid):
    found = re.match(MARKET_PATTERN, name)
    assert (found["pid"], found["camid"].lstrip("0")) == (pid, camid)


def one_camera(folder):
    for split in ("query", "gallery"):
        for path in (folder / split).rglob("cam2*"):
            path.unlink()


def stray_image(folder):
    (folder / "gallery" / "overview.jpg").touch()


def other_format(folder):
    (folder / "train" / "cid" / "cam1_a.bmp").touch()


def no_images(folder):
    shutil.rmtree(folder / "query" / "ann")


def no_folder(folder):
    shutil.move(folder / "gallery", folder / "test")


def nobody_to_find(folder):
    shutil.move(folder / "query" / "ann", folder / "query" / "eve")


def only_junk(folder):
    shutil.move(folder / "query" / "ann", folder / "query" / "-1")


@pytest.mark.parametrize(
    "change, pattern, error, words",
    [
        (None, r"(?P<pid", ValueError, "`pattern`. Expected a regular expression. Received: '(?P<pid'"),
        (None, None, ValueError, "`pattern`. Expected a regular expression. Received: None"),
        (None, r"(\w+)/cam(\d)", ValueError, "with a group `pid`"),
        (None, r"(?P<pid>\d+)_c(?P<camid>\d)", ValueError, "in the names of 4 of the 4 images in"),
        (None, r"(?P<pid>x?)", ValueError, "finds no pid in the names of 4 of the 4 images"),
        (None, r"(?P<pid>\w+)/cam(?P<camid>1?)", ValueError, "no pid and camid in the names of 2 of the 4 images"),
        (stray_image, OURS, ValueError, "in the names of 1 of the 5 images in {}/gallery: overview.jpg. Give"),
        (other_format, OURS, ValueError, "{}/train/cid/cam1_a.bmp is neither a JPEG nor a PNG. Convert"),
        (no_images, OURS, ValueError, "{}/query holds no images (.jpeg, .jpg, .png)"),
        (only_junk, r"(?P<pid>[^/]+)/", ValueError, "All 2 images in {}/query are junk"),
        (no_folder, OURS, FileNotFoundError, "{}/gallery. Name the one of the gallery images as `gallery`. Folders"),
        (shutil.rmtree, OURS, FileNotFoundError, "There is no folder {}."),
        (nobody_to_find, OURS, ValueError, "nothing to find. pids of the query: 'eve'; of the gallery: 'ann', 'bob'."),
        (one_camera, OURS, ValueError, "Cameras of the query: '1'; of the gallery: '1'. If these are wrong, correct"),
    ],
)
def test_folders_that_are_not_as_they_should_be(folder, change, pattern, error, words):
    if change:
        change(folder)
    with pytest.raises(error) as raised:
        in_folder(folder, pattern)
    assert words.format(folder) in str(raised.value)


def test_images_of_one_camera(folder):
    one_camera(folder)
    ours = in_folder(folder, cameras=False)
    assert ours.query.camids is None and "query       |      1 |        1 |   unknown" in str(ours)


def test_a_query_that_finds_itself(folder):
    # The rule of the cameras leaves it out; without it rank-1 would be 100 %, whatever the network.
    assert len(person_folder(folder, OURS, "train", "gallery", "gallery").query) == 4
    with pytest.raises(ValueError, match="4 of the 4 images of the query are in the gallery, too, and would find them"):
        person_folder(folder, OURS, "train", "gallery", "gallery", cameras=False)


TABLE = """path,pid,camid,split
a.jpg,ann,1,query
b.jpg,ann,2,gallery
c.jpg,-1,2,gallery
d.jpg,bob,1,gallery
b.jpg,cid,1,train
"""


@pytest.fixture
def table(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_bytes(encoded(picture(3)))

    def written(text=TABLE, encoding="utf-8"):
        (tmp_path / "crops.csv").write_text(text, encoding=encoding)
        return tmp_path / "crops.csv"

    return written


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_any_table(table, encoding):
    ours = person_table(table(encoding=encoding))
    assert ours.statistics() == {"train": (1, 1, 1), "query": (1, 1, 1), "gallery": (2, 2, 2)}
    assert ours.gallery.names == ("b.jpg", "d.jpg") and ours.gallery.camids.tolist() == ["2", "1"]
    assert ours.title == "crops" and decode(ours.train.read(0)).size == picture(3).size


def test_tables_of_other_forms(table, tmp_path):
    path = table(
        '\n who, file, part, more\r\n "ann", ./a.jpg, query\r\n\r\nann, b.jpg , gallery, 3 , \r\n,,\r\nbob,c.jpg,train'
    )
    columns = {"path": "file", "pid": "who", "split": "part"}
    ours = person_table(path, columns=columns)
    assert (ours.query.names, ours.gallery.names, ours.train.class_names) == (("./a.jpg",), ("b.jpg",), ("bob",))
    assert ours.query.camids is None
    moved = shutil.move(path, tmp_path.parent / f"{tmp_path.name}.csv")
    with pytest.raises(FileNotFoundError, match=r"3 of the 3 images in .* are not there; the first is "):
        person_table(moved, columns=columns)
    assert person_table(moved, tmp_path, columns, "t").title == "t"
    assert person_table(table(), cameras=False).query.camids is None


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("path,", "", "has no column 'path'. Its header is 'pid,camid,split'. Expected 'path,pid,camid,split'"),
        (",", ";", "Its header is 'path;pid;camid;split', separated by ';', expected ','. Expected 'path,pid,camid,"),
        (",", "\t", r"separated by '\t', expected ','. Expected 'path,pid,camid,split'"),
        (TABLE, "", "Its header is '(empty)'"),
        (",camid", ",pid", "more than one column 'pid'"),
        ("ann,2", ",2", "line 3: there is no pid."),
        ("ann,2", "ann,", "line 3: there is no camid."),
        (",1,train", "", "line 6: there is no camid."),
        ("bob,1,gallery", "bob,1,test", "line 5: expected one of train, query, gallery as split, found 'test'."),
        ("bob,1,gallery", "bob,1,gallery,x", "line 5: 5 values, but the header names 4 columns."),
        ("d.jpg", "./b.jpg", "line 5: ./b.jpg is in gallery already, by line 3."),
        ("cid,1,train", "-1,1,train", "names no images whose split is 'train'"),
        ("a.jpg", '"a"jpg', "line 2: this is not CSV"),
        ("b.jpg,cid", '"b.jpg,cid', "line 6: this is not CSV (unexpected end of data)"),
        ("ann,1", "eve,1", "nothing to find. pids of the query: 'eve'"),
        ("ann,2", "ann,1", "if right, go without: `cameras=False`"),
    ],
)
def test_tables_that_are_not_as_they_should_be(table, old, new, words):
    path = table(TABLE.replace(old, new))
    with pytest.raises(ValueError) as error:
        person_table(path)
    assert words in str(error.value)


def test_more_that_is_wrong_with_tables(table, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        person_table(tmp_path / "no.csv")
    with pytest.raises(ValueError, match="is not UTF-8"):
        person_table(table(encoding="utf-16"))
    for columns in (["path"], {"camera": "camid"}):
        with pytest.raises(ValueError, match=r"`columns`. Expected a dict from some of \('path', 'pid', 'camid', "):
            person_table(table(), columns=columns)
    with pytest.raises(ValueError, match="has no column 'camera'"):  # named, so it must be there
        person_table(table(), columns={"camid": "camera"})
    (tmp_path / "d.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 5 images in .* are not there; the first is .*d\.jpg"):
        person_table(table())
