"""What was found for queries, in frames of the right colours at the right places; CMC curves."""

import csv
import warnings

import numpy as np
import pytest
from jpeg_files import cut
from PIL import Image

from dhm_keras.reid import PersonImages, drawing, plot_cmc, plot_ranking

# A person has a grey level; the cameras are 1 and 2.
GALLERY = (("7", 1), ("7", 2), ("8", 1), ("-1", 2), ("0", 1), ("7", 2))
LEVELS = (100, 110, 120, 130, 140, 150)
QUERIES = (("7", 1), ("8", 2))
FAR = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.15, 0.25, 0.35, 0.45, 0.55, 0.65]])
ORDER = np.array([[0, 3, 2, 5, 1, 4], [2, 4, 0, 1, 5, 3]])


def persons(folder, whose, levels, size=(64, 128), with_camids=True):
    names = []
    for i, level in enumerate(levels):
        names.append(f"{i}_{level}.png")
        Image.new("RGB", size, (level,) * 3).save(folder / names[-1])
    return PersonImages.of(folder, names, [pid for pid, _ in whose], [c for _, c in whose] if with_camids else None)


@pytest.fixture
def query(tmp_path):
    return persons(tmp_path, QUERIES, (50, 60))


@pytest.fixture
def gallery(tmp_path):
    return persons(tmp_path, GALLERY, LEVELS)


def seen(path, line, column):
    """Colours of an image's frame, left and right, and of its middle."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    top, left = 8 + line * (128 + 6 + 26 + 8), (24 if column else 8) + column * (64 + 6 + 8)
    frame = [tuple(map(int, pixels[top + 60, left + x])) for x in (0, 2, 67, 69)]
    assert len(set(frame)) == 1
    inner = pixels[top + 3 : top + 131, left + 3 : left + 67]
    assert (inner == inner[0, 0]).all()  # nothing of the frame, pixel by pixel
    return frame[0], int(inner[0, 0, 0])


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_frames_and_places(tmp_path, query, gallery):
    path = tmp_path / "ranking.png"
    with warnings.catch_warnings(action="error"):
        plot_ranking(query, gallery, ORDER, path, FAR, k=3)
    # Left out: of the first query row 0, its person by its camera, and row 3, which is junk.
    expected = [
        [(drawing.QUERY, 50), (drawing.OTHER, 120), (drawing.SAME, 150), (drawing.SAME, 110)],
        [(drawing.QUERY, 60), (drawing.SAME, 120), (drawing.OTHER, 140), (drawing.OTHER, 100)],
    ]
    assert [[seen(path, line, column) for column in range(4)] for line in range(2)] == expected
    assert Image.open(path).size == (4 * 78 + 24, 2 * 168 + 8)
    rows = rows_of(tmp_path / "ranking.csv")
    assert [list(row.values()) for row in rows[:2]] == [
        ["0_50.png", "7", "1", "1", "2_120.png", "8", "1", "0.3", "0"],
        ["0_50.png", "7", "1", "2", "5_150.png", "7", "2", "0.4", "1"],
    ]
    assert tuple(rows[0]) == drawing.RANKED and len(rows) == 6
    assert sorted(each.name for each in tmp_path.glob("*ranking*")) == ["ranking.csv", "ranking.png"]


def test_without_cameras_the_same_camera_counts(tmp_path):
    query, gallery = (
        persons(tmp_path, whose, levels, with_camids=False)
        for whose, levels in ((QUERIES, (50, 60)), (GALLERY, LEVELS))
    )
    plot_ranking(query, gallery, ORDER, tmp_path / "ranking.png")
    assert seen(tmp_path / "ranking.png", 0, 1) == (drawing.SAME, 100)
    assert seen(tmp_path / "ranking.png", 0, 2) == (drawing.OTHER, 120)  # junk is left out
    rows = rows_of(tmp_path / "ranking.csv")
    assert (rows[0]["camid"], rows[0]["distance"], len(rows)) == ("", "", 10)


def test_other_sizes_keep_their_shape_and_few_are_enough(tmp_path, query):
    """An image twice as wide as high lies in the middle, white above and below; a query for which nothing counts."""
    gallery = persons(tmp_path, [("8", 1), ("7", 1)], (90, 95), size=(200, 100))
    plot_ranking(query, gallery, [[1], [0]], tmp_path / "ranking.png")
    pixels = np.asarray(Image.open(tmp_path / "ranking.png").convert("RGB"))
    column = pixels[8 + 168 + 3 : 8 + 168 + 131, 24 + 78 + 35, 0]
    assert (column[:48] == 255).all() and (column[48:80] == 90).all() and (column[80:] == 255).all()
    assert (pixels[8:140, 24 + 78 :] == 255).all()
    plot_ranking(query.take([0]), gallery, [[1]], tmp_path / "none.png")
    assert Image.open(tmp_path / "none.png").size == (86, 176) and rows_of(tmp_path / "none.csv") == []


def test_odd_pids_are_printed(tmp_path, query):
    """A dollar begins a formula in matplotlib; a name may be long."""
    gallery = persons(tmp_path, [("$x_{", 1), ("a person with a very long name", 2)], (90, 95))
    plot_ranking(query, gallery, [[0, 1], [1, 0]], tmp_path / "ranking.png")
    pixels = np.asarray(Image.open(tmp_path / "ranking.png").convert("RGB"))
    prints = pixels[8 + 134 : 8 + 168, 24 + 78 :]
    assert (prints[:, :70] < 128).any() and (prints[:, 78:148] < 128).any()
    assert (prints[:, 71:77] == 255).all()  # the long one does not reach its neighbour


def test_wrong_rankings(tmp_path, query, gallery):
    path = tmp_path / "ranking.png"
    draw = lambda order=ORDER, *arguments, **named: plot_ranking(query, gallery, order, path, *arguments, **named)
    for order in (ORDER[:1], ORDER[0], ORDER[:, :0], ORDER / 2):
        with pytest.raises(ValueError, match=r"`order`. Expected integers \(2, n\)"):
            draw(order)
    with pytest.raises(ValueError, match=r"from 0 to 5. Received: 1 to 6"):
        draw(ORDER + 1)
    with pytest.raises(ValueError, match=r"`distances`. Expected the shape of `order`, \(2, 6\)"):
        draw(ORDER, FAR[:, :2])
    with pytest.raises(ValueError, match=r"`k`. Expected an integer of at least 1"):
        draw(k=0)
    without = PersonImages.of(tmp_path, gallery.names, gallery.pids)
    with pytest.raises(ValueError, match="Received: of the query alone"):
        plot_ranking(query, without, ORDER, path)
    cut(tmp_path / "5_150.png")
    with pytest.raises(ValueError, match=r"5_150.png is not an image that can be decoded"):
        draw()
    assert not path.exists() and not path.with_suffix(".csv").exists()


def test_cmc(tmp_path):
    curves = {"baseline": [0.5, 0.75, 0.875], "dhm": np.array([0.75, 1.0], "float32")}
    plot_cmc(curves, tmp_path / "cmc.png", title="small")
    assert [list(row.values()) for row in rows_of(tmp_path / "cmc.csv")] == [
        ["baseline", "1", "0.5"],
        ["baseline", "2", "0.75"],
        ["baseline", "3", "0.875"],
        ["dhm", "1", "0.75"],
        ["dhm", "2", "1.0"],
    ]
    pixels = np.asarray(Image.open(tmp_path / "cmc.png").convert("RGB")).reshape(-1, 3)
    for colour in ((31, 119, 180), (44, 160, 44)):  # of baseline and dhm in all figures
        assert (np.abs(pixels.astype(int) - colour).max(1) < 3).sum() > 100
    with pytest.raises(ValueError, match=r"cmc\.csv, where .* holds another table"):
        (tmp_path / "cmc.csv").write_text("epoch,loss\n")
        plot_cmc(curves, tmp_path / "cmc.png")


@pytest.mark.parametrize("wrong", [[], [[0.5]], [0.5, 0.4], [50.0, 60.0], [0.5, np.nan]])
def test_wrong_curves(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"Expected shares in .* Received: of 'mine' an array"):
        plot_cmc({"dhm": [0.5], "mine": wrong}, tmp_path / "cmc.png")
    with pytest.raises(ValueError, match="at least one curve"):
        plot_cmc({}, tmp_path / "cmc.png")
    assert list(tmp_path.iterdir()) == []
