"""CDNet and CNet (Li et al., CVPR 2021): searched combinations of streams, for person re-identification."""

import functools

from keras import layers

from dhm_keras.layers import full_precision
from dhm_keras.models.builder import by_name, named
from dhm_keras.models.genotypes import GENOTYPES, check_genotype
from dhm_keras.models.omniscale import BRANCHES, OmniScale, check_choice, scaled
from dhm_keras.models.osnet import scaled_branches


class CDNet(OmniScale):
    """The stages of a CDNet.

    Args:
        genotype: Tuple of six `(k1, k2, r)`.
        kind, task, dropout: `neck`, `task` and `dropout` of `cdnet`.
        stem_width: Integer.
        stem_size, synchronized: As of `OmniScale`.
    """

    fan = "fan_in"

    def __init__(self, genotype, kind, task, dropout, stem_width, stem_size, synchronized):
        super().__init__(stem_size, 4, synchronized)
        self.genotype, self.kind, self.task, self.dropout = genotype, kind, task, dropout
        self.stem_width = stem_width

    def stem(self, x):
        return super().stem(x, self.stem_width)

    def layer(self, x, number, index, width, prefix):
        layer = self.genotype[2 * (number - 1) + (index - 1) % 2]  # of a longer branch's they come again
        return self.cd_block(x, width, layer, f"{prefix}_layer{index}")

    def cd_block(self, x, width, layer, name):
        """CDBlock: r CBlocks in a row.

        Args:
            x: Symbolic tensor `(batch, h, w, channels)`.
            width: Integer. Channels that leave each block.
            layer: `(k1, k2, r)`: a kernel of size k is (k - 1) / 2 light 3x3 convolutions.
            name: String, what the layers' names begin with.

        Returns:
            Symbolic tensor `(batch, h, w, width)`.
        """
        *kernels, repeats = layer
        for number in range(1, repeats + 1):
            x = self.combined(x, width, [kernel // 2 for kernel in kernels], f"{name}_block{number}")
        return x

    def outputs(self, maps, num_classes, name):
        outputs = self.neck(self.kind, maps, num_classes, name, self.dropout)
        if self.task == "reid":
            return outputs
        if f"{name}_local" not in outputs:
            return {name: outputs[name]}
        return {name: layers.Add(dtype=full_precision(), name=f"{name}_sum")([outputs[name], outputs[f"{name}_local"]])}


def cdnet(
    genotype="cdnet_top2",
    num_classes=751,
    branches=("aux1", "aux2"),
    input_shape=(256, 128, 3),
    width=1.0,
    neck="fblneck",
    stem=7,
    task="reid",
    dropout=0.2,
    normalization=None,
    synchronized=False,
    name="cdnet",
):
    """CDNet of any genotype and width, with side branches of its own blocks.

    What a network is trained with and what is shipped differ: of a network for re-identification only the feature maps
    and what makes the embedding of them, 768 numbers of a CDNet, are in `DHM.main` and in the export. The balance
    necks behind are left out.

    The branches are ours, as wide and as long as those of `osnet`; each layer is what the genotype has at its stage,
    and each branch ends in a `reid.bl_neck`.

    Example: the network of the paper and its training losses, both cross-entropies and both triplet losses:

    ```python
    network = dhm_keras.models.cdnet(num_classes=751, branches=(), normalization=dhm_keras.data.IMAGENET_MEAN_STD)
    model = dhm_keras.DHM(network, method="baseline", triplet_weight=1.0)
    ```

    Args:
        genotype: A key of `GENOTYPES`, or six layers `(k1, k2)` or `(k1, k2, r)`, such as `read_genotype` gives.
            Defaults to `"cdnet_top2"`, which the paper calls CDNet.
        num_classes: Integer, for re-identification the number of persons to train on. Defaults to `751`,
            Market-1501's.
        branches: Names out of `("aux1", "aux2")`, or a dict from name to `Branch`, as in `cifar_resnet`, whose widths
            are not multiplied; `()` for the plain backbone. Defaults to `("aux1", "aux2")`.
        input_shape: `(height, width, channels)`; height and width divisible by 16, with a stem of 3 by 4; with an
            `"fblneck"` the height by 32, or 8. Defaults to `(256, 128, 3)`.
        width: Float >= 0.25. Multiplier of the channels, beta of the paper; gamma is that of the `input_shape`.
            Defaults to `1.0`.
        neck: `"fblneck"`, or `"blneck"`, which is without the local features. Defaults to `"fblneck"`.
        stem: Integer. 7: a 7x7 convolution of stride 2 and a max pool. 3: a 3x3 convolution of stride 1 (CIFAR).
            Defaults to `7`.
        task: `"reid"`: the outputs that are listed at `reid.fbl_neck` and `reid.bl_neck`. `"classification"`: logits
            alone, of an `"fblneck"` the sum of both classifiers'; nothing is left out of what is shipped. The authors
            have the first neck for CIFAR-100, and a `"blneck"` for ImageNet. Defaults to `"reid"`.
        dropout: Float in [0, 1). Rate of the pooled features. Defaults to `0.2`.
        normalization, synchronized, name: As in `cifar_resnet`.

    Returns:
        Functional model from images `(batch, *input_shape)` to a dict of outputs: logits `(batch, num_classes)` of
        `main`, `aux1`, ...; with `task="reid"` the others of the necks.

    Raises:
        ValueError: on a genotype or a branch that does not fit, or another argument out of range.
    """
    check_choice(neck=(neck, ("fblneck", "blneck")), stem=(stem, (7, 3)), task=(task, ("reid", "classification")))
    stem_width, *widths = scaled(width)
    branches = by_name(branches, scaled_branches(width), name)
    build = CDNet(check_genotype(genotype), neck, task, dropout, stem_width, stem, synchronized)
    return build.network([(2, each) for each in widths], num_classes, branches, input_shape, normalization, name)


cdnet.branches = BRANCHES
cnet_top1, cnet_top2, cnet_top3, cnet_top4, cdnet_top1, cdnet_top2, cdnet_top3, cdnet_top4 = (
    named(
        name,
        f"{'CDNet' if name.startswith('cd') else 'CNet'} of the genotype {name!r}",
        functools.partial(cdnet, genotype=name),
        BRANCHES,
        unit="layers of {} channels",
        more="`width`, `neck`, `stem`, `task`, `dropout`, ",
        num_classes=751,
        image=(256, 128),
    )
    for name in GENOTYPES
)
