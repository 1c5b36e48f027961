"""Wide ResNets (Zagoruyko & Komodakis, 2016) with the branches of Table 8: 6n+4 layers of pre-activation blocks."""

import functools

from keras import layers

from dhm_keras.models.builder import Branch, Builder, check_at_least, named


class WideResNet(Builder):
    """The stages of a wide ResNet.

    Args:
        dropout: Float, rate of the dropout between the convolutions of a block.
        synchronized: As of `Builder`.
    """

    def __init__(self, dropout, synchronized):
        super().__init__(synchronized)
        self.dropout = dropout

    def stem(self, x):
        return self.conv(x, 16, "conv")

    def block(self, x, width, stride, name):
        """Pre-activation block; where the shape changes, a 1x1 shortcut shares the first bn-relu."""
        activated = self.bn_relu(x, f"{name}_bn1")
        shortcut = x
        if stride > 1 or x.shape[-1] != width:
            shortcut = self.conv(activated, width, f"{name}_shortcut", size=1, stride=stride)
        x = self.bn_relu(self.conv(activated, width, f"{name}_conv1", stride=stride), f"{name}_bn2")
        if self.dropout:
            x = layers.Dropout(self.dropout, name=f"{name}_dropout")(x)
        x = self.conv(x, width, f"{name}_conv2")
        return layers.Add(name=f"{name}_add")([x, shortcut])

    def head(self, x, num_classes, name):
        return super().head(self.bn_relu(x, f"{name}_bn"), num_classes, name)


def wide_resnet(
    blocks,
    widen,
    num_classes,
    branches,
    dropout=0.0,
    input_shape=(32, 32, 3),
    normalization=None,
    synchronized=False,
    name="wide_resnet",
):
    """A wide ResNet of any depth 6n+4 and width with any branches.

    Args:
        blocks: Integer n, blocks in each of the three stages.
        widen: Integer k; the stages have 16k, 32k and 64k channels.
        num_classes: Integer.
        branches: Dict from head name to `Branch`, as in `cifar_resnet`; stages of any width.
        dropout: Float in [0, 1). Dropout rate between the convolutions of each block, branches included; the paper
            has 0.3 (supplement F). Defaults to `0.0`.
        input_shape, normalization, synchronized, name: As in `cifar_resnet`.

    Returns:
        Functional model from images `(batch, *input_shape)` to a dict of logits `{"main": (batch, num_classes), ...}`.

    Raises:
        ValueError: on a branch that does not fit, or another argument out of range.
    """
    check_at_least(1, blocks=blocks, widen=widen)
    if not 0 <= dropout < 1:
        raise ValueError(f"Invalid value for argument `dropout`. Expected a rate in [0, 1). Received: {dropout!r}.")
    stages = [(blocks, width * widen) for width in (16, 32, 64)]
    build = WideResNet(dropout, synchronized)
    return build.network(stages, num_classes, branches, input_shape, normalization, name)


# Blocks per stage, k, branches: Table 8.
WIDE_RESNETS = {
    "wrn16_8": (2, 8, {"aux1": Branch(2, (2,), (1024,)), "aux2": Branch(1, (2, 1), (256, 512))}),
    "wrn28_10": (4, 10, {"aux1": Branch(2, (4,), (1280,)), "aux2": Branch(1, (4, 2), (320, 640))}),
}
wrn16_8, wrn28_10 = (
    named(
        name,
        f"WRN-{6 * blocks + 4}-{widen} for CIFAR",
        functools.partial(wide_resnet, blocks=blocks, widen=widen),
        table,
        more="`dropout`, ",
    )
    for name, (blocks, widen, table) in WIDE_RESNETS.items()
)
