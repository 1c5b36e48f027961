"""Market-1501 and DukeMTMC-reID from their official folders."""

import dataclasses
import os
import pathlib
import re

from dhm_keras.reid.folders import JUNK, MARKET_PATTERN
from dhm_keras.reid.people import PersonImages, PersonSet

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MULTI_QUERY = "gt_bbox"


@dataclasses.dataclass(frozen=True)
class Release:
    """A data set as it was released.

    Args:
        title: String, `"Market-1501"`.
        places: Names of the folders that it unpacks to, or is commonly kept in.
        statistics: Dict from split to (persons, images, cameras), without junk.
        junk: Number of images in the gallery's folder that are of the person -1.
    """

    title: str
    places: tuple
    statistics: dict
    junk: int


# The numbers that all who read these sets print: torchreid and fast-reid; 3,819 = 19,732 - 15,913.
MARKET = Release(
    title="Market-1501",
    places=("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501", "Market-1501"),
    statistics={"train": (751, 12_936, 6), "query": (750, 3_368, 6), "gallery": (751, 15_913, 6)},
    junk=3_819,
)
DUKE = Release(
    title="DukeMTMC-reID",
    places=("DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID", "dukemtmc-reid"),
    statistics={"train": (702, 16_522, 8), "query": (702, 2_228, 8), "gallery": (1_110, 17_661, 8)},
    junk=0,
)


def market1501(folder):
    """Lists the images of Market-1501 (Zheng et al., "Scalable Person Re-identification", ICCV 2015).

    Files that are not named as its images are, such as `Thumbs.db`, are passed over. The gallery's junk, the person -1,
    is left out; its distractors, the person `"0000"`, stay. No image is opened, nothing is downloaded.

    Example:

    ```python
    people = dhm_keras.reid.market1501("Market-1501-v15.09.15")
    print(people)
    ```

    Args:
        folder: Path of the unpacked folder `Market-1501-v15.09.15`, or of one that holds it, or `market1501` with or
            without it.

    Returns:
        `PersonSet`: 12,936 images of 751 persons to train on; 3,368 of 750 others as queries; 15,913 in the gallery.
        pids are strings as in the names, `"0002"`; camids integers from 0, so that `c1` is 0. `multi_query` has those
        images of `gt_bbox` that show a query's person by its camera; where there are none it is `None`.

    Raises:
        FileNotFoundError: if its folders are not there.
        ValueError: if it has other numbers of images, persons or cameras than Market-1501.
    """
    return _released(folder, MARKET)


def dukemtmc(folder):
    """Lists the images of DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017).

    The set was withdrawn in 2019 over the consent and the privacy of the people in it; it has no official source since.
    Nothing is downloaded. If you hold a copy, find out whether you may use it, and whether you should; this function is
    here so that published results can be compared with.

    Args:
        folder: Path of the unpacked folder `DukeMTMC-reID`, or of one that holds it, or `dukemtmc-reid`.

    Returns:
        `PersonSet`: 16,522 images of 702 persons to train on; 2,228 of 702 others as queries; 17,661 in the gallery, of
        408 persons more. pids are strings as in the names, `"0001"`; camids integers from 0, so that `c1` is 0.

    Raises:
        FileNotFoundError: if its folders are not there.
        ValueError: if it has other numbers of images, persons or cameras than DukeMTMC-reID.
    """
    return _released(folder, DUKE)


def _released(folder, release):
    place = _found(pathlib.Path(folder).expanduser(), release)
    listed = {split: _listed(place / name) for split, name in FOLDERS.items()}
    kept = {split: [row for row in rows if row[1] != JUNK] for split, rows in listed.items()}
    _check(place, release, kept, junk=len(listed["gallery"]) - len(kept["gallery"]))
    splits = {split: PersonImages.of(place / FOLDERS[split], *zip(*rows)) for split, rows in kept.items()}
    if (place / MULTI_QUERY).is_dir():
        queries = {row[1:] for row in kept["query"]}
        if rows := [row for row in _listed(place / MULTI_QUERY) if row[1:] in queries]:
            splits["multi_query"] = PersonImages.of(place / MULTI_QUERY, *zip(*rows))
    return PersonSet(release.title, **splits)


def _found(folder, release):
    """The folder that holds the splits' folders."""
    places = [folder, *(folder / place for place in release.places)]
    lacking = {place: [name for name in FOLDERS.values() if not (place / name).is_dir()] for place in places}
    best = min(places, key=lambda place: len(lacking[place]))
    if not lacking[best]:
        return best
    if len(lacking[best]) < len(FOLDERS):
        raise FileNotFoundError(
            f"{best} is not the whole of {release.title}: it lacks {' and '.join(lacking[best])}. Unpack the archive "
            "again."
        )
    raise FileNotFoundError(
        f"There is no {release.title} in {folder}. Looked for the folders {', '.join(FOLDERS.values())} in: "
        f"{', '.join(map(str, places))}. Give the unpacked folder, or the one above it."
    )


def _listed(folder):
    """Tuples of name, pid and camid of the images in a folder, in the order of the names."""
    names = (name for name in sorted(os.listdir(folder)) if name.endswith(".jpg"))
    matches = filter(None, (re.match(MARKET_PATTERN, name) for name in names))
    return [(match.string, match["pid"], int(match["camid"]) - 1) for match in matches]


def _check(place, release, kept, junk):
    """Raises `ValueError` if there are not as many of anything as were released."""
    wrong = []
    for split, rows in kept.items():
        found = len({pid for _, pid, _ in rows}), len(rows), len({camid for *_, camid in rows})
        if found != release.statistics[split]:
            wrong.append(f"{FOLDERS[split]} has {_told(*found)} instead of {_told(*release.statistics[split])}")
    if junk != release.junk:
        wrong.append(f"{FOLDERS['gallery']} has {junk:,} images of junk (pid {JUNK}) instead of {release.junk:,}")
    if wrong:
        raise ValueError(
            f"{place} is not {release.title} as it was released: {'; '.join(wrong)}. Unpack the archive again, into an "
            "empty folder. A part of the set, or another set in its layout, is read by dhm_keras.reid.person_folder."
        )


def _told(persons, images, cameras):
    return f"{images:,} images of {persons:,} persons by {cameras} cameras"
