"""What stands between the pooled features and the classifier."""

import keras
from keras import layers

from dhm_keras.initializers import RandomNormal
from dhm_keras.layers import BatchNormalization


def bn_neck(features, num_classes, name="main"):
    """BNNeck of Luo et al., "Bag of Tricks and a Strong Baseline" (2019): each loss gets the features that suit it.

    The triplet loss acts on the features before the normalization, the cross-entropy on the logits behind it; what
    stands between them, the embedding, is what persons are compared by (best with the cosine). The normalization has
    no shift and the classifier no bias, so that classes are divided by hyperplanes through the origin.

    Example: see `BatchHardTriplet`.

    Args:
        features: Symbolic tensor `(batch, d)`, the pooled ones.
        num_classes: Integer.
        name: String. Name of the classifier, and so of the head. Defaults to `"main"`.

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
    embedding = BatchNormalization(center=False, name=f"{name}_neck")(features)
    logits = layers.Dense(
        num_classes,
        use_bias=False,
        kernel_initializer=RandomNormal(stddev=0.001),
        dtype=keras.backend.result_type(keras.config.dtype_policy().compute_dtype, "float32"),
        name=name,
    )(embedding)
    return logits, embedding
