"""The triplet loss with the hardest examples of a batch, a pure function of features."""

import math

import keras
from keras import ops


def batch_hard_triplet(labels, features, margin=0.3):
    """The triplet loss with the hardest examples of the batch (Hermans et al., "In Defense of the Triplet Loss", 2017).

    Of each image, the anchor: max(0, margin + d(farthest image of the same person) - d(nearest image of another)), d
    the Euclidean distance (not squared) of the features as they are. An image is one of its own person, too: an anchor
    without another of that person has 0 as the first distance (as of all peers), and only pushes the others away. An
    anchor without an image of another person has the loss 0: there is nothing to compare.

    The batch should hold several images of each person, as `IdentityBatches` does. Which images are the hardest is
    decided in one matrix product, their distances are then computed exactly.

    Args:
        labels: Integers `(b,)` or `(b, 1)`, who is on the image.
        features: Float tensor `(b, d)`; computed with in float32 at least.
        margin: Float >= 0. Defaults to `0.3`.

    Returns:
        Tensor `(b,)`, one value per anchor.

    Raises:
        ValueError: if the features have another rank.
    """
    labels, features = ops.convert_to_tensor(labels), ops.convert_to_tensor(features)
    if len(features.shape) != 2:
        raise ValueError(
            f"Invalid value for argument `features`. Expected the shape (batch, d). Received: {tuple(features.shape)}."
        )
    features = ops.cast(features, keras.backend.result_type(features.dtype, "float32"))
    labels = ops.reshape(labels, (-1,))
    same = labels[:, None] == labels[None]
    far = _squared_distances(ops.stop_gradient(features))
    # One column more, never the hardest: a device's share of a batch may be empty.
    wide = lambda distances, least: ops.pad(distances, [[0, 0], [0, 1]], constant_values=least)
    to_positive = _distance(features, ops.argmax(wide(ops.where(same, far, -math.inf), -math.inf), axis=1))
    to_negative = _distance(features, ops.argmin(wide(ops.where(same, math.inf, far), math.inf), axis=1))
    has_negative = ops.logical_not(ops.all(same, axis=1))
    return ops.where(has_negative, ops.relu(margin + to_positive - to_negative), ops.zeros_like(to_positive))


def _squared_distances(x):
    """Squared Euclidean distances `(b, b)` of rows `(b, d)`, up to rounding; of centred rows there is less of that."""
    x = x - ops.mean(x, axis=0, keepdims=True)
    squares = ops.sum(ops.square(x), axis=1)
    return squares[:, None] + squares[None] - 2 * ops.matmul(x, ops.transpose(x))


def _distance(features, others):
    """Euclidean distances `(b,)` of the rows from others `(b,)`; where they are the same, 1e-6 with no gradient."""
    difference = features - ops.take(features, others, axis=0)
    return ops.sqrt(ops.maximum(ops.sum(ops.square(difference), axis=1), 1e-12))
