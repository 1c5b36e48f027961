"""Images of persons in files, and the sets that re-identification trains and tests on."""

import dataclasses

import numpy as np

from dhm_keras.data import ImageFiles


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
        camids = np.array(self.camids)
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
        """
        persons, labels = np.unique(np.array([str(pid) for pid in pids], "U"), return_inverse=True)
        return cls(str(folder), tuple(names), labels, tuple(map(str, persons)), camids=camids)

    @property
    def pids(self):
        """Who is on each image, strings `(n,)`."""
        return np.array(self.class_names, "U")[self.labels]

    def take(self, rows):
        """Some of the images, as of `data.ImageFiles`; persons that are on none of them go.

        Args:
            rows: Integers `(n,)`.

        Returns:
            `PersonImages`.
        """
        camids = None if self.camids is None else self.camids[rows]
        return PersonImages.of(self.folder, [self.names[i] for i in rows], self.pids[rows], camids)


@dataclasses.dataclass(frozen=True)
class PersonSet:
    """What re-identification trains and tests on: other persons in training than in query and gallery.

    Args:
        title: String, as `"Market-1501"`.
        train: `PersonImages`.
        query: `PersonImages`: each is searched for in the gallery.
        gallery: `PersonImages`, distractors among them, junk not.
        multi_query: `PersonImages` or `None`: more images of the persons of `query`, by the same cameras, of whose
            features each query is the mean. Defaults to `None`.
    """

    title: str
    train: PersonImages
    query: PersonImages
    gallery: PersonImages
    multi_query: PersonImages | None = None

    def statistics(self):
        """How many persons, images and cameras there are.

        Returns:
            Dict from `"train"`, `"query"`, `"gallery"` to a tuple of three integers; the cameras are 0 where they are
            not known.
        """
        return {
            name: (images.num_classes, len(images), 0 if images.camids is None else len(np.unique(images.camids)))
            for name, images in (("train", self.train), ("query", self.query), ("gallery", self.gallery))
        }
