"""ResNets for ImageNet (He et al., 2016) with the branches of supplement A.2: four stages, conv2_x to conv5_x."""

import functools

from keras import layers

from dhm_keras.models.builder import Branch, Builder, check_at_least, named

WIDTHS = (64, 128, 256, 512)


class ResNet(Builder):
    """The stages of a ResNet for ImageNet; stage 1 is conv2_x, stage 4 conv5_x.

    Args:
        bottleneck: Boolean. Whether a block is a bottleneck of three convolutions, or of two.
        synchronized: As of `Builder`.
    """

    divisor = 1  # every halving rounds up

    def __init__(self, bottleneck, synchronized):
        super().__init__(synchronized)
        self.bottleneck = bottleneck

    def stem(self, x):
        return self.stem_of_224(x, WIDTHS[0])

    def block(self, x, width, stride, name):
        """Basic block or bottleneck, the stride on a 3x3; where the shape changes, the shortcut is a 1x1 and bn."""
        out = 4 * width if self.bottleneck else width
        shortcut = x
        if stride > 1 or x.shape[-1] != out:
            shortcut = self.conv(x, out, f"{name}_shortcut_conv", size=1, stride=stride)
            shortcut = self.bn(shortcut, f"{name}_shortcut_bn")
        if self.bottleneck:
            x = self.bn_relu(self.conv(x, width, f"{name}_conv1", size=1), f"{name}_bn1")
            x = self.bn_relu(self.conv(x, width, f"{name}_conv2", stride=stride), f"{name}_bn2")
            x = self.bn(self.conv(x, out, f"{name}_conv3", size=1), f"{name}_bn3")
        else:
            x = self.bn_relu(self.conv(x, width, f"{name}_conv1", stride=stride), f"{name}_bn1")
            x = self.bn(self.conv(x, width, f"{name}_conv2"), f"{name}_bn2")
        x = layers.Add(name=f"{name}_add")([x, shortcut])
        return layers.ReLU(name=f"{name}_out")(x)


def imagenet_resnet(
    blocks,
    bottleneck,
    num_classes,
    branches,
    input_shape=(224, 224, 3),
    normalization=None,
    synchronized=False,
    name="imagenet_resnet",
):
    """A ResNet for ImageNet of any depth with any branches.

    The stem is a 7x7 convolution of stride 2 and a 3x3 max pool of stride 2; the stages have 64, 128, 256 and 512
    channels, of bottlenecks four times as many. A bottleneck's stride is on its 3x3 convolution.

    Args:
        blocks: Four integers, blocks in each of the stages conv2_x to conv5_x.
        bottleneck: Boolean. `True`: blocks of a 1x1, a 3x3 and a 1x1 convolution; `False`: of two 3x3.
        num_classes: Integer.
        branches: Dict from head name to `Branch`, as in `cifar_resnet`; a tap is 1 (conv2_x) to 3 (conv4_x).
        input_shape: `(height, width, channels)`. Defaults to `(224, 224, 3)`.
        normalization, synchronized, name: As in `cifar_resnet`.

    Returns:
        Functional model from images `(batch, *input_shape)` to a dict of logits `{"main": (batch, num_classes), ...}`.

    Raises:
        ValueError: on a branch that does not fit, or another argument out of range.
    """
    if not isinstance(blocks, (tuple, list)) or len(blocks) != len(WIDTHS):
        raise ValueError(
            f"Invalid value for argument `blocks`. Expected four integers, as (3, 4, 6, 3). Received: {blocks!r}."
        )
    for number in blocks:
        check_at_least(1, blocks=number)
    stages = list(zip(blocks, WIDTHS))
    build = ResNet(bottleneck, synchronized)
    return build.network(stages, num_classes, branches, input_shape, normalization, name)


# Blocks per stage, whether they are bottlenecks, branches: Table 9; ResNet-34 is the release's. The ablations' aux3
# (Table 4) is built only where it is asked for.
RESNETS = {
    "resnet18": (
        *((2, 2, 2, 2), False),
        {
            "aux1": Branch(3, (2,), (1024,)),
            "aux2": Branch(2, (1, 2), (256, 512)),
            "aux3": Branch(1, (1, 1, 2), (128, 256, 512)),
        },
    ),
    "resnet34": (
        *((3, 4, 6, 3), False),
        {"aux1": Branch(3, (3,), (1024,)), "aux2": Branch(2, (3, 2), (256, 512))},
    ),
    "resnet50": (
        *((3, 4, 6, 3), True),
        {"aux1": Branch(3, (3,), (1024,)), "aux2": Branch(2, (3, 2), (256, 512))},
    ),
    "resnet101": (
        *((3, 4, 23, 3), True),
        {"aux1": Branch(3, (3,), (1024,)), "aux2": Branch(2, (12, 2), (256, 512))},
    ),
    "resnet152": (
        *((3, 8, 36, 3), True),
        {"aux1": Branch(3, (3,), (1024,)), "aux2": Branch(2, (18, 2), (256, 512))},
    ),
}
resnet18, resnet34, resnet50, resnet101, resnet152 = (
    named(
        name,
        f"{name.replace('resnet', 'ResNet-')} for ImageNet",
        functools.partial(imagenet_resnet, blocks=blocks, bottleneck=bottleneck),
        table,
        unit="bottlenecks of {} channels" if bottleneck else "blocks of {} channels",
        num_classes=1000,
        image=(224, 224),
    )
    for name, (blocks, bottleneck, table) in RESNETS.items()
)
