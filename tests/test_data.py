"""Batches as functions of (seed, epoch, step), crops, corrupt labels, the digits."""

import keras
import numpy as np
import pytest
from networks import sgd, tiny

import dhm_keras as dhm
from dhm_keras.data import TrainBatches, corrupt_labels, digits
from dhm_keras.data.batches import _generator
from dhm_keras.data.crops import crop_and_flip, cut_out


def numbered(n=10, size=4):
    """Images whose pixels tell the image, the row and the column."""
    image, row, column = np.meshgrid(range(n), range(size), range(size), indexing="ij")
    return np.stack([image, row + 1, column + 1], -1).astype("uint8"), np.arange(n)


def test_every_image_comes_once_an_epoch_with_its_label():
    train = TrainBatches(*numbered(10), batch_size=4, pad=1, flip=True)
    assert train.steps_per_epoch == 3
    for epoch in range(3):
        batches = [train[3 * epoch + step] for step in range(3)]
        assert [len(labels) for _, labels in batches] == [4, 4, 2]
        assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(10))
        for images, labels in batches:
            inside = images[:, 1:3, 1:3, 0]  # a crop of one pixel at most leaves the middle inside the image
            assert (inside == labels[:, None, None]).all()


def test_a_batch_is_a_function_of_seed_epoch_and_step():
    data = numbered()
    one, same, other = (TrainBatches(*data, batch_size=4, pad=2, flip=True, seed=seed) for seed in (5, 5, 6))
    later = one.starting_at(2)
    for i in (7, 0, 3):  # in any order
        np.testing.assert_array_equal(one[i][0], same[i][0])
        np.testing.assert_array_equal(later[i][0], one[i + 6][0])
    assert not all(np.array_equal(one[i][1], other[i][1]) for i in range(3))
    assert not np.array_equal(one[0][1], one[3][1])  # the next epoch has another order


def test_known_batches():
    # A change of these numbers breaks the resume of runs that were started before it.
    train = TrainBatches(*numbered(), batch_size=5, pad=2, flip=True, seed=1)
    assert [train[i][1].tolist() for i in range(2)] == KNOWN_ORDER
    assert train[0][0][:, 1, 1, 1:].tolist() == KNOWN_PIXELS


KNOWN_ORDER = [[2, 7, 3, 0, 9], [1, 4, 6, 8, 5]]
KNOWN_PIXELS = [[3, 1], [1, 3], [0, 0], [1, 2], [0, 0]]


def test_a_crop_is_a_window_of_the_zero_padded_image_or_its_mirror():
    images, _ = numbered(200, size=4)
    crops = crop_and_flip(images, _generator(0, 9), pad=1, flip=True)
    seen = set()
    for image, crop in zip(images, crops):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        windows = {
            (top, left, mirrored): padded[top : top + 4, left : left + 4][:, :: -1 if mirrored else 1]
            for top in range(3)
            for left in range(3)
            for mirrored in (False, True)
        }
        matches = [key for key, window in windows.items() if np.array_equal(window, crop)]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 18  # each image draws its own
    np.testing.assert_array_equal(crop_and_flip(images, _generator(0, 9), pad=0, flip=False), images)


def test_one_crop_a_batch():
    images, _ = numbered(50)
    crops = crop_and_flip(images, _generator(0, 4), pad=2, flip=True, crop="batch")
    assert (crops[..., 1:] == crops[:1, ..., 1:]).all() and not (crops == images).all()
    train = TrainBatches(*numbered(), batch_size=5, pad=2, crop="batch")
    assert not np.array_equal(train[0][0][0, ..., 1:], train[1][0][0, ..., 1:])


def in_order(source, n):
    """The first `n` batches that Keras draws from what `fit` is given, as NumPy arrays."""
    if keras.backend.backend() != "tensorflow":
        return [source[i] for i in range(n)]
    return [(images.numpy(), labels.numpy()) for images, labels in source.take(n)]


def test_fit_takes_the_batches_in_order_from_the_initial_epoch(monkeypatch):
    given = []
    monkeypatch.setattr(keras.Model, "fit", lambda self, x, *args, **kwargs: given.append((x, kwargs)))
    train = TrainBatches(*numbered(10, size=8), batch_size=4, pad=2, flip=True, seed=7)
    model = dhm.DHM(tiny(num_classes=10))
    model.compile(optimizer=sgd(0.01))
    model.fit(train, epochs=5, initial_epoch=3)
    [(source, kwargs)] = given
    assert kwargs["steps_per_epoch"] == 3 and not kwargs["shuffle"]
    for i, (images, labels) in enumerate(in_order(source, 7)):
        np.testing.assert_array_equal(images, train[9 + i][0])
        np.testing.assert_array_equal(labels, train[9 + i][1])


def test_a_hole_is_a_square_around_its_centre_cut_off_at_the_borders():
    images = np.zeros((4, 8, 6, 2), "uint8")
    rows, columns, colour = np.array([4, 0, 7, 1]), np.array([3, 0, 5, 3]), np.array([7, 9], "uint8")
    for side, expected in (
        (4, [(2, 6, 1, 5), (0, 2, 0, 2), (5, 8, 3, 6), (0, 3, 1, 5)]),
        (3, [(3, 6, 2, 5), (0, 2, 0, 2), (6, 8, 4, 6), (0, 3, 2, 5)]),
        (16, [(0, 8, 0, 6)] * 4),
    ):
        with_holes = cut_out(np.where, images, rows, columns, side, colour)
        assert with_holes.dtype == "uint8"
        for image, (top, bottom, left, right) in zip(with_holes, expected, strict=True):
            assert (image[top:bottom, left:right] == colour).all()
            assert (image == colour).all(-1).sum() == (bottom - top) * (right - left)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_cutout_leaves_the_crops_as_they_were_but_for_a_square_of_the_mean_colour(dtype):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 250, (300, 8, 8, 3)).astype(dtype), np.arange(300)
    whole, with_holes = (TrainBatches(images, labels, 300, 2, flip=True, cutout=cutout) for cutout in (0, 5))
    mean = images.astype("float64").mean((0, 1, 2))
    mean = np.round(mean) if dtype == "uint8" else mean.astype(dtype)
    seen = np.zeros((8, 8), int)
    for image, before in zip(with_holes[0][0], whole[0][0], strict=True):
        hole = (image == mean).all(-1)
        assert np.array_equal(image[~hole], before[~hole])
        (top, left), (bottom, right) = np.argwhere(hole)[[0, -1]]
        assert hole.sum() == (bottom - top + 1) * (right - left + 1) and 3 <= bottom - top + 1 <= 5
        seen += hole
    expected = np.array([3, 4, 5, 5, 5, 5, 4, 3]) / 8  # how many of the eight centres of a line cover a pixel
    np.testing.assert_allclose(seen / 300, np.outer(expected, expected), atol=0.1)
    assert with_holes.settings == {**whole.settings, "cutout": 5} and "cutout" not in whole.settings


@pytest.mark.tensorflow
def test_shares_of_two_replicas_are_the_batch(mirrored):
    train = TrainBatches(*numbered(10, size=8), batch_size=4, pad=2, flip=True, seed=3, cutout=4)
    shares = iter(train.starting_at(0, 1).for_backend(mirrored))
    for i in range(5):
        parts = [mirrored.experimental_local_results(value) for value in next(shares)]
        assert len(parts[1]) == 2
        for part, of_whole in zip(parts, train[i + 1], strict=True):
            np.testing.assert_array_equal(np.concatenate(part), of_whole)


@pytest.mark.parametrize("crop, cutout", [("image", 0), ("batch", 0), ("image", 3), ("batch", 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_pipeline_of_the_backend_gives_the_same_batches(crop, cutout, dtype):
    images, labels = numbered(10)
    soft = np.eye(10, dtype="float32")[labels]
    train = TrainBatches(images.astype(dtype), soft, 4, pad=1, flip=True, crop=crop, seed=2, cutout=cutout)
    for i, (crops, targets) in enumerate(in_order(train.for_backend(), 8)):
        assert crops.dtype == dtype and targets.dtype == np.float32
        np.testing.assert_array_equal(crops, train[i][0])
        np.testing.assert_array_equal(targets, train[i][1])


def test_training_from_batches_equals_training_from_the_same_arrays():
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 8, 8, 3), "float32"), rng.integers(0, 3, 12)
    train = TrainBatches(x, y, batch_size=4)
    order = np.concatenate([train[i][1] for i in range(3)])
    images = np.concatenate([train[i][0] for i in range(3)])
    one, other = dhm.DHM(tiny()), dhm.DHM(tiny())
    other.set_weights(one.get_weights())
    for model in (one, other):
        model.compile(optimizer=sgd(0.01))
    loss = one.fit(train, epochs=1, verbose=0).history["loss"]
    from_arrays = other.fit(images, order, batch_size=4, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(loss, from_arrays, rtol=1e-6)


@pytest.mark.parametrize("ratio, n", [(0.4, 768), (0.2, 50_000), (0.0, 10), (1.0, 1000)])
def test_corruption_is_exact_in_number_and_uniform(ratio, n):
    labels = np.arange(n) % 10
    corrupt = corrupt_labels(labels, ratio, 10, seed=3)
    chosen = round(ratio * n)
    wrong = (corrupt != labels).sum()
    assert wrong <= chosen and abs(wrong - 0.9 * chosen) <= 4 * np.sqrt(0.09 * chosen)  # a tenth is right by chance
    np.testing.assert_array_equal(corrupt, corrupt_labels(labels, ratio, 10, seed=3))
    np.testing.assert_array_equal(labels, np.arange(n) % 10)
    assert corrupt_labels(np.zeros(5, "uint8"), 1.0, 10**6).max() > 255  # the dtype given does not wrap new labels
    if n == 50_000:
        shares = np.bincount(corrupt[corrupt != labels], minlength=10) / wrong
        np.testing.assert_allclose(shares, 0.1, atol=0.015)


def test_digits():
    (train, train_labels), (test, test_labels) = digits()
    assert train.shape == (768, 16, 16, 3) and test.shape == (997, 16, 16, 3) and train.dtype == np.uint8
    assert (train.max(), set(train_labels), set(test_labels)) == (255, set(range(10)), set(range(10)))
    assert (train[:, ::2, ::2] == train[:, 1::2, 1::2]).all() and (train[..., 0] == train[..., 2]).all()
    pixels = lambda images: {image.tobytes() for image in images}
    assert not pixels(train) & pixels(test)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: TrainBatches(np.zeros((3, 4, 4, 3)), np.zeros(2), 2), "shapes (3, 4, 4, 3) and (2,)"),
        (lambda: TrainBatches(np.zeros((3, 4, 4)), np.zeros(3), 2), "(n, height, width, channels)"),
        (lambda: TrainBatches(*numbered(), batch_size=0), "`batch_size`"),
        (lambda: TrainBatches(*numbered(), batch_size=2, pad=-1), "`pad`"),
        (lambda: TrainBatches(*numbered(), batch_size=2, crop="epoch"), "`crop`"),
        (lambda: TrainBatches(*numbered(), batch_size=2, cutout=-1), "`cutout`"),
        (lambda: TrainBatches(*numbered(), batch_size=2, cutout=4, on_device=True), "`cutout`. Expected 0 with"),
        (lambda: corrupt_labels(np.arange(4), 1.2, 4), "`ratio`"),
        (lambda: corrupt_labels(np.eye(4), 0.5, 4), "`labels`"),
        (lambda: corrupt_labels(np.arange(4), 0.5, 4, seed=-1), "`seed`"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)
