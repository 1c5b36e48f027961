"""OSNet and CDNet: parameters and multiply-adds to the digit, genotypes, initial weights, what a gate does."""

import math

import keras
import numpy as np
import pytest

import dhm_keras as dhm
from dhm_keras.analysis.cost import multiply_adds
from dhm_keras.models import GENOTYPES, SPACES, Branch, cdnet, osnet
from dhm_keras.network import Network


def parameters(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def shipped(network):
    return Network(network.input, network.output["embedding"])


@pytest.mark.parametrize(
    ("width", "count", "cost", "statistics"),
    [
        (1.0, 2_169_508, 978.875, 23_040),
        (0.75, 1_285_754, 571.752, 17_536),
        (0.5, 630_034, 272.899, 12_032),
        (0.25, 201_864, 82.315, 6_528),
    ],
)
def test_osnet_counts_are_torchreids(width, count, cost, statistics):
    features = dhm.reid.embedding(osnet(width, branches=()))
    assert parameters(features) == count and features.output.shape == (None, 512)
    assert sum(math.prod(variable.shape) for variable in features.non_trainable_variables) == statistics
    assert round(multiply_adds(features) / 1e6, 3) == cost


def test_osnet_for_imagenet_has_the_counts_of_its_supplement():
    """2.7 M parameters; the printed 1,511 M multiply-adds count one operation for each output of a normalization."""
    network = osnet(num_classes=1000, branches=(), input_shape=(224, 224, 3))
    assert parameters(network) == 2_682_508
    assert round(multiply_adds(network) / 1e6, 2) == 1499.26
    of_normalization = sum(  # the gate's layers are called four times, these once
        math.prod(layer.output.shape[1:])
        for layer in network.layers
        if isinstance(layer, keras.layers.BatchNormalization) and len(layer.output.shape) == 4
    )
    assert int((multiply_adds(network) + of_normalization) / 1e6) == 1511


def test_classifier_and_neck_of_osnet():
    assert parameters(osnet(branches=())) == 2_554_771
    network = osnet(branches=(), neck="fblneck")
    assert round(multiply_adds(shipped(network)) / 1e6, 1) == 951.4
    assert parameters(shipped(network)) == 1_714_192 and network.output["embedding"].shape == (None, 768)


GAMMA = {256: 1, 192: 0.75, 128: 0.5, 64: 0.25}
TABLE_3 = {  # millions of multiply-adds of the backbone, of the paper's four resolutions; parameters, also shipped
    1.0: ((948.8, 533.7, 237.3, 59.4), 1_747_448, 1_796_600),
    0.75: ((552.3, 310.7, 138.1, 34.6), 995_802, 1_032_666),
    0.5: ((262.0, 147.4, 65.5, 16.4), 454_012, 478_588),
    0.25: ((77.9, 43.8, 19.5, 4.88), 122_078, 134_366),
}


@pytest.mark.parametrize("width", TABLE_3)
def test_cdnet_has_the_counts_of_all_cells_of_table_3(width):
    costs, of_backbone, of_shipped = TABLE_3[width]
    network = shipped(cdnet(width=width, branches=()))
    squeeze = network.get_layer("main_local_conv")
    of_squeeze = math.prod(squeeze.kernel.shape)
    assert parameters(network) == of_shipped == of_backbone + of_squeeze
    gates = 2 * sum(  # of two streams each
        math.prod(layer.kernel.shape) for layer in network.layers if "_gate_conv" in layer.name
    )
    of_pixels = multiply_adds(network) - of_squeeze * math.prod(squeeze.output.shape[1:3]) - gates
    counted = [(of_pixels * gamma**2 + gates) / 1e6 for gamma in GAMMA.values()]
    assert [float(f"{cost:.{2 if cost < 5 else 1}f}") for cost in counted] == list(costs)
    if width == 0.25:
        small = shipped(cdnet(width=width, branches=(), input_shape=(64, 32, 3)))
        assert (multiply_adds(small) - of_squeeze * 4 * 2) / 1e6 == pytest.approx(counted[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("genotype", "count", "cost"),
    [
        ("cdnet_top1", 2_107_032, 1011.20),
        ("cdnet_top2", 1_796_600, 955.07),
        ("cdnet_top3", 1_877_352, 1089.22),
        ("cdnet_top4", 1_570_392, 964.57),
        ("cnet_top1", 1_428_656, 783.22),
        ("cnet_top2", 1_436_240, 821.42),
        ("cnet_top3", 1_308_880, 756.51),
        ("cnet_top4", 1_347_888, 755.10),
    ],
)
def test_published_genotypes_have_their_counts(genotype, count, cost):
    network = shipped(dhm.models.get(genotype, branches=()))
    assert parameters(network) == count and network.output.shape == (None, 768)
    assert abs(multiply_adds(network) / 1e6 - cost) < 0.01  # theirs counts the additions of biases, too


@pytest.mark.slow
def test_cdnet_in_training_and_for_classification():
    assert parameters(cdnet(branches=())) == 2_963_414
    assert parameters(cdnet(branches=(), num_classes=702)) == 2_913_140
    cifar = cdnet(num_classes=100, branches=(), stem=3, task="classification", input_shape=(32, 32, 3))
    assert round(multiply_adds(cifar) / 1e6, 1) == 441.3
    assert parameters(cifar) == 2_287_808 and list(cifar.output) == ["main"]
    imagenet = cdnet(
        num_classes=1000, branches=(), neck="blneck", task="classification", input_shape=(224, 224, 3), width=1.0
    )
    assert parameters(imagenet) == 2_524_128  # published: 2.5 M, and 1,571 M multiply-adds, one stem more than counted
    assert round(multiply_adds(imagenet) / 1e6) == 1454


BLOCKS = {  # parameters of a CBlock that keeps the channels
    256: (49_936, 54_736, 59_536, 59_536, 64_336, 69_136),
    384: (110_232, 120_504, 130_776, 130_776, 141_048, 151_320),
    512: (194_080, 211_872, 229_664, 229_664, 247_456, 265_248),
}


@pytest.mark.parametrize("width", BLOCKS)
def test_blocks_of_every_pair_of_kernels(width):
    from dhm_keras.models.cdnet import CDNet

    build = CDNet(GENOTYPES["cdnet_top2"], "fblneck", "reid", 0.2, 64, 7, False)
    x = keras.Input((16, 8, width))
    counts = [parameters(keras.Model(x, build.cd_block(x, width, layer, "block"))) for layer in SPACES["cnet"]]
    assert tuple(counts) == BLOCKS[width]


def test_spaces_and_depths():
    assert len(SPACES["cnet"]) == 6 and len(SPACES["cdnet"]) == 12
    assert SPACES["cdnet"][3:8] == ((3, 5, 2), (3, 7, 2), (5, 7, 2), (3, 9, 1), (5, 9, 1))
    depths = {name: sum(r for *_, r in layers) for name, layers in GENOTYPES.items()}
    assert [depths[f"cdnet_top{k}"] for k in (1, 2, 3, 4)] == [10, 9, 10, 8]
    assert all(depths[f"cnet_top{k}"] == 6 for k in (1, 2, 3, 4))


def test_genotypes_in_files(tmp_path):
    path = tmp_path / "genotype.json"
    dhm.models.write_genotype(path, [(3, 5), *GENOTYPES["cdnet_top4"][1:]], space="cdnet", k=2)
    genotype = dhm.models.read_genotype(path)
    assert genotype == ((3, 5, 1), *GENOTYPES["cdnet_top4"][1:])
    network = cdnet(genotype, num_classes=5, branches=(), input_shape=(64, 32, 3), width=0.25)
    assert "stack1_layer2_block1_out" in {layer.name for layer in network.layers}
    path.write_text('{"genotype": [[3, 5, 3]]}')
    with pytest.raises(ValueError, match=r"genotype.json holds no genotype.*six layers"):
        dhm.models.read_genotype(path)
    with pytest.raises(FileNotFoundError, match=r"recipes/search\.py"):
        dhm.models.read_genotype(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("build", "arguments", "said"),
    [
        (cdnet, {"genotype": "cdnet_top5"}, "argument `genotype`.*'cnet_top1'.*Received: 'cdnet_top5'"),
        (cdnet, {"genotype": [(5, 3)] * 6}, "argument `genotype`"),
        (cdnet, {"genotype": 7}, "argument `genotype`"),
        (cdnet, {"genotype": [[[3], 5, 1]] * 6}, "argument `genotype`"),
        (cdnet, {"genotype": [[3.0, 5.0, 1.0]] * 6}, "argument `genotype`"),
        (cdnet, {"genotype": [[3, 5, 1, 1]] * 6}, "argument `genotype`"),
        (cdnet, {"branches": {"embedding": Branch(2, (1,), (64,))}}, "Invalid branch 'embedding'"),
        (osnet, {"branches": {"main_local": Branch(2, (1,), (64,))}}, "Invalid branch 'main_local'"),
        (osnet, {"neck": "fblneck", "pooling": "max"}, "argument `pooling`"),
        (cdnet, {"neck": "dense"}, "argument `neck`"),
        (cdnet, {"task": "segmentation"}, "argument `task`"),
        (cdnet, {"dropout": 1.0}, "argument `dropout`"),
        (cdnet, {"input_shape": (48, 32, 3)}, "even height"),
        (osnet, {"width": 0.2}, "argument `width`.*>= 0.25"),
        (osnet, {"width": "1.0"}, "argument `width`"),
        (osnet, {"stem": 5}, "argument `stem`"),
        (osnet, {"pooling": "mean"}, "argument `pooling`"),
        (osnet, {"input_shape": (250, 128, 3)}, "divisible by 16"),
        (osnet, {"branches": {"aux1": Branch(2, (1,), (32,))}, "input_shape": (64, 32, 3)}, "Invalid width.*64"),
        (osnet, {"branches": ("aux3",)}, "argument `branches`"),
    ],
)
def test_arguments_out_of_range(build, arguments, said):
    with pytest.raises(ValueError, match=said):
        build(**arguments)


def test_initial_weights_are_the_releases():
    """He's, of OSNet by fan-out and of CDNet by fan-in, as PyTorch counts them; dense layers small."""
    deviation = lambda network, layer: float(np.std(network.get_layer(layer).get_weights()[0]))
    network = osnet(num_classes=10, branches=(), input_shape=(64, 32, 3))
    stream = "stack1_block1_stream4_lite4_conv"
    assert deviation(network, f"{stream}2") == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)
    assert deviation(network, f"{stream}1") == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert deviation(network, "stack1_block2_conv1") == pytest.approx((2 / 64) ** 0.5, rel=0.1)  # 256 to 64
    assert deviation(network, "main_dense") == pytest.approx(0.01, rel=0.1)
    network = cdnet(num_classes=10, branches=(), input_shape=(64, 32, 3))
    assert deviation(network, "stack1_layer1_block1_stream2_lite2_conv2") == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert deviation(network, "stack1_layer2_block1_conv1") == pytest.approx((2 / 256) ** 0.5, rel=0.1)
    assert deviation(network, "main_dense") == pytest.approx(0.001, rel=0.1)


def test_a_block_is_the_gated_sum_of_its_streams():
    """Written out once more in NumPy: two streams, one gate, the shortcut."""
    from dhm_keras.models.cdnet import CDNet

    build = CDNet(GENOTYPES["cdnet_top2"], "fblneck", "reid", 0.2, 64, 7, False)
    image = keras.Input((4, 4, 32))
    model = keras.Model(image, build.combined(image, 32, (1, 2), "b"))
    of = lambda name: model.get_layer(name).get_weights()
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 32))
    normalised = lambda y: y / np.sqrt(1 + 1e-5)  # of fresh statistics
    relu = lambda y: np.maximum(y, 0)

    def lite(y, name):
        y = np.pad(y @ of(f"{name}_conv1")[0][0, 0], ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = of(f"{name}_conv2")[0][..., 0]  # (3, 3, channels)
        y = sum(kernel[i, j] * y[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3))
        return relu(normalised(y))

    def gated(y):
        (into, _), (out, _) = of("b_gate_conv1"), of("b_gate_conv2")
        hidden = relu(y.mean((1, 2)) @ into[0, 0])
        return y / (1 + np.exp(-hidden @ out[0, 0]))[:, None, None]

    middle = relu(normalised(x @ of("b_conv1")[0][0, 0]))
    one = lite(middle, "b_stream1_lite1")
    two = lite(lite(middle, "b_stream2_lite1"), "b_stream2_lite2")
    expected = relu(normalised((gated(one) + gated(two)) @ of("b_conv3")[0][0, 0]) + x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x.astype("float32"))), expected, atol=1e-4)


def test_branches_are_of_the_networks_own_blocks():
    for network in (
        osnet(0.25, num_classes=5, input_shape=(64, 32, 3)),
        cdnet(width=0.25, num_classes=5, input_shape=(64, 32, 3)),
    ):
        of_heads = {head: network.output[head].shape for head in ("main", "aux1", "aux2")}
        assert set(of_heads.values()) == {(None, 5)}
        ends = {head: network.get_layer(f"{head}_pool").input.shape[1:] for head in of_heads}
        assert ends == {"main": (4, 2, 128), "aux1": (4, 2, 256), "aux2": (4, 2, 128)}
    genotype = GENOTYPES["cdnet_top2"]
    names = {layer.name for layer in network.layers}
    for layer, (_, deepest, repeats) in zip((1, 2), genotype[2:4], strict=True):  # stage 2 of aux2
        last = f"aux2_stack2_layer{layer}_block{repeats}_stream2_lite{deepest // 2}_conv2"
        assert last in names and last.replace(f"lite{deepest // 2}", f"lite{deepest // 2 + 1}") not in names
