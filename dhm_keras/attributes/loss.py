"""The weighted multi-label loss of pedestrian attributes."""

import keras
import numpy as np
from keras import ops

WEIGHTINGS = ("attribute", "label")


@keras.saving.register_keras_serializable(package="dhm_keras")
class WeightedAttributeLoss(keras.losses.Loss):
    """Binary cross-entropy of logits, weighted by how many training images have each attribute.

    With p the share of the training images that have an attribute, y whether this one has it, and z its logit, the loss
    of an image is the mean over the attributes of

        w+ y softplus(-z) + w- (1 - y) softplus(z)

    `"attribute"` has one weight for both labels, w+ = w- = exp(-p): rare attributes count more. So has the code that
    OSNet was trained on PA-100K with (torchreid, `projects/attribute_recognition`); the paper, supplement B, refers to
    DeepMAR (Li et al., "Multi-attribute Learning for Pedestrian Attribute Recognition", ACPR 2015). `"label"` weighs
    the rarer label of each attribute more: w+ = exp(1 - p), w- = exp(p), as later work does (Jia et al., "Rethinking of
    Pedestrian Attribute Recognition", 2021).

    Example:

    ```python
    loss = dhm_keras.attributes.WeightedAttributeLoss(people.train.positive_ratios)
    model.compile(optimizer=dhm_keras.optimizers.SGD(0.065, momentum=0.9, weight_decay=5e-4), loss=loss)
    ```

    Args:
        positive_ratios: Floats `(k,)` in [0, 1], of the training images.
        weighting: `"attribute"` or `"label"`. Defaults to `"attribute"`.
        reduction, name, dtype: As of `keras.losses.Loss`.

    Raises:
        ValueError: if an argument is not as above; when called, if labels or logits are not `(batch, k)`.
    """

    def __init__(
        self,
        positive_ratios,
        weighting="attribute",
        reduction="sum_over_batch_size",
        name="weighted_attribute_loss",
        dtype=None,
    ):
        ratios = np.asarray(positive_ratios)
        if ratios.ndim != 1 or not ratios.size or ratios.dtype.kind not in "iuf" or not _within(ratios):
            raise ValueError(
                "Invalid value for argument `positive_ratios`. Expected a sequence of numbers in [0, 1]. Received: "
                f"{positive_ratios!r}."
            )
        if weighting not in WEIGHTINGS:
            raise ValueError(
                f"Invalid value for argument `weighting`. Expected one of {WEIGHTINGS}. Received: {weighting!r}."
            )
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.positive_ratios, self.weighting = ratios.astype("float64").tolist(), weighting
        rare = np.exp(-ratios.astype("float64"))
        self._of_ones, self._of_zeros = (rare, rare) if weighting == "attribute" else (np.e * rare, 1 / rare)

    def call(self, y_true, y_pred):
        count = len(self.positive_ratios)
        for what, tensor in (("labels", y_true), ("logits", y_pred)):
            if len(tensor.shape) != 2 or tensor.shape[1] not in (count, None):
                raise ValueError(
                    f"Invalid {what}. Expected the shape (batch, {count}), a column an attribute. Received: "
                    f"{tuple(tensor.shape)}."
                )
        logits = ops.cast(y_pred, keras.backend.result_type(y_pred.dtype, "float32"))
        labels = ops.cast(y_true, logits.dtype)
        of_ones, of_zeros = (ops.cast(weights, logits.dtype) for weights in (self._of_ones, self._of_zeros))
        terms = of_ones * labels * ops.softplus(-logits) + of_zeros * (1 - labels) * ops.softplus(logits)
        return ops.mean(terms, axis=-1)

    def get_config(self):
        return {**super().get_config(), "positive_ratios": self.positive_ratios, "weighting": self.weighting}


def _within(ratios):
    return bool(((ratios >= 0) & (ratios <= 1)).all())  # NaN is not
