"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from a local copy of the official binary release."""

import contextlib
import dataclasses
import itertools
import pathlib
import tarfile

import numpy as np

# Per channel, in units of [0, 1], over the training images.
CIFAR10_MEAN_STD = ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
CIFAR100_MEAN_STD = ((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047))

PIXELS = 3 * 32 * 32
HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclasses.dataclass(frozen=True)
class Release:
    """The official binary release of a data set: files of records, a record some label bytes and 3,072 pixels.

    Args:
        name: String, `"CIFAR-100"`.
        folder: Name of the folder that the archive unpacks to.
        archive: Name of the archive.
        train: Names of the files with the training images, in order.
        test: Name of the file with the test images.
        records: Records in each training file, and in the test file.
        labels: (name, number of classes) of each label byte of a record; the last is the label.
        pickled: Names of the folder, the archive and the files of the pickled Python release.
    """

    name: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    records: tuple[int, int]
    labels: tuple[tuple[str, int], ...]
    pickled: tuple[str, str, frozenset[str]]

    @property
    def record(self):
        """Bytes in a record."""
        return len(self.labels) + PIXELS

    @property
    def remedy(self):
        """What to do about files that are not as they should be."""
        return f"Get the binary release, {self.archive}, from {HOME}, and give that archive or its unpacked folder."


CIFAR10 = Release(
    name="CIFAR-10",
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    records=(10_000, 10_000),
    labels=(("label", 10),),
    pickled=(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        frozenset({"batches.meta", "data_batch_1", "test_batch"}),
    ),
)
CIFAR100 = Release(
    name="CIFAR-100",
    folder="cifar-100-binary",
    archive="cifar-100-binary.tar.gz",
    train=("train.bin",),
    test="test.bin",
    records=(50_000, 10_000),
    labels=(("coarse label", 20), ("fine label", 100)),
    pickled=("cifar-100-python", "cifar-100-python.tar.gz", frozenset({"meta", "train", "test"})),
)


def cifar100(source, train_examples=None):
    """Loads CIFAR-100 with its 100 fine labels; nothing is downloaded.

    Args:
        source: Path. The official `cifar-100-binary.tar.gz`, the folder `cifar-100-binary` that it unpacks to, or a
            folder that holds one of them (the unpacked one is taken if it holds both).
        train_examples: Integer. Takes only the first training images, in the official order, which is random; a
            training file that has no more of them will do. Defaults to all.

    Returns:
        `(train_images, train_labels), (test_images, test_labels)`: uint8 `(50000, 32, 32, 3)` and int64 `(50000,)` for
        training, 10,000 for the test.

    Raises:
        FileNotFoundError: if `source` is not there.
        ValueError: if it is not the binary release, or a file is missing, truncated, doubled or has a label out of
            range; the message names the file and what to do.
    """
    return _load(CIFAR100, source, train_examples)


def cifar10(source, train_examples=None):
    """Loads CIFAR-10; nothing is downloaded.

    Args:
        source: Path. The official `cifar-10-binary.tar.gz`, the folder `cifar-10-batches-bin` that it unpacks to, or a
            folder that holds one of them.
        train_examples: Integer. Takes only the first training images, in the official order. Defaults to all.

    Returns:
        `(train_images, train_labels), (test_images, test_labels)`, as of `cifar100`.

    Raises:
        FileNotFoundError, ValueError: as `cifar100`.
    """
    return _load(CIFAR10, source, train_examples)


def checked_number(train_examples, available):
    """`train_examples`, `available` in place of `None`; `ValueError` if it is not from 1 to `available`."""
    if train_examples is None:
        return available
    if not isinstance(train_examples, (int, np.integer)) or not 1 <= train_examples <= available:
        raise ValueError(
            f"Invalid value for argument `train_examples`. Expected 1 to {available}. Received: {train_examples!r}."
        )
    return train_examples


def _load(release, source, train_examples):
    in_train_file, in_test_file = release.records
    wanted = checked_number(train_examples, in_train_file * len(release.train))
    with _open_release(release, pathlib.Path(source).expanduser()) as files:
        firsts = range(0, wanted, in_train_file)  # of each training file that is needed, the number of its first image
        train = [
            _records(release, files, name, min(in_train_file, wanted - first), in_train_file)
            for name, first in zip(release.train, firsts)
        ]
        test = _records(release, files, release.test, in_test_file, in_test_file)
        _check_different(release, files, [*train, test], [*release.train[: len(train)], release.test])
    return _images_and_labels(release, np.concatenate(train)), _images_and_labels(release, test)


def _check_different(release, files, parts, names):
    """Raises `ValueError` if two files have the same records, as far as they were read."""
    for (part, name), (other, other_name) in itertools.combinations(zip(parts, names), 2):
        n = min(len(part), len(other))
        if np.array_equal(part[:n], other[:n]):
            raise ValueError(
                f"{files.where(other_name)} has the same content as {files.where(name)}: one is a copy under a wrong "
                f"name. {release.remedy}"
            )


def _images_and_labels(release, records):
    """uint8 `(n, 32, 32, 3)` and int64 `(n,)` of records `(n, record)`, whose pixels are stored channel by channel."""
    pixels = records[:, len(release.labels) :].reshape(-1, 3, 32, 32)
    labels = records[:, len(release.labels) - 1]
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels.astype("int64")


def _records(release, files, name, n, full):
    """The first `n` of the `full` records of a file, uint8 `(n, record)`, checked."""
    where, size = files.where(name), files.size(name)
    count, rest = divmod(size, release.record)
    if rest or not n <= count <= full:
        state = "It is truncated." if size < full * release.record else "It is another file, or holds images twice."
        raise ValueError(
            f"{where} has {size:,} bytes. Expected {full * release.record:,}: {full:,} records of {release.record:,} "
            f"bytes. {state} {release.remedy}"
        )
    records = np.frombuffer(files.read(name, n * release.record), "uint8").reshape(n, release.record)
    for column, (label, classes) in enumerate(release.labels):
        wrong = np.flatnonzero(records[:, column] >= classes)
        if len(wrong):
            raise ValueError(
                f"{where}: record {wrong[0]} has the {label} {records[wrong[0], column]}. Expected 0 to {classes - 1}. "
                f"The file is damaged, or not of {release.name}. {release.remedy}"
            )
    return records


class _Folder:
    """Files of a folder."""

    def __init__(self, path):
        self.path = path
        self.files = {entry.name for entry in path.iterdir() if entry.is_file()}
        self.names = {entry.name for entry in path.iterdir()} | {path.name}

    def where(self, name):
        return f"{self.path / name}"

    def size(self, name):
        return (self.path / name).stat().st_size

    def read(self, name, size):
        with open(self.path / name, "rb") as file:
            return file.read(size)


class _Archive:
    """Files of a tar archive, read in memory; nothing is unpacked. A file's name is what follows the last slash."""

    def __init__(self, release, path, tar):
        self.release, self.path, self.tar = release, path, tar
        self.members = {}
        self.names = {path.name}
        for member in self._headers():
            name = pathlib.PurePosixPath(member.name).name
            self.names |= {*pathlib.PurePosixPath(member.name).parts}
            if name in self.members and name in (*release.train, release.test) and member.isfile():
                raise ValueError(
                    f"{path} holds {name} twice, as {self.members[name].name} and {member.name}. Give an archive, or "
                    "an unpacked folder, that holds it once."
                )
            if member.isfile():
                self.members[name] = member
        self.files = set(self.members)

    def where(self, name):
        return f"{name} in {self.path}"

    def size(self, name):
        return self.members[name].size

    def read(self, name, size):
        with _damage_told(self.release, self.path):
            content = self.tar.extractfile(self.members[name]).read(size)
            if len(content) < size:
                raise EOFError(f"{name} is cut")
        return content

    def check_end(self):
        """Reads to the end, where the checksum of a compressed archive is."""
        with _damage_told(self.release, self.path):
            while self.tar.fileobj.read(1 << 20):
                pass

    def _headers(self):
        with _damage_told(self.release, self.path):
            headers = []
            for member in self.tar:
                if member.size < 0:  # the next header would be before this one, for ever
                    raise tarfile.ReadError("a file of negative size")
                headers.append(member)
            return headers


@contextlib.contextmanager
def _open_release(release, source):
    """Yields the files of the release, all of them there, as `_Folder` or `_Archive`."""
    if not source.exists():
        raise FileNotFoundError(f"There is no file or folder {source}. {release.remedy}")
    if source.is_dir():
        source = _locate(release, source)
    if source.is_dir():
        files = _Folder(source)
        _check_names(release, files, source)
        yield files
        return
    with _damage_told(release, source):
        tar = tarfile.open(source)  # noqa: SIM115, closed below
    with tar:
        files = _Archive(release, source, tar)
        _check_names(release, files, source)
        yield files
        files.check_end()


@contextlib.contextmanager
def _damage_told(release, source):
    """Within, whatever tarfile and the decompressors say to a damaged archive is said as a `ValueError`."""
    try:
        yield
    except PermissionError:
        raise
    except Exception as error:  # besides their own, a header may cause a ValueError, OverflowError, MemoryError, ...
        _, _, files = release.pickled
        if source.name in files:
            raise _is_pickled(release, release, source) from None
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise ValueError(f"{source} is no tar archive, or is damaged ({reason}). {release.remedy}") from None


def _locate(release, folder):
    """The folder or archive to read among what `folder` may hold."""
    here = [name for name in (*release.train, release.test) if (folder / name).exists()]
    below = folder / release.folder
    if here and below.is_dir():
        raise ValueError(
            f"{folder} holds {release.name} twice: {here[0]}, and the folder {release.folder}. Remove one, or give "
            f"{below}."
        )
    if below.is_dir():
        return below
    archive = folder / release.archive
    return archive if not here and archive.is_file() else folder


def _check_names(release, files, source):
    """Raises `ValueError` if a file of the release is not among the files."""
    wanted = (*release.train, release.test)
    missing = [name for name in wanted if name not in files.files]
    if not missing:
        return
    if len(missing) == len(wanted):
        for other in (CIFAR10, CIFAR100):
            if other is not release and files.names & {*other.train, other.test, other.folder, other.archive}:
                raise ValueError(f"{source} holds {other.name}, not {release.name}. {release.remedy}")
        for other in (release, CIFAR10, CIFAR100):
            folder, archive, pickled = other.pickled
            if files.names & {folder, archive} or pickled <= files.files:
                raise _is_pickled(release, other, source)
    raise ValueError(f"{source} holds no {', no '.join(missing)}. {release.remedy}")


def _is_pickled(release, found, source):
    return ValueError(
        f"{source} holds the Python release of {found.name}, which is pickled: loading it could run any code, so it is "
        f"never read. {release.remedy}"
    )
