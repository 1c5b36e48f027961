"""How well attributes are recognised: mean accuracy, and accuracy, precision, recall and F1 of the images."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeEvaluation:
    """What `evaluate` found; all shares in [0, 1].

    Args:
        mean_accuracy: Float, mA: the mean of `attribute_accuracy`.
        accuracy, precision, recall: Floats, means over the images.
        f1: Float, the harmonic mean of those means of precision and recall.
        attribute_accuracy: float64 `(k,)`: for each attribute the mean of the shares that are right of the images that
            have it, and of those that have it not.
        positives: int64 `(k,)`, how many images have each attribute.
    """

    mean_accuracy: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    attribute_accuracy: np.ndarray
    positives: np.ndarray

    @property
    def summary(self):
        """Dict from `"mA"`, `"accuracy"`, `"precision"`, `"recall"`, `"f1"` to float."""
        of_images = {name: getattr(self, name) for name in ("accuracy", "precision", "recall", "f1")}
        return {"mA": self.mean_accuracy, **of_images}


def evaluate(attributes, probabilities, threshold=0.5):
    """Compares predicted attributes with the true ones, by attribute and by image.

    With A the attributes that an image has and B those predicted, its accuracy is `|A and B| / |A or B|`, its precision
    `|A and B| / |B|`, its recall `|A and B| / |A|`. F1 is made of the means of precision and recall, not the mean of
    the images' own F1: so does the field (Li et al., "A Richly Annotated Dataset for Pedestrian Attribute Recognition",
    2016).

    A share of nothing counts as 0, as in Rethinking_of_PAR (`metrics/pedestrian_metrics.py`), where torchreid's code
    gives NaN. So an attribute that no image has, or all have, cannot get more than 0.5; an image for which nothing is
    predicted has the precision 0; and one that has no attribute has the accuracy, precision and recall 0, even if
    nothing is predicted.

    Example:

    ```python
    found = dhm_keras.attributes.evaluate(people.test.attributes, dhm_keras.attributes.predict(model, people.test))
    found.mean_accuracy, found.f1
    ```

    Args:
        attributes: Zeros and ones, or booleans, `(n, k)`: the truth.
        probabilities: Floats `(n, k)`.
        threshold: Float. An attribute is predicted from this probability on. Defaults to `0.5`.

    Returns:
        `AttributeEvaluation`.

    Raises:
        ValueError: if the arrays are not as above, or a probability is not finite.
    """
    attributes, probabilities = np.asarray(attributes), np.asarray(probabilities)
    if attributes.ndim != 2 or not attributes.size or not np.isin(attributes, (0, 1)).all():
        raise ValueError(
            "Invalid value for argument `attributes`. Expected zeros and ones (n, k), not empty. Received: "
            f"{attributes.dtype} {attributes.shape}."
        )
    if probabilities.shape != attributes.shape or probabilities.dtype.kind != "f" or not _finite(probabilities):
        raise ValueError(
            f"Invalid value for argument `probabilities`. Expected finite floats {attributes.shape}. Received: "
            f"{probabilities.dtype} {probabilities.shape}."
        )
    true, predicted = attributes.astype(bool), probabilities >= threshold
    right = [_share((true & predicted).sum(0), true.sum(0)), _share((~true & ~predicted).sum(0), (~true).sum(0))]
    of_attributes = np.mean(right, axis=0)
    both = (true & predicted).sum(1)
    of_images = [both_of.sum(1) for both_of in (true | predicted, predicted, true)]
    accuracy, precision, recall = (float(_share(both, count).mean()) for count in of_images)
    f1 = float(_share(2 * precision * recall, precision + recall))
    return AttributeEvaluation(float(of_attributes.mean()), accuracy, precision, recall, f1, of_attributes, true.sum(0))


def _share(part, whole):
    """`part / whole`, 0 where there is nothing to have a share of."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def _finite(array):
    return bool(np.isfinite(array).all())
