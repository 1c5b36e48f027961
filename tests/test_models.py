"""CIFAR ResNets: counts of the paper's tables, the release's numbers, the registry, depth."""

import keras
import numpy as np
import pytest
from networks import RESNET8, from_torch, resnet8, sgd, torch_name

import dhm_keras as dhm
from dhm_keras.models import Branch, cifar_resnet

HEADS = ("main", "aux1", "aux2")


def counts(network):
    """Trainable parameters per head."""
    of = dict.fromkeys(HEADS, 0)
    for variable in network.trainable_variables:
        head = next((h for h in HEADS[1:] if variable.path.startswith((f"{h}_", f"{h}/"))), "main")
        of[head] += int(np.prod(variable.shape))
    return tuple(of.values())


@pytest.mark.parametrize(
    "name, expected",
    [("resnet32", (470_004, 1_379_428, 298_212)), ("resnet110", (1_733_812, 5_219_940, 816_356))],
)
def test_parameters_per_head_equal_the_releases(name, expected):
    network = dhm.models.get(name)
    assert counts(network) == expected
    assert sum(int(np.prod(v.shape)) for v in dhm.DHM(network).main.trainable_variables) == expected[0]
    assert counts(dhm.models.get(name, branches=())) == (expected[0], 0, 0)


def test_forward_pass_and_two_training_steps_equal_the_release(golden, float64):
    g = golden("cifar_resnet8")
    network = resnet8()
    for variable in network.variables:
        variable.assign(from_torch(g[f"before/{torch_name(variable.path)}"]))
    logits = network.predict(g["x"][0], verbose=0)
    for i, head in enumerate(HEADS):
        np.testing.assert_allclose(logits[head], g[f"eval_logits_{i}"], atol=1e-6)

    model = dhm.DHM(network)
    model.compile(optimizer=dhm.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4))
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

    logits = network.predict(g["x"][0], verbose=0)
    for i, head in enumerate(HEADS):
        np.testing.assert_allclose(logits[head], g[f"after_eval_logits_{i}"], atol=1e-6)
    compared = 0
    for variable in network.variables:
        name = f"after/{torch_name(variable.path)}"
        if name in g.files:
            value = keras.ops.convert_to_numpy(variable.value)
            np.testing.assert_allclose(value, from_torch(g[name]), atol=1e-6)
            compared += 1
    assert compared == sum(key.startswith("after/") for key in g.files)


def test_float32_and_the_fused_kernel_give_the_releases_numbers_too(golden):
    g = golden("cifar_resnet8")
    network = resnet8()
    for variable in network.variables:
        variable.assign(from_torch(g[f"before/{torch_name(variable.path)}"]))
    model = dhm.DHM(network)
    model.compile(optimizer=dhm.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4))
    for step in range(2):
        logs = model.train_on_batch(g["x"][step], g["y"][step], return_dict=True)
        model.reset_metrics()
        assert logs["loss"] == pytest.approx(float(g[f"step{step}_total"]), rel=1e-5)


def test_registry():
    assert dhm.models.names() == ["resnet110", "resnet1202", "resnet20", "resnet32", "resnet56"]
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
        np.testing.assert_allclose(
            with_layer.predict(image, verbose=0)["main"], without.predict(by_hand, verbose=0)["main"], atol=1e-5
        )


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
        (lambda: resnet8({"aux1": Branch(3, (), ())}), "tap 1 or 2"),
        (lambda: resnet8({"aux1": Branch(1, (1,), (32,))}), "each of the 2 stages"),
        (lambda: resnet8({"aux1": Branch(2, (0,), (64,))}), "at least one block"),
        (lambda: resnet8({"aux1": Branch(2, (1,), (8,))}), "32 channels"),
        (lambda: resnet8({"aux1": Branch(1, (1, 1), (64, 32))}), "no stage narrower than the one before"),
        (lambda: dhm.models.resnet32(branches="aux1"), "names out of"),
        (lambda: dhm.models.resnet32(branches=None), "names out of"),
        (lambda: resnet8({"aux1": (2, (1,), (64,))}), "Expected a `Branch`"),
        (lambda: Branch(2, 1, 128), "`blocks` of a Branch"),
        (lambda: resnet8({"aux1": RESNET8["aux2"], "aux2": RESNET8["aux1"]}), "aux1 the deepest"),
        (lambda: resnet8({"main": Branch(2, (1,), (64,))}), "other than 'main'"),
        (lambda: resnet8(num_classes=0), "`num_classes`"),
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
    assert counts(network) == (19_427_124, 58_987_108, 9_237_860)
    model = dhm.DHM(network)
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
    model.main.save(tmp_path / "main.keras")
    main = keras.models.load_model(tmp_path / "main.keras")
    for weight, loaded in zip(model.main.get_weights(), main.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, weight)
    assert main.predict(images, verbose=0).shape == (4, 100)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    model.compile(optimizer=sgd())
    logs = model.train_on_batch(images, np.arange(4), return_dict=True)
    assert np.isfinite(logs["loss"])
