"""Pictures and what they are made of."""

import csv

import keras
import numpy as np
import pytest
from networks import densenet10, multiply_adds_of_the_release, resnet8, wrn10

import dhm_keras as dhm
from dhm_keras.analysis import correlation, matching_convolutions, plot_agreement, plot_correlation, plot_curves
from dhm_keras.analysis.network import boxes


@pytest.mark.parametrize("build", [dhm.models.resnet20, dhm.models.densenet40, dhm.models.wrn16_8])
def test_boxes_hold_every_parameter_once(build):
    network = build()
    rows = boxes(network)
    assert {head: list(row) for head, row in rows.items()} == {"main": [1, 2, 3], "aux1": [3], "aux2": [2, 3]}
    assert sum(box.parameters for row in rows.values() for box in row.values()) == network.count_params()
    assert sum(box.parameters for box in rows["main"].values()) == dhm.DHM(network).main.count_params()
    assert not any(box.begins_shared for row in rows.values() for box in row.values())


def test_boxes_of_a_network_forked_within_a_stage():
    main = dhm.DHM(dhm.models.resnet20()).main
    rows = boxes(dhm.fork(main, [dhm.Branch("stack2_block1_out"), dhm.Branch(1, width=2)]))
    assert [rows["aux1"][2].begins_shared, rows["aux1"][3].begins_shared, rows["aux2"][2].begins_shared] == [1, 0, 0]
    assert [rows[head][2].layers for head in ("main", "aux1", "aux2")] == [6, 4, 6]  # three blocks, two, three
    assert [rows[head][3].channels for head in ("main", "aux1", "aux2")] == [64, 64, 128]
    assert rows["main"][1].size == (32, 32)


def test_the_picture_of_a_network(tmp_path):
    dhm.analysis.plot_network(resnet8(), tmp_path / "network.png")
    assert (tmp_path / "network.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="dict of heads"):
        dhm.analysis.plot_network(keras.applications.MobileNetV2(weights=None), tmp_path / "other.png")
    with pytest.raises(ValueError, match="dict of heads"):
        dhm.analysis.plot_network(dhm.DHM(resnet8()), tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


def history(*errors):
    """A table of a row an epoch with validation accuracies in per cent, training ones ten lower."""
    return [
        {"epoch": float(i), "val_main_accuracy": a / 100, "main_accuracy": a / 100 - 0.1} for i, a in enumerate(errors)
    ]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_numbers_behind_the_curves(tmp_path):
    dhm_runs = {"dhm-0": history(20, 40, 60, 70, 80, 90), "dhm-1": history(30, 50, 60, 72, 80, 92)}
    one = {"baseline": {"baseline-0": history(10, 20, 30)}}
    plot_curves({"left": {"baseline": one["baseline"], "dhm": dhm_runs}, "right": one}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = read(tmp_path / "curves.csv")
    assert len(rows) == 2 * (3 + 6) + 2 * 3
    key = lambda row: (row["panel"], row["method"], row["set"], row["epoch"])
    numbers = {key(row): [float(row[name]) for name in ("mean", "lowest", "highest", "runs")] for row in rows}
    assert numbers["left", "dhm", "validation", "6"] == pytest.approx([91, 90, 92, 2])
    assert numbers["left", "dhm", "training", "1"] == pytest.approx([15, 10, 20, 2])
    assert numbers["right", "baseline", "validation", "3"] == pytest.approx([30, 30, 30, 1])


def test_what_is_drawn_is_what_is_in_the_numbers(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: kept.append(self))
    plot_curves({"": {"dhm": {"dhm-0": history(10, 20, 40), "dhm-1": history(20, 40, 60)}}}, tmp_path / "a.png")
    lines = {line.get_linestyle(): list(line.get_ydata()) for line in kept[0].axes[0].lines}
    assert lines["--"] == pytest.approx([15, 30, 50]) and lines["-"] == pytest.approx([5, 20, 40])
    assert [float(row["mean"]) for row in read(tmp_path / "a.csv")] == pytest.approx([15, 30, 50, 5, 20, 40])


def test_curves_of_a_keras_history_are_those_of_its_rows(tmp_path):
    rows = history(10, 20, 40)
    columns = {name: [row[name] for row in rows] for name in ("main_accuracy", "val_main_accuracy")}
    plot_curves({"": {"dhm": {"dhm-0": rows}}}, tmp_path / "rows.png")
    plot_curves({"": {"dhm": {"dhm-0": columns}}}, tmp_path / "columns.png")
    assert read(tmp_path / "columns.csv") == read(tmp_path / "rows.csv")


def test_curves_of_another_head(tmp_path):
    rows = history(10, 20, 40)
    both = [row | {f"{name}aux1_accuracy": 0.9 for name in ("", "val_")} for row in rows]
    plot_curves({"": {"dhm": {"dhm-0": both}}}, tmp_path / "main.png")
    plot_curves({"": {"dhm": {"dhm-0": both}}}, tmp_path / "aux1.png", head="aux1")
    plot_curves({"": {"dhm": {"dhm-0": rows}}}, tmp_path / "rows.png")
    assert read(tmp_path / "main.csv") == read(tmp_path / "rows.csv")
    assert {row["mean"] for row in read(tmp_path / "aux1.csv")} == {"90.0"}
    with pytest.raises(ValueError, match="'dhm-0' has no number for 'val_aux1_accuracy' in epoch 0"):
        plot_curves({"": {"dhm": {"dhm-0": rows}}}, tmp_path / "none.png", head="aux1")


@pytest.mark.parametrize(
    "runs, message",
    [
        ({"dhm-0": {"main_accuracy": [0.5, 0.6], "val_main_accuracy": [0.5]}}, "'dhm-0' has columns of different"),
        ({"dhm-0": {}}, "'dhm-0' has no epoch"),
        ({"dhm-0": history(1, 2), "dhm-1": history(1, 2, 3)}, "'dhm-1' has 3 epochs, and 'dhm-0' has 2"),
        ({"dhm-0": history(1, 2, 3)[:1] + history(1, 2, 3)[2:]}, "'dhm-0' has no row of epoch 1"),
        ({"dhm-0": history(1, float("nan"))}, "'dhm-0' has no number for 'val_main_accuracy' in epoch 1"),
        ({"dhm-0": [{"epoch": 0, "main_accuracy": 0.5}]}, "'dhm-0' has no number for 'val_main_accuracy' in epoch 0"),
        ({"dhm-0": []}, "'dhm-0' has no epoch"),
    ],
)
def test_a_run_that_cannot_be_averaged_is_named(tmp_path, runs, message):
    with pytest.raises(ValueError, match=message):
        plot_curves({"": {"dhm": runs}}, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def table(cosine):
    names = ("cosine_main_aux1", "agree_main_aux1", "kl_main_to_aux1", "kl_aux1_to_main")
    return [{"epoch": i, **dict(zip(names, (cosine + i / 10, 0.5, 0.25, 0.125)))} for i in range(3)]


def test_the_numbers_behind_the_agreement(tmp_path):
    runs = {"dsl": {"dsl-0": table(0.0), "dsl-1": table(0.2)}, "dhm": {"dhm-0": table(0.5)}}
    plot_agreement(runs, tmp_path / "a.png", "title")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    rows = {(row["method"], row["name"], row["epoch"]): row for row in read(tmp_path / "a.csv")}
    assert len(rows) == 2 * 4 * 3
    last = rows["dsl", "cosine_main_aux1", "3"]
    assert [float(last[name]) for name in ("mean", "lowest", "highest", "runs")] == pytest.approx([0.3, 0.2, 0.4, 2])
    assert float(rows["dhm", "kl_aux1_to_main", "1"]["mean"]) == 0.125
    with pytest.raises(ValueError, match="cosine_main"):
        plot_agreement({"dsl": {"dsl-0": history(1)}}, tmp_path / "b.png")
    (tmp_path / "agreement.csv").write_text("epoch,cosine_main_aux1\n0,0.5\n")  # a run's own
    with pytest.raises(ValueError, match="holds another table"):
        plot_agreement(runs, tmp_path / "agreement.png")
    assert (tmp_path / "agreement.csv").read_text().startswith("epoch,cosine")


def kernel(maxima):
    """3x3 kernels with these maxima, `(input channels, output channels)`, each at another position."""
    maxima = np.array(maxima, "float64")
    array = np.full((3, 3, *maxima.shape), -10.0)
    for number, (i, o) in enumerate(np.ndindex(maxima.shape)):
        array[number % 3, number // 3 % 3, i, o] = maxima[i, o]
    return array


def test_the_correlation_of_two_convolutions():
    one, other = [[1, 3, 1], [3, 1, 3]], [[2, 2, 6], [6, 6, 2]]
    result = correlation(kernel(one), kernel(other))
    # Standardised: one -> [[-1, 1, -1], [1, -1, 1]], other -> [[-1, -1, 1], [1, 1, -1]]; rows are input channels.
    np.testing.assert_allclose(result, [[1, -1, -1], [1, -1, -1]])
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 3, 5, 7))
    expected = np.corrcoef(a.max((0, 1)).ravel(), b.max((0, 1)).ravel())[0, 1]
    assert correlation(a, b).mean() == pytest.approx(expected) and correlation(a, b).shape == (5, 7)
    assert correlation(a, 2 * a + 1).mean() == pytest.approx(1)
    assert correlation(a, b).mean() == pytest.approx(correlation(3 * b - 1, a).mean())
    assert np.isnan(correlation(a, np.ones_like(a))).all()
    with pytest.raises(ValueError, match="one shape"):
        correlation(a, b[..., :3])


def test_matching_convolutions():
    blocks = [f"stack{stack}_block1_conv{i}" for stack in (2, 3) for i in (1, 2)]
    assert matching_convolutions(resnet8()) == blocks and matching_convolutions(wrn10()) == blocks
    assert matching_convolutions(densenet10()) == ["stack2_layer1_conv", "stack2_layer2_conv", "stack3_layer1_conv"]
    assert matching_convolutions(dhm.models.resnet32())[-1] == "stack3_block3_conv2"
    with pytest.raises(ValueError, match="no convolution as main has"):
        matching_convolutions(resnet8(), "aux1")  # twice as wide
    with pytest.raises(ValueError, match="no convolution as main has"):
        matching_convolutions(resnet8(branches={}))


def test_the_numbers_behind_the_heatmaps(tmp_path):
    networks = {"dsl": {"dsl-0": resnet8(), "dsl-1": resnet8()}, "dhm": {"dhm-0": resnet8()}}
    plot_correlation(networks, tmp_path / "h.png")
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    rows = {(row["run"], row["layer"]): float(row["r"]) for row in read(tmp_path / "h.csv")}
    assert len(rows) == 3 * 4
    maps = np.load(tmp_path / "h.npz")
    assert len(maps.files) == 2 * 4
    drawn = maps["dsl/stack3_block1_conv1"]
    assert drawn.shape == (32, 64) and drawn.mean() == pytest.approx(rows["dsl-0", "stack3_block1_conv1"], abs=1e-6)
    kernels = [networks["dsl"]["dsl-0"].get_layer(f"{of}stack3_block1_conv1").kernel for of in ("", "aux2_")]
    np.testing.assert_allclose(drawn, correlation(*kernels), rtol=1e-5)
    with pytest.raises(ValueError, match=r"`layers`.*Received: \['stack9'\]"):
        plot_correlation(networks, tmp_path / "x.png", ["stack9"])
    with pytest.raises(ValueError, match="'dhm-0' has other convolutions than that of 'dsl-0'"):
        plot_correlation({"dsl": networks["dsl"], "dhm": {"dhm-0": densenet10()}}, tmp_path / "x.png")


def test_heatmaps_of_layers_that_keras_numbered(tmp_path):
    def network():
        image = x = keras.Input((8, 8, 3))
        for _ in range(3):
            x = keras.layers.ReLU()(keras.layers.Conv2D(4, 3, padding="same")(x))
            x = keras.layers.MaxPooling2D()(x)
        x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
        return dhm.fork(keras.Model(image, x))

    networks = {"dsl": {"dsl-0": network()}, "dhm": {"dhm-0": network()}}
    names = [matching_convolutions(next(iter(runs.values())), "aux2") for runs in networks.values()]
    assert names[0] != names[1]
    plot_correlation(networks, tmp_path / "h.png")
    kernels = [networks["dhm"]["dhm-0"].get_layer(f"{of}{names[1][-1]}").kernel for of in ("", "aux2_")]
    np.testing.assert_allclose(
        np.load(tmp_path / "h.npz")[f"dhm/{names[0][-1]}"], correlation(*kernels), rtol=1e-5, atol=1e-6
    )


def test_multiply_adds_by_hand():
    layers = keras.layers
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)  # 4 x 4 pixels, of 3 x 3 x 3 by 4
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)  # 3 x 3 by 8
    x = layers.SeparableConv2D(6, 3, padding="same")(x)  # 3 x 3 by 8, and 8 by 6
    x = layers.Conv2D(6, 1, groups=2)(x)  # 3 by 6
    x = layers.Conv2DTranspose(5, 2, strides=2)(x)  # at each of 4 x 4 pixels 2 x 2 x 6 by 5
    nested = keras.Sequential([keras.Input((5,)), layers.Dense(7)])  # 5 by 7
    x = nested(layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x))))
    expected = 16 * (27 * 4 + 9 * 8 + 9 * 8 + 8 * 6 + 3 * 6 + 4 * 6 * 5) + 5 * 7
    assert dhm.analysis.multiply_adds(keras.Model(image, x)) == expected


def test_multiply_adds_are_those_of_the_release():
    network = dhm.models.resnet32(num_classes=100)
    released = multiply_adds_of_the_release()["resnet32"]["main"]
    assert dhm.analysis.multiply_adds(dhm.DHM(network).main) == released
