"""Pictures and what they are made of."""

import keras
import pytest
from networks import resnet8

import dhm_keras as dhm
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
