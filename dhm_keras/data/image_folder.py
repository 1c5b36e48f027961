"""Images that stay encoded in files until they are needed: ImageNet as it is commonly unpacked, a folder a class."""

import dataclasses
import os
import pathlib
import zlib

import numpy as np

# Per channel, in units of [0, 1]; the numbers that everyone takes.
IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

SUFFIXES = (".jpeg", ".jpg", ".png")
LAYOUT = "FOLDER/train/CLASS/*.JPEG and FOLDER/val/CLASS/*.JPEG"


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images in files, one a file or many, with their labels; what `JpegTrainBatches` and `JpegTestBatches` read.

    Example:

    ```python
    train = dhm_keras.data.image_folder("imagenet", "train").subset(10_000)
    train = train.with_labels(dhm_keras.data.corrupt_labels(train.labels, 0.2, train.num_classes))
    ```

    Args:
        folder: Path that the names are relative to.
        names: Sequence of n strings: the file of each image.
        labels: Integers `(n,)`.
        class_names: Sequence of strings; label `i` is `class_names[i]`.
        spans: Integers `(n, 2)`: where in its file each image begins and ends, in bytes. Defaults to `None`: a file is
            an image.

    Raises:
        ValueError: if there are no images, the numbers of names, labels and spans differ, or a label has no class.
    """

    folder: str
    names: tuple
    labels: np.ndarray
    class_names: tuple
    spans: np.ndarray | None = None

    def __post_init__(self):
        labels = np.array(self.labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not 0 < len(labels) == len(self.names):
            raise ValueError(
                "Invalid value for arguments `names` and `labels`. Expected n names and n integers, n > 0. Received: "
                f"{len(self.names)} names, labels {labels.dtype} {labels.shape}."
            )
        if self.spans is not None and np.shape(self.spans) != (len(labels), 2):
            raise ValueError(
                f"Invalid value for argument `spans`. Expected the shape ({len(labels)}, 2). Received: "
                f"{np.shape(self.spans)}."
            )
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise ValueError(
                f"Invalid value for argument `labels`. Expected integers in [0, {len(self.class_names)}), one for each "
                f"class. Received: {labels.min()} to {labels.max()}."
            )
        object.__setattr__(self, "labels", labels.astype("int64"))
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def __len__(self):
        return len(self.labels)

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def checksum(self):
        """A number for which images these are, by their names: of ImageNet nobody wants to read all the pixels."""
        of_names = zlib.crc32("\n".join(self.names).encode(errors="surrogateescape"))
        return of_names if self.spans is None else zlib.crc32(self.spans.tobytes(), of_names)

    def where(self, i):
        """What to call image `i` in a message: its file, and the place in it."""
        path = os.path.join(self.folder, self.names[i])
        return path if self.spans is None else f"{path}, bytes {self.spans[i, 0]} to {self.spans[i, 1]},"

    def read(self, i):
        """Bytes of image `i`, as they are in the file.

        Args:
            i: Integer.

        Raises:
            OSError: if the file cannot be read.
        """
        with open(os.path.join(self.folder, self.names[i]), "rb") as file:
            if self.spans is None:
                return file.read()
            begin, end = map(int, self.spans[i])
            file.seek(begin)
            return file.read(end - begin)

    def subset(self, n):
        """Some of the images, evenly spaced among all: of a folder, of each class its share.

        Args:
            n: Integer, from 1 to the number of images; or `None`: all of them.

        Returns:
            `ImageFiles`.

        Raises:
            ValueError: if there are not so many.
        """
        total = len(self)
        n = total if n is None else n
        if not isinstance(n, (int, np.integer)) or not 1 <= n <= total:
            raise ValueError(f"Invalid value for argument `n`. Expected 1 to {total}, or None. Received: {n!r}.")
        return self.take(np.arange(n, dtype="int64") * total // n)

    def take(self, rows):
        """Some of the images.

        Args:
            rows: Integers `(m,)`: which, in the order wanted; or booleans `(n,)`, one an image.

        Returns:
            `ImageFiles`, with the same classes.

        Raises:
            ValueError: if the rows are neither.
        """
        rows = self._numbers(rows)
        return dataclasses.replace(
            self,
            names=tuple(self.names[i] for i in rows),
            labels=self.labels[rows],
            spans=None if self.spans is None else self.spans[rows],
        )

    def _numbers(self, rows):
        """Numbers of the images that `take` is to take."""
        rows = np.asarray(rows)
        if rows.dtype == bool and rows.shape == (len(self),):
            return np.flatnonzero(rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ValueError(
                f"Invalid value for argument `rows`. Expected integers, or booleans ({len(self)},). Received: "
                f"{rows.dtype} {rows.shape}."
            )
        return rows.astype("int64")

    def with_labels(self, labels):
        """The same images with other labels, such as `corrupt_labels` gives.

        Args:
            labels: Integers `(n,)`.

        Returns:
            `ImageFiles`.
        """
        return dataclasses.replace(self, labels=labels)


def image_folder(folder, split="train"):
    """Lists the images of a folder that holds a folder for each split, and in it one for each class.

    The classes are the folders of `FOLDER/train`, in the order of their names, for all splits; where there is no such
    folder, those of the split. Files whose names end in .JPEG, .jpg or .png are images, others are passed over. No
    image is opened.

    Example:

    ```python
    train, test = (dhm_keras.data.image_folder("imagenet", split) for split in ("train", "val"))
    ```

    Args:
        folder: Path. ImageNet as it is commonly unpacked: `FOLDER/train/CLASS/*.JPEG` and `FOLDER/val/CLASS/*.JPEG`.
        split: String, `"train"` or `"val"`. Defaults to `"train"`.

    Returns:
        `ImageFiles`, in the order of classes and file names.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no classes, a class has no images, or one is not among those of the training.
    """
    folder = pathlib.Path(folder).expanduser()
    if not (folder / split).is_dir():
        raise FileNotFoundError(f"There is no folder {folder / split}. Expected {LAYOUT}.")
    found = _classes(folder / split)
    classes = _classes(folder / "train") if (folder / "train").is_dir() else found
    if unknown := [name for name in found if name not in set(classes)]:
        raise ValueError(
            f"{folder / split} has {len(unknown)} classes that {folder / 'train'} lacks, the first is {unknown[0]!r}. "
            "Remove them, or add them to the training images."
        )
    numbers = {name: number for number, name in enumerate(classes)}
    names, labels = [], []
    for name in found:
        files = sorted(entry.name for entry in os.scandir(folder / split / name) if _is_image(entry))
        if not files:
            raise ValueError(
                f"{folder / split / name} holds no images ({', '.join(SUFFIXES)}). Add some, or remove it."
            )
        names += [f"{split}/{name}/{file}" for file in files]
        labels += [numbers[name]] * len(files)
    return ImageFiles(str(folder), tuple(names), np.array(labels), classes)


def _classes(folder):
    """Names of the folders in a folder, sorted; those that begin with a dot are no classes."""
    entries = list(os.scandir(folder))
    classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes and any(map(_is_image, entries)):
        raise ValueError(
            f"{folder} holds images, but no folder for each class: ImageNet's validation images come so. Move them to "
            f"the folders of their classes. Expected {LAYOUT}."
        )
    if not classes:
        raise ValueError(f"{folder} holds no folders of classes. Expected {LAYOUT}.")
    return tuple(classes)


def _is_image(entry):
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
