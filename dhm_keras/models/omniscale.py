"""What OSNet and CDNet are made of: streams of light 3x3 convolutions of different reach, weighed by one gate."""

import numbers

from keras import layers

from dhm_keras.initializers import VarianceScaling
from dhm_keras.models.builder import Branch, Builder
from dhm_keras.necks import bl_neck, fbl_neck

STEM, WIDTHS = 64, (256, 384, 512)  # channels of the stem and of the three stages
# Ours, by the DHM paper's principles: the backbone's own blocks, as often halved, aux1 wider, aux2 shorter.
BRANCHES = {"aux1": Branch(2, (2,), (1024,)), "aux2": Branch(1, (2, 1), (384, 512))}


class OmniScale(Builder):
    """The parts that both networks share. A family adds `layer(x, number, index, width, name)` and `outputs`.

    Args:
        stem_size: Integer. 7: a 7x7 convolution of stride 2 and a max pool. 3: a 3x3 convolution of stride 1.
        reduction: Integer. Channels of a map for each hidden one of its gate.
        synchronized: As of `Builder`.
    """

    def __init__(self, stem_size, reduction, synchronized):
        super().__init__(synchronized)
        self.stem_size, self.reduction = stem_size, reduction
        self.divisor = 16 if stem_size == 7 else 4

    def stem(self, x, width):
        if self.stem_size == 7:
            return self.stem_of_224(x, width)
        return self.bn_relu(self.conv(x, width, "conv"), "bn")

    def stage(self, x, number, blocks, width, prefix):
        """The stage's layers, then, unless it is the last, a transition to half the resolution."""
        for index in range(1, blocks + 1):
            x = self.layer(x, number, index, width, f"{prefix}stack{number}")
        return x if number == len(WIDTHS) else self.transition(x, f"{prefix}transition{number}")

    def transition(self, x, name):
        """1x1 convolution, bn, ReLU, and a 2x2 average pool."""
        x = self.bn_relu(self.conv(x, x.shape[-1], f"{name}_conv", size=1), f"{name}_bn")
        return layers.AveragePooling2D(2, name=f"{name}_pool")(x)

    def combined(self, x, width, depths, name):
        """A bottleneck block whose middle is the gated sum of several streams.

        Args:
            x: Symbolic tensor `(batch, h, w, channels)`.
            width: Integer. Channels that leave the block; a quarter is in the middle.
            depths: Light 3x3 convolutions in each stream; d of them see 2d + 1 pixels.
            name: String, what the layers' names begin with.

        Returns:
            Symbolic tensor `(batch, h, w, width)`.
        """
        shortcut, middle = x, width // 4
        if x.shape[-1] != width:
            shortcut = self.bn(self.conv(x, width, f"{name}_shortcut_conv", size=1), f"{name}_shortcut_bn")
        x = self.bn_relu(self.conv(x, middle, f"{name}_conv1", size=1), f"{name}_bn1")
        gate, streams = self.gate(middle, f"{name}_gate"), []
        for number, depth in enumerate(depths, start=1):
            y = x
            for place in range(1, depth + 1):
                y = self.lite(y, f"{name}_stream{number}_lite{place}")
            streams.append(gate(y))
        x = layers.Add(name=f"{name}_fuse")(streams)
        x = self.bn(self.conv(x, width, f"{name}_conv3", size=1), f"{name}_bn3")
        return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, shortcut]))

    def lite(self, x, name):
        """Light 3x3 convolution: a linear 1x1, then a 3x3 of each channel by itself, bn, ReLU."""
        x = self.conv(x, x.shape[-1], f"{name}_conv1", size=1)
        return self.bn_relu(self.depthwise(x, f"{name}_conv2"), f"{name}_bn")

    def gate(self, channels, name):
        """The aggregation gate: a function of a map that scales its channels; one set of weights, whatever the map."""
        hidden = channels // self.reduction
        if not hidden:
            raise ValueError(
                f"Invalid width. Expected at least {4 * self.reduction} channels of a stage, so that its gates have a "
                f"hidden one. Received: {4 * channels}."
            )
        pool = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")
        he = VarianceScaling(2.0, self.fan)
        squeeze = layers.Conv2D(hidden, 1, activation="relu", kernel_initializer=he, name=f"{name}_conv1")
        excite = layers.Conv2D(channels, 1, activation="sigmoid", kernel_initializer=he, name=f"{name}_conv2")
        scale = layers.Multiply(name=name)
        return lambda x: scale([x, excite(squeeze(pool(x)))])

    def neck(self, kind, maps, num_classes, name, dropout):
        """The outputs of a branch with a balance neck: that of `fblneck` has local features in main alone."""
        deep = maps[max(maps)]
        if kind == "fblneck" and name == "main":
            return fbl_neck(maps[2], deep, num_classes, name, dropout, self.synchronized)
        return bl_neck(deep, num_classes, name, dropout, self.synchronized)


def scaled(width, channels=None):
    """Channels times a width multiplier, whole multiples of 4.

    Args:
        width: Float > 0.
        channels: Integer. Defaults to those of the network: `(stem, stage 1, stage 2, stage 3)`.

    Returns:
        Integer, or a tuple of four.

    Raises:
        ValueError: if the multiplier is no such number, or leaves nothing.
    """
    if not isinstance(width, numbers.Real) or not 16 <= STEM * width < 1e5:
        raise ValueError(f"Invalid value for argument `width`. Expected a number >= 0.25. Received: {width!r}.")
    if channels is None:
        return tuple(scaled(width, each) for each in (STEM, *WIDTHS))
    return 4 * int(channels * width / 4)


def check_choice(**arguments):
    """Raises `ValueError` for an argument `(value, allowed)` whose value is none of those allowed."""
    for argument, (value, allowed) in arguments.items():
        if value not in allowed:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected one of {allowed}. Received: {value!r}."
            )
