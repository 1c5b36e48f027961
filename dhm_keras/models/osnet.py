"""OSNet (Zhou et al., ICCV 2019): omni-scale blocks, for person re-identification and classification."""

import dataclasses
import functools

from keras import layers

from dhm_keras.initializers import RandomNormal
from dhm_keras.layers import full_precision
from dhm_keras.models.builder import by_name, named
from dhm_keras.models.omniscale import BRANCHES, OmniScale, check_choice, scaled

FEATURES = 512  # of a head, whatever the width
DEPTHS = (1, 2, 3, 4)  # of a block's streams


class OSNet(OmniScale):
    """The stages of an OSNet.

    Args:
        kind, pooling: `neck` and `pooling` of `osnet`.
        stem_width: Integer.
        stem_size, synchronized: As of `OmniScale`.
    """

    def __init__(self, kind, pooling, stem_width, stem_size, synchronized):
        super().__init__(stem_size, 4 if kind == "fblneck" else 16, synchronized)
        self.kind, self.pooling, self.stem_width = kind, pooling, stem_width

    def stem(self, x):
        return super().stem(x, self.stem_width)

    def layer(self, x, number, index, width, prefix):
        return self.combined(x, width, DEPTHS, f"{prefix}_block{index}")

    def outputs(self, maps, num_classes, name):
        if self.kind == "fblneck":
            return self.neck(self.kind, maps, num_classes, name, dropout=0.2)
        return super().outputs(maps, num_classes, name)

    def head(self, x, num_classes, name):
        """1x1 convolution, pooling, the dense layer that gives the features, classifier."""
        prefix = "" if name == "main" else f"{name}_"
        x = self.bn_relu(self.conv(x, x.shape[-1], f"{prefix}conv5", size=1), f"{prefix}bn5")
        pool = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}[self.pooling]
        x = pool(name=f"{name}_pool")(x)
        x = layers.Dense(FEATURES, kernel_initializer=RandomNormal(stddev=0.01), name=f"{name}_dense")(x)
        x = self.bn_relu(x, f"{name}_dense_bn")
        small = RandomNormal(stddev=0.01)
        return layers.Dense(num_classes, kernel_initializer=small, dtype=full_precision(), name=name)(x)


def osnet(
    width=1.0,
    num_classes=751,
    branches=("aux1", "aux2"),
    input_shape=(256, 128, 3),
    neck="dense",
    stem=7,
    pooling="avg",
    normalization=None,
    synchronized=False,
    name="osnet",
):
    """OSNet of any width, with side branches of its own blocks.

    The branches are ours: aux2 is forked after stage 1, 2 and 1 blocks of 384 and 512 channels; aux1 after stage 2, 2
    blocks of 1024; each has a neck of its own. Of a network with the width 0.5 all of these are half as wide.

    Persons are compared by the 512 features that main's classifier takes, see `reid.embedding`.

    Example:

    ```python
    network = dhm_keras.models.osnet(num_classes=751, normalization=dhm_keras.data.IMAGENET_MEAN_STD)
    ```

    Args:
        width: Float >= 0.25. Multiplier of the channels. Defaults to `1.0`.
        num_classes: Integer, for re-identification the number of persons to train on. Defaults to `751`,
            Market-1501's.
        branches: Names out of `("aux1", "aux2")`, or a dict from name to `Branch`, as in `cifar_resnet`, whose widths
            are not multiplied; `()` for the plain backbone. Defaults to `("aux1", "aux2")`.
        input_shape: `(height, width, channels)`; height and width divisible by 16, with a stem of 3 by 4. Defaults to
            `(256, 128, 3)`.
        neck: `"dense"`: a 1x1 convolution, pooling and a dense layer. `"fblneck"`: `reid.fbl_neck` instead of all
            three, and gates that reduce by 4, not 16 (CDNet's supplement, section 4); the outputs are then those of
            `cdnet`. Defaults to `"dense"`.
        stem: Integer. 7: a 7x7 convolution of stride 2 and a max pool. 3: a 3x3 convolution of stride 1, for images of
            32x32; OSNet's own form for CIFAR is in no source, this one is ours. Defaults to `7`.
        pooling: `"avg"` or `"max"`, of the dense neck (`"max"` for attributes). Defaults to `"avg"`.
        normalization, synchronized, name: As in `cifar_resnet`.

    Returns:
        Functional model from images `(batch, *input_shape)` to a dict of logits `{"main": (batch, num_classes), ...}`.

    Raises:
        ValueError: on a branch that does not fit, or another argument out of range.
    """
    check_choice(neck=(neck, ("dense", "fblneck")), stem=(stem, (7, 3)), pooling=(pooling, ("avg", "max")))
    if pooling == "max" and neck != "dense":
        raise ValueError(
            f"Invalid value for argument `pooling`. 'max' is of the dense neck, an {neck!r} has averages. Received: "
            f"neck={neck!r}, pooling={pooling!r}."
        )
    stem_width, *widths = scaled(width)
    branches = by_name(branches, scaled_branches(width), name)
    build = OSNet(neck, pooling, stem_width, stem, synchronized)
    return build.network([(2, each) for each in widths], num_classes, branches, input_shape, normalization, name)


def scaled_branches(width):
    """The branches of a network by their names, with a width multiplier."""
    return {
        head: dataclasses.replace(branch, widths=tuple(scaled(width, each) for each in branch.widths))
        for head, branch in BRANCHES.items()
    }


osnet_x1_0, osnet_x0_75, osnet_x0_5, osnet_x0_25 = (
    named(
        f"osnet_x{width}".replace(".", "_"),
        f"OSNet x{width}",
        functools.partial(osnet, width=width),
        scaled_branches(width),
        more="`neck`, `stem`, `pooling`, ",
        num_classes=751,
        image=(256, 128),
    )
    for width in (1.0, 0.75, 0.5, 0.25)
)
