"""CIFAR networks: counts of the paper's tables, the release's numbers, the registry, depth."""

import keras
import numpy as np
import pytest
from networks import (
    RESNET8,
    assert_names_of_the_release,
    counts,
    densenet10,
    densenet_bc16,
    inferred,
    multiply_adds,
    multiply_adds_of_the_release,
    resnet8,
    sgd,
    wrn10,
)

import dhm_keras as dhm
from dhm_keras.models import Branch, cifar_resnet, densenet, wide_resnet

HEADS = ("main", "aux1", "aux2")


# Table 1's networks; spec: the authors' release, counted by PyTorch. The default stem of the DenseNets is the paper's.
COUNTS = {
    "resnet32": (470_004, 1_379_428, 298_212),
    "resnet110": (1_733_812, 5_219_940, 816_356),
    "densenet40": (1_100_428, 2_071_108, 671_836),
    "densenet100": (7_189_468, 14_281_588, 2_532_964),
    "densenetbc100": (800_032, 4_942_888, 599_944),
    "wrn16_8": (11_007_540, 31_044_196, 5_822_820),
}

MACS = multiply_adds_of_the_release()
RELEASE = {"densenet40": "densenet40_12", "densenet100": "densenet100_12", "densenetbc100": "densenet_bc100_12"}
STATE_DICTS = {
    "resnet32": "cifar/resnet32",
    "resnet110": "cifar/resnet110",
    "densenetbc100": "cifar/densenet_bc_100_12",
    "wrn16_8": "cifar/wrn_16_8",
}


@pytest.mark.parametrize("name, expected", COUNTS.items())
def test_parameters_per_head(name, expected):
    network = dhm.models.get(name)
    assert counts(network) == dict(zip(HEADS, expected))
    assert sum(int(np.prod(v.shape)) for v in dhm.DHM(network).main.trainable_variables) == expected[0]
    assert counts(dhm.models.get(name, branches=())) == {"main": expected[0]}
    if name not in ("densenet40", "densenet100"):  # the release's have another stem
        assert multiply_adds(network) == MACS[RELEASE.get(name, name)]
        assert_names_of_the_release(network, STATE_DICTS[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, kwargs, state_dict, expected",
    [
        ("wrn28_10", {"dropout": 0.3}, "cifar/wrn_28_10", (36_536_884, 107_464_420, 20_145_060)),
        ("densenet40", {"stem_filters": 16}, "cifar/densenet_40_12", (1_060_132, 2_038_996, 650_236)),
        ("densenet100", {"stem_filters": 16}, "cifar/densenet_100_12", (7_084_852, 14_197_316, 2_494_436)),
    ],
)
def test_parameters_per_head_of_the_largest_and_of_the_releases_stem(name, kwargs, state_dict, expected):
    network = dhm.models.get(name, **kwargs)
    assert counts(network) == dict(zip(HEADS, expected))
    assert multiply_adds(network) == MACS[RELEASE.get(name, name)]
    assert_names_of_the_release(network, state_dict)


GOLDEN = {"cifar_resnet8": resnet8, "densenet10_k8": densenet10, "densenet_bc16_k8": densenet_bc16, "wrn10_1": wrn10}


def of_prefix(g, prefix):
    """The entries of a golden file under a prefix, by the rest of their names."""
    return {key.removeprefix(prefix): g[key] for key in g.files if key.startswith(prefix)}


@pytest.mark.parametrize("name", GOLDEN)
def test_forward_pass_and_two_training_steps_equal_the_release(name, golden, float64):
    g = golden(name)
    network = GOLDEN[name]()
    dhm.interop.load_torch(network, of_prefix(g, "before/"))
    logits = inferred(network, g["x"][0])
    for i, head in enumerate(HEADS):
        np.testing.assert_allclose(logits[head], g[f"eval_logits_{i}"], atol=1e-6)

    model = dhm.DHM(network)
    is_eager = keras.backend.backend() == "tensorflow"  # the next test has the compiled step
    model.compile(optimizer=dhm.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4), run_eagerly=is_eager)
    for step in range(2):
        logs = model.train_on_batch(g["x"][step], g["y"][step], return_dict=True)
        model.reset_metrics()
        assert logs["loss"] == pytest.approx(float(g[f"step{step}_total"]), abs=2e-6)
        for i, head in enumerate(HEADS):
            assert logs[f"{head}_ce"] == pytest.approx(g[f"step{step}_ce"][i], abs=1e-6)
            for j, student in enumerate(HEADS):
                if i != j:
                    expected = g[f"step{step}_kl_teacher_student"][i, j]
                    assert logs[f"mimic_{head}_to_{student}"] == pytest.approx(expected, abs=1e-6)

    logits = inferred(network, g["x"][0])
    for i, head in enumerate(HEADS):
        np.testing.assert_allclose(logits[head], g[f"after_eval_logits_{i}"], atol=1e-6)
    after = dhm.interop.to_torch(network)
    for key, expected in of_prefix(g, "after/").items():
        np.testing.assert_allclose(after[key], expected, atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_float32_and_the_fused_kernel_give_the_releases_numbers_too(name, golden):
    g = golden(name)
    network = GOLDEN[name]()
    dhm.interop.load_torch(network, of_prefix(g, "before/"))
    model = dhm.DHM(network)
    model.compile(optimizer=dhm.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4))
    for step in range(2):
        logs = model.train_on_batch(g["x"][step], g["y"][step], return_dict=True)
        model.reset_metrics()
        assert logs["loss"] == pytest.approx(float(g[f"step{step}_total"]), rel=1e-5)


def test_dropout_is_between_the_convolutions_and_in_training_only():
    plain, dropping = wrn10(), wrn10(dropout=0.3)
    layers = [layer for layer in dropping.layers if isinstance(layer, keras.layers.Dropout)]
    assert len(layers) == 6 and all(layer.rate == 0.3 for layer in layers)  # a block of main's three, two and one
    for layer in layers:
        name = layer.name.removesuffix("_dropout")
        assert layer.input is dropping.get_layer(f"{name}_bn2_relu").output
        assert dropping.get_layer(f"{name}_conv2").input is layer.output
    dropping.set_weights(plain.get_weights())
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(inferred(dropping, images)["main"], inferred(plain, images)["main"])
    draws = [keras.ops.convert_to_numpy(dropping(images, training=True)["main"]) for _ in range(2)]
    assert np.abs(draws[0] - draws[1]).max() > 1e-3


def test_a_widening_blocks_shortcut_shares_the_first_activation():
    network = wide_resnet(2, 2, 10, {})  # the golden network, with k = 1, does not widen in stage 1
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        shortcut = network.get_layer(f"stack{stage}_block1_shortcut")
        assert shortcut.input is network.get_layer(f"stack{stage}_block1_bn1_relu").output
        assert shortcut.input is network.get_layer(f"stack{stage}_block1_conv1").input or stride == 2  # padded first
        assert shortcut.strides == (stride, stride) and shortcut.kernel_size == (1, 1)
        assert f"stack{stage}_block2_shortcut" not in {layer.name for layer in network.layers}


def test_a_transition_rounds_its_channels_down():
    network = densenet(1, 3, 10, {}, compression=0.5)  # 6 + 3 channels, of which 4 are kept, + 3 of which 3
    assert network.get_layer("transition1_pool").output.shape[1:] == (16, 16, 4)
    assert network.get_layer("transition2_pool").output.shape[1:] == (8, 8, 3)
    assert network.get_layer("main_pool").output.shape[1:] == (6,)


def test_registry():
    assert dhm.models.names() == [
        *("cdnet", "cdnet_top1", "cdnet_top2", "cdnet_top3", "cdnet_top4"),
        *("cnet_top1", "cnet_top2", "cnet_top3", "cnet_top4"),
        *("densenet100", "densenet40", "densenetbc100", "mobilenet"),
        *("osnet_x0_25", "osnet_x0_5", "osnet_x0_75", "osnet_x1_0"),
        *("resnet101", "resnet110", "resnet1202", "resnet152", "resnet18", "resnet20", "resnet32", "resnet34"),
        *("resnet50", "resnet56"),
        *("wrn16_8", "wrn28_10"),
    ]
    network = dhm.models.get("resnet20", num_classes=7, branches=("aux2",), name="mine")
    assert network.name == "mine" and set(network.output) == {"main", "aux2"}
    assert network.output["main"].shape == (None, 7)
    with pytest.raises(ValueError, match="Did you mean 'resnet32'"):
        dhm.models.get("resnet-32")


def test_layer_names_say_where_a_layer_is():
    names = {layer.name for layer in dhm.models.resnet20().layers}
    assert {
        "conv",
        "stack3_block3_conv1",
        "aux1_stack3_block3_bn2",
        "aux2_stack2_block1_shortcut_pool",
        "aux2",
    } <= names


def test_raw_images_are_normalised_by_the_network():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    raw = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("uint8")
    with_layer, without = resnet8(normalization=(mean, std)), resnet8()
    without.set_weights(with_layer.get_weights())
    by_hand = ((raw / 255 - mean) / std).astype("float32")
    for image in (raw, raw.astype("float32")):
        np.testing.assert_allclose(inferred(with_layer, image)["main"], inferred(without, by_hand)["main"], atol=1e-5)


def test_initial_weights_have_the_releases_distributions():
    network = cifar_resnet(1, 100, {"aux1": Branch(2, (1,), (512,))})
    kernel = keras.ops.convert_to_numpy(network.get_layer("aux1_stack3_block1_conv2").kernel.value)
    std = np.sqrt(2 / (9 * 512))  # fan-out, not truncated: a truncated normal has no value beyond 2.3 std
    assert kernel.std() == pytest.approx(std, rel=0.01) and np.abs(kernel).max() > 4 * std
    dense = network.get_layer("aux1")
    for weight in (dense.kernel, dense.bias):
        weight = keras.ops.convert_to_numpy(weight.value)
        assert 0.9 * 512**-0.5 < np.abs(weight).max() <= 512**-0.5


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: dhm.models.resnet32(branches=("aux3",)), "has the branches ('aux1', 'aux2')"),
        (lambda: resnet8({"aux1": Branch(3, (), ())}), "tap from 1 to 2"),
        (lambda: resnet8({"aux1": Branch(1, (1,), (32,))}), "each of the 2 stages"),
        (lambda: resnet8({"aux1": Branch(2, (0,), (64,))}), "at least one block"),
        (lambda: resnet8({"aux1": Branch(2, (1,), (8,))}), "32 channels"),
        (lambda: resnet8({"aux1": Branch(1, (1, 1), (64, 32))}), "no stage narrower than the one before"),
        (lambda: dhm.models.resnet32(branches="aux1"), "names out of"),
        (lambda: dhm.models.resnet32(branches=None), "names out of"),
        (lambda: resnet8({"aux1": (2, (1,), (64,))}), "Expected a `dhm_keras.models.Branch"),
        (lambda: Branch(2, 1, 128), "`blocks` of a Branch"),
        (lambda: resnet8({"aux1": RESNET8["aux2"], "aux2": RESNET8["aux1"]}), "aux1 the deepest"),
        (lambda: resnet8({"main": Branch(2, (1,), (64,))}), "other than 'main'"),
        (lambda: resnet8({"aux1": Branch(2, (1,), (0,))}), "one channel a block"),
        (lambda: resnet8(num_classes=0), "`num_classes`"),
        (lambda: wide_resnet(0, 8, 10, {}), "`blocks`"),
        (lambda: wide_resnet(1, 0.5, 10, {}), "`widen`"),
        (lambda: wrn10(dropout=1.0), "`dropout`"),
        (lambda: dhm.models.wrn16_8(branches=("aux4",)), "wrn16_8 has the branches"),
        (lambda: densenet(1, 0, 10, {}), "`growth`"),
        (lambda: densenet10(compression=0.0), "`compression`"),
        (lambda: densenet10(stem_filters=0), "`stem_filters`"),
        (lambda: densenet(1, 1, 10, {}, compression=0.1), "leaves a channel of the 3 before transition1"),
        (lambda: dhm.models.densenet40(growth=24), "densenet40 has {'growth': 12}. Use dhm_keras.models.densenet"),
        (lambda: dhm.models.wrn16_8(blocks=3), "wrn16_8 has {'blocks': 2}"),
        (lambda: resnet8(input_shape=(30, 30, 3)), "divisible by 4"),
        (lambda: resnet8(("aux1",)), "dict from name"),
        (lambda: resnet8(normalization=((0.5,), (0.25,))), "`normalization`"),
        (lambda: resnet8(normalization=(0.5, 0.25)), "`normalization`"),
        (lambda: resnet8(normalization=((0.5,) * 3, (0.25, 0.25, 0.0))), "`normalization`"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value) and "Received" in str(error.value)


@pytest.mark.slow
def test_resnet1202_builds_saves_loads_and_trains_a_step(tmp_path):
    network = dhm.models.resnet1202(num_classes=100)
    assert counts(network) == {"main": 19_427_124, "aux1": 58_987_108, "aux2": 9_237_860}
    model = dhm.DHM(network)
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
    model.main.save(tmp_path / "main.keras")
    main = keras.models.load_model(tmp_path / "main.keras")
    for weight, loaded in zip(model.main.get_weights(), main.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, weight)
    assert inferred(main, images).shape == (4, 100)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    model.compile(optimizer=sgd(), run_eagerly=keras.backend.backend() == "tensorflow")
    logs = model.train_on_batch(images, np.arange(4), return_dict=True)
    assert np.isfinite(logs["loss"])


def test_a_branch_alone_is_that_branch():
    network = resnet8()
    alone = dhm.models.alone(network, "aux2")
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(inferred(alone, images)["main"], inferred(network, images)["aux2"])
    names = {layer.name for layer in alone.layers}
    assert "stack1_block1_conv2" in names and not any(name.startswith(("aux1", "stack2", "main")) for name in names)
    model = dhm.DHM(alone, method="baseline")
    model.compile(optimizer=sgd())
    before = network.get_layer("aux2_stack3_block1_conv2").get_weights()[0]
    model.train_on_batch(images, np.array([1, 2]))
    assert np.abs(network.get_layer("aux2_stack3_block1_conv2").get_weights()[0] - before).max() > 0
    with pytest.raises(ValueError, match=r"Expected one of \['aux1', 'aux2', 'main'\]. Received: 'aux3'"):
        dhm.models.alone(network, "aux3")


def test_branches_by_name():
    assert list(dhm.models.branches("resnet18")) == ["aux1", "aux2", "aux3"]
    assert dhm.models.branches("resnet32")["aux1"] == Branch(2, (5,), (128,))
    with pytest.raises(ValueError, match="Did you mean 'wrn16_8'"):
        dhm.models.branches("wrn-16-8")
