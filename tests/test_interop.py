"""Weights from PyTorch: the release's names, shapes and logits, which heads, what does not fit and how that is told."""

import keras
import numpy as np
import pytest
from networks import (
    RAW,
    assert_names_of_the_release,
    assert_same,
    densenet10,
    densenet_bc16,
    inferred,
    resnet8,
    state_dicts_of_the_release,
    tiny,
    with_other_weights,
    wrn10,
)

import dhm_keras as dhm
from dhm_keras.interop import load_torch, save_torch, to_torch
from dhm_keras.models import Branch, imagenet_resnet

GOLDEN = {"cifar_resnet8": resnet8, "densenet10_k8": densenet10, "densenet_bc16_k8": densenet_bc16, "wrn10_1": wrn10}
HEADS = ("main", "aux1", "aux2")
KEYS = state_dicts_of_the_release()


def before(g):
    """The release's state dict in a golden file."""
    return {key.removeprefix("before/"): g[key] for key in g.files if key.startswith("before/")}


def of_main(state):
    return {name: array for name, array in state.items() if "_head" not in name}


@pytest.mark.parametrize(
    "name, ours, arguments",
    [("cifar/densenet_40_12", "densenet40", {"stem_filters": 16}), ("imagenet/resnet18", "resnet18", {})],
)
def test_names_shapes_and_order_are_the_releases(name, ours, arguments):
    """The others are looked at where they are built, in test_models.py and test_imagenet_models.py."""
    assert_names_of_the_release(dhm.models.get(ours, **arguments), name)


def test_the_ablations_third_branch_is_head3():
    branches = {f"aux{i}": Branch(4 - i, (1,) * i, (8, 16, 32)[:i]) for i in (1, 2, 3)}
    names = list(to_torch(imagenet_resnet((1, 1, 1, 1), False, 10, branches, (32, 32, 3))))
    assert "layer2_head3.0.downsample.1.running_var" in names and "fc_head3.bias" in names
    firsts = [names.index(f"fc{suffix}.weight") for suffix in ("", "_head3", "_head2", "_head1")]
    assert firsts == sorted(firsts) and names[-1] == "fc_head1.bias"


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_networks_give_the_releases_logits(name, golden, tmp_path):
    g, network = golden(name), GOLDEN[name]()
    np.savez(tmp_path / "golden.npz", **{f"module.{key}": array for key, array in before(g).items()})
    load_torch(network, tmp_path / "golden.npz")
    logits = inferred(network, g["x"][0])
    for i, head in enumerate(HEADS):
        np.testing.assert_allclose(logits[head], g[f"eval_logits_{i}"], atol=1e-4)
    back = {key: array for key, array in to_torch(network).items() if "num_batches" not in key}
    assert_same(before(g), back)  # bit for bit, in the release's order

    main = dhm.DHM(GOLDEN[name]()).main
    load_torch(main, before(g), heads=["main"])
    np.testing.assert_allclose(inferred(main, g["x"][0]), g["eval_logits_0"], atol=1e-4)


def by_rule(name):
    """The state dict that golden/imagenet_by_rule.npz was computed with, and the image."""
    rng = np.random.default_rng(0)
    state = {}
    for key, shape in KEYS[f"imagenet/{name}"].items():
        if key.endswith(("running_mean", "bias")):
            state[key] = 0.1 * rng.standard_normal(shape)
        elif key.endswith("running_var"):
            state[key] = 0.5 + rng.random(shape)
        elif len(shape) == 1:
            state[key] = 0.5 + 0.5 * rng.random(shape)
        elif not key.endswith("num_batches_tracked"):
            state[key] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return state, rng.standard_normal((1, 224, 224, 3))


def assert_the_releases_logits_by_rule(name, golden, tolerance):
    g = golden("imagenet_by_rule")
    network = dhm.models.get(name)
    state, image = by_rule(name)
    load_torch(dhm.DHM(network), state)
    logits = inferred(network, image)
    for i, head in enumerate(HEADS):  # their standard deviation is 6 to 12
        np.testing.assert_allclose(logits[head], g[f"{name}_logits_{i}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_imagenet_networks_give_the_releases_logits(name, golden):
    assert_the_releases_logits_by_rule(name, golden, 1e-4)


@pytest.mark.slow
@pytest.mark.tensorflow  # JAX has no float64 unless its settings allow it
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_networks_give_the_releases_logits_in_float64(name, golden, float64):
    assert_the_releases_logits_by_rule(name, golden, 1e-5)  # the golden logits are float32


@pytest.fixture(scope="module")
def network():
    return with_other_weights(resnet8(normalization=RAW))


def test_a_state_dict_for_a_strict_load(network):
    state = to_torch(network)
    for name, array in state.items():
        counts = name.endswith("num_batches_tracked")
        assert array.dtype == ("int64" if counts else "float32") and (array.shape == ()) == counts
        assert array.flags.c_contiguous and array.flags.writeable, name  # as torch.from_numpy wants it
    assert_same(of_main(state), to_torch(dhm.DHM(network).main))
    state["conv1.weight"][:] = 0  # a copy: the network keeps its own
    assert to_torch(network)["conv1.weight"].all()


@pytest.mark.parametrize("mixed", ["mixed_bfloat16", "bfloat16"], indirect=True)
def test_back_from_bfloat16_are_float32_numbers(mixed):
    assert {array.dtype.name for array in to_torch(resnet8()).values()} == {"float32", "int64"}


def test_torchvisions_weights_start_a_network_with_branches(network):
    state = of_main(to_torch(network))
    other = resnet8(num_classes=7)
    initial = to_torch(other)
    load_torch(dhm.DHM(other), state, heads=("main",), classifier=False)
    for name, array in to_torch(other).items():
        loads = name in state and not name.startswith("fc.")
        np.testing.assert_array_equal(array, (state if loads else initial)[name])


def test_one_branch_of_a_checkpoint(network):
    other = resnet8({"aux2": Branch(1, (1, 1), (32, 64))})
    load_torch(other, to_torch(network), heads=("main", "aux2"))
    assert_same({name: array for name, array in to_torch(network).items() if "_head1" not in name}, to_torch(other))


def changed(state, **arrays):
    """The state dict with some entries changed, or, where they are `None`, left out."""
    state = {**state, **{name.replace("__", "."): array for name, array in arrays.items()}}
    return {name: array for name, array in state.items() if array is not None}


NAN, WIDE = np.full(16, np.nan, "float32"), np.full(16, 1e300)
NOT_FINITE = ["not finite floating-point numbers (1): bn1.bias"]
DOES_NOT_FIT = {
    "a missing and an unexpected name": (
        lambda s: {**changed(s, bn1__bias=None), "bn2.bias": s["bn1.bias"]},
        ["missing (1): bn1.bias", "unexpected (1): bn2.bias", "Build the network that the weights are of."],
    ),
    "other shapes": (
        lambda s: changed(s, bn1__bias=np.ones(3), layer1__0__conv1__weight=np.ones((16, 16, 1, 1))),
        ["misshapen (2): bn1.bias (3,) instead of (16,), layer1.0.conv1.weight (16, 16, 1, 1) instead of (16, "],
    ),
    "a dense kernel in Keras's layout": (
        lambda s: changed(s, fc__weight=s["fc.weight"].T),
        ["fc.weight (64, 10) instead of (10, 64)", "Build the network"],
    ),
    "main alone": (
        of_main,
        ["missing (34): layer2_head2.0.conv1.weight, ", ", ... and 24 more", "heads=('main',) loads these alone"],
    ),
    "no classifiers": (
        lambda s: {name: array for name, array in s.items() if not name.startswith("fc")},
        ["missing (6): fc.weight, fc.bias, fc_head2", "keep the network's own with classifier=False"],
    ),
    "nothing": (lambda s: {}, ["missing (71): conv1.weight", "of the heads (), wanted are ('main', 'aux1', 'aux2')."]),
    "no numbers": (lambda s: changed(s, bn1__bias=NAN), NOT_FINITE),
    "numbers beyond float32": (lambda s: changed(s, bn1__bias=WIDE), NOT_FINITE),
    "integers": (lambda s: changed(s, bn1__bias=np.ones(16, "int64")), NOT_FINITE),
    "a negative variance": (
        lambda s: changed(s, bn1__running_var=-s["bn1.running_var"]),
        ["negative variances (1): bn1.running_var"],
    ),
}


@pytest.mark.parametrize("case", DOES_NOT_FIT)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(network, case, tmp_path):
    change, words = DOES_NOT_FIT[case]
    np.savez(tmp_path / "wrong.npz", **change(to_torch(network)))
    other = resnet8()
    initial = to_torch(other)
    with pytest.raises(ValueError) as error:
        load_torch(other, tmp_path / "wrong.npz")
    for part in (f"{tmp_path / 'wrong.npz'} does not fit 'cifar_resnet'; nothing was loaded.", *words):
        assert part in str(error.value)
    assert_same(initial, to_torch(other))


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: resnet8(branches={}), "unexpected (34): layer2_head2.0.conv1.weight"),
        (lambda: resnet8(branches={}), "wanted are ('main',): heads=('main',) loads these alone"),
        (lambda: resnet8(num_classes=7), "misshapen (6): fc.weight (10, 64) instead of (7, 64)"),
        (lambda: resnet8(num_classes=7), "build the network with num_classes=10, or keep the network's own with"),
        (lambda: wrn10(), "missing (18): conv.weight, layer2.0.shortcut.weight"),
    ],
)
def test_another_network_is_told_what_to_be(network, build, words):
    with pytest.raises(ValueError) as error:
        load_torch(build(), to_torch(network))
    assert words in str(error.value) and "The state dict does not fit" in str(error.value)


def test_the_releases_densenets_lead_to_their_stem(golden):
    with pytest.raises(ValueError) as error:
        load_torch(densenet10(stem_filters=24), before(golden("densenet10_k8")))
    assert "conv1.weight (16, 3, 3, 3) instead of (24, 3, 3, 3)" in str(error.value)
    assert str(error.value).endswith("\n  Build the DenseNet with stem_filters=16.")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda n: load_torch(tiny(), {}), "names in the authors' release. Received: 'tiny' with the layers stem0, "),
        (lambda n: to_torch(keras.Sequential([keras.Input((2,))], name="none")), "'none' with no weights"),
        (lambda n: to_torch("resnet32"), "`model`. Expected a network of dhm_keras.models, or a `DHM`"),
        (lambda n: load_torch(n, {}, heads="main"), "`heads`. Expected some of ('main', 'aux1', 'aux2')"),
        (lambda n: load_torch(n, {}, heads=("aux3",)), "Received: ('aux3',)"),
        (lambda n: load_torch(n, {}, heads=()), "Received: ()"),
        (lambda n: load_torch(n, n), "as module.state_dict() gives it. Received: Network"),
        (lambda n: load_torch(n, {"epoch": 3, "model": {}}), "other things than tensors: epoch (int), model (dict)"),
        (lambda n: load_torch(n, {0: np.ones(3)}), "holds no state dict"),
        (lambda n: load_torch(n, "resnet.h5"), "ends in one of ('.pth', '.pt', '.tar', '.safetensors', '.npz')"),
        (lambda n: save_torch(n, "resnet.keras"), "ends in one of ('.pth', '.pt', '.tar', '.safetensors', '.npz')"),
    ],
)
def test_wrong_arguments_are_refused(network, call, words):
    with pytest.raises(ValueError) as error:
        call(network)
    assert words in str(error.value)


def test_a_branch_alone_gets_its_weights_with_the_network_that_it_is_of(network):
    whole = resnet8(normalization=RAW)
    alone = dhm.models.alone(whole, "aux2")
    with pytest.raises(ValueError, match="is a branch by itself"):
        load_torch(alone, to_torch(network))
    load_torch(whole, to_torch(network))
    image = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype("float32")
    expected = network.predict(image, verbose=0)["aux2"]
    np.testing.assert_allclose(alone.predict(image, verbose=0)["main"], expected, rtol=1e-5)
