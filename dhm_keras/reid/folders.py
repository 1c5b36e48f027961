"""Images of persons in any folder, told by their names, or listed in a table."""

import collections
import csv
import os
import pathlib
import re

from dhm_keras.data.image_folder import SUFFIXES
from dhm_keras.reid.people import PersonImages, PersonSet

# As in Market-1501, 0002_c1s1_000451_03.jpg, DukeMTMC-reID, 0001_c2_f0046182.jpg, and VeRi, 0001_c013_00016450_0.jpg.
# It looks at a path's last part alone: others find persons in the names of folders, too.
MARKET_PATTERN = r"(?:.*/)?(?P<pid>-?\d+)_c(?P<camid>\d+)[^/]*$"

JUNK = "-1"
SPLITS = ("train", "query", "gallery")
OTHER_SUFFIXES = (".bmp", ".gif", ".heic", ".ppm", ".tif", ".tiff", ".webp")  # images that are not decoded


def person_folder(
    folder,
    pattern=MARKET_PATTERN,
    train="bounding_box_train",
    query="query",
    gallery="bounding_box_test",
    title=None,
    cameras=True,
):
    """Lists the images of persons in three folders, and the folders in these; their names tell the persons.

    Files whose names end in .jpg, .jpeg or .png are images, others and hidden ones are passed over. No image is opened.
    Images of the person `-1` are junk, as in Market-1501, and left out.

    Example:

    ```python
    people = dhm_keras.reid.person_folder("crops", r"(?P<pid>\\w+)/cam(?P<camid>\\d+)_", "train", "query", "gallery")
    print(people)  # crops/query/ann/cam1_0001.jpg is Ann, by camera 1
    ```

    Args:
        folder: Path.
        pattern: Regular expression with a group `pid` and, where the cameras are known, a group `camid`. It is matched,
            as `re.match` does, against the path of each image within its split's folder, with `/` between the parts.
            Defaults to `MARKET_PATTERN`: `0002_c1s1_000451_03.jpg` is the person 0002 by the camera 1.
        train, query, gallery: Names of the folders in `folder`, or paths elsewhere. Default to those of Market-1501.
        title: String. Defaults to the name of the folder.
        cameras: Boolean. `False`: camera ids are not kept, so that evaluation counts what the query's own camera took,
            too. It is for images of one camera. Defaults to `True`.

    Returns:
        `PersonSet`, each split in the order of the paths; pids and camids are strings, as in the names.

    Raises:
        FileNotFoundError: if a folder is not there.
        ValueError: if the pattern is none, or does not fit every image; a folder holds no images, or some of a format
            that is not decoded; or the gallery holds nothing to find, as of `PersonSet`.
    """
    folder, rule = pathlib.Path(folder).expanduser(), _rule(pattern)
    splits = {}
    for split, name in zip(SPLITS, (train, query, gallery)):
        place = folder / pathlib.Path(name).expanduser()
        if not place.is_dir():
            raise FileNotFoundError(_no_folder(folder, split, place))
        splits[split] = _by_names(place, rule, cameras)
    return PersonSet(title or folder.resolve().name, **splits)


def person_table(path, folder=None, columns=None, title=None, cameras=True):
    """Lists the images of persons that a CSV file names, with a header and a line for each image.

    No image is opened, but each must be there. Lines of the person `-1` are junk, as in Market-1501, and left out.

    Example:

    ```python
    # path,pid,camid,split
    # crops/0001.jpg,ann,1,train
    people = dhm_keras.reid.person_table("crops.csv")
    people = dhm_keras.reid.person_table("crops.csv", columns={"path": "file", "pid": "person"})
    ```

    Args:
        path: Path of the file: UTF-8, values separated by commas. Its columns: `path` of an image, `pid`, `camid` where
            the cameras are known, and `split`, which is `train`, `query` or `gallery`. Others are passed over.
        folder: Path that those in the table are relative to. Defaults to the folder of the table.
        columns: Dict from some of these four names to those in the header. Defaults to the names themselves.
        title: String. Defaults to the name of the file.
        cameras: As of `person_folder`. Defaults to `True`.

    Returns:
        `PersonSet`, each split in the order of the lines; pids and camids are strings, as in the table.

    Raises:
        FileNotFoundError: if the table or an image is not there.
        ValueError: if the table is not as above: a column or a value is missing, a split is another, or an image comes
            twice in one; or if the gallery holds nothing to find, as of `PersonSet`.
    """
    path = pathlib.Path(path).expanduser()
    folder = path.parent if folder is None else pathlib.Path(folder).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    rows = {split: [] for split in SPLITS}
    for row in _rows(path, columns, cameras):
        rows[row.pop("split")].append(row)
    _check_files(path, folder, [row["path"] for split in SPLITS for row in rows[split]])
    splits = {}
    for split in SPLITS:
        kept = [row for row in rows[split] if row["pid"] != JUNK]
        if not kept:
            raise ValueError(f"{path} names no images whose split is {split!r}, junk (pid {JUNK}) apart. Add some.")
        names, pids, *camids = ([row[name] for row in kept] for name in kept[0])
        splits[split] = PersonImages.of(folder, names, pids, *camids)
    return PersonSet(title or path.stem, **splits)


def image_paths(folder):
    """Paths of the images in a folder and the folders in it, hidden ones apart; links are followed.

    Args:
        folder: Path.

    Returns:
        List of strings, relative to `folder`, sorted, with `/` between the parts.

    Raises:
        ValueError: if there are images of a format that is not decoded.
    """
    return sorted(_walked(str(folder), "", ()))


def _walked(folder, prefix, trail):
    real = os.path.realpath(folder)
    if real in trail:  # a link that leads back
        return
    for entry in [*os.scandir(folder)]:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walked(entry.path, f"{prefix}{entry.name}/", (*trail, real))
        elif entry.name.lower().endswith(SUFFIXES):
            yield prefix + entry.name
        elif entry.name.lower().endswith(OTHER_SUFFIXES):
            raise ValueError(f"{entry.path} is neither a JPEG nor a PNG. Convert such images, or remove them.")


def _rule(pattern):
    try:
        rule = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"Invalid value for argument `pattern`. Expected a regular expression. Received: {pattern!r} ({error})."
        ) from None
    if "pid" not in rule.groupindex:
        raise ValueError(
            "Invalid value for argument `pattern`. Expected a regular expression with a group `pid`, as in "
            rf"(?P<pid>\d+)_c(?P<camid>\d+). Received: {pattern!r}."
        )
    return rule


def _no_folder(folder, split, place):
    if not folder.is_dir():
        return f"There is no folder {folder}."
    there = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    return (
        f"There is no folder {place}. Name the one of the {split} images as `{split}`. Folders in {folder}: "
        f"{', '.join(there[:9]) or 'none'}."
    )


def _by_names(folder, rule, cameras):
    """`PersonImages` of a split's folder, junk left out."""
    names = image_paths(folder)
    if not names:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)}). Add some, or name another folder.")
    wanted = ["pid", "camid"] if cameras and "camid" in rule.groupindex else ["pid"]
    matches = [rule.match(name) for name in names]
    wrong = [name for name, match in zip(names, matches) if not (match and all(match[group] for group in wanted))]
    if wrong:
        raise ValueError(
            f"The pattern {rule.pattern!r} finds no {' and '.join(wanted)} in the names of {len(wrong)} of the "
            f"{len(names)} images in {folder}: {', '.join(wrong[:3])}. Give a `pattern` for all of them, or move "
            "those away that are of no person."
        )
    kept = [i for i, match in enumerate(matches) if match["pid"] != JUNK]
    if not kept:
        raise ValueError(f"All {len(names)} images in {folder} are junk: of the person {JUNK}.")
    values = ([matches[i][group] for i in kept] for group in wanted)
    return PersonImages.of(folder, [names[i] for i in kept], *values)


def _columns(columns):
    """Dict from our names of the columns to those in the header."""
    ours = {name: name for name in ("path", "pid", "camid", "split")}
    if not isinstance(columns or {}, dict) or set(columns or {}) - set(ours):
        raise ValueError(
            f"Invalid value for argument `columns`. Expected a dict from some of {tuple(ours)} to names in the header. "
            f"Received: {columns!r}."
        )
    return {**ours, **(columns or {})}


def _rows(path, columns, cameras):
    """The lines of a table, checked: dicts of `path`, `pid`, perhaps `camid`, and `split`."""
    named, columns, seen = columns or {}, _columns(columns), {}
    lines = _lines(path)
    _, header = next(lines, (1, []))
    expected = ",".join(theirs for name, theirs in columns.items() if cameras or name != "camid")
    if not cameras or ("camid" not in header and "camid" not in named):
        del columns["camid"]
    _check_header(path, header, columns, expected)
    for number, values in lines:
        line = f"{path}, line {number}:"
        if any(values[len(header) :]):
            raise ValueError(f"{line} {len(values)} values, but the header names {len(header)} columns.")
        found = dict(zip(header, values))
        row = {name: found.get(theirs, "") for name, theirs in columns.items()}
        _check_row(line, row, columns)
        key = row["split"], os.path.normpath(row["path"])
        if key in seen:
            raise ValueError(f"{line} {row['path']} is in {row['split']} already, by line {seen[key]}.")
        seen[key] = number
        yield row


def _lines(path):
    """Number and values of each line of a CSV file that is not empty."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        try:
            for values in reader:
                values = [value.strip() for value in values]
                if any(values):
                    yield reader.line_num, values
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error}). Save it as such.") from None
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: this is not CSV ({error}).") from None


def _check_header(path, header, columns, expected):
    if missing := [theirs for theirs in columns.values() if theirs not in header]:
        other = [mark for mark in (";", "\t") if len(header) == 1 and mark in header[0]]
        raise ValueError(
            f"{path} has no column {missing[0]!r}. Its header is {','.join(header) or '(empty)'!r}"
            + (f", separated by {other[0]!r}, expected ','" if other else "")
            + f". Expected {expected!r}, separated by commas, in any order; other names can be given as `columns`."
        )
    if twice := [name for name, n in collections.Counter(header).items() if n > 1 and name in columns.values()]:
        raise ValueError(f"{path} has more than one column {twice[0]!r}.")


def _check_row(line, row, columns):
    for name, value in row.items():
        if not value:
            raise ValueError(f"{line} there is no {columns[name]}.")
    if row["split"] not in SPLITS:
        raise ValueError(f"{line} expected one of {', '.join(SPLITS)} as {columns['split']}, found {row['split']!r}.")


def _check_files(path, folder, names):
    missing = [name for name in names if not os.path.isfile(folder / name)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} images in {path} are not there; the first is {folder / missing[0]}. "
            "Give the folder that the paths are relative to as `folder`."
        )
