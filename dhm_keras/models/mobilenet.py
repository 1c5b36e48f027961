"""MobileNet (Howard et al., 2017) with the branches of Table 10, for person re-identification."""

from dhm_keras.models.builder import Branch, Builder, by_name

STAGES = ((1, 64), (2, 128), (2, 256), (6, 512), (2, 1024))  # blocks, channels
# Table 10. Its misprint of a pointwise convolution, 256 channels where the next layer takes 512, is read as 512.
BRANCHES = {"aux1": Branch(4, (2,), (2048,)), "aux2": Branch(3, (4, 2), (512, 1024))}


class MobileNet(Builder):
    """The stages of a MobileNet; of images of 256x128 the first has 128x64 pixels, the last 8x4.

    Args:
        last_stride: As of `mobilenet`.
        synchronized: As of `Builder`.
    """

    divisor = 1  # every halving rounds up

    def __init__(self, last_stride, synchronized):
        super().__init__(synchronized)
        self.last_stride = last_stride

    def stem(self, x):
        return self.bn_relu(self.conv(x, 32, "conv", stride=2), "bn")

    def stage(self, x, number, blocks, width, prefix):
        for index in range(1, blocks + 1):
            is_last = number == len(STAGES) and index == blocks
            stride = 2 if number > 1 and index == 1 else self.last_stride if is_last else 1
            x = self.block(x, width, stride, f"{prefix}stack{number}_block{index}")
        return x

    def block(self, x, width, stride, name):
        """A 3x3 convolution of each channel by itself, which has the stride, and a 1x1; bn and ReLU behind both."""
        x = self.bn_relu(self.depthwise(x, f"{name}_conv1", stride), f"{name}_bn1")
        return self.bn_relu(self.conv(x, width, f"{name}_conv2", size=1), f"{name}_bn2")


def mobilenet(
    num_classes=751,
    branches=("aux1", "aux2"),
    input_shape=(256, 128, 3),
    last_stride=1,
    normalization=None,
    synchronized=False,
    name="mobilenet",
):
    """MobileNet v1 for person re-identification with side branches (Table 10 of the DHM paper's supplement).

    aux2 is forked after stage 3, 4 and 2 blocks of 512 and 1024 channels; aux1 after stage 4, 2 blocks of 2048.

    Example:

    ```python
    network = dhm_keras.models.mobilenet(num_classes=751, normalization=dhm_keras.data.IMAGENET_MEAN_STD)
    ```

    Args:
        num_classes: Integer, for re-identification the number of persons to train on. Defaults to `751`,
            Market-1501's.
        branches: Names out of `("aux1", "aux2")`, or a dict from name to `Branch`, as in `cifar_resnet`; `()` for the
            plain backbone. Defaults to `("aux1", "aux2")`.
        input_shape: `(height, width, channels)`. Defaults to `(256, 128, 3)`.
        last_stride: Integer, 1 or 2: of the last depthwise convolution of main and of each branch. Table 10 prints 2,
            as the table in MobileNet's own paper does, whose published 569 M multiply-adds are those of 1. Defaults to
            `1`.
        normalization, synchronized, name: As in `cifar_resnet`.

    Returns:
        Functional model from images `(batch, *input_shape)` to a dict of logits `{"main": (batch, num_classes), ...}`.

    Raises:
        ValueError: on a branch that does not fit, or another argument out of range.
    """
    if last_stride not in (1, 2):
        raise ValueError(f"Invalid value for argument `last_stride`. Expected 1 or 2. Received: {last_stride!r}.")
    branches = by_name(branches, BRANCHES, "mobilenet")
    build = MobileNet(last_stride, synchronized)
    return build.network(STAGES, num_classes, branches, input_shape, normalization, name)


mobilenet.branches = BRANCHES
