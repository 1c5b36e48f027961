"""OSNet's weights from torchreid: names, logits and features of golden numbers, branches, files, what is refused."""

import json

import keras
import numpy as np
import pytest
from networks import assert_same, inferred, with_other_weights

import dhm_keras as dhm
from dhm_keras.interop import load_torch, save_torch, to_torch
from dhm_keras.models import osnet

CLASSES = {"x1_0": 751, "x0_25": 1000}  # as of Market-1501 and of ImageNet


def by_rule(g, name):
    """The state dict that golden/osnet_by_rule.npz was computed with, and the generator for the images."""
    rng = np.random.default_rng(0)
    state = {}
    for key, shape in json.loads(str(g[f"{name}_shapes"])).items():
        if key.endswith(("running_mean", "bias")):
            state[key] = 0.1 * rng.standard_normal(shape)
        elif key.endswith("running_var"):
            state[key] = 0.5 + rng.random(shape)
        elif len(shape) == 1:
            state[key] = 0.5 + 0.5 * rng.random(shape)
        elif not key.endswith("num_batches_tracked"):
            state[key] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return state, rng


def plain(name, **kwargs):
    return dhm.models.get(f"osnet_{name}", num_classes=CLASSES[name], branches=(), **kwargs)


def assert_torchreids_numbers(g, name, tolerance):
    network, (state, rng) = plain(name), by_rule(g, name)
    load_torch(network, {f"module.{key}": array for key, array in state.items()})
    image = rng.standard_normal((1, 256, 128, 3))
    both = keras.Model(network.input, [network.output["main"], dhm.reid.embedding(network).output])
    logits, features = inferred(both, image)
    np.testing.assert_allclose(logits, g[f"{name}_logits"], rtol=0, atol=tolerance)  # of up to 37
    np.testing.assert_allclose(features, g[f"{name}_features"], rtol=0, atol=tolerance)
    back = to_torch(dhm.DHM(network, method="baseline").main)
    shapes = {key: list(array.shape) for key, array in back.items()}
    assert list(shapes.items()) == list(json.loads(str(g[f"{name}_shapes"])).items())
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array.astype(back[key].dtype))


@pytest.mark.parametrize("name", ["x0_25", pytest.param("x1_0", marks=pytest.mark.slow)])
def test_names_order_logits_and_features_are_torchreids(name, golden):
    assert_torchreids_numbers(golden("osnet_by_rule"), name, 1e-4)


@pytest.mark.slow
@pytest.mark.tensorflow  # JAX has no float64 unless its settings allow it
@pytest.mark.parametrize("name", CLASSES)
def test_logits_and_features_are_torchreids_in_float64(name, golden, float64):
    assert_torchreids_numbers(golden("osnet_by_rule"), name, 1e-9)


@pytest.mark.slow
def test_a_forward_pass_in_training_is_torchreids(golden):
    g = golden("osnet_by_rule")
    network, (state, rng) = plain("x0_25", input_shape=(64, 32, 3)), by_rule(g, "x0_25")
    load_torch(network, state)
    logits = network(rng.standard_normal((4, 64, 32, 3)).astype("float32"), training=True)["main"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(logits), g["x0_25_training_logits"], atol=1e-3)
    after = to_torch(network)
    for key in (key for key in g.files if key.startswith("x0_25_after/")):
        np.testing.assert_allclose(after[key.removeprefix("x0_25_after/")], g[key], atol=1e-5)


def small(num_classes=5, **kwargs):
    return osnet(0.25, num_classes, input_shape=(32, 16, 3), **kwargs)


@pytest.fixture(scope="module")
def network():
    return with_other_weights(small())


def test_main_of_another_set_and_all_heads_there_and_back(network, tmp_path):
    other, state = small(), to_torch(network)
    of_main = {name: array for name, array in state.items() if "_head" not in name}
    initial = to_torch(other)
    of_persons = {**of_main, "classifier.weight": np.ones((7, 512)), "classifier.bias": np.ones(7)}
    load_torch(other, {"state_dict": of_persons, "epoch": 150}, heads=("main",), classifier=False)
    for name, array in to_torch(other).items():
        loads = name in of_main and not name.startswith("classifier.")
        np.testing.assert_array_equal(array, (state if loads else initial)[name])

    save_torch(dhm.DHM(network), tmp_path / "all.safetensors")
    load_torch(other, tmp_path / "all.safetensors")
    assert_same(state, to_torch(other))
    for weight, loaded in zip(network.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, weight)


def test_the_names_of_branches_are_the_releases(network):
    state = to_torch(network)
    first = {head: next(name for name in state if f"_head{head}." in name) for head in "12"}
    assert first == {"1": "conv4_head1.0.conv1.conv.weight", "2": "conv3_head2.0.conv1.conv.weight"}
    assert state["conv3_head2.2.0.conv.weight"].shape == (96, 96, 1, 1)  # behind two blocks
    assert state["conv2.0.conv2d.3.conv2.weight"].shape == (16, 1, 3, 3)
    assert state["conv2.0.gate.fc1.weight"].shape == (1, 16, 1, 1) and state["fc_head1.0.bias"].shape == (512,)
    assert list(state)[-2:] == ["classifier_head1.weight", "classifier_head1.bias"]
    main = [name for name in state if "_head" not in name]
    assert main == list(state)[: len(main)] == list(to_torch(dhm.DHM(network).main))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: {**s, "conv2.0.IN.weight": np.ones(64)}, "unexpected (1): conv2.0.IN.weight"),  # of osnet_ibn
        (
            lambda s: {**s, "conv2.0.conv2a.conv2.weight": np.ones((1, 16, 3, 3))},
            "misshapen (1): conv2.0.conv2a.conv2.weight (1, 16, 3, 3) instead of (16, 1, 3, 3)",
        ),
        (
            lambda s: {**s, "classifier.weight": np.ones((9, 512))},
            "build the network with num_classes=9, or keep the network's own with classifier=False",
        ),
    ],
)
def test_what_does_not_fit_is_named(network, change, words):
    with pytest.raises(ValueError) as error:
        load_torch(network, change(to_torch(network)))
    assert words in str(error.value)


def test_a_neck_that_torchreid_has_no_names_for():
    x = image = keras.Input((8, 8, 3))
    for name in ("stack1_block1_gate_conv1", "main_local_conv"):  # of osnet(neck="fblneck")
        x = keras.layers.Conv2D(3, 1, name=name)(x)
    with pytest.raises(ValueError, match=r"Expected an OSNet with its dense neck.* with the layers main_local_conv\."):
        to_torch(keras.Model(image, x))
