"""Features: the same from wherever the images and the network come, what flipping does, what is refused."""

import keras
import numpy as np
import pytest
from jpeg_files import cut, encoded
from networks import inferred, tiny, values
from PIL import Image

import dhm_keras as dhm
from dhm_keras.reid import Extractor, PersonImages, bn_neck, embedding, new_layers_only

SIZE = (16, 8)  # height, width
WIDTH = 12  # of main's features
SIZES = ((24, 12), (16, 8), (40, 13), (9, 30), (16, 9))  # of the files: one that is the network's, one that is wide


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    return small()


def small(heads=("main", "aux1", "aux2")):
    """One convolution and batch normalization, and one of another width for each head."""
    image = keras.Input((*SIZE, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    x = dhm.layers.BatchNormalization()(x)
    logits = {}
    for width, head in enumerate(heads, start=WIDTH):
        y = keras.layers.Conv2D(width, 3, activation="relu", name=f"{head}_conv")(x)
        y = keras.layers.GlobalAveragePooling2D(name=f"{head}_pool")(y)
        logits[head] = keras.layers.Dense(5, name=head)(y)
    return dhm.network.Network(image, logits, name="small")


@pytest.fixture(scope="module")
def extract(network):
    return Extractor(network, batch_size=2)


@pytest.fixture(scope="module")
def pictures():
    """uint8 arrays of several sizes."""
    rng = np.random.default_rng(0)
    return [
        np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype("uint8")).resize((w, h))) for h, w in SIZES
    ]


@pytest.fixture
def folder(pictures, tmp_path):
    for i, picture in enumerate(pictures):
        (tmp_path / f"{i}.png").write_bytes(encoded(Image.fromarray(picture), "PNG"))
    return tmp_path


def resized(picture):
    return np.asarray(Image.fromarray(picture).resize(SIZE[::-1], Image.Resampling.BILINEAR))


def expected(network, pictures, head="main"):
    """The features by another way: the inputs of the head's classifier."""
    classifier = network.get_layer(head)
    part = keras.Model(network.input, classifier.input)
    return np.asarray(inferred(part, np.stack([resized(picture) for picture in pictures]).astype("float32")))


def test_the_embedding_is_what_the_classifier_takes(network):
    images = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3)).astype("float32")
    for head, width in (("main", WIDTH), ("aux1", WIDTH + 1)):
        part = embedding(dhm.DHM(network), head)
        features = np.asarray(inferred(part, images))
        kernel, bias = network.get_layer(head).get_weights()
        assert features.shape == (3, width)
        np.testing.assert_allclose(features @ kernel + bias, inferred(network, images)[head], atol=1e-4)
        own = {layer.name for layer in part.layers}
        assert head not in own and not any(name.startswith("aux2") for name in own)
    assert embedding(dhm.DHM(network).main).output.shape == (None, WIDTH)


def test_a_necks_embedding_is_behind_the_normalization(pictures):
    image = keras.Input((*SIZE, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    features = keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits, normalised = bn_neck(features, 3)
    network = keras.Model(image, {"main": logits, "features": features})
    neck = network.get_layer("main_neck")
    neck.set_weights([np.random.default_rng(0).uniform(0.5, 2, weight.shape) for weight in neck.get_weights()])
    result = Extractor(network)(pictures)
    np.testing.assert_allclose(result, expected(network, pictures), atol=1e-5)
    parts = inferred(keras.Model(image, [features, normalised]), np.stack([*map(resized, pictures)]).astype("float32"))
    np.testing.assert_allclose(result, parts[1], atol=1e-5)
    assert np.abs(result - np.asarray(parts[0])).max() > 0.1


def test_the_same_features_from_files_arrays_and_a_saved_model(network, extract, pictures, folder):
    result = extract(pictures)
    assert result.shape == (5, WIDTH) == (5, extract.dim) and result.dtype == "float32" and extract.size == SIZE
    np.testing.assert_allclose(result, expected(network, pictures), atol=1e-5)
    assert np.abs(result - result[:1]).max() > 0.01  # of other images others
    paths = [folder / f"{i}.png" for i in range(5)]
    images = PersonImages.of(folder, [path.name for path in paths], [1, 1, 2, 2, 3], [0, 1, 0, 1, 0])
    batch = np.stack([resized(picture) for picture in pictures])
    for given in (paths, list(map(str, paths)), images, batch, tuple(batch), [paths[0], *pictures[1:]]):
        np.testing.assert_allclose(extract(given), result, atol=1e-5)
    dhm.DHM(network).save(folder / "model.keras")
    np.testing.assert_allclose(Extractor(str(folder / "model.keras"))(pictures), result, atol=1e-5)
    assert extract([]).shape == extract(batch[:0]).shape == (0, WIDTH)
    backwards = np.ascontiguousarray(batch[..., ::-1])[..., ::-1]  # as OpenCV's crops, turned to RGB
    np.testing.assert_allclose(extract(list(backwards)), result, atol=1e-5)


@pytest.mark.tensorflow
def test_the_same_features_from_an_exported_version(network, extract, pictures, tmp_path):
    path = dhm.export.export_main(dhm.DHM(network), tmp_path / "with", embedding=True)
    exported = Extractor(path, batch_size=4)
    assert (exported.size, exported.dim) == (SIZE, WIDTH)
    np.testing.assert_allclose(exported(pictures), extract(pictures), atol=1e-5)
    flipped = Extractor(path, flip=True)(pictures)
    np.testing.assert_allclose(flipped, Extractor(network, flip=True)(pictures), atol=1e-5)
    assert exported([]).shape == (0, WIDTH)
    with pytest.raises(ValueError, match=r"no saved_model.pb. Give one of its versions, \['1'\]"):
        Extractor(tmp_path / "with")
    path = dhm.export.export_main(network, tmp_path / "without")
    with pytest.raises(ValueError, match=r"gives no embedding\. Export it again with .*embedding=True"):
        Extractor(path)


def test_flipping_gives_the_mean_of_two(network, extract, pictures):
    mirrored = [picture[:, ::-1] for picture in map(resized, pictures)]
    one, other = extract([resized(picture) for picture in pictures]), extract(mirrored)
    np.testing.assert_allclose(Extractor(network, flip=True)(pictures), (one + other) / 2, atol=1e-5)
    assert np.abs(one - other).max() > 1e-3


def test_a_branch_and_a_model_of_features(network, pictures):
    of_branch = Extractor(network, head="aux1")(pictures)
    np.testing.assert_allclose(of_branch, expected(network, pictures, "aux1"), atol=1e-5)
    of_features = Extractor(embedding(network, "aux1"), head=None)(pictures)
    np.testing.assert_allclose(of_features, of_branch, atol=1e-5)


def test_it_follows_the_training(pictures):
    model = dhm.DHM(small(("main",)), method="baseline")
    extract = Extractor(model)
    before = extract(pictures)
    model.compile(dhm.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    images, labels = np.stack([*map(resized, pictures)]), np.array([0, 1, 2, 0, 1])
    with new_layers_only(model):
        model.compile(dhm.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
        model.fit(images, labels, verbose=0)
    np.testing.assert_array_equal(extract(pictures), before)  # the classifier alone
    model.compile(dhm.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    model.fit(images, labels, verbose=0)
    assert np.abs(extract(pictures) - before).max() > 1e-3
    np.testing.assert_allclose(extract(pictures), expected(model.network, pictures), atol=1e-5)


def test_a_training_is_the_same_with_features_taken_between_its_epochs(pictures):
    images, labels = np.stack([*map(resized, pictures)]), np.array([0, 1, 2, 0, 1])

    def trained(takes):
        keras.utils.set_random_seed(2)
        model, found = dhm.DHM(small(("main", "aux1"))), []
        model.compile(dhm.optimizers.SGD(0.1, momentum=0.9))
        extract = Extractor(model)
        take = lambda epoch, logs: found.append(extract(pictures))
        callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=take)] if takes else []
        model.fit(images, labels, batch_size=4, epochs=2, shuffle=False, callbacks=callbacks, verbose=0)
        return found, [*values(model.variables).values()], extract(pictures)

    found, with_them, last = trained(takes=True)
    for one, other in zip(with_them, trained(takes=False)[1], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found[1], last)
    assert np.abs(found[0] - last).max() > 1e-3


@pytest.mark.parametrize("mixed", ["mixed_bfloat16"], indirect=True)
def test_features_are_float32_under_a_mixed_policy(mixed, pictures):
    network = small(("main",))
    features = Extractor(network)(pictures)
    assert features.dtype == "float32" and np.isfinite(features).all()


def test_an_image_that_cannot_be_read_is_named(extract, folder):
    cut(folder / "3.png")
    (folder / "text.jpg").write_text("no image")
    for given in (
        [folder / "0.png", folder / "3.png"],
        PersonImages.of(folder, ["0.png", "1.png", "2.png", "3.png"], [1, 1, 1, 1]),
    ):
        with pytest.raises(ValueError, match=r"3\.png is not an image that can be decoded"):
            extract(given)
    with pytest.raises(ValueError, match=r"text\.jpg is not an image that can be decoded"):
        extract([str(folder / "text.jpg")])
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        extract([folder / "missing.png"])


@pytest.mark.parametrize(
    "given, words",
    [
        (np.zeros((2, 16, 8, 3), "float32"), "Received: an array float32 (2, 16, 8, 3)"),
        (np.zeros((16, 8, 3), "uint8"), "Received: an array uint8 (16, 8, 3)"),
        ([np.zeros((16, 8, 3), "uint8"), np.zeros((0, 8, 3), "uint8")], "uint8 (0, 8, 3) at position 1"),
        ([np.zeros((16, 8, 3))], "float64 (16, 8, 3) at position 0"),
        ([None], "None at position 0"),
        ("a.jpg", "Received: 'a.jpg'"),
    ],
)
def test_other_images_are_refused(extract, given, words):
    with pytest.raises(ValueError) as error:
        extract(given)
    assert words in str(error.value) and "`images`" in str(error.value)


def test_other_models_are_refused(network, tmp_path):
    image = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Rescaling(1 / 255)(image))
    for make, words in (
        (lambda: Extractor(network, head="aux3"), "Expected one of ['aux1', 'aux2', 'main']. Received: 'aux3'"),
        (lambda: Extractor(network, batch_size=0), "`batch_size`"),
        (lambda: Extractor(network, head=None), "images to features"),
        (lambda: Extractor(keras.Model(image, pooled)), "ends in 'pool'"),
        (lambda: Extractor(keras.Model(image, pooled), head=None), "a fixed size with 3 channels"),
        (lambda: Extractor(tmp_path), "Give the folder of an exported version"),
        (lambda: Extractor(42), "Expected a `DHM`"),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert words in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no .*missing\.keras"):
        Extractor(tmp_path / "missing.keras")
    with pytest.warns(UserWarning, match="tiny_main_embedding does not begin by normalising"):
        Extractor(tiny())
