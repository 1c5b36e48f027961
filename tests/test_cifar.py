"""CIFAR from the official binary release and from TFDS: the right arrays, and an error for each kind of wrong file."""

import gzip
import shutil
import tarfile

import numpy as np
import pytest
from cifar_files import make_small, pack, records, write_cifar10, write_cifar100

import dhm_keras as dhm
from dhm_keras.data import cifar10, cifar100, from_tfds


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


def check(part, images, labels, label_bytes):
    """Images and labels, pixel by pixel as the release's page describes a record."""
    assert images.dtype == np.uint8 and images.shape == (len(part), 32, 32, 3) and images.flags.c_contiguous
    assert labels.dtype == np.int64
    for record, image, label in zip(part, images, labels):
        assert label == record[label_bytes - 1]
        red, green, blue = record[label_bytes:].reshape(3, 1024)
        for row, column in ((0, 0), (0, 31), (31, 0), (17, 5)):
            assert image[row, column].tolist() == [c[32 * row + column] for c in (red, green, blue)]


def test_cifar100_from_the_folder_its_parent_and_the_archive(tmp_path):
    folder, train, test = write_cifar100(tmp_path / "data")
    archive = pack(folder, tmp_path / "cifar-100-binary.tar.gz")
    for source in (folder, folder.parent, str(folder), archive, tmp_path):  # the last holds the archive
        (images, labels), (test_images, test_labels) = cifar100(source)
        check(train, images, labels, label_bytes=2)
        check(test, test_images, test_labels, label_bytes=2)
    shutil.copy(archive, folder.parent)  # beside what it unpacks to
    assert len(cifar100(folder.parent)[0][0]) == 30


def test_cifar10_joins_its_five_files_in_order(tmp_path):
    folder, train, test = write_cifar10(tmp_path)
    for source in (folder, tmp_path, pack(folder, tmp_path / "mine.tar")):
        (images, labels), (test_images, test_labels) = cifar10(source)
        check(train, images, labels, label_bytes=1)
        check(test, test_images, test_labels, label_bytes=1)
    (images, labels), _ = cifar10(folder, train_examples=8)
    check(train[:8], images, labels, label_bytes=1)


def test_the_first_training_images_are_enough(tmp_path):
    folder, train, _ = write_cifar100(tmp_path, train=20)  # a third is missing
    (images, labels), _ = cifar100(folder, train_examples=20)
    check(train, images, labels, label_bytes=2)
    for n in (None, 21):
        with pytest.raises(ValueError, match=r"train\.bin.* has 61,480 bytes.*truncated.*cifar-100-binary\.tar\.gz"):
            cifar100(folder, train_examples=n)
    for n in (0, 31, 2.5):
        with pytest.raises(ValueError, match="`train_examples`"):
            cifar100(folder, train_examples=n)


def test_constants_are_the_official_numbers():
    from dhm_keras.data.cifar import CIFAR10_MEAN_STD, CIFAR100_MEAN_STD

    np.testing.assert_allclose(CIFAR100_MEAN_STD, [(0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)], atol=6e-5)
    np.testing.assert_allclose(CIFAR10_MEAN_STD, [(0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)], atol=6e-5)


def damage(name, change):
    """A change of one file of the folder."""

    def apply(folder):
        content = bytearray((folder / name).read_bytes())
        (folder / name).write_bytes(change(content))

    return apply


def with_byte(position, value):
    def change(content):
        content[position] = value
        return content

    return change


WRONG = {
    "truncated": (damage("train.bin", lambda c: c[:-100]), r"train\.bin.* has 92,120 bytes.*truncated"),
    "truncated at a record": (damage("test.bin", lambda c: c[:-3074]), r"test\.bin.* has 33,814 bytes.*truncated"),
    "doubled content": (damage("train.bin", lambda c: c + c), r"train\.bin.* has 184,440 bytes.*twice"),
    "empty": (damage("test.bin", lambda c: b""), r"test\.bin.* has 0 bytes"),
    "missing": (lambda folder: (folder / "test.bin").unlink(), r"holds no test\.bin"),
    "fine label": (damage("train.bin", with_byte(3074 * 7 + 1, 100)), r"record 7 has the fine label 100.*0 to 99"),
    "coarse label": (damage("test.bin", with_byte(0, 20)), r"test\.bin.*: record 0 has the coarse label 20"),
    "foreign": (
        damage("train.bin", lambda c: bytes(range(256)) * 360 + bytes(60)),
        r"train\.bin.*: record \d+ has the .* label \d+.*damaged",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_named_with_a_remedy(kind, tmp_path):
    apply, words = WRONG[kind]
    folder, *_ = write_cifar100(tmp_path)
    apply(folder)
    for source in (folder, pack(folder, tmp_path / "packed.tar.gz")):
        with pytest.raises(ValueError, match=words) as error:
            cifar100(source)
        assert "Get the binary release" in str(error.value) and str(source) in str(error.value)


def test_a_folder_without_the_release(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder.*Get the binary release"):
        cifar100(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no train\.bin, no test\.bin"):
        cifar100(tmp_path)
    folder, *_ = write_cifar10(tmp_path)
    for source in (folder, tmp_path, pack(folder, tmp_path / "cifar-10-binary.tar.gz")):
        with pytest.raises(ValueError, match="holds CIFAR-10, not CIFAR-100"):
            cifar100(source)


def test_the_pickled_release_is_refused_unread(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(b"\x80\x04never loaded")
    archive = pack(folder, tmp_path / "cifar-100-python.tar.gz")
    for source in (folder, tmp_path, archive, folder / "train"):
        with pytest.raises(ValueError, match=r"pickled.*cifar-100-binary\.tar\.gz"):
            cifar100(source)
    with pytest.raises(ValueError, match=r"Python release of CIFAR-100, which is pickled.*cifar-10-binary\.tar\.gz"):
        cifar10(folder)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"\x80\x04never loaded")
    with pytest.raises(ValueError, match=r"Python release of CIFAR-10, which is pickled.*cifar-10-binary\.tar\.gz"):
        cifar10(folder)


def test_folders_called_train_and_test_are_not_taken_for_the_pickled_release(tmp_path):
    for name in ("train", "test", "meta"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="holds no train"):
        cifar100(tmp_path)


def test_doubled_files(tmp_path):
    folder, *_ = write_cifar100(tmp_path)
    shutil.copy(folder / "train.bin", tmp_path)
    with pytest.raises(ValueError, match=r"CIFAR-100 twice: train\.bin, and the folder cifar-100-binary"):
        cifar100(tmp_path)
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for place in ("a", "b"):
            tar.add(folder / "train.bin", f"{place}/train.bin")
        tar.add(folder / "test.bin", "a/test.bin")
    with pytest.raises(ValueError, match=r"holds train\.bin twice, as a/train\.bin and b/train\.bin"):
        cifar100(tmp_path / "twice.tar")
    folder, *_ = write_cifar10(tmp_path)
    shutil.copy(folder / "data_batch_2.bin", folder / "data_batch_4.bin")
    for n in (None, 20):
        with pytest.raises(ValueError, match=r"data_batch_4\.bin has the same content as .*data_batch_2\.bin"):
            cifar10(folder, train_examples=n)
    shutil.copy(folder / "test_batch.bin", folder / "data_batch_1.bin")
    (folder / "data_batch_1.bin").write_bytes((folder / "test_batch.bin").read_bytes()[: 6 * 3073])
    with pytest.raises(ValueError, match=r"test_batch\.bin has the same content as .*data_batch_1\.bin"):
        cifar10(folder, train_examples=5)  # images to train on that are tested on


def test_other_members_of_an_archive_do_not_matter(tmp_path):
    folder, train, _ = write_cifar100(tmp_path)
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        for name in ("train.bin", "test.bin"):
            tar.add(folder / name, f"cifar/{name}")
        for place in ("a", "b"):
            tar.add(folder / "fine_label_names.txt", f"{place}/README")
            tar.add(folder, f"{place}/train.bin", recursive=False)  # a folder
    (images, labels), _ = cifar100(tmp_path / "more.tar")
    check(train, images, labels, label_bytes=2)


def test_a_file_that_is_no_archive(tmp_path):
    folder, *_ = write_cifar100(tmp_path)
    archive = pack(folder, tmp_path / "good.tar.gz")
    (tmp_path / "cut.tar.gz").write_bytes(archive.read_bytes()[:-5000])
    for kind in ("gz", "xz", "bz2"):
        with tarfile.open(tmp_path / f"damaged.tar.{kind}", f"w:{kind}") as tar:
            tar.add(folder, folder.name)
        damaged = bytearray((tmp_path / f"damaged.tar.{kind}").read_bytes())
        damaged[len(damaged) // 2 : len(damaged) // 2 + 50] = bytes(50)
        (tmp_path / f"damaged.tar.{kind}").write_bytes(damaged)
    (tmp_path / "note.txt").write_text("hello")
    with gzip.open(tmp_path / "text.gz", "wt") as file:
        file.write("hello")
    for name in ("cut.tar.gz", "damaged.tar.gz", "damaged.tar.xz", "damaged.tar.bz2", "note.txt", "text.gz"):
        with pytest.raises(ValueError, match=rf"{name} is no tar archive, or is damaged.*Get the binary release"):
            cifar100(tmp_path / name)
    with pytest.raises(ValueError, match=r"train\.bin"):
        cifar100(folder / "train.bin")


# Through TFDS, without a network


def mock_examples(split):
    """What TFDS would have prepared of a split, in an order of its own."""
    part = records({"train": 30, "test": 12}[split], (20, 100), {"train": 1, "test": 2}[split])
    order = np.random.default_rng(0).permutation(len(part))
    return {
        "id": np.array([f"{split}_{i:05d}" for i in order]),
        "image": part[order, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
        "coarse_label": part[order, 0].astype("int64"),
        "label": part[order, 1].astype("int64"),
    }


@pytest.fixture
def mocked():
    """TFDS with the records of `write_cifar100`, shuffled."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def as_dataset(self, split, **kwargs):
        return tf.data.Dataset.from_tensor_slices(mock_examples(split))

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        yield


@pytest.mark.tensorflow
def test_tfds_gives_what_the_folder_gives(mocked, tmp_path):
    folder, *_ = write_cifar100(tmp_path)
    for n in (None, 7):
        for ours, theirs in zip(cifar100(folder, n), from_tfds("cifar100", n, download=True)):
            for one, other in zip(ours, theirs):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="`train_examples`"):
        from_tfds("cifar100", 31, download=True)


@pytest.mark.tensorflow
def test_tfds_without_the_data_set(tmp_path, monkeypatch, capsys):
    import requests
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set `download`"):
        from_tfds("cifar100")

    def refuse(self, *args, **kwargs):
        raise requests.exceptions.ConnectionError("no network\nsecond line")

    monkeypatch.setattr(requests.Session, "get", refuse)
    with pytest.raises(
        OSError,
        match=r"cifar100 could not be downloaded \(no network\): try again with a network, or read .*--data_dir",
    ):
        from_tfds("cifar100", download=True)
    assert "Downloading cifar100" in capsys.readouterr().out


@pytest.mark.tensorflow
def test_tfds_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'dhm_keras\[demo\]'"):
        dhm.data.from_tfds("cifar100")
