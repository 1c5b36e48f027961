"""Losses of re-identification for plain Keras models: batch-hard triplets, cross-entropy with smoothed labels."""

import math
import numbers

import keras
from keras import ops

from dhm_keras.objective import cross_entropy, log_softmax, targets
from dhm_keras.triplet import batch_hard_triplet


@keras.saving.register_keras_serializable(package="dhm_keras")
class BatchHardTriplet(keras.losses.Loss):
    """`batch_hard_triplet` as a Keras loss; on several devices the hardest are those of each device's own share.

    Example: both losses of Luo et al., "Bag of Tricks" (2019):

    ```python
    features = keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits, embedding = dhm_keras.reid.bn_neck(features, num_classes=751)
    model = keras.Model(image, {"main": logits, "features": features})
    model.compile("adam", loss={"main": SmoothedCrossEntropy(), "features": BatchHardTriplet()})
    model.fit(images, {"main": labels, "features": labels})
    ```

    Args:
        margin: Float >= 0. Defaults to `0.3`.
        reduction, name, dtype: As of `keras.losses.Loss`. Keras hands the labels on in the dtype, float32 unless told
            otherwise, in which integers are exact below 2^24.

    Raises:
        ValueError: if the margin is no such number.
    """

    def __init__(self, margin=0.3, reduction="sum_over_batch_size", name="batch_hard_triplet", dtype=None):
        if not isinstance(margin, numbers.Real) or not 0 <= margin < math.inf:
            raise ValueError(f"Invalid value for argument `margin`. Expected a number >= 0. Received: {margin!r}.")
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.margin = margin

    def call(self, y_true, y_pred):
        return batch_hard_triplet(y_true, y_pred, self.margin)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable(package="dhm_keras")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits with integer labels, smoothed: the target is (1 - e) one-hot + e / classes.

    For plain Keras models. `DHM`'s objective takes soft labels, which say the same.

    Args:
        label_smoothing: Float e in [0, 1). Defaults to `0.1`.
        reduction, name, dtype: As of `BatchHardTriplet`.

    Raises:
        ValueError: if the smoothing is no such number; when called, if the labels are not `(b,)` or `(b, 1)`.
    """

    def __init__(self, label_smoothing=0.1, reduction="sum_over_batch_size", name="smoothed_cross_entropy", dtype=None):
        if not isinstance(label_smoothing, numbers.Real) or not 0 <= label_smoothing < 1:
            raise ValueError(
                "Invalid value for argument `label_smoothing`. Expected a number in [0, 1). Received: "
                f"{label_smoothing!r}."
            )
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        if len(y_true.shape) > 1 and tuple(y_true.shape[1:]) != (1,):
            raise ValueError(
                "Invalid labels. Expected integers of shape (batch,). Received: shape "
                f"{tuple(y_true.shape)}. For soft labels use keras.losses.CategoricalCrossentropy(from_logits=True)."
            )
        log_probs = log_softmax(y_pred)
        one_hot = targets(ops.cast(ops.reshape(y_true, (-1,)), "int32"), y_pred.shape[-1], log_probs.dtype)
        smoothed = (1 - self.label_smoothing) * one_hot + self.label_smoothing / y_pred.shape[-1]
        return cross_entropy(log_probs, smoothed)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
