"""Data files mutated at random: arrays of what is in them, or an error that names the file; no other traceback."""

import gzip
import tarfile

import numpy as np
import pytest
from cifar_files import make_small, pack, write_cifar100
from fuzzing import BYTES, SHARE, Mutated, laws, outcome
from hypothesis import example, given
from hypothesis import strategies as st

from dhm_keras.data import cifar100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# Data files


@pytest.fixture(scope="module")
def release(folder):
    """`(folder, archive, tar without compression, arrays)`."""
    path, *_ = write_cifar100(folder / "data")
    with tarfile.open(folder / "plain.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("train.bin", "test.bin"):
            member = tar.gettarinfo(path / name, f"{'deep/' * 30}{name}")
            member.pax_headers = {"comment": "so that there is a pax header", "mtime": "1.5"}
            with open(path / name, "rb") as file:
                tar.addfile(member, file)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        yield path, pack(path, folder / "data.tar.gz"), folder / "plain.tar", cifar100(path)


def arrays_of(data):
    return [array for part in data for array in part]


def check_arrays(data):
    (images, labels), (test_images, test_labels) = data
    assert images.shape == (30, 32, 32, 3) and test_images.shape == (12, 32, 32, 3)
    for array in (labels, test_labels):
        assert array.dtype == np.int64 and array.min() >= 0 and array.max() < 100
    return data


@pytest.mark.parametrize("name", ["train.bin", "test.bin"])
@laws(60)
@given(mutate=BYTES)
def test_a_data_file(release, name, mutate):
    folder, *_ = release
    with Mutated(folder / name, mutate) as content:
        data, _ = outcome(lambda: cifar100(folder), folder / name, errors=(ValueError, OSError))
        if data:
            images, labels = check_arrays(data)[name == "test.bin"]
            records = np.frombuffer(content, "uint8").reshape(-1, 3074)
            np.testing.assert_array_equal(images.transpose(0, 3, 1, 2).reshape(len(images), -1), records[:, 2:])
            np.testing.assert_array_equal(labels, records[:, 1])


@laws(60)
@given(mutate=BYTES)
def test_a_compressed_archive(release, mutate):
    """It has a checksum: what it gives is what was packed."""
    _, archive, _, wanted = release
    with Mutated(archive, mutate):
        data, _ = outcome(lambda: cifar100(archive), archive, errors=(ValueError, OSError))
        for array, expected in zip(arrays_of(data or ()), arrays_of(wanted)):
            np.testing.assert_array_equal(array, expected)


def with_checksums(content):
    """The tar archive with right checksums in its headers, wherever there is one."""
    content = bytearray(content)
    for start in range(0, len(content) - 511, 512):
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    return bytes(content)


FIELDS = [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 8), (345, 155)]
NUMBERS = [-1024, -512, -1, 0, 3074 * 30, 1 << 33, 1 << 40, 1 << 62, 1 << 80]
FIELD = st.binary(min_size=1, max_size=12) | st.sampled_from(NUMBERS).map(
    lambda number: tarfile.itn(number, 12, tarfile.GNU_FORMAT)
)


def set_field(content, header, field, value):
    """A tar archive with another field in one of its headers."""
    headers = [i for i in range(0, len(content) - 511, 512) if content[i + 257 : i + 262] == b"ustar"]
    place, length = FIELDS[field]
    start, value = headers[int(header * len(headers))] + place, value[:length]
    return content[:start] + value + content[start + len(value) :]


def set_pax(content, value):
    """A tar archive with another record in its first pax header."""
    record = b"27 %s=" % value
    at = content.index(b"comment=")
    start = content.rindex(b"\0", 0, at) + 1
    return content[:start] + record + content[start + len(record) :]


TAR = st.one_of(
    BYTES,
    st.tuples(SHARE, st.integers(0, len(FIELDS) - 1), FIELD).map(lambda f: lambda content: set_field(content, *f)),
    st.sampled_from([b"size", b"path", b"GNU.sparse.major", b"GNU.sparse.size", b"\xff", b""]).map(
        lambda value: lambda content: set_pax(content, value)
    ),
)


@laws(120)
@given(mutate=TAR, is_fitting=st.booleans(), is_compressed=st.booleans())
@example(lambda content: set_field(content, 0.99, 3, tarfile.itn(-512, 12, tarfile.GNU_FORMAT)), True, False)
def test_headers_of_an_archive(release, mutate, is_fitting, is_compressed):
    """Without compression there is no checksum of the contents: they are those that are in the archive."""
    *_, archive, _ = release

    def whole(content):
        content = mutate(content)
        content = with_checksums(content) if is_fitting else content
        return gzip.compress(content, 1) if is_compressed else content

    with Mutated(archive, whole) as content:
        data, _ = outcome(lambda: cifar100(archive), archive, errors=(ValueError, OSError))
        if data:
            content = gzip.decompress(content) if is_compressed else content
            for images, labels in check_arrays(data):
                pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
                for image, label in zip(pixels, labels):
                    assert not image.any() or bytes([label]) + image.tobytes() in content  # a sparse file has zeros
