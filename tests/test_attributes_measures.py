"""Attributes: the weighted loss and the metrics, by hand, against other code, and where there is nothing to count."""

import keras
import numpy as np
import pytest
from keras import ops
from test_reid_losses import gradient

from dhm_keras import attributes
from dhm_keras.attributes import WeightedAttributeLoss, evaluate

RATIOS = [0.25, 0.5]
LABELS = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
LOGITS = np.array([[0.0, 2.0], [-1.0, 3.0]], "float32")

TRUE = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]])
PREDICTED = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1]])


def loss_of(loss, labels, logits):
    return float(loss(ops.convert_to_tensor(labels), ops.convert_to_tensor(logits)))


def test_golden_loss():
    # exp(-1/4) = 0.778801, exp(-1/2) = 0.606531; softplus of 0: 0.693147, 2: 2.126928, -1: 0.313262, -3: 0.048587
    terms = [0.778801 * 0.693147, 0.606531 * 2.126928, 0.778801 * 0.313262, 0.606531 * 0.048587]
    assert loss_of(WeightedAttributeLoss(RATIOS), LABELS, LOGITS) == pytest.approx(sum(terms) / 4, rel=1e-5)
    # of ones exp(3/4) = 2.117000, exp(1/2) = 1.648721; of zeros exp(1/4) = 1.284025, exp(1/2)
    terms = [2.117000 * 0.693147, 1.648721 * 2.126928, 1.284025 * 0.313262, 1.648721 * 0.048587]
    assert loss_of(WeightedAttributeLoss(RATIOS, "label"), LABELS, LOGITS) == pytest.approx(sum(terms) / 4, rel=1e-5)


@pytest.mark.parametrize("weighting", ["attribute", "label"])
def test_the_gradient_is_the_weight_times_the_error(weighting):
    loss = WeightedAttributeLoss(RATIOS, weighting)
    found = gradient(lambda logits: loss(ops.convert_to_tensor(LABELS), logits), LOGITS)
    rare = np.exp(-np.array(RATIOS))
    weights = rare if weighting == "attribute" else np.where(LABELS == 1, np.e * rare, 1 / rare)
    np.testing.assert_allclose(found, weights * (1 / (1 + np.exp(-LOGITS)) - LABELS) / LABELS.size, rtol=1e-5)


def test_without_ratios_it_is_keras_cross_entropy():
    loss, kerass = WeightedAttributeLoss([0.0, 0.0]), keras.losses.BinaryCrossentropy(from_logits=True)
    assert loss_of(loss, LABELS, LOGITS) == pytest.approx(loss_of(kerass, LABELS, LOGITS), rel=1e-6)
    weights = np.array([3.0, 0.5], "float32")
    both = [float(each(LABELS, LOGITS, sample_weight=weights)) for each in (loss, kerass)]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


def test_large_logits_stay_exact():
    loss = WeightedAttributeLoss([0.0])
    one, zero = np.ones((1, 1), "float32"), np.zeros((1, 1), "float32")
    assert loss_of(loss, one, 30 * one) == pytest.approx(np.exp(-30), rel=1e-4)  # not rounded away
    for label, logit in ((one, -1e4), (zero, 1e4)):
        assert loss_of(loss, label, logit * one) == pytest.approx(1e4)
        slope = gradient(lambda z, label=label: loss(ops.convert_to_tensor(label), z), logit * one)
        assert slope.item() == np.sign(logit)


def test_half_precision_is_computed_in_float32():
    logits = ops.cast(ops.convert_to_tensor(LOGITS), "bfloat16")
    assert keras.backend.standardize_dtype(WeightedAttributeLoss(RATIOS).call(LABELS, logits).dtype) == "float32"


def test_the_loss_is_saved_with_its_ratios():
    loss = WeightedAttributeLoss(np.array(RATIOS), "label")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert (again.positive_ratios, again.weighting) == (RATIOS, "label")
    assert loss_of(again, LABELS, LOGITS) == loss_of(loss, LABELS, LOGITS)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (([],), "`positive_ratios`"),
        (([0.5, 1.1],), "`positive_ratios`"),
        (([0.5, float("nan")],), "`positive_ratios`"),
        ((0.5,), "`positive_ratios`"),
        ((RATIOS, "both"), "`weighting`"),
    ],
)
def test_wrong_arguments_of_the_loss(arguments, words):
    with pytest.raises(ValueError, match=words):
        WeightedAttributeLoss(*arguments)


@pytest.mark.parametrize(
    "labels, logits, words", [((2,), (2, 2), "Invalid labels"), ((2, 2), (2, 3), "Invalid logits")]
)
def test_wrong_shapes(labels, logits, words):
    with pytest.raises(ValueError, match=words):
        WeightedAttributeLoss(RATIOS).call(np.zeros(labels, "float32"), np.zeros(logits, "float32"))


def test_golden_metrics():
    found = evaluate(TRUE, np.where(PREDICTED, 0.9, 0.1))
    # the first attribute: found are 2 of 2 that have it, 1 of 2 that have it not; the second: 1/2, 1; the third: 2/3, 1
    np.testing.assert_allclose(found.attribute_accuracy, [3 / 4, 3 / 4, 5 / 6])
    assert found.mean_accuracy == pytest.approx(7 / 9) and found.positives.tolist() == [2, 2, 3]
    # of the images: accuracy 1/2, 1, 1/2, 1/2; precision 1, 1, 1, 1/2; recall 1/2, 1, 1/2, 1
    assert (found.accuracy, found.precision, found.recall) == (0.625, 0.875, 0.75)
    assert found.f1 == pytest.approx(2 * 0.875 * 0.75 / 1.625)  # the mean of the images' own F1 is 0.75
    assert list(found.summary) == ["mA", "accuracy", "precision", "recall", "f1"]


def test_metrics_are_scikit_learns():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    true, probabilities = (rng.random((60, 9)) < 0.3).astype(int), rng.random((60, 9)).astype("float32")
    probabilities[:5], true[3:9] = 0.0, 0  # some without a prediction, some without an attribute
    found, predicted = evaluate(true, probabilities, threshold=0.7), probabilities >= 0.7
    of_images = {"average": "samples", "zero_division": 0}
    assert found.accuracy == pytest.approx(metrics.jaccard_score(true, predicted, **of_images))
    assert found.precision == pytest.approx(metrics.precision_score(true, predicted, **of_images))
    assert found.recall == pytest.approx(metrics.recall_score(true, predicted, **of_images))
    balanced = [metrics.balanced_accuracy_score(*both) for both in zip(true.T, predicted.T, strict=True)]
    np.testing.assert_allclose(found.attribute_accuracy, balanced)


def test_all_right_is_one_and_chance_is_a_half():
    found = evaluate(TRUE, TRUE.astype(float))
    assert set(found.summary.values()) == {1.0}
    for constant in (0.0, 1.0):
        assert evaluate(TRUE, np.full(TRUE.shape, constant)).mean_accuracy == 0.5


def test_a_share_of_nothing_is_zero():
    nobody = evaluate([[0, 1], [0, 0]], np.array([[0.0, 1.0], [0.0, 0.0]]))
    assert nobody.attribute_accuracy.tolist() == [0.5, 1.0]  # no image has the first
    assert (nobody.accuracy, nobody.precision, nobody.recall, nobody.f1) == (0.5, 0.5, 0.5, 0.5)
    assert evaluate([[1], [1]], np.ones((2, 1))).attribute_accuracy.tolist() == [0.5]  # all have it
    nothing = evaluate([[1, 1]], np.zeros((1, 2)))
    assert (nothing.accuracy, nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0, 0)


def test_the_threshold_is_predicted():
    assert evaluate([[1]], np.array([[0.5]])).recall == 1 and evaluate([[1]], np.array([[0.4999]])).recall == 0


@pytest.mark.parametrize(
    "true, probabilities, words",
    [
        ([[2, 0]], [[0.1, 0.2]], "`attributes`"),
        ([1, 0], [0.1, 0.2], "`attributes`"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "`attributes`"),
        ([[1, 0]], [[0.1]], "`probabilities`"),
        ([[1, 0]], [[1, 0]], "`probabilities`"),
        ([[1, 0]], [[float("nan"), 0.0]], "`probabilities`"),
    ],
)
def test_what_cannot_be_compared_is_refused(true, probabilities, words):
    with pytest.raises(ValueError, match=words):
        attributes.evaluate(true, probabilities)
