"""Encoded images: windows of them, batches for training and evaluation, corrupt files."""

import collections
import math

import keras
import numpy as np
import pytest
from jpeg_files import CLASSES, cut, encoded, number_of, picture, write_images
from networks import Kill, Killed, sgd
from PIL import Image

import dhm_keras as dhm
from dhm_keras.data import ImageFiles, JpegTestBatches, JpegTrainBatches, image_folder, jpeg
from dhm_keras.data.batches import _generator
from dhm_keras.data.image_reader import Ahead

SIZE, N = 14, 12  # the shorter side is resized to 16


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path)


def small_network():
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, 2, name="conv")(keras.layers.Rescaling(1 / 255, name="rescaling")(image))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, {name: keras.layers.Dense(3, name=name)(x) for name in ("main", "aux1")})


def compiled():
    model = dhm.DHM(small_network())
    model.compile(optimizer=sgd(0.01))
    return model


def in_order(source, n):
    """The first `n` batches that Keras draws from what `fit` is given, as NumPy arrays."""
    if keras.backend.backend() != "tensorflow":
        return [source[i] for i in range(n)]
    return [(images.numpy(), labels.numpy()) for images, labels in source.take(n)]


def equal(batches, others):
    for (images, labels), (other_images, other_labels) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda files: JpegTrainBatches(files, 0), "`batch_size`"),
        (lambda files: JpegTestBatches(files, 0), "`batch_size`"),
        (lambda files: JpegTrainBatches(files, 2, image_size=0), "`image_size`"),
        (lambda files: JpegTrainBatches(files, 2, augmentation="none"), "`augmentation`"),
        (lambda files: JpegTrainBatches(files, 2, seed=-1), "`seed`"),
        (lambda files: JpegTestBatches(files, 2, on_corrupt="ignore"), "`on_corrupt`"),
    ],
)
def test_wrong_arguments_are_refused(folder, make, words):
    with pytest.raises(ValueError) as error:
        make(image_folder(folder))
    assert words in str(error.value)


def test_pillow_is_not_installed(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install 'dhm_keras\[demo\]'"):
        JpegTestBatches(image_folder(folder), 2)


# One image


def test_grey_of_16_bits_is_scaled_to_8():
    grey = np.array([[0, 100, 257, 30_000, 65_535]], "uint16")
    pixels = np.asarray(jpeg.decode(encoded(Image.fromarray(grey), "PNG")))
    np.testing.assert_array_equal(pixels, np.repeat([[[0], [0], [1], [117], [255]]], 3, axis=2))


@pytest.mark.parametrize("form, mode", [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P")])
def test_images_of_any_colours_become_rgb(form, mode):
    image = jpeg.decode(encoded(picture(7, mode), form))
    assert image.mode == "RGB" and image.size == picture(7).size
    difference = np.asarray(image).astype(int) - np.asarray(picture(7, mode).convert("RGB"))
    assert abs(difference).max() <= (12 if form == "JPEG" else 0)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "it is empty"),
        (b"not at all an image", "it is neither a JPEG nor a PNG"),
        (encoded(picture(0), "BMP"), "it is neither a JPEG nor a PNG"),
        (encoded(picture(0))[:500], "Truncated"),
        (encoded(picture(0))[:-40], "truncated"),
        (encoded(picture(0), "PNG")[:100], ""),
    ],
)
def test_what_cannot_be_decoded(content, reason):
    with pytest.raises(jpeg.CorruptImage) as error:
        jpeg.decode(content)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_bomb_is_corrupt(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(jpeg.CorruptImage, match="decompression bomb"):
        jpeg.decode(encoded(picture(0)))


def test_scale_windows_by_hand():
    half = (0.5 - 0.08) / 0.92  # of the area
    assert jpeg.scale_window(400, 300, [half, 0.5, *[0.0] * 18, 0.5, 0.5]) == (78, 28, 323, 273)  # 245 = sqrt(60000)
    last = lambda *draws: [0.999, 0.999] * 9 + [*draws]  # nine windows of 400x300, which 250x480 has no room for
    assert jpeg.scale_window(250, 480, last(half, 0.5, 0.0, 0.0)) == (0, 0, 245, 245)
    assert jpeg.scale_window(250, 480, last(0.0, 0.0, 0.99, 0.99)) == (164, 364, 249, 477)  # 85 = sqrt(9600 * 3/4)
    never = [0.999, 0.5] * 10 + [0.7, 0.7]
    assert jpeg.scale_window(1000, 100, never) == (433, 0, 566, 100)  # 100 * 4/3 = 133
    assert jpeg.scale_window(100, 1000, never) == (0, 433, 100, 566)  # 100 / (3/4) = 133
    assert jpeg.scale_window(1, 1, never) == (0, 0, 1, 1)


def test_scale_windows_keep_to_their_laws():
    windows = [jpeg.scale_window(900, 800, draws) for draws in _generator(0, 9).random((4000, 22)).tolist()]
    left, top, right, bottom = np.array(windows).T
    assert (left >= 0).all() and (top >= 0).all() and (right <= 900).all() and (bottom <= 800).all()
    width, height = right - left, bottom - top
    areas, ratios = width * height / 720_000, np.log(width / height)
    assert areas.min() > 0.079 and areas.max() <= 1
    assert abs(ratios).max() < math.log(4 / 3) + 0.01
    small = areas[areas < 0.6]  # there every ratio fits: uniform in the area, and in the ratio's logarithm
    np.testing.assert_allclose(np.quantile(small, [0.25, 0.5, 0.75]), [0.21, 0.34, 0.47], atol=0.02)
    np.testing.assert_allclose(np.quantile(ratios[areas < 0.6], [0.25, 0.5, 0.75]), [-0.144, 0, 0.144], atol=0.02)
    places = (left / np.maximum(900 - width, 1))[areas < 0.6]
    np.testing.assert_allclose(np.quantile(places, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.04)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (1000, 301), (90, 70)])
@pytest.mark.parametrize("place", [None, (0.0, 0.999), (0.3, 0.7)])
def test_a_resized_window_is_cut_out_of_the_resized_image(size, place):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype("uint8")
    image = Image.fromarray(pixels)
    shorter = min(size)
    new = (256 * width // shorter, 256 * height // shorter)
    if place is None:
        left, top = (round((side - 224) / 2) for side in new)
    else:
        left, top = (int(share * (side - 223)) for share, side in zip(place, new))
    whole = np.asarray(image.resize(new, Image.Resampling.BILINEAR))[top : top + 224, left : left + 224]
    window = jpeg.resized(image, jpeg.resized_window(width, height, 224, place), (224, 224))
    assert abs(whole.astype(int) - window).max() <= 1
    mirror = jpeg.resized(image, jpeg.resized_window(width, height, 224, place), (224, 224), mirrored=True)
    np.testing.assert_array_equal(mirror, window[:, ::-1])


@pytest.mark.tensorflow
def test_tensorflow_decodes_to_the_same_pixels():
    import tensorflow as tf

    for number in range(4):
        content = encoded(picture(number))
        pixels = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        np.testing.assert_array_equal(np.asarray(jpeg.decode(content)), pixels)


# Batches


@pytest.mark.parametrize("augmentation", ["scale", "crop"])
def test_every_image_comes_once_an_epoch_with_its_label(folder, augmentation):
    train = JpegTrainBatches(image_folder(folder), 5, SIZE, augmentation)
    assert (train.steps_per_epoch, train.num_batches) == (3, None)
    for epoch in range(2):
        batches = [train[3 * epoch + step] for step in range(3)]
        assert [images.shape for images, _ in batches] == [(n, SIZE, SIZE, 3) for n in (5, 5, 2)]
        images, labels = (np.concatenate(arrays) for arrays in zip(*batches))
        assert images.dtype == np.uint8 and sorted(number_of(images)) == list(range(N))
        np.testing.assert_array_equal(labels, number_of(images) // 4)


def test_a_batch_is_a_function_of_seed_epoch_and_step(folder):
    files = image_folder(folder)
    one, same, other = (JpegTrainBatches(files, 5, SIZE, seed=seed) for seed in (5, 5, 6))
    order = (7, 0, 1, 2, 3, 1)
    equal([one[i] for i in order], [same[i] for i in reversed(order)][::-1])
    later = one.starting_at(1, 2)
    equal([later[i] for i in range(3)], [one[5 + i] for i in range(3)])
    assert not np.array_equal(one[0][0], other[0][0]) and not np.array_equal(one[0][0], one[3][0])
    assert one.settings == same.settings != other.settings


def test_known_windows_and_flips(folder):
    # A change of these numbers breaks the resume of runs that were started before it.
    train = JpegTrainBatches(image_folder(folder), 5, SIZE, seed=1)
    images, _ = train[4]
    assert number_of(images).tolist() == KNOWN_NUMBERS
    rising = images[:, :, -1, 1].mean(axis=1) > images[:, :, 0, 1].mean(axis=1)  # green does, in the images
    assert rising.tolist() == KNOWN_FLIPS
    np.testing.assert_allclose(images[:, 0, 0, 2], KNOWN_BLUE, atol=1)


def test_half_of_the_images_are_mirrored(folder):
    train, never = (JpegTrainBatches(image_folder(folder), N, SIZE, flip=flip) for flip in (True, False))
    mirrored = [train[i][0][:, :, ::-1] == never[i][0] for i in range(30)]
    share = np.concatenate(mirrored).all(axis=(1, 2, 3)).mean()
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(30 * N)


@pytest.mark.parametrize("augmentation", ["scale", "crop"])
def test_the_pipeline_of_the_backend_gives_the_same_batches(folder, augmentation):
    train = JpegTrainBatches(image_folder(folder), 5, SIZE, augmentation, seed=2)
    equal(in_order(train.for_backend(), 7), [train[i] for i in range(7)])
    equal(in_order(train.starting_at(1, 1).for_backend(), 4), [train[4 + i] for i in range(4)])


def test_evaluation_sees_each_image_once_in_order(folder):
    test = JpegTestBatches(image_folder(folder, "val"), 5, SIZE)
    assert test.num_batches == 3
    batches = [test[i] for i in range(3)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches))
    assert number_of(images).tolist() == list(range(N)) and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    source = test.for_backend()
    equal(in_order(source, 3), batches)
    if keras.backend.backend() == "tensorflow":
        assert len(list(source)) == 3


def test_the_next_batches_are_made_ahead():
    made = collections.Counter()
    ahead = Ahead()
    make = lambda i: made.update([i]) or 10 * i
    assert [ahead.get(i, make, 5) for i in range(5)] == [0, 10, 20, 30, 40] and made == dict.fromkeys(range(5), 1)
    made.clear()
    assert [ahead.get(i, make, 5) for i in (2, 0, 3)] == [20, 0, 30] and made == {2: 1, 0: 1, 3: 1}


def test_fit_and_evaluate(folder):
    train = JpegTrainBatches(image_folder(folder), 5, SIZE)
    test = JpegTestBatches(image_folder(folder, "val"), 5, SIZE)
    model = compiled()
    history = model.fit(train, epochs=2, validation_data=test, verbose=0).history
    images, labels = (np.concatenate(arrays) for arrays in zip(*(test[i] for i in range(3))))
    expected = model.evaluate(images, labels, batch_size=5, verbose=0, return_dict=True)
    from_batches = model.evaluate(test, verbose=0, return_dict=True)
    for name, value in expected.items():
        np.testing.assert_allclose(from_batches[name], value, rtol=1e-5)
        np.testing.assert_allclose(history[f"val_{name}"][-1], value, rtol=1e-5)
    np.testing.assert_allclose(model.predict(test, verbose=0)["main"], model.predict(images, verbose=0)["main"], 1e-4)


def test_a_killed_training_goes_on_within_an_epoch(folder, tmp_path):
    train = JpegTrainBatches(image_folder(folder), 5, SIZE)
    through, killed = compiled(), compiled()
    killed.set_weights(through.get_weights())
    through.fit(train, epochs=2, verbose=0)
    resume = lambda: dhm.callbacks.Resume(tmp_path / "checkpoints", every=1)
    with pytest.raises(Killed):
        killed.fit(train, epochs=2, verbose=0, callbacks=[resume(), Kill(5)])
    again = compiled()
    again.fit(JpegTrainBatches(image_folder(folder), 5, SIZE), epochs=2, verbose=0, callbacks=[resume()])
    for one, other in zip(through.get_weights(), again.get_weights()):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_labels_beyond_the_network_are_refused(folder):
    files = image_folder(folder)
    wrong = ImageFiles(files.folder, files.names, np.full(N, 3), (*CLASSES, "zebra"))
    for call in (
        lambda: compiled().fit(JpegTrainBatches(wrong, 5, SIZE)),
        lambda: compiled().fit(JpegTrainBatches(files, 5, SIZE), validation_data=JpegTestBatches(wrong, 5, SIZE)),
        lambda: compiled().evaluate(JpegTestBatches(wrong, 5, SIZE)),
    ):
        with pytest.raises(ValueError, match=r"integers in \[0, 3\)"):
            call()


@pytest.mark.tensorflow
def test_shares_of_two_replicas_are_the_batch(folder, mirrored):
    train = JpegTrainBatches(image_folder(folder), 5, SIZE, seed=3)
    shares = iter(train.starting_at(0, 1).for_backend(mirrored))
    for i in range(5):
        parts = [mirrored.experimental_local_results(value) for value in next(shares)]
        assert [len(part) for part in parts[1]] == ([3, 2] if (i + 1) % 3 != 2 else [1, 1])
        images, labels = (np.concatenate(part) for part in parts)
        equal([(images, labels)], [train[i + 1]])


@pytest.mark.tensorflow
def test_two_replicas_train_and_evaluate_as_one(folder, mirrored):
    train = JpegTrainBatches(image_folder(folder).subset(11), 5, SIZE)  # the last batch is one image
    test = JpegTestBatches(image_folder(folder, "val").subset(11), 5, SIZE)
    one = compiled()
    with mirrored.scope():
        two = compiled()
    two.set_weights(one.get_weights())
    histories = [model.fit(train, epochs=2, validation_data=test, verbose=0).history for model in (one, two)]
    evaluated = [model.evaluate(test, verbose=0, return_dict=True) for model in (one, two)]
    for of_one, of_two in (histories, evaluated):
        for name, values in of_one.items():
            np.testing.assert_allclose(of_two[name], values, rtol=1e-4, err_msg=name)


# Corrupt files


@pytest.mark.parametrize("under", ["one device", pytest.param("two", marks=pytest.mark.tensorflow)])
def test_a_corrupt_file_stops_the_training_and_is_named(folder, under, request):
    scope = request.getfixturevalue("mirrored").scope if under == "two" else None
    bad = folder / "train" / "cat" / "cat_2.JPEG"
    cut(bad)
    if scope:
        with scope():
            model = compiled()
    else:
        model = compiled()
    train = JpegTrainBatches(image_folder(folder), 5, SIZE)
    with pytest.raises(ValueError) as error:
        model.fit(train, epochs=2, verbose=0)
    told = str(error.value)
    assert told.startswith(f"{bad} is not an image that can be decoded (") and "\n" not in told
    assert told.endswith("such images out with on_corrupt='skip', of a recipe --on_corrupt skip.")
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_a_corrupt_or_vanished_file_stops_an_evaluation(folder):
    bad = folder / "val" / "dog" / "dog_0.JPEG"
    train = JpegTrainBatches(image_folder(folder), 5, SIZE)
    test = JpegTestBatches(image_folder(folder, "val"), 5, SIZE)
    bad.write_bytes(b"")
    for call in (
        lambda: compiled().fit(train, validation_data=test, verbose=0),
        lambda: compiled().evaluate(test, verbose=0),
        lambda: compiled().predict(test, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"^.*dog_0.JPEG is not an image that can be decoded \(it is empty\)"):
            call()
    bad.unlink()
    with pytest.raises(FileNotFoundError, match=r"dog_0.JPEG"):
        compiled().evaluate(JpegTestBatches(test.source, 5, SIZE, on_corrupt="skip"), verbose=0)


def test_corrupt_files_are_left_out_and_counted_if_asked(folder):
    bad = [folder / "train" / "cat" / "cat_2.JPEG", folder / "train" / "bird" / "bird_0.JPEG"]
    cut(bad[0])
    bad[1].write_bytes(b"")
    files = image_folder(folder)
    train, test = (
        JpegTrainBatches(files, 5, SIZE, on_corrupt="skip"),
        JpegTestBatches(files, 5, SIZE, on_corrupt="skip"),
    )
    seen = np.concatenate([number_of(images) for images, _ in in_order(train.for_backend(), 3)])
    assert sorted(seen) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    model = compiled()
    model.fit(train.starting_at(2), epochs=2, validation_data=test, verbose=0)
    assert sorted(train.skipped) == sorted(test.skipped) == sorted(map(str, bad))
    assert train.settings == JpegTrainBatches(files, 5, SIZE).settings  # a checkpoint can be gone on from
    images, labels = JpegTestBatches(files, 1, SIZE, on_corrupt="skip")[0]  # of the first image, which is corrupt
    assert list(number_of(images)) == [1] and list(labels) == [files.labels[1]]
    for path in folder.rglob("*.JPEG"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"None of the 12 images in .* can be decoded"):
        JpegTestBatches(files, 1, SIZE, on_corrupt="skip")[0]


KNOWN_NUMBERS = [10, 4, 2, 1, 8]
KNOWN_FLIPS = [True, False, True, False, True]
KNOWN_BLUE = [133, 135, 129, 134, 139]
