"""ImageNet ResNets: counts and arithmetic of the paper's tables, the release's numbers, what is refused."""

import keras
import numpy as np
import pytest
from networks import assert_names_of_the_release, counts, multiply_adds, multiply_adds_of_the_release

import dhm_keras as dhm
from dhm_keras.models import Branch, imagenet_resnet

# Spec: the authors' release, counted by PyTorch.
COUNTS = {
    "resnet18": {"main": 11_689_512, "aux1": 31_968_232, "aux2": 9_825_768, "aux3": 10_055_912},
    "resnet34": {"main": 21_797_672, "aux1": 50_846_696, "aux2": 12_187_112},
    "resnet50": {"main": 25_557_032, "aux1": 58_668_008, "aux2": 16_297_960},
    "resnet101": {"main": 44_549_160, "aux1": 58_668_008, "aux2": 26_352_616},
    "resnet152": {"main": 60_192_808, "aux1": 58_668_008, "aux2": 33_055_720},
}
MACS = multiply_adds_of_the_release()


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in COUNTS if name != "resnet18")]
)
def test_parameters_and_multiply_adds_per_head(name):
    network = dhm.models.get(name, branches=[head for head in COUNTS[name] if head != "main"])
    assert network.input_shape == (None, 224, 224, 3) and network.output["main"].shape == (None, 1000)
    assert counts(network) == COUNTS[name]
    macs = multiply_adds(network)
    if name == "resnet18":  # the ablation's third branch, in millions
        assert round(macs.pop("aux3") / 1e6, 2) == 771.22
    if name in MACS:
        assert macs == MACS[name]
    else:
        assert name == "resnet34" and round(macs["main"] / 1e6, 1) == 3663.8
    if name in ("resnet50", "resnet101", "resnet152"):
        assert_names_of_the_release(network, f"imagenet/{name}")


def test_a_stage_of_blocks_and_a_small_image():
    network = imagenet_resnet((1, 1, 1, 1), True, 7, {"aux1": Branch(3, (1,), (32,))}, input_shape=(65, 33, 3))
    shapes = [network.get_layer(f"stack{stage}_block1_out").output.shape[1:] for stage in (1, 2, 3, 4)]
    assert shapes == [(17, 9, 256), (9, 5, 512), (5, 3, 1024), (3, 2, 2048)]  # every halving rounds up
    assert network.get_layer("aux1_stack4_block1_out").output.shape[1:] == (3, 2, 128)
    strides = [network.get_layer(f"stack2_block1_conv{number}").strides[0] for number in (1, 2, 3)]
    assert strides == [1, 2, 1]  # a bottleneck's is on the 3x3


def test_the_max_pool_sees_no_pixel_that_is_not_there():
    network = imagenet_resnet((1, 1, 1, 1), False, 7, {}, input_shape=(16, 16, 3))
    stem = keras.Model(network.input, [network.get_layer(name).output for name in ("bn_relu", "pool")])
    before, after = stem.predict(np.random.default_rng(0).standard_normal((2, 16, 16, 3)), verbose=0)
    padded = np.pad(before, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(after, windows.max((-2, -1)))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: dhm.models.resnet50(branches=("aux3",)), "resnet50 has the branches ('aux1', 'aux2')"),
        (lambda: dhm.models.resnet18(branches={"aux1": Branch(4, (), ())}), "tap from 1 to 3"),
        (lambda: dhm.models.resnet18(branches={"aux1": Branch(1, (1, 1), (64, 64))}), "each of the 3 stages"),
        (lambda: dhm.models.resnet18(bottleneck=True), "resnet18 has {'bottleneck': False}"),
        (lambda: imagenet_resnet((3, 4, 6), True, 10, {}), "four integers"),
        (lambda: imagenet_resnet((3, 4, 6, 0), True, 10, {}), "`blocks`"),
        (lambda: dhm.models.resnet18(input_shape=(224, 0, 3)), "`input_shape`"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value) and "Received" in str(error.value)
