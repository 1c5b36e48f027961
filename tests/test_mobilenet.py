"""MobileNet and ResNet-50 for re-identification: counts and arithmetic, layers, initial weights, what is refused."""

import keras
import numpy as np
import pytest
from networks import counts, inferred, multiply_adds, sgd

import dhm_keras as dhm
from dhm_keras.models import Branch, mobilenet

HEADS = ("main", "aux1", "aux2")
# Spec: the readings of Tables 9 and 10 counted by hand, for the persons of Market-1501 and DukeMTMC-reID.
COUNTS = {
    ("mobilenet", 751): (3_976_751, 6_818_031, 3_304_943),
    ("mobilenet", 702): (3_926_526, 6_717_630, 3_254_718),
    ("resnet50", 751): (25_046_831, 57_647_855, 15_787_759),
    ("resnet50", 702): (24_946_430, 57_447_102, 15_687_358),
}
MILLIONS = {  # of multiply-adds, by the last stride
    ("mobilenet", 1): (371.52, 170.05, 171.05),
    ("mobilenet", 2): (346.14, 68.94, 145.66),
    ("resnet50", None): (2670.69, 1848.57, 915.90),
}


@pytest.mark.parametrize(
    "name, num_classes",
    [key if key == ("mobilenet", 751) else pytest.param(*key, marks=pytest.mark.slow) for key in COUNTS],
)
def test_parameters_and_multiply_adds_per_head(name, num_classes):
    strides = (1, 2) if (name, num_classes) == ("mobilenet", 751) else (1,) if name == "mobilenet" else (None,)
    for stride in strides:
        kwargs = {"last_stride": stride} if stride else {}
        network = dhm.models.get(name, num_classes=num_classes, input_shape=(256, 128, 3), **kwargs)
        assert counts(network) == dict(zip(HEADS, COUNTS[name, num_classes]))
        if num_classes == 751:
            macs = {head: round(count / 1e6, 2) for head, count in multiply_adds(network).items()}
            assert macs == dict(zip(HEADS, MILLIONS[name, stride]))
            assert dhm.analysis.multiply_adds(network) == sum(multiply_adds(network).values())


def test_the_backbone_is_the_published_mobilenet():
    network = mobilenet(1000, branches=(), input_shape=(224, 224, 3))
    assert counts(network) == {"main": 4_231_976}  # "4.2 million", "569 million mult-adds"
    assert round(multiply_adds(network)["main"] / 1e6, 2) == 568.74


def test_the_shapes_of_the_stages_and_of_the_branches():
    network = mobilenet()
    assert network.input_shape == (None, 256, 128, 3) and network.output["main"].shape == (None, 751)
    of = lambda name: network.get_layer(name).output.shape[1:]
    assert [of(name) for name in ("bn_relu", "stack3_block2_bn2_relu", "stack4_block6_bn2_relu")] == [
        *((128, 64, 32), (32, 16, 256), (16, 8, 512)),
    ]
    ends = ("stack5_block2_bn2_relu", "aux1_stack5_block2_bn2_relu", "aux2_stack5_block2_bn2_relu")
    assert [of(name) for name in ends] == [(8, 4, 1024), (8, 4, 2048), (8, 4, 1024)]
    for head, tap in (("aux1", "stack4_block6_bn2_relu"), ("aux2", "stack3_block2_bn2_relu")):
        first = network.get_layer(f"{head}_stack{5 if head == 'aux1' else 4}_block1_conv1_pad")
        assert first.input is network.get_layer(tap).output
    assert list(dhm.models.branches("mobilenet")) == ["aux1", "aux2"]


def test_a_strided_convolution_is_padded_alike_on_every_side():
    network = mobilenet(3, branches=(), input_shape=(32, 16, 3))
    layer = network.get_layer("stack2_block1_conv1")
    part = keras.Model(network.input, [network.get_layer("stack1_block1_bn2_relu").output, layer.output])
    images = np.random.default_rng(0).standard_normal((2, 32, 16, 3)).astype("float32")
    before, after = map(np.asarray, inferred(part, images))
    padded = np.pad(before, [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    kernel = keras.ops.convert_to_numpy(layer.kernel.value)[..., 0]
    np.testing.assert_allclose(after, np.einsum("bhwcij,ijc->bhwc", windows, kernel), atol=1e-4)


def test_initial_weights_have_pytorchs_distributions():
    network = mobilenet(3, branches=("aux1",), input_shape=(32, 16, 3))
    for name, fan in (("aux1_stack5_block2_conv1", 9 * 2048), ("stack5_block2_conv2", 1024), ("conv", 9 * 32)):
        kernel = keras.ops.convert_to_numpy(network.get_layer(name).kernel.value)
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan), rel=0.1 if name == "conv" else 0.02), name
    # Of 64 channels the spec has the number itself.
    kernel = network.get_layer("stack2_block1_conv1").kernel
    assert keras.ops.convert_to_numpy(kernel.value).std() == pytest.approx(0.05893, rel=0.1)


@pytest.mark.slow
def test_it_trains_forks_saves_and_exports_in_mixed_precision_too(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 16, 3)).astype("uint8")
    labels = np.array([0, 1, 2, 0])
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            network = mobilenet(3, input_shape=(32, 16, 3), normalization=dhm.data.IMAGENET_MEAN_STD)
        finally:
            keras.config.set_dtype_policy("float32")
        model = dhm.DHM(network)
        model.compile(sgd(0.01), run_eagerly=keras.backend.backend() == "tensorflow")
        assert np.isfinite(model.train_on_batch(images, labels, return_dict=True)["loss"])
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras", compile=False)
        np.testing.assert_array_equal(inferred(again.main, images), inferred(model.main, images))
    forked = dhm.fork(mobilenet(3, branches=(), input_shape=(64, 32, 3)), branches=1)
    assert set(forked.output) == {"main", "aux1"}


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: mobilenet(branches=("aux3",)), "mobilenet has the branches ('aux1', 'aux2')"),
        (lambda: mobilenet(branches="aux1"), "names out of"),
        (lambda: mobilenet(branches={"aux1": Branch(5, (), ())}), "tap from 1 to 4"),
        (lambda: mobilenet(last_stride=3), "`last_stride`"),
        (lambda: mobilenet(input_shape=(256, 0, 3)), "`input_shape`"),
        (lambda: mobilenet(num_classes=1), "`num_classes`"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value) and "Received" in str(error.value)


def test_the_release_has_no_names_for_it():
    with pytest.raises(ValueError, match=r"names in the authors' release\. Received: 'mobilenet'"):
        dhm.interop.to_torch(mobilenet(3, branches=(), input_shape=(32, 16, 3)))
