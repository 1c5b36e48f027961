"""PA-100K from its official folder, and other sets in the same layout."""

import os
import pathlib

import numpy as np

from dhm_keras.attributes.images import AttributeImages, AttributeSet

ANNOTATION = "annotation.mat"
PLACES = (
    "data",
    "release_data/release_data",
    "release_data",
    "images",
)  # where the images are, the first that is there
SPLITS = ("train", "val", "test")
STATISTICS = {"train": 80_000, "val": 10_000, "test": 10_000}  # images, as HydraPlus-Net's authors released them
NUM_ATTRIBUTES = 26


def pa100k(folder):
    """Lists the images of PA-100K (Liu et al., "HydraPlus-Net", ICCV 2017).

    No image is opened, nothing is downloaded. `annotation.mat` is MATLAB's version 5, which holds no code.

    Example:

    ```python
    people = dhm_keras.attributes.pa100k("PA-100K")
    print(people)
    ```

    Args:
        folder: Path of the folder with `annotation.mat` and the images, in `data`, `release_data/release_data`,
            `release_data` or `images`.

    Returns:
        `AttributeSet`: 80,000 images to train on, 10,000 to validate and 10,000 to test on, with 26 attributes.

    Raises:
        ImportError: if SciPy is not installed.
        FileNotFoundError: as of `attribute_folder`.
        ValueError: as of `attribute_folder`; if it has other numbers of images or attributes than PA-100K.
    """
    people = attribute_folder(folder, title="PA-100K")
    found = {split: len(getattr(people, split)) for split in SPLITS}
    if found != STATISTICS or len(people.attribute_names) != NUM_ATTRIBUTES:
        told = lambda numbers, attributes: f"{' + '.join(f'{numbers[s]:,}' for s in SPLITS)} images x {attributes}"
        raise ValueError(
            f"{folder} is not PA-100K as it was released: it has {told(found, len(people.attribute_names))} attributes "
            f"instead of {told(STATISTICS, NUM_ATTRIBUTES)}. Another set in its layout is read by "
            "dhm_keras.attributes.attribute_folder."
        )
    return people


def attribute_folder(folder, title="Attributes"):
    """Lists the images of a set in PA-100K's layout, of any size and with any attributes.

    `annotation.mat` holds `attributes`, a cell of k names, and for `train`, `val` and `test` a cell of n file names,
    `train_images_name`, and zeros and ones `(n, k)`, `train_label`.

    Example:

    ```python
    people = dhm_keras.attributes.attribute_folder(dhm_keras.attributes.synthetic_attributes("drawn"))
    ```

    Args:
        folder: Path, as of `pa100k`.
        title: String. Defaults to `"Attributes"`.

    Returns:
        `AttributeSet`, in the order of the file.

    Raises:
        ImportError: if SciPy is not installed.
        FileNotFoundError: if there is no such file, no folder of images, or an image is not there.
        ValueError: if the file cannot be read, or does not hold this.
    """
    folder = pathlib.Path(folder).expanduser()
    path = folder / ANNOTATION
    content = _read(path)
    images = next((folder / place for place in PLACES if (folder / place).is_dir()), None)
    if images is None:
        raise FileNotFoundError(f"There are no images in {folder}. Looked for the folders {', '.join(PLACES)}.")
    there = set(os.listdir(images))
    names = _strings(content["attributes"], "attributes", path)
    splits = {split: _split(content, split, names, images, there, path) for split in SPLITS}
    return AttributeSet(title, **splits)


def scipy_io():
    """The module `scipy.io`; `ImportError` with a sentence where it is missing."""
    try:
        import scipy.io
    except ImportError as error:
        raise ImportError(
            f"{ANNOTATION} is a MATLAB file, which SciPy reads and writes. Install it: pip install 'dhm_keras[demo]'"
        ) from error
    return scipy.io


def _read(path):
    """The arrays of `annotation.mat`, a dict."""
    loadmat = scipy_io().loadmat
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Give the folder that holds {ANNOTATION} and the images.")
    try:
        content = loadmat(path)
    except Exception as error:  # whatever SciPy says to bytes that MATLAB did not write
        raise ValueError(f"{path} is not a file of MATLAB's version 5 ({type(error).__name__}: {error}).") from None
    wanted = ["attributes", *(f"{split}_{what}" for split in SPLITS for what in ("images_name", "label"))]
    if lacking := [name for name in wanted if name not in content]:
        raise ValueError(f"{path} lacks {', '.join(lacking)}. Expected the annotation of PA-100K, or one like it.")
    return content


def _split(content, split, attribute_names, folder, there, path):
    """`AttributeImages` of one split; `there` has the names of the files in the folder."""
    names = _strings(content[f"{split}_images_name"], f"{split}_images_name", path)
    if lacking := [name for name in names if name not in there]:
        raise FileNotFoundError(
            f"{folder} lacks {len(lacking)} of the {len(names)} images of {split}, the first is {lacking[0]!r}. Unpack "
            "the archive again."
        )
    try:
        return AttributeImages.of(folder, names, content[f"{split}_label"], attribute_names)
    except ValueError as error:
        raise ValueError(f"{path}, {split}_label: {error}") from None


def _strings(cell, name, path):
    """The strings of a MATLAB cell `(n, 1)` or `(1, n)`, a list."""
    strings = [np.asarray(each).ravel().tolist() for each in np.asarray(cell).ravel()]
    if not strings or any(len(each) != 1 or not isinstance(each[0], str) for each in strings):
        raise ValueError(f"{path}, {name}: expected a cell of strings, at least one. Received: {np.shape(cell)}.")
    return [each[0] for each in strings]
