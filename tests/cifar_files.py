"""Small files in the layout of CIFAR's official binary releases."""

import dataclasses
import pathlib
import tarfile

import numpy as np

from dhm_keras.data import cifar


def records(n, classes, seed):
    """`n` random records: a byte for each number of classes, then 3,072 pixels."""
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, k, (n, 1)) for k in classes]
    return np.concatenate([*labels, rng.integers(0, 256, (n, 3072))], axis=1).astype("uint8")


def write_cifar100(folder, train=30, test=12):
    """Writes `cifar-100-binary` into a folder; returns its path and the records of training and test."""
    path = pathlib.Path(folder) / "cifar-100-binary"
    path.mkdir(parents=True)
    parts = records(train, (20, 100), 1), records(test, (20, 100), 2)
    for name, part in zip(("train.bin", "test.bin"), parts):
        (path / name).write_bytes(part.tobytes())
    for name in ("fine_label_names.txt", "coarse_label_names.txt"):
        (path / name).write_text("names\n")
    return path, *parts


def write_cifar10(folder, each=6, test=12):
    """Writes `cifar-10-batches-bin` into a folder; returns its path and the records of training and test."""
    path = pathlib.Path(folder) / "cifar-10-batches-bin"
    path.mkdir(parents=True)
    parts = [records(each, (10,), i) for i in range(5)]
    for i, part in enumerate(parts, start=1):
        (path / f"data_batch_{i}.bin").write_bytes(part.tobytes())
    last = records(test, (10,), 5)
    (path / "test_batch.bin").write_bytes(last.tobytes())
    return path, np.concatenate(parts), last


def pack(folder, archive):
    """Packs a folder as the official archives are packed."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def make_small(monkeypatch):
    """Within a test the releases have as many records as the functions above write."""
    for name, n in (("CIFAR100", (30, 12)), ("CIFAR10", (6, 12))):
        monkeypatch.setattr(cifar, name, dataclasses.replace(getattr(cifar, name), records=n))
