"""DenseNets for CIFAR (Huang et al., 2017) with the branches of Table 7: three dense blocks, two transitions."""

import functools

from keras import layers

from dhm_keras.models.builder import Branch, Builder, check_at_least, named

STAGES = 3


class DenseNet(Builder):
    """The stages of a DenseNet.

    Args:
        stem_filters: Integer. Channels of the first convolution.
        bottleneck: Boolean. Whether a 1x1 convolution to four times the growth rate precedes each 3x3.
        compression: Float in (0, 1]. Share of the channels that a transition keeps.
        synchronized: As of `Builder`.
    """

    def __init__(self, stem_filters, bottleneck, compression, synchronized):
        super().__init__(synchronized)
        self.stem_filters, self.bottleneck, self.compression = stem_filters, bottleneck, compression

    def stem(self, x):
        return self.conv(x, self.stem_filters, "conv")

    def stage(self, x, number, blocks, width, prefix):
        """A dense block of `blocks` layers with the growth rate `width`, and a transition unless it is the last."""
        for index in range(1, blocks + 1):
            name = f"{prefix}stack{number}_layer{index}"
            x = layers.Concatenate(name=f"{name}_concat")([x, self.layer(x, width, name)])
        return x if number == STAGES else self.transition(x, f"{prefix}transition{number}")

    def layer(self, x, growth, name):
        """bn-relu-conv3x3; with a bottleneck bn-relu-conv1x1-bn-relu-conv3x3."""
        if not self.bottleneck:
            return self.conv(self.bn_relu(x, f"{name}_bn"), growth, f"{name}_conv")
        x = self.conv(self.bn_relu(x, f"{name}_bn1"), 4 * growth, f"{name}_conv1", size=1)
        return self.conv(self.bn_relu(x, f"{name}_bn2"), growth, f"{name}_conv2")

    def transition(self, x, name):
        """bn-relu-conv1x1 and a 2x2 average pool."""
        width = int(x.shape[-1] * self.compression)
        if not width:
            raise ValueError(
                f"Invalid value for argument `compression`. Expected one that leaves a channel of the {x.shape[-1]} "
                f"before {name}. Received: {self.compression!r}."
            )
        x = self.conv(self.bn_relu(x, f"{name}_bn"), width, f"{name}_conv", size=1)
        return layers.AveragePooling2D(2, name=f"{name}_pool")(x)

    def head(self, x, num_classes, name):
        return super().head(self.bn_relu(x, f"{name}_bn"), num_classes, name)


def densenet(
    blocks,
    growth,
    num_classes,
    branches,
    bottleneck=False,
    compression=1.0,
    stem_filters=None,
    input_shape=(32, 32, 3),
    normalization=None,
    synchronized=False,
    name="densenet",
):
    """A DenseNet for CIFAR of any depth and growth rate with any branches.

    Args:
        blocks: Integer. Layers in each of the three dense blocks, of a bottleneck network pairs of convolutions.
        growth: Integer k, channels that a layer adds.
        num_classes: Integer.
        branches: Dict from head name to `Branch`, as in `cifar_resnet`; their widths are growth rates.
        bottleneck: Boolean. Whether a 1x1 convolution to 4k channels precedes each 3x3 (DenseNet-B). Defaults to
            `False`.
        compression: Float in (0, 1]. Share of the channels that a transition keeps, rounded down (DenseNet-C).
            Defaults to `1.0`.
        stem_filters: Integer. Channels of the first convolution. Defaults to 2k, the paper's table; the authors'
            release has 16 in its networks without bottleneck.
        input_shape, normalization, synchronized, name: As in `cifar_resnet`.

    Returns:
        Functional model from images `(batch, *input_shape)` to a dict of logits `{"main": (batch, num_classes), ...}`.

    Raises:
        ValueError: on a branch that does not fit, or another argument out of range.
    """
    check_at_least(1, blocks=blocks, growth=growth)
    stem_filters = 2 * growth if stem_filters is None else stem_filters
    check_at_least(1, stem_filters=stem_filters)
    if not 0 < compression <= 1:
        raise ValueError(
            f"Invalid value for argument `compression`. Expected a share in (0, 1]. Received: {compression!r}."
        )
    build = DenseNet(stem_filters, bottleneck, compression, synchronized)
    return build.network([(blocks, growth)] * STAGES, num_classes, branches, input_shape, normalization, name)


# Arguments and branches. DenseNet-40 and 100: Table 7. BC: the authors' release only.
BC = {"bottleneck": True, "compression": 0.5}
DENSENETS = {
    "densenet40": (
        "DenseNet-40-12",
        {"blocks": 12, "growth": 12},
        {"aux1": Branch(2, (12,), (36,)), "aux2": Branch(1, (12, 6), (12, 12))},
    ),
    "densenet100": (
        "DenseNet-100-12",
        {"blocks": 32, "growth": 12},
        {"aux1": Branch(2, (32,), (36,)), "aux2": Branch(1, (16, 16), (12, 12))},
    ),
    "densenetbc100": (
        "DenseNet-BC-100-12",
        {"blocks": 16, "growth": 12, **BC},
        {"aux1": Branch(2, (32,), (36,)), "aux2": Branch(1, (16, 16), (12, 12))},
    ),
}
densenet40, densenet100, densenetbc100 = (
    named(
        name,
        f"{title} for CIFAR",
        functools.partial(densenet, **arguments),
        table,
        unit="layers with a growth rate of {}",
        more="`stem_filters`, ",
    )
    for name, (title, arguments, table) in DENSENETS.items()
)
