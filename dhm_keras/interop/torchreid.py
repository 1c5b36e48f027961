"""torchreid's names of OSNet's layers; it has no branches, theirs get the suffixes of the authors' release of DHM."""

import math
import re

import keras

LAYERS = keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense, keras.layers.BatchNormalization
STREAMS = "abcd"
PARTS = {  # of a block, in the order of a state dict; the streams stand behind the first two
    "conv1": "conv1.conv",
    "bn1": "conv1.bn",
    "gate_conv1": "gate.fc1",
    "gate_conv2": "gate.fc2",
    "conv3": "conv3.conv",
    "bn3": "conv3.bn",
    "shortcut_conv": "downsample.conv",
    "shortcut_bn": "downsample.bn",
}
ENDS = {
    "conv5": (5, "conv5", ".conv"),
    "bn5": (5, "conv5", ".bn"),
    "dense": (6, "fc", ".0"),
    "dense_bn": (6, "fc", ".1"),
}


def is_osnet(names):
    """Whether the layers of a network, a set of names, are those of `models.osnet`."""
    return "stack1_block1_gate_conv1" in names


def place(layer, names):
    """Where a layer of an OSNet stands in a state dict.

    Args:
        layer: String, its name here.
        names: Set of strings, those of all the layers.

    Returns:
        `(head, place, module, rest)`: the digits of a branch's name, `None` of main; a tuple to sort by; the first part
        of the name there, which a branch's suffix follows, and what is behind. `None` if it has no name there.
    """
    head, part = re.fullmatch(r"(?:aux(\d+)_?|main_?)?(.*)", layer).groups()
    if part == "":
        return head, (7,), "classifier", ""
    if part in ("conv", "bn") and head is None:
        return head, (1,), "conv1", f".{part}"
    if part in ENDS:
        number, module, rest = ENDS[part]
        return head, (number,), module, rest
    if found := re.fullmatch(r"transition(\d+)_(conv|bn)", part):  # behind the stage's blocks, in the same sequence
        stage, kind = int(found[1]), found[2]
        prefix = f"aux{head}_" if head else ""
        blocks = sum(re.fullmatch(rf"{prefix}stack{stage}_block\d+_conv1", name) is not None for name in names)
        return head, (stage + 1, math.inf), f"conv{stage + 1}", f".{blocks}.0.{kind}"
    if found := re.fullmatch(r"stack(\d+)_block(\d+)_(\w+)", part):
        stage, block, part = int(found[1]), int(found[2]), found[3]
        if within := _within_block(part):
            return head, (stage + 1, block, *within[0]), f"conv{stage + 1}", f".{block - 1}.{within[1]}"
    return None


def _within_block(part):
    """`(place, name)` of a layer within its block, or `None`."""
    if part in PARTS:
        return (list(PARTS).index(part), 0, 0), PARTS[part]
    if found := re.fullmatch(r"stream([1-4])_lite(\d)_(conv1|conv2|bn)", part):
        stream, lite, kind = int(found[1]), int(found[2]), found[3]
        within = f".{lite - 1}" if stream > 1 else ""  # the first stream, of one light convolution, is no sequence
        return (1, stream, lite), f"conv2{STREAMS[stream - 1]}{within}.{kind}"
    return None
