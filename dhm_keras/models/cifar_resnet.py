"""ResNets for CIFAR (He et al., 2016) with the branches of Table 6: 6n+2 layers in three stages of basic blocks."""

import dataclasses
import numbers
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from dhm_keras.layers import BatchNormalization, PadChannels
from dhm_keras.network import Network


@dataclasses.dataclass(frozen=True)
class Branch:
    """A side branch: stages of the network's own block from a tap of the backbone to a classifier.

    Args:
        tap: Stage of the backbone after which the branch is forked, 1 or 2.
        blocks: Number of blocks in each of the branch's stages. Every stage halves the resolution, so there are as many
            as the backbone has after the tap.
        widths: Channels of each of these stages.
    """

    tap: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]

    def __post_init__(self):
        for name in ("blocks", "widths"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or not all(isinstance(n, numbers.Integral) for n in value):
                raise ValueError(
                    f"Invalid value for `{name}` of a Branch. Expected integers, as (5, 3). Received: {value!r}."
                )


# Blocks per stage and branches. ResNet-32, 110 and 1202: Table 6. The paper has no 20 and 56: theirs follow the same
# principles (aux1 wider, aux2 shorter: its last stage has half of main's blocks, in deep networks both stages have).
WIDTHS = (16, 32, 64)
RESNETS = {
    "resnet20": (3, {"aux1": Branch(2, (3,), (128,)), "aux2": Branch(1, (3, 2), (32, 64))}),
    "resnet32": (5, {"aux1": Branch(2, (5,), (128,)), "aux2": Branch(1, (5, 3), (32, 64))}),
    "resnet56": (9, {"aux1": Branch(2, (9,), (128,)), "aux2": Branch(1, (5, 5), (32, 64))}),
    "resnet110": (18, {"aux1": Branch(2, (18,), (128,)), "aux2": Branch(1, (9, 9), (32, 64))}),
    "resnet1202": (200, {"aux1": Branch(2, (200,), (128,)), "aux2": Branch(1, (100, 100), (32, 64))}),
}


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
            shallowest. Empty: the plain backbone.
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
    _validate(blocks, num_classes, input_shape, normalization)
    _validate_branches(branches)
    build = Builder(synchronized)

    image = keras.Input(input_shape, name="image")
    x = build.normalize(image, normalization)
    x = build.conv_bn_relu(x, WIDTHS[0], prefix="", index="")
    taps = {}
    for stage, width in enumerate(WIDTHS, start=1):  # 32x32x16, 16x16x32, 8x8x64 for 32x32 images
        x = build.stage(x, blocks, width, stride=1 if stage == 1 else 2, name=f"stack{stage}")
        taps[stage] = x

    logits = {"main": build.head(x, num_classes, "main")}
    for head, branch in branches.items():
        x = taps[branch.tap]
        for stage, (n, width) in enumerate(zip(branch.blocks, branch.widths), start=branch.tap + 1):
            x = build.stage(x, n, width, stride=2, name=f"{head}_stack{stage}")
        logits[head] = build.head(x, num_classes, head)
    return Network(image, logits, name=name)


class Builder:
    """The layers of a CIFAR ResNet, initialised as in the release; each method names what it adds.

    Args:
        synchronized: Boolean, of the BatchNormalization layers.
    """

    def __init__(self, synchronized):
        self.synchronized = synchronized

    def normalize(self, x, normalization):
        if normalization is None:
            return x
        mean, std = ([float(value) * 255 for value in values] for values in normalization)
        variance = [value**2 for value in std]
        return layers.Normalization(mean=mean, variance=variance, dtype=_full_precision(), name="normalization")(x)

    def conv_bn(self, x, width, stride, name, index):
        """3x3 convolution with one pixel of padding on every side, and BatchNormalization."""
        if stride > 1:  # "same" would pad the bottom and the right only
            x = layers.ZeroPadding2D(1, name=f"{name}pad{index}")(x)
        x = layers.Conv2D(
            width,
            3,
            strides=stride,
            padding="valid" if stride > 1 else "same",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            name=f"{name}conv{index}",
        )(x)
        return BatchNormalization(synchronized=self.synchronized, name=f"{name}bn{index}")(x)

    def conv_bn_relu(self, x, width, prefix, index, stride=1):
        x = self.conv_bn(x, width, stride, prefix, index)
        return layers.ReLU(name=f"{prefix}relu{index}")(x)

    def block(self, x, width, stride, name):
        """Basic block; where the shape changes, the shortcut is a 2x2 average pool and zero channels (option A)."""
        shortcut = x
        if stride > 1:
            shortcut = layers.AveragePooling2D(stride, name=f"{name}_shortcut_pool")(shortcut)
        if shortcut.shape[-1] != width:
            shortcut = PadChannels(width, name=f"{name}_shortcut_pad")(shortcut)
        x = self.conv_bn_relu(x, width, f"{name}_", 1, stride)
        x = self.conv_bn(x, width, 1, f"{name}_", 2)
        x = layers.Add(name=f"{name}_add")([x, shortcut])
        return layers.ReLU(name=f"{name}_out")(x)

    def stage(self, x, blocks, width, stride, name):
        for index in range(1, blocks + 1):
            x = self.block(x, width, stride if index == 1 else 1, f"{name}_block{index}")
        return x

    def head(self, x, num_classes, name):
        """Global average pool and classifier; the Dense layer bears the head's name."""
        features = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
        bound = features.shape[-1] ** -0.5
        return layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.RandomUniform(-bound, bound),
            bias_initializer=keras.initializers.RandomUniform(-bound, bound),
            dtype=_full_precision(),
            name=name,
        )(features)


def _full_precision():
    """The dtype that normalization and logits are computed in: float32, also under a mixed policy."""
    return keras.backend.result_type(keras.config.dtype_policy().compute_dtype, "float32")


def _named(name):
    """The builder of a row of `RESNETS`."""
    blocks, table = RESNETS[name]

    def builder(num_classes=100, branches=("aux1", "aux2"), **kwargs):
        if branches is None or isinstance(branches, str):
            raise ValueError(
                f"Invalid value for argument `branches`. Expected names out of {tuple(table)}, or a dict from name to "
                f"`Branch`. Received: {branches!r}."
            )
        if not isinstance(branches, Mapping):
            unknown = [branch for branch in branches if branch not in table]
            if unknown:
                raise ValueError(
                    f"Invalid value for argument `branches`. {name} has the branches {tuple(table)}. "
                    f"Received: {unknown}. Give a dict of `Branch` for others."
                )
            branches = {branch: table[branch] for branch in branches}
        return cifar_resnet(blocks, num_classes, branches, **{"name": name, **kwargs})

    rows = "; ".join(
        f"{head} forked after stage {b.tap}, {' and '.join(map(str, b.blocks))} blocks of "
        f"{' and '.join(map(str, b.widths))} channels"
        for head, b in table.items()
    )
    builder.__name__ = builder.__qualname__ = name
    builder.__doc__ = f"""ResNet-{6 * blocks + 2} for CIFAR with side branches: {rows}.

    Args:
        num_classes: Integer. Defaults to `100`.
        branches: Names out of {tuple(table)}, or a dict from name to `Branch`; `()` for the plain backbone. Defaults to
            both.
        **kwargs: `input_shape`, `normalization`, `synchronized`, `name`, as in `cifar_resnet`.

    Returns:
        Functional model from images `(batch, 32, 32, 3)` to a dict of logits, one `(batch, num_classes)` a head.
    """
    return builder


resnet20, resnet32, resnet56, resnet110, resnet1202 = map(_named, RESNETS)


def _validate(blocks, num_classes, input_shape, normalization):
    for argument, value in (("blocks", blocks), ("num_classes", num_classes)):
        least = 2 if argument == "num_classes" else 1
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected an integer >= {least}. Received: {value!r}."
            )
    if len(input_shape) != 3 or any(not isinstance(n, numbers.Integral) or n < 1 or n % 4 for n in input_shape[:2]):
        raise ValueError(
            "Invalid value for argument `input_shape`. Expected (height, width, channels), height and width divisible "
            f"by 4. Received: {input_shape!r}."
        )
    if normalization is not None:
        shape = (2, input_shape[-1])
        try:
            fits = np.shape(normalization) == shape and min(normalization[1]) > 0
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                f"Invalid value for argument `normalization`. Expected (mean, std), {shape[1]} numbers each, std > 0. "
                f"Received: {normalization!r}."
            )


def _validate_branches(branches):
    if not isinstance(branches, Mapping):
        raise ValueError(
            f"Invalid value for argument `branches`. Expected a dict from name to `Branch`. Received: {branches!r}."
        )
    for head, branch in branches.items():
        if not isinstance(branch, Branch):
            raise ValueError(f"Invalid branch {head!r}. Expected a `Branch`. Received: {branch!r}.")
        stages = len(WIDTHS) - branch.tap
        if branch.tap not in (1, 2) or len(branch.blocks) != stages or len(branch.widths) != stages:
            raise ValueError(
                f"Invalid branch {head!r}. Expected a tap 1 or 2, and blocks and widths for each of the {stages} "
                f"stages after stage {branch.tap}. Received: {branch}."
            )
        widths = (WIDTHS[branch.tap - 1], *branch.widths)  # the parameter-free shortcut can only append channels
        if min(branch.blocks) < 1 or list(widths) != sorted(widths) or head == "main":
            raise ValueError(
                f"Invalid branch {head!r}. Expected at least one block a stage, no stage narrower than the one before "
                f"(the tap has {widths[0]} channels), and a name other than 'main'. Received: {branch}."
            )
    by_depth = sorted(branches, key=lambda head: (len(head), head))  # aux1, aux2, ..., aux10
    taps = [branches[head].tap for head in by_depth]
    if taps != sorted(taps, reverse=True):
        raise ValueError(
            "Invalid value for argument `branches`. Expected names in the order of the forks, aux1 the deepest. "
            f"Received: {dict(zip(by_depth, taps))} (name: tap)."
        )
