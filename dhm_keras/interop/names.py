"""PyTorch's names and layouts of a network's weights: those of the authors' release, of an OSNet torchreid's.

Of an ImageNet ResNet's main branch they are torchvision's, too.
"""

import dataclasses
import re

import keras
import numpy as np

from dhm_keras.interop import torchreid

LAYERS = keras.layers.Conv2D, keras.layers.Dense, keras.layers.BatchNormalization  # of all the release's networks
# The variables of a layer, in the order of a state dict.
VARIABLES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
LAST = 10**6  # behind every stage, or every block of a stage


@dataclasses.dataclass(frozen=True)
class Weight:
    """A variable that has a name in PyTorch.

    Attributes:
        variable: `keras.Variable`.
        axes: Tuple of integers: which of the variable's axes PyTorch has first, second, ...
    """

    variable: keras.Variable
    axes: tuple

    @property
    def shape(self):
        """PyTorch's: `(out, in, height, width)` of a kernel, `(out, in)` of a dense one."""
        return tuple(self.variable.shape[axis] for axis in self.axes)

    def to_torch(self, array):
        """An array in the variable's layout, in PyTorch's."""
        return np.ascontiguousarray(array.transpose(self.axes))

    def from_torch(self, array):
        """An array in PyTorch's layout, in the variable's."""
        return array.transpose(np.argsort(self.axes))


def weights(network):
    """The weights of a network by their names in PyTorch.

    Args:
        network: Network of `dhm_keras.models`, or the `main` of one.

    Returns:
        Dict from name, as `"layer3_head2.0.bn1.weight"`, to `Weight`, in the order of the release's state dict, of an
        OSNet in that of torchreid's: main, then the branches from the shallowest fork to the deepest.

    Raises:
        ValueError: if a layer with weights has no name there.
    """
    layers = [layer for layer in network.layers if layer.weights and not isinstance(layer, keras.layers.Normalization)]
    placed = _places(layers)
    unknown = [layer.name for place, layer in zip(placed, layers) if place is None]
    if unknown or not layers:
        raise ValueError(
            "Invalid value for argument `model`. Expected an OSNet with its dense neck, or a network of "
            "dhm_keras.models, whose layers have names in the authors' release. Received: "
            f"{network.name!r} with " + (f"the layers {abbreviated(unknown)}." if unknown else "no weights.")
        )
    # Within a block the layers of the network are in the order of computation, as the release's are; `sorted` keeps it.
    return {
        f"{name}.{VARIABLES[variable.name]}": Weight(variable, _axes(layer, variable))
        for (_, name), layer in sorted(zip(placed, layers), key=lambda pair: pair[0][0])
        for variable in layer.weights
    }


def _axes(layer, variable):
    """PyTorch's order of a variable's axes: OIHW kernels, also of a convolution of each channel by itself."""
    if len(variable.shape) < 4:
        return (1, 0)[-len(variable.shape) :]
    return (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (3, 2, 0, 1)


def _places(layers):
    """What to sort layers by and their names in PyTorch, a list of tuples; `None` for a layer that has no name."""
    names = {layer.name for layer in layers}
    if torchreid.is_osnet(names):
        return [_place_of_osnet(layer.name, names) if isinstance(layer, torchreid.LAYERS) else None for layer in layers]
    # Of the networks that activate before they convolve, the wide ResNets call the first convolution otherwise.
    stem = "conv" if {"main_bn", "stack1_block1_conv1"} <= names else "conv1"
    return [_place(layer.name, stem) if isinstance(layer, LAYERS) else None for layer in layers]


def _place_of_osnet(layer, names):
    """As `_place`, of an OSNet."""
    if found := torchreid.place(layer, names):
        head, place, module, rest = found
        return (_rank(head), *place), f"{module}{_suffix(head)}{rest}"
    return None


def _place(layer, stem):
    """Where a layer stands in a state dict, a tuple to sort by, and its name there; `None` if it has none."""
    if found := re.fullmatch(r"(?:aux(\d+)_)?stack(\d+)_(?:block|layer)(\d+)_((?:conv|bn)\d?|shortcut\w*)", layer):
        head, stage, block, part = found.groups()
        part = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1"}.get(part, part)
        place = (int(stage), int(block), part.startswith(("shortcut", "downsample")))
        return (_rank(head), *place), f"layer{stage}{_suffix(head)}.{int(block) - 1}.{part}"
    if found := re.fullmatch(r"(?:aux(\d+)_)?transition(\d+)_(bn|conv)", layer):
        head, stage, part = found.groups()
        return (_rank(head), int(stage), LAST), f"transition{stage}{_suffix(head)}.{part}"
    if found := re.fullmatch(r"(?:main|aux(\d+))(_bn)?", layer):  # a head's own
        head, bn = found.groups()
        return (_rank(head), LAST, not bn), f"{'bn' if bn else 'fc'}{_suffix(head)}"
    if layer in ("conv", "bn"):
        return (_rank(None), 0, layer == "bn"), stem if layer == "conv" else "bn1"
    return None


def _rank(head):
    """Main before the branches, these from the shallowest fork to the deepest."""
    return -int(head) if head else -LAST


def _suffix(head):
    return f"_head{head}" if head else ""


def head_of(name):
    """The head that a name of a state dict belongs to: `"main"`, or as `"aux1"`."""
    found = re.match(r"[a-z]+\d*_head(\d+)\.", name)
    return f"aux{found[1]}" if found else "main"


def in_order(heads):
    """Names of heads, main first, in a tuple."""
    return tuple(sorted(heads, key=lambda head: (head != "main", len(head), head)))


def is_of_classifier(name):
    """Whether a name of a state dict is that of a head's last layer."""
    return re.fullmatch(r"(fc|classifier)(_head\d+)?\.[a-z]+", name) is not None


def abbreviated(items, most=10):
    """The first items in a row, and how many more there are."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f", ... and {more} more" if more > 0 else "")
