"""What stands between the feature maps and the classifier of a person re-identification network."""

import numbers

from keras import layers

from dhm_keras.initializers import RandomNormal, VarianceScaling
from dhm_keras.layers import BatchNormalization, full_precision

BALANCED = 512  # features that a balance neck's classifier takes; they scale with nothing
LOCAL = 128  # channels of the local map


def bn_neck(features, num_classes, name="main", synchronized=False):
    """BNNeck of Luo et al., "Bag of Tricks and a Strong Baseline" (2019): each loss gets the features that suit it.

    The triplet loss acts on the features before the normalization, the cross-entropy on the logits behind it; what
    stands between them, the embedding, is what persons are compared by (best with the cosine). The normalization has
    no shift and the classifier no bias, so that classes are divided by hyperplanes through the origin.

    Example: see `BatchHardTriplet`.

    Args:
        features: Symbolic tensor `(batch, d)`, the pooled ones.
        num_classes: Integer.
        name: String. Name of the classifier, and so of the head. Defaults to `"main"`.
        synchronized: Boolean. As of `layers.BatchNormalization`. Defaults to `False`.

    Returns:
        `(logits, embedding)`: symbolic tensors `(batch, num_classes)`, float32 under a mixed-precision policy, and
        `(batch, d)`. `embedding(model, head)` finds the second by the first.

    Raises:
        ValueError: if the features have another rank.
    """
    if len(features.shape) != 2:
        raise ValueError(
            "Invalid value for argument `features`. Expected the shape (batch, d), as a global pooling gives. "
            f"Received: {tuple(features.shape)}."
        )
    embedding = BatchNormalization(center=False, synchronized=synchronized, name=f"{name}_neck")(features)
    logits = layers.Dense(num_classes, use_bias=False, kernel_initializer=_small(), dtype=full_precision(), name=name)(
        embedding
    )
    return logits, embedding


def bl_neck(x, num_classes, name="main", dropout=0.2, synchronized=False):
    """BLNeck, the balance neck of CDNet (Li et al., CVPR 2021).

    The map is pooled; the triplet loss acts on the pooled features, the cross-entropy behind a dense layer with batch
    normalization and ReLU that leads to a space of its own, 512 features. Persons are compared by the pooled features,
    so all behind them is left out of what is shipped.

    Example: the neck on a backbone of your own:

    ```python
    backbone = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(256, 128, 3))
    network = keras.Model(backbone.input, dhm_keras.reid.bl_neck(backbone.output, num_classes=751))
    model = dhm_keras.DHM(network, method="baseline", triplet_weight=1.0)
    ```

    Args:
        x: Symbolic tensor `(batch, height, width, channels)`, the last feature map.
        num_classes: Integer, the number of persons to train on.
        name: String, the head's. Defaults to `"main"`.
        dropout: Float in [0, 1). Rate of what is dropped of the pooled features in training. Defaults to `0.2`.
        synchronized: Boolean. As of `layers.BatchNormalization`. Defaults to `False`.

    Returns:
        Dict of symbolic tensors, outputs of a network for `DHM`: under the head's name the logits
        `(batch, num_classes)`, float32 under a mixed-precision policy; `NAME_features`, `(batch, channels)`; of main
        also `embedding`, the same without dropout.

    Raises:
        ValueError: if the map has another rank, or the rate is no such number.
    """
    _check_map("x", x)
    _check_rate(dropout)
    pooled = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    logits, features = _balanced(pooled, num_classes, name, dropout, synchronized)
    return {name: logits, f"{name}_features": features, **({"embedding": pooled} if name == "main" else {})}


def fbl_neck(middle, deep, num_classes, name="main", dropout=0.2, synchronized=False):
    """FBLNeck, the fine-grained balance neck of CDNet (Li et al., CVPR 2021).

    Global features are pooled from the deepest map. Local ones are from a map of the middle: a linear 1x1 convolution
    to 128 channels, pooled over the upper and over the lower half. Each of both has a balance neck of its own, see
    `bl_neck`; persons are compared by both together.

    Example: OSNet with this neck is `dhm_keras.models.osnet(neck="fblneck")`; on a backbone of your own:

    ```python
    backbone = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(256, 128, 3))
    middle = backbone.get_layer("block_12_add").output
    network = keras.Model(backbone.input, dhm_keras.reid.fbl_neck(middle, backbone.output, num_classes=751))
    model = dhm_keras.DHM(network, method="baseline", triplet_weight=1.0)
    ```

    Args:
        middle: Symbolic tensor `(batch, height, width, c)`, of even height.
        deep: Symbolic tensor `(batch, h, w, channels)`, the last feature map.
        num_classes, name, dropout, synchronized: As of `bl_neck`.

    Returns:
        As of `bl_neck`, and of the local features `NAME_local`, `(batch, num_classes)`, and `NAME_local_features`,
        `(batch, 256)`. `embedding` is of both, `(batch, channels + 256)`.

    Raises:
        ValueError: if a map has another rank, the height is odd or not known, or the rate is no such number.
    """
    _check_map("middle", middle)
    if middle.shape[1] is None or middle.shape[1] % 2:
        raise ValueError(
            "Invalid value for argument `middle`. Expected a map of even height, which is cut into an upper and a "
            f"lower half. Received: {tuple(middle.shape)}."
        )
    outputs = bl_neck(deep, num_classes, name, dropout, synchronized)
    he = VarianceScaling(2.0)
    x = layers.Conv2D(LOCAL, 1, use_bias=False, kernel_initializer=he, name=f"{name}_local_conv")(middle)
    half = middle.shape[1] // 2
    upper = layers.Cropping2D(((0, half), (0, 0)), name=f"{name}_local_upper")(x)
    lower = layers.Cropping2D(((half, 0), (0, 0)), name=f"{name}_local_lower")(x)
    halves = [layers.GlobalAveragePooling2D(name=f"{part.name}_pool")(part) for part in (upper, lower)]
    pooled = layers.Concatenate(name=f"{name}_local_pool")(halves)
    logits, features = _balanced(pooled, num_classes, f"{name}_local", dropout, synchronized)
    outputs |= {f"{name}_local": logits, f"{name}_local_features": features}
    if name == "main":
        outputs["embedding"] = layers.Concatenate(name="embedding")([outputs["embedding"], pooled])
    return outputs


def _balanced(pooled, num_classes, name, dropout, synchronized):
    """`(logits, features)`: the features after dropout, and what a balance neck makes of them."""
    features = layers.Dropout(dropout, name=f"{name}_dropout")(pooled) if dropout else pooled
    x = layers.Dense(BALANCED, kernel_initializer=_small(), name=f"{name}_dense")(features)
    x = BatchNormalization(synchronized=synchronized, name=f"{name}_dense_bn")(x)
    x = layers.ReLU(name=f"{name}_dense_relu")(x)
    logits = layers.Dense(num_classes, kernel_initializer=_small(), dtype=full_precision(), name=name)(x)
    return logits, features


def _small():
    return RandomNormal(stddev=0.001)


def _check_map(argument, x):
    if len(x.shape) != 4:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a map (batch, height, width, channels). Received: "
            f"{tuple(x.shape)}."
        )


def _check_rate(dropout):
    if not isinstance(dropout, numbers.Real) or not 0 <= dropout < 1:
        raise ValueError(f"Invalid value for argument `dropout`. Expected a rate in [0, 1). Received: {dropout!r}.")
