"""What the networks share: a branch as a row of a table, the common layers, their checks, builders by name."""

import dataclasses
import numbers
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from dhm_keras.initializers import RandomUniform, VarianceScaling
from dhm_keras.layers import BatchNormalization, full_precision
from dhm_keras.network import Network


@dataclasses.dataclass(frozen=True)
class Branch:
    """A side branch: stages of the network's own block from a tap of the backbone to a classifier.

    Args:
        tap: Stage of the backbone after which the branch is forked, from 1; of a DenseNet, after its transition.
        blocks: Number of blocks in each of the branch's stages, of a DenseNet of layers. The branch halves the
            resolution as often as the backbone does after the tap, so it has as many stages.
        widths: Channels of each of these stages, of a DenseNet its growth rate; of bottlenecks those of the 3x3
            convolution, four times as many leave the block.
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


class Builder:
    """Builds a network of several stages with branches; each stage but the first halves the resolution.

    A family adds `stem(x)`, from the image to the input of stage 1, and `block(x, width, stride, name)`, which a stage
    consists of, or a `stage` of its own.

    Args:
        synchronized: Boolean, of the BatchNormalization layers.
    """

    divisor = 4  # of height and width: what the stages' halving needs
    fan = "fan_out"  # what the variance of a convolution's first weights is divided by, as PyTorch counts it

    def __init__(self, synchronized):
        self.synchronized = synchronized

    def stage(self, x, number, blocks, width, prefix):
        """Stage `number`, from 1, of the backbone, or of a branch whose layers' names begin with `prefix`."""
        for index in range(1, blocks + 1):
            stride = 2 if number > 1 and index == 1 else 1
            x = self.block(x, width, stride, f"{prefix}stack{number}_block{index}")
        return x

    def network(self, stages, num_classes, branches, input_shape, normalization, name):
        """The functional model.

        Args:
            stages: (blocks, width) of each stage of the backbone.
            num_classes, branches, input_shape, normalization, name: As in `cifar_resnet`.

        Returns:
            `Network` from images to a dict of logits.
        """
        _validate(num_classes, input_shape, normalization, self.divisor)
        _validate_branches(branches, len(stages))
        image = keras.Input(input_shape, name="image")
        x = self.stem(self.normalize(image, normalization))
        taps = {}
        for number, (blocks, width) in enumerate(stages, start=1):  # of CIFAR 32x32, 16x16, 8x8
            x = taps[number] = self.stage(x, number, blocks, width, prefix="")

        outputs = self.outputs(taps, num_classes, "main")
        for head, branch in branches.items():
            maps = {number: tap for number, tap in taps.items() if number <= branch.tap}
            for number, (blocks, width) in enumerate(zip(branch.blocks, branch.widths), start=branch.tap + 1):
                maps[number] = self.stage(maps[number - 1], number, blocks, width, prefix=f"{head}_")
            outputs |= self.outputs(maps, num_classes, head)
        return Network(image, outputs, name=name)

    def outputs(self, maps, num_classes, name):
        """What a branch gives: a dict with its logits under its name, of some families more.

        Args:
            maps: Dict from the number of a stage to what it gives, on the way to this branch's end.
            num_classes: Integer.
            name: String, the head's.
        """
        return {name: self.head(maps[max(maps)], num_classes, name)}

    def normalize(self, x, normalization):
        if normalization is None:
            return x
        mean, std = ([float(value) * 255 for value in values] for values in normalization)
        variance = [value**2 for value in std]
        return layers.Normalization(mean=mean, variance=variance, dtype=full_precision(), name="normalization")(x)

    def conv(self, x, width, name, size=3, stride=1):
        """Convolution without bias, initialised as in the release; padded equally on every side."""
        if size > 1 and stride > 1:  # "same" would pad the bottom and the right more
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        return layers.Conv2D(
            width,
            size,
            strides=stride,
            padding="valid" if stride > 1 else "same",
            use_bias=False,
            kernel_initializer=VarianceScaling(2.0, self.fan),  # He's
            name=name,
        )(x)

    def depthwise(self, x, name, stride=1):
        """A 3x3 convolution of each channel by itself, padded and initialised as `conv`."""
        if stride > 1:
            x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        # PyTorch has kernels (channels, 1, 3, 3) and Keras (3, 3, channels, 1): fan-in and fan-out change places.
        fan = {"fan_out": "fan_in", "fan_in": "fan_out"}[self.fan]
        return layers.DepthwiseConv2D(
            3,
            strides=stride,
            padding="valid" if stride > 1 else "same",
            use_bias=False,
            depthwise_initializer=VarianceScaling(2.0, fan),
            name=name,
        )(x)

    def stem_of_224(self, x, width):
        """A 7x7 convolution of stride 2, bn, ReLU, and a 3x3 max pool of stride 2."""
        x = self.bn_relu(self.conv(x, width, "conv", size=7, stride=2), "bn")
        # Behind a ReLU zeros do what -inf would: they never exceed a pixel.
        x = layers.ZeroPadding2D(1, name="pool_pad")(x)
        return layers.MaxPooling2D(3, strides=2, name="pool")(x)

    def bn(self, x, name):
        return BatchNormalization(synchronized=self.synchronized, name=name)(x)

    def bn_relu(self, x, name):
        return layers.ReLU(name=f"{name}_relu")(self.bn(x, name))

    def head(self, x, num_classes, name):
        """Global average pool and classifier; the Dense layer bears the head's name."""
        features = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
        bound = features.shape[-1] ** -0.5
        return layers.Dense(
            num_classes,
            kernel_initializer=VarianceScaling(1 / 3, "fan_in", "uniform"),
            bias_initializer=RandomUniform(-bound, bound),
            dtype=full_precision(),
            name=name,
        )(features)


def named(name, title, family, table, unit="blocks of {} channels", more="", num_classes=100, image=(32, 32)):
    """The builder of one network by its name.

    Args:
        name: String, as `"resnet32"`.
        title: String for the docstring, as `"ResNet-32 for CIFAR"`.
        family: `functools.partial` of the function that builds any network of the family, with what makes it this one.
        table: Dict from head to `Branch`: the branches that the network has by name.
        unit: String. What a branch's stage consists of, for the docstring.
        more: String. Arguments of the family besides the common ones, for the docstring.
        num_classes: Integer. The builder's default.
        image: The default (height, width), for the docstring.

    Returns:
        Function of `num_classes`, `branches` and the family's keyword arguments.
    """

    def builder(num_classes=num_classes, branches=("aux1", "aux2"), **kwargs):
        branches = by_name(branches, table, name)
        fixed = {key: family.keywords[key] for key in kwargs if key in family.keywords}
        if fixed:
            raise ValueError(
                f"{name} has {fixed}. Use dhm_keras.models.{of_family} for others. Received: "
                f"{ {key: kwargs[key] for key in fixed} }."
            )
        return family(num_classes=num_classes, branches=branches, **{"name": name, **kwargs})

    of_family = family.func.__name__
    rows = "; ".join(
        f"{head} forked after stage {b.tap}, {' and '.join(map(str, b.blocks))} "
        + unit.format(" and ".join(map(str, b.widths)))
        for head, b in table.items()
    )
    builder.branches = table
    builder.__name__ = builder.__qualname__ = name
    builder.__doc__ = f"""{title} with side branches: {rows}.

    Args:
        num_classes: Integer. Defaults to `{num_classes}`.
        branches: Names out of {tuple(table)}, or a dict from name to `Branch`; `()` for the plain backbone. Defaults to
            `("aux1", "aux2")`.
        **kwargs: {more}`input_shape`, `normalization`, `synchronized`, `name`, as in `{of_family}`.

    Returns:
        Functional model from images `(batch, {image[0]}, {image[1]}, 3)` to a dict of
        logits, one `(batch, num_classes)` a head.
    """
    return builder


def by_name(branches, table, name):
    """The branches that a network is to have.

    Args:
        branches: Names, or a dict from name to `Branch`.
        table: Dict from head to `Branch`: those that the network has by name.
        name: String, the network's.

    Returns:
        Dict from name to `Branch`.

    Raises:
        ValueError: if they are neither, or there is none of a name.
    """
    if branches is None or isinstance(branches, str):
        raise ValueError(
            f"Invalid value for argument `branches`. Expected names out of {tuple(table)}, or a dict from name to "
            f"`Branch`. Received: {branches!r}."
        )
    if isinstance(branches, Mapping):
        return branches
    if unknown := [branch for branch in branches if branch not in table]:
        raise ValueError(
            f"Invalid value for argument `branches`. {name} has the branches {tuple(table)}. Received: {unknown}. Give "
            "a dict of `Branch` for others."
        )
    return {branch: table[branch] for branch in branches}


def check_at_least(least, **arguments):
    """Raises `ValueError` for an argument that is not an integer of at least `least`."""
    for argument, value in arguments.items():
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected an integer >= {least}. Received: {value!r}."
            )


def _validate(num_classes, input_shape, normalization, divisor):
    check_at_least(2, num_classes=num_classes)
    fits = lambda n: isinstance(n, numbers.Integral) and n > 0 and n % divisor == 0
    if len(input_shape) != 3 or not all(map(fits, input_shape[:2])):
        raise ValueError(
            "Invalid value for argument `input_shape`. Expected (height, width, channels), height and width divisible "
            f"by {divisor}. Received: {input_shape!r}."
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


def _validate_branches(branches, stages):
    if not isinstance(branches, Mapping):
        raise ValueError(
            f"Invalid value for argument `branches`. Expected a dict from name to `Branch`. Received: {branches!r}."
        )
    for head, branch in branches.items():
        if not isinstance(branch, Branch):
            raise ValueError(
                f"Invalid branch {head!r}. Expected a `dhm_keras.models.Branch(tap, blocks, widths)`, not one of "
                f"`fork`. Received: {branch!r}."
            )
        if branch.tap not in range(1, stages):
            raise ValueError(f"Invalid branch {head!r}. Expected a tap from 1 to {stages - 1}. Received: {branch}.")
        after = stages - branch.tap
        if len(branch.blocks) != after or len(branch.widths) != after:
            raise ValueError(
                f"Invalid branch {head!r}. Expected blocks and widths for each of the {after} stages after stage "
                f"{branch.tap}. Received: {branch}."
            )
        reserved = head in ("main", "embedding") or head.endswith(("_features", "_local"))
        if min(branch.blocks) < 1 or min(branch.widths) < 1 or reserved:
            raise ValueError(
                f"Invalid branch {head!r}. Expected at least one block a stage, one channel a block, and a name other "
                f"than 'main' and 'embedding', not ending in '_features' or '_local'. Received: {branch}."
            )
    by_depth = sorted(branches, key=lambda head: (len(head), head))  # aux1, aux2, ..., aux10
    taps = [branches[head].tap for head in by_depth]
    if taps != sorted(taps, reverse=True):
        raise ValueError(
            "Invalid value for argument `branches`. Expected names in the order of the forks, aux1 the deepest. "
            f"Received: {dict(zip(by_depth, taps))} (name: tap)."
        )
