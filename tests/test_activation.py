"""Activation maps of networks whose maps are known, and what is drawn of them."""

import keras
import numpy as np
import pytest
from cnns import body, plain, residual, squeeze_excitation, transfer
from networks import resnet8
from PIL import Image

import dhm_keras as dhm
from dhm_keras.analysis import activation_maps, plot_activations
from dhm_keras.analysis.activation_figure import _colours


def of_one_convolution(kernel=(1.0, -2.0), size=4, pool=1):
    """Two channels, the image times the kernel; with `pool` at a lower resolution."""
    image = keras.Input((size, size, 1))
    x = keras.layers.AveragePooling2D(pool)(image)
    convolution = keras.layers.Conv2D(2, 1, use_bias=False, name="conv")
    x = convolution(x)
    network = keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D(name="pool")(x)))
    convolution.set_weights([np.reshape(kernel, (1, 1, 1, 2)).astype("float32")])
    return network


def images_of(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def test_the_map_is_the_sum_of_squares_between_0_and_1():
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1) - 6  # squares times 5, from 0 to 405
    maps = activation_maps(of_one_convolution(), image)
    assert maps.dtype == "float32"
    np.testing.assert_allclose(maps, image[..., 0] ** 2 / 81, rtol=1e-6)


def test_a_small_map_is_brought_to_the_size_of_the_image():
    image = np.array([[0, 0, 2, 2], [0, 0, 2, 2]] * 2, "float32")[None, ..., None]  # pooled (0, 2) in both rows
    columns = [0, 0.25, 0.75, 1]  # bilinear between the centres of two pixels, constant beyond
    np.testing.assert_allclose(activation_maps(of_one_convolution(pool=2), image), [[columns] * 4], rtol=1e-6)


def test_a_constant_image_has_no_map():
    images = np.full((2, 4, 4, 1), 7, "uint8")
    images[1, 0, 0] = 9
    maps = activation_maps(of_one_convolution(), images)
    assert (maps[0] == 0).all() and maps[1, 0, 0] == 1 and maps[1].sum() == 1


def test_the_scale_of_the_activations_makes_no_difference():
    images = images_of(3, 4, 4, 1)
    one, other = (activation_maps(of_one_convolution(kernel), images) for kernel in ((1.0, -2.0), (64.0, -128.0)))
    np.testing.assert_array_equal(one, other)


def test_each_image_stands_for_itself(monkeypatch):
    network, images = plain(), images_of(4, 16, 16, 3)
    together = activation_maps(network, images)
    monkeypatch.setattr("dhm_keras.analysis.activation.BATCH", 2)
    np.testing.assert_allclose(activation_maps(network, images), together, atol=1e-5)


@pytest.mark.parametrize("build", [plain, lambda: residual(transform=squeeze_excitation), resnet8])
def test_the_map_is_what_the_global_pooling_takes(build):
    """Also behind gates, which pool globally, too."""
    network = build()
    images = images_of(2, *network.inputs[0].shape[1:])
    last = [layer for layer in network.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    pool = next((layer for layer in last if layer.name == "main_pool"), last[-1])
    features = keras.Model(network.inputs, pool.input)(images.astype("float32"), training=False)
    sums = np.square(keras.ops.convert_to_numpy(features)).sum(-1)
    maps, size = activation_maps(network, images), images.shape[1] // sums.shape[1]
    # From 0 to 1 of what is between the pixels' centres: where a map is highest, its pixel is.
    for of_image, expected in zip(maps, sums):
        highest = np.unravel_index(of_image.argmax(), of_image.shape)
        assert tuple(n // size for n in highest) == np.unravel_index(expected.argmax(), expected.shape)
    if isinstance(network.output, dict):
        np.testing.assert_array_equal(activation_maps(dhm.DHM(network), images), maps)
        np.testing.assert_allclose(activation_maps(dhm.DHM(network).main, images), maps, atol=1e-6)


def test_models_within_models_are_opened():
    whole = residual()
    nested, images = transfer(body(whole)), images_of(2, 16, 16, 3)
    expected = activation_maps(whole, images / np.float32(255))
    np.testing.assert_allclose(activation_maps(nested, images), expected, atol=1e-5)
    flat = keras.Sequential([keras.Input((16, 16, 3)), body(whole), keras.layers.Flatten(), keras.layers.Dense(2)])
    np.testing.assert_allclose(activation_maps(flat, images / np.float32(255)), expected, atol=1e-5)


def test_a_layer_by_its_name():
    network, images = plain(), images_of(2, 16, 16, 3)
    np.testing.assert_array_equal(activation_maps(network, images, layer="conv12_2"), activation_maps(network, images))
    part = keras.Model(network.inputs, keras.layers.GlobalMaxPooling2D()(network.get_layer("conv8_1").output))
    np.testing.assert_allclose(
        activation_maps(network, images, layer="conv8_1"), activation_maps(part, images), atol=1e-6
    )


def test_nothing_of_the_model_changes():
    network = residual()
    network.layers[2].trainable = False
    before = [weight.copy() for weight in network.get_weights()], [len(each._inbound_nodes) for each in network.layers]
    activation_maps(network, images_of(2, 16, 16, 3))
    for weight, after in zip(before[0], network.get_weights()):
        np.testing.assert_array_equal(weight, after)
    assert before[1] == [len(each._inbound_nodes) for each in network.layers]


def test_what_has_no_map():
    network, images = plain(), images_of(2, 16, 16, 3)
    with pytest.raises(ValueError, match=r"`images`. Expected the shape \(n, 16, 16, 3\)"):
        activation_maps(network, images[:, :8])
    with pytest.raises(ValueError, match=r"`images`.*Received: \(0, 16"):
        activation_maps(network, images[:0])
    with pytest.raises(ValueError, match=r"`layer`.* the last of them .*'conv12_2'.*Received: 'conv9'\."):
        activation_maps(network, images, layer="conv9")
    dense = network.layers[-1].name
    with pytest.raises(ValueError, match=rf"`layer`.*Received: '{dense}', which gives \(None, 3\)"):
        activation_maps(network, images, layer=dense)
    image = keras.Input((16, 16, 3))
    flat = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
    with pytest.raises(ValueError, match="Expected one with maps"):
        activation_maps(flat, images)
    with pytest.raises(ValueError, match="or a dict of which one is 'main'"):
        activation_maps(keras.Model(image, {"one": flat.output, "other": image}), images)
    with pytest.raises(ValueError, match="Expected a DHM, a functional model"):
        activation_maps(keras.layers.Dense(2), images)


def drawn(monkeypatch, *arguments):
    """The panels of the figure, row by row: titles, the text at the left, and what is on them."""
    from matplotlib.figure import Figure

    kept, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: (kept.append(self), save(self, path, **kwargs)))
    plot_activations(*arguments)
    return [
        (axes.get_title(), axes.get_ylabel(), np.asarray(axes.images[0].get_array()))
        for axes in kept[0].axes
        if axes.images and axes.get_label() != "<colorbar>"
    ]


def test_the_figure(tmp_path, monkeypatch):
    images, rng = images_of(2, 8, 4, 3), np.random.default_rng(1)
    maps = {name: rng.random((2, 8, 4)).astype("float32") for name in ("OSNet", "$baseline")}
    panels = drawn(monkeypatch, images, maps, tmp_path / "a.png", np.array([7, 8]))
    assert [title for title, *_ in panels[:3]] == ["image", "OSNet", "$baseline"]
    assert [text for _, text, _ in panels[::3]] == ["7", "8"]
    over = lambda line, name: 0.3 * images[line] / 255 + 0.7 * _colours()(maps[name][line])[..., :3]
    for line, row in enumerate((panels[:3], panels[3:])):
        np.testing.assert_array_equal(row[0][2], images[line])
        for name, (*_, panel) in zip(maps, row[1:]):
            np.testing.assert_allclose(panel, over(line, name), rtol=1e-6)
    saved = np.load(tmp_path / "a.npz")
    assert saved.files == list(maps)
    np.testing.assert_array_equal(saved["OSNet"], maps["OSNet"])
    assert Image.open(tmp_path / "a.png").size[0] > 300


def test_of_one_network_the_map_alone_is_drawn_too(tmp_path, monkeypatch):
    images, maps = images_of(1, 8, 4, 1), np.random.default_rng(1).random((1, 8, 4)).astype("float32")
    panels = drawn(monkeypatch, images, {"grey": maps}, tmp_path / "a.png")
    assert [title for title, *_ in panels] == ["image", "grey", "map"]
    np.testing.assert_array_equal(panels[0][2], np.repeat(images[0], 3, axis=-1))
    np.testing.assert_array_equal(panels[2][2], maps[0])


def test_what_cannot_be_drawn(tmp_path):
    images, maps = images_of(2, 8, 4, 3), np.zeros((2, 8, 4), "float32")
    draw = lambda *arguments: plot_activations(*arguments[:2], tmp_path / "a.png", *arguments[2:])
    for wrong in (images / 255, images[0], images[..., :2], images[:0]):
        with pytest.raises(ValueError, match=r"`images`. Expected uint8"):
            draw(wrong, {"a": maps})
    for wrong in (maps[:1], maps - 1, maps + 2, maps * np.nan):
        with pytest.raises(ValueError, match=r"`maps`. Expected numbers in \[0, 1\], \(2, 8, 4\).*of 'b'"):
            draw(images, {"a": maps, "b": wrong})
    with pytest.raises(ValueError, match="one network at least"):
        draw(images, {})
    with pytest.raises(ValueError, match=r"`titles`. Expected 2"):
        draw(images, {"a": maps}, ["1"])
    assert list(tmp_path.iterdir()) == []
