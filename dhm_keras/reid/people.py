"""Images of persons in files, and the sets that re-identification trains and tests on."""

import collections
import dataclasses
import os

import numpy as np

from dhm_keras.data import ImageFiles
from dhm_keras.reid.matching import bare


@dataclasses.dataclass(frozen=True, eq=False)
class PersonImages(ImageFiles):
    """Images of persons in files: who is on each (pid), and which camera took it (camid).

    It is `data.ImageFiles` whose classes are the persons: label `i` is the person `class_names[i]`, in sorted order.

    Example:

    ```python
    images = dhm_keras.reid.PersonImages.of("crops", ["a.jpg", "b.jpg"], pids=["ann", "bob"], camids=[0, 1])
    ```

    Args:
        folder, names, labels, class_names, spans: As of `data.ImageFiles`.
        camids: Integers or strings `(n,)`; `None`: the cameras are unknown. Defaults to `None`.

    Raises:
        ValueError: as of `data.ImageFiles`; if there are not as many camids as images.
    """

    camids: np.ndarray | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.camids is None:
            return
        camids = np.array([*self.camids])  # of a pandas column, too
        if camids.shape != self.labels.shape or camids.dtype.kind not in "iuU":
            raise ValueError(
                f"Invalid value for argument `camids`. Expected {len(self)} integers or strings, or None. Received: "
                f"{camids.dtype} {camids.shape}."
            )
        object.__setattr__(self, "camids", camids)

    @classmethod
    def of(cls, folder, names, pids, camids=None):
        """Images by their persons.

        Args:
            folder: Path that the names are relative to.
            names: Sequence of n strings.
            pids: Sequence of n integers or strings; integers become strings.
            camids: As of `PersonImages`. Defaults to `None`.

        Returns:
            `PersonImages`.

        Raises:
            ValueError: if a pid is neither; otherwise as of `PersonImages`.
        """
        if wrong := [pid for pid in pids if not isinstance(pid, (str, int, np.integer))]:
            raise ValueError(
                "Invalid value for argument `pids`. Expected integers or strings. Received: "
                f"{wrong[0]!r}, {type(wrong[0]).__name__}."
            )
        persons, labels = np.unique(np.array([str(pid) for pid in pids], "U"), return_inverse=True)
        return cls(str(folder), tuple(names), labels, tuple(map(str, persons)), camids=camids)

    @property
    def pids(self):
        """Who is on each image, strings `(n,)`."""
        return np.array(self.class_names, "U")[self.labels]

    def take(self, rows):
        """Some of the images, as of `data.ImageFiles`; persons that are on none of them go.

        So the labels are numbered anew, unlike those of `data.ImageFiles.take`; the pids stay.

        Args:
            rows: Integers `(m,)`, or booleans `(n,)`.

        Returns:
            `PersonImages`.

        Raises:
            ValueError: if the rows are neither.
        """
        rows = self._numbers(rows)
        camids = None if self.camids is None else self.camids[rows]
        return PersonImages.of(self.folder, [self.names[i] for i in rows], self.pids[rows], camids)


@dataclasses.dataclass(frozen=True)
class PersonSet:
    """What re-identification trains and tests on: other persons in training than in query and gallery.

    Printed, it is a table of `statistics`, with notes: where persons of the training are to be found, too; where
    queries have nothing to find; where camids differ in how they are written alone.

    Args:
        title: String, as `"Market-1501"`.
        train: `PersonImages`.
        query: `PersonImages`: each is searched for in the gallery.
        gallery: `PersonImages`, distractors among them, junk not.
        multi_query: `PersonImages` or `None`: more images of the persons of `query`, by the same cameras, of whose
            features each query is the mean. Defaults to `None`.

    Raises:
        ValueError: if the gallery holds nothing to find: none of the persons of the query, or none by another camera
            than their queries, where the cameras are known; if those of one are known and of the other not; or, where
            they are not known, if a query is in the gallery itself.
    """

    title: str
    train: PersonImages = dataclasses.field(repr=False)
    query: PersonImages = dataclasses.field(repr=False)
    gallery: PersonImages = dataclasses.field(repr=False)
    multi_query: PersonImages | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        query, gallery = self.query, self.gallery
        if not set(query.class_names) & set(gallery.class_names):
            raise ValueError(
                "No person of the query is in the gallery: there is nothing to find. pids of the query: "
                f"{_some(query.class_names)}; of the gallery: {_some(gallery.class_names)}. A person must have the "
                "same pid, as a string, in both."
            )
        kinds = {None if images.camids is None else images.camids.dtype.kind in "iu" for images in (query, gallery)}
        if len(kinds) > 1:
            raise ValueError(
                "The camids of the query and of the gallery cannot be compared. Expected integers for both, strings "
                f"for both, or None for both. Received: {_some(query.camids)} and {_some(gallery.camids)}."
            )
        if query.camids is None:
            _check_no_image_finds_itself(query, gallery)
        else:
            _check_other_cameras(query, gallery)

    def __str__(self):
        splits = {name: getattr(self, name) for name in ("train", "query", "gallery", "multi_query")}
        rows = [(name, *_counts(images)) for name, images in splits.items() if images is not None]
        rows = [("subset", "# ids", "# images", "# cameras"), *((*row[:3], row[3] or "unknown") for row in rows)]
        lines = [self.title, *("{:<11} | {:>6} | {:>8} | {:>9}".format(*row) for row in rows)]
        if both := len(set(self.train.class_names) & set(self.query.class_names)):
            lines.append(
                f"Note: {both} of the {self.query.num_classes} pids of the query are in train, too. If they are the "
                "same persons, a test on them says little about others."
            )
        return "\n".join([*lines, *_nothing_to_find(self.query, self.gallery), *_written_otherwise(self)])

    def statistics(self):
        """How many persons, images and cameras there are.

        Returns:
            Dict from `"train"`, `"query"`, `"gallery"` to a tuple of three integers; the cameras are 0 where they are
            not known.
        """
        return {name: _counts(getattr(self, name)) for name in ("train", "query", "gallery")}


def _counts(images):
    return images.num_classes, len(images), 0 if images.camids is None else len(np.unique(images.camids))


def _some(values):
    """The first of some values, for a message."""
    if values is None:
        return "None"
    values = np.unique(values).tolist()
    return ", ".join(map(repr, values[:5])) + (", ..." if len(values) > 5 else "")


def _check_no_image_finds_itself(query, gallery):
    in_query, in_gallery = (
        [os.path.normpath(os.path.join(images.folder, name)) for name in images.names] for images in (query, gallery)
    )
    if both := sorted(set(in_query) & set(in_gallery)):
        raise ValueError(
            f"{len(both)} of the {len(query)} images of the query are in the gallery, too, and would find themselves; "
            f"the first is {both[0]}. Leave them out of one; or give the camids, with which evaluation passes over "
            "what the query's own camera took."
        )


def _nothing_to_find(query, gallery):
    """A note, in a list, on queries without a true match."""
    unknown = sorted(set(query.class_names) - set(gallery.class_names))
    absent = np.isin(query.pids, unknown)
    seen = np.zeros(len(query), bool)
    if query.camids is not None:
        cameras = _cameras(gallery)
        pairs = zip(query.pids.tolist(), query.camids.tolist())
        seen = ~absent & np.array([not cameras[pid] - {camid} for pid, camid in pairs])
    if not (absent | seen).any():
        return []
    why = []
    if absent.any():
        why.append(f"the persons of {absent.sum()} are not in the gallery ({_some(unknown)})")
    if seen.any():
        why.append(f"those of {seen.sum()} are there by the query's own camera alone")
    note = f"Note: {(absent | seen).sum()} of {len(query)} queries have nothing to find: {'; '.join(why)}."
    if set(map(bare, unknown)) & set(map(bare, gallery.class_names)):
        note += " Some pids would match without leading zeros, blanks and '.0': write them alike."
    return [note]


def _written_otherwise(people):
    """A note, in a list, on camids of query and gallery that may be one."""
    if people.query.camids is None or people.query.camids.dtype.kind != "U":
        return []
    written = collections.defaultdict(list)
    for camid in np.unique(np.concatenate([people.query.camids, people.gallery.camids])).tolist():
        written[bare(camid)].append(camid)
    twice = [camids for camids in written.values() if len(camids) > 1]
    if not twice:
        return []
    return [
        f"Note: the camids {_some(twice[0])} are taken for different cameras. If they are one, write them alike: "
        "evaluation passes over what the query's own camera took."
    ]


def _cameras(gallery):
    """Dict from each pid to the set of the cameras that took the person."""
    cameras = collections.defaultdict(set)
    for pid, camid in zip(gallery.pids.tolist(), gallery.camids.tolist()):
        cameras[pid].add(camid)
    return cameras


def _check_other_cameras(query, gallery):
    cameras = _cameras(gallery)
    if not any(cameras[pid] - {camid} for pid, camid in zip(query.pids.tolist(), query.camids.tolist())):
        raise ValueError(
            "No person of the query is in the gallery by another camera, and evaluation passes over what the query's "
            f"own camera took: there is nothing to find. Cameras of the query: {_some(query.camids)}; of the gallery: "
            f"{_some(gallery.camids)}. If these are wrong, correct the pattern or the table; if right, go without: "
            "`cameras=False` of person_folder and person_table (--nocameras), or no camids at all."
        )
