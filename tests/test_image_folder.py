"""Images in folders of classes, and in the files of TFDS."""

import dataclasses
import io

import numpy as np
import pytest
from jpeg_files import CLASSES, encoded, number_of, picture, write_images

import dhm_keras as dhm
from dhm_keras.data import JpegTrainBatches, image_folder

SIZE, N = 14, 12


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def test_a_folder_of_classes(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    (folder / "train" / ".cache").mkdir()
    files = image_folder(folder, "train")
    assert (len(files), files.num_classes, files.class_names) == (N, 3, CLASSES)
    assert files.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and files.labels.dtype == np.int64
    assert files.where(5) == str(folder / "train" / "cat" / "cat_1.JPEG")
    assert files.read(5) == (folder / "train" / "cat" / "cat_1.JPEG").read_bytes()
    assert image_folder(folder, "train").checksum == files.checksum != image_folder(folder, "val").checksum


def test_the_classes_are_those_of_the_training(folder):
    for file in (folder / "val" / "cat").iterdir():
        file.unlink()
    (folder / "val" / "cat").rmdir()
    assert image_folder(folder, "val").labels.tolist() == [0] * 4 + [2] * 4
    assert image_folder(folder, "val").class_names == CLASSES


def test_a_subset_is_spread_over_all_classes(folder):
    files = image_folder(folder).subset(6)
    assert files.labels.tolist() == [0, 0, 1, 1, 2, 2] and files.num_classes == 3
    assert [files.where(i) for i in range(6)] == [image_folder(folder).where(i) for i in range(0, 12, 2)]
    assert np.bincount(image_folder(folder).subset(7).labels).tolist() == [3, 2, 2]
    assert image_folder(folder).subset(None).names == image_folder(folder).names
    birds = files.take(files.labels == 0)
    assert birds.names == files.take([0, 1]).names and birds.num_classes == 3
    with pytest.raises(ValueError, match=r"`rows`. Expected integers, or booleans \(6,\)"):
        files.take([True])


def test_labels_can_be_corrupted(folder):
    files = image_folder(folder)
    corrupt = dhm.data.corrupt_labels(files.labels, 0.5, files.num_classes, seed=1)
    train = JpegTrainBatches(files.with_labels(corrupt), 5, SIZE)
    images, labels = (np.concatenate(arrays) for arrays in zip(*(train[i] for i in range(3))))
    np.testing.assert_array_equal(labels, corrupt[number_of(images)])
    assert (corrupt != files.labels).any()


def no_class(folder):
    (folder / "new" / "val").mkdir(parents=True)
    return folder / "new"


def no_folders_of_classes(folder):
    new = no_class(folder)
    (new / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(encoded(picture(0)))
    return new


def class_without_images(folder):
    new = no_class(folder)
    (new / "val" / "ant").mkdir()
    return new


def class_unknown_in_training(folder):
    (folder / "val" / "zebra").mkdir()
    return folder


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda folder: folder / "elsewhere", FileNotFoundError, "There is no folder"),
        (no_class, ValueError, "holds no folders of classes. Expected FOLDER/train/CLASS"),
        (no_folders_of_classes, ValueError, "holds images, but no folder for each class"),
        (class_without_images, ValueError, "ant holds no images"),
        (class_unknown_in_training, ValueError, "has 1 classes that .*train lacks, the first is 'zebra'"),
    ],
)
def test_folders_that_are_not_as_they_should_be(folder, change, error, words):
    with pytest.raises(error, match=words):
        image_folder(change(folder), "val")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda files: files.subset(13), "Expected 1 to 12"),
        (lambda files: files.with_labels(np.full(N, 3)), "[0, 3)"),
        (lambda files: files.with_labels(np.zeros(5, int)), "12 names"),
        (lambda files: dataclasses.replace(files, spans=np.zeros((3, 2))), "`spans`"),
    ],
)
def test_wrong_arguments_are_refused(folder, make, words):
    with pytest.raises(ValueError) as error:
        make(image_folder(folder))
    assert words in str(error.value)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A data set of 24 numbered JPEGs that TFDS has prepared in a temporary folder."""
    import tensorflow_datasets as tfds

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))

    class NumberedJpegs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "file_name": tfds.features.Text(),
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=CLASSES),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(24), "validation": self._generate_examples(5)}

        def _generate_examples(self, n):
            for i in range(n):
                yield i, {"file_name": str(i), "image": io.BytesIO(encoded(picture(i))), "label": i % 3}

    monkeypatch.setattr(tfds, "builder", lambda name: NumberedJpegs(data_dir=str(tmp_path)))
    return tfds


@pytest.mark.tensorflow
def test_a_data_set_of_tfds_is_read_as_tfds_reads_it(prepared):
    files = dhm.data.imagenet_from_tfds("train", "numbered_jpegs", download=True)
    decoders = {"image": prepared.decode.SkipDecoding()}
    theirs = prepared.builder("").as_dataset(split="train", decoders=decoders)
    expected = sorted((example["image"], example["label"]) for example in prepared.as_numpy(theirs))
    assert sorted((files.read(i), label) for i, label in enumerate(files.labels)) == expected
    assert (len(files), files.class_names) == (24, CLASSES)
    train = JpegTrainBatches(files.subset(10), 4, SIZE)
    images, labels = (np.concatenate(arrays) for arrays in zip(*(train[i] for i in range(3))))
    np.testing.assert_array_equal(labels, number_of(images) % 3)
    with pytest.raises(ValueError, match=r"Expected one of \['train', 'validation'\]. Received: 'test'"):
        dhm.data.imagenet_from_tfds("test", "numbered_jpegs")


@pytest.mark.tensorflow
def test_a_damaged_file_of_tfds_is_named(prepared, tmp_path):
    dhm.data.imagenet_from_tfds("train", "numbered_jpegs", download=True)
    [file] = tmp_path.rglob("*train.tfrecord*")
    content = file.read_bytes()
    for damaged in (content[:-7], content[:12] + b"\x0d" + content[13:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train\.tfrecord-00000-of-00001 cannot be read as a TFRecord file"):
            dhm.data.imagenet_from_tfds("train", "numbered_jpegs")


@pytest.mark.tensorflow
def test_imagenet_is_not_prepared(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        dhm.data.imagenet_from_tfds()
    told = str(error.value)
    assert "`tfds build imagenet2012`" in told and "FOLDER/train/CLASS" in told and "\n" not in told
    with pytest.raises(ValueError, match="no data set 'no_such_set'"):
        dhm.data.imagenet_from_tfds(name="no_such_set")
