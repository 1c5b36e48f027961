"""ResNets for CIFAR (He et al., 2016) with the branches of Table 6: 6n+2 layers in three stages of basic blocks."""

import functools

from keras import layers

from dhm_keras.layers import PadChannels
from dhm_keras.models.builder import Branch, Builder, check_at_least, named

WIDTHS = (16, 32, 64)


class ResNet(Builder):
    """The stages of a CIFAR ResNet."""

    def stem(self, x):
        return self.bn_relu(self.conv(x, WIDTHS[0], "conv"), "bn")

    def stage(self, x, number, blocks, width, prefix):
        if width < x.shape[-1]:  # the parameter-free shortcut can only append channels
            raise ValueError(
                f"Invalid branch {prefix.removesuffix('_')!r}. Expected no stage narrower than the one before, which "
                f"has {x.shape[-1]} channels. Received: {width} channels in stage {number}."
            )
        return super().stage(x, number, blocks, width, prefix)

    def block(self, x, width, stride, name):
        """Basic block; where the shape changes, the shortcut is a 2x2 average pool and zero channels (option A)."""
        shortcut = x
        if stride > 1:
            shortcut = layers.AveragePooling2D(stride, name=f"{name}_shortcut_pool")(shortcut)
        if shortcut.shape[-1] != width:
            shortcut = PadChannels(width, name=f"{name}_shortcut_pad")(shortcut)
        x = self.bn_relu(self.conv(x, width, f"{name}_conv1", stride=stride), f"{name}_bn1")
        x = self.bn(self.conv(x, width, f"{name}_conv2"), f"{name}_bn2")
        x = layers.Add(name=f"{name}_add")([x, shortcut])
        return layers.ReLU(name=f"{name}_out")(x)


def cifar_resnet(
    blocks, num_classes, branches, input_shape=(32, 32, 3), normalization=None, synchronized=False, name="cifar_resnet"
):
    """A CIFAR ResNet of any depth 6n+2 with any branches.

    Example: the ResNet-14 of `recipes/digits.py`:

    ```python
    network = cifar_resnet(
        blocks=2,
        num_classes=10,
        branches={"aux1": Branch(2, (2,), (128,)), "aux2": Branch(1, (2, 1), (32, 64))},
        input_shape=(16, 16, 3),
    )
    ```

    Args:
        blocks: Integer n, basic blocks in each of the three stages.
        num_classes: Integer.
        branches: Dict from head name to `Branch`. Name them `aux1`, `aux2`, ... from the deepest fork to the
            shallowest. Empty: the plain backbone. No stage can be narrower than the one before.
        input_shape: `(height, width, channels)`; height and width divisible by 4. Defaults to `(32, 32, 3)`.
        normalization: `(mean, std)` per channel in units of [0, 1]: the network then takes raw images, 0-255, uint8 or
            float, and its first layer computes (image / 255 - mean) / std in float32. Defaults to `None`: images are
            taken as they are.
        synchronized: Boolean. On TensorFlow, batch statistics over all replicas. Defaults to `False`.
        name: String. Name of the model.

    Returns:
        Functional model from images `(batch, *input_shape)` to a dict of logits `{"main": (batch, num_classes), ...}`,
        float32 under a mixed-precision policy.

    Raises:
        ValueError: on a branch that does not fit, or another argument out of range.
    """
    check_at_least(1, blocks=blocks)
    stages = [(blocks, width) for width in WIDTHS]
    return ResNet(synchronized).network(stages, num_classes, branches, input_shape, normalization, name)


# Blocks per stage and branches. ResNet-32, 110 and 1202: Table 6. The paper has no 20 and 56: theirs follow the same
# principles (aux1 wider, aux2 shorter: its last stage has half of main's blocks, in deep networks both stages have).
RESNETS = {
    "resnet20": (3, {"aux1": Branch(2, (3,), (128,)), "aux2": Branch(1, (3, 2), (32, 64))}),
    "resnet32": (5, {"aux1": Branch(2, (5,), (128,)), "aux2": Branch(1, (5, 3), (32, 64))}),
    "resnet56": (9, {"aux1": Branch(2, (9,), (128,)), "aux2": Branch(1, (5, 5), (32, 64))}),
    "resnet110": (18, {"aux1": Branch(2, (18,), (128,)), "aux2": Branch(1, (9, 9), (32, 64))}),
    "resnet1202": (200, {"aux1": Branch(2, (200,), (128,)), "aux2": Branch(1, (100, 100), (32, 64))}),
}
resnet20, resnet32, resnet56, resnet110, resnet1202 = (
    named(name, f"ResNet-{6 * blocks + 2} for CIFAR", functools.partial(cifar_resnet, blocks=blocks), table)
    for name, (blocks, table) in RESNETS.items()
)
