"""The objective against the release's numbers, and its laws."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import ops

from dhm_keras.objective import (
    Objective,
    check_labels,
    cross_entropy,
    kl_divergence,
    log_softmax,
    ordered_pairs,
    read_config,
    soft_cross_entropy,
    sort_heads,
    targets,
)

HEADS = ("main", "aux1", "aux2")


def gradient(function, tensors):
    """Value and gradients of a scalar function of a dict of arrays, on the backend at hand."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.value_and_grad(function)({k: ops.convert_to_tensor(v) for k, v in tensors.items()})
    import tensorflow as tf

    tensors = {k: tf.convert_to_tensor(v) for k, v in tensors.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(tensors)
    return value, tape.gradient(value, tensors)


def logits(seed=0, batch=4, classes=5, scale=2.0):
    rng = np.random.default_rng(seed)
    return {head: (scale * rng.standard_normal((batch, classes))).astype("float32") for head in HEADS}


@pytest.mark.parametrize("sharpness", ["", "hard_"])
@pytest.mark.parametrize("temperature", [1, 3])
def test_values_and_gradients_equal_the_release(golden, sharpness, temperature):
    g, key = golden("objective"), f"{sharpness}T{temperature}_"
    dtype = "float64" if keras.backend.backend() == "tensorflow" else "float32"
    z = {head: g[f"{sharpness}logits_{i}"].astype(dtype) for i, head in enumerate(HEADS)}
    objective = Objective(HEADS, temperature=float(temperature))
    mean = lambda terms: float(ops.mean(terms))
    # The "hard" numbers are the exact formula in float64. The others are the release's, which adds 1e-8 to each
    # probability: that moves a value by up to 1e-5 of itself and a gradient by up to 2e-6.
    rtol, atol = (1e-9, 1e-12) if sharpness and dtype == "float64" else (1e-5, 2e-6)
    if dtype == "float32":
        rtol, atol = 1e-4, 2e-6

    total, ce, mimic = objective(z, g["labels"], objective.pairs)
    np.testing.assert_allclose(mean(total), g[key + "total"], rtol=rtol)
    for i, head in enumerate(HEADS):
        np.testing.assert_allclose(mean(ce[head]), g[key + "ce"][i], rtol=rtol)
    for i, teacher in enumerate(HEADS):
        for j, student in enumerate(HEADS):
            if i != j:
                expected = g[key + "kl_teacher_student"][i, j]
                np.testing.assert_allclose(mean(mimic[teacher, student]), expected, rtol=rtol)

    _, grads = gradient(lambda z: ops.mean(objective(z, g["labels"], objective.pairs)[0]), z)
    for i, head in enumerate(HEADS):
        np.testing.assert_allclose(ops.convert_to_numpy(grads[head]), g[f"{key}grad_{i}"], rtol=10 * rtol, atol=atol)


def test_a_hand_computed_number():
    # p = (1/2, 1/2), q = (3/4, 1/4): KL(p || q) = (ln 2/3 + ln 2) / 2 = 0.14384
    p, q = np.log([[0.5, 0.5]]), np.log([[0.75, 0.25]])
    assert float(kl_divergence(p, q)[0]) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    assert float(soft_cross_entropy(p, q)[0]) == pytest.approx(0.5 * math.log(16 / 3), abs=1e-6)
    assert float(cross_entropy(q, np.array([[0.0, 1.0]]))[0]) == pytest.approx(math.log(4), abs=1e-6)


def test_equal_heads_have_nothing_to_learn_from_one_another():
    z = dict.fromkeys(HEADS, logits()["main"])
    _, _, mimic = Objective(HEADS, temperature=2.0)(z, np.arange(4), Objective(HEADS).pairs)
    for term in mimic.values():
        np.testing.assert_allclose(ops.convert_to_numpy(term), 0, atol=1e-6)


def test_zero_mimicking_weight_is_deep_supervision():
    labels, z = np.arange(4), logits()
    off = Objective(HEADS, mimic_weights=0.0)
    (total, _, _), (supervised, _, mimic) = off(z, labels, off.pairs), Objective(HEADS, "dsl")(z, labels, ())
    assert mimic == {}
    np.testing.assert_allclose(ops.convert_to_numpy(total), ops.convert_to_numpy(supervised), rtol=1e-6)


def test_one_head_is_plain_cross_entropy():
    labels, z = np.array([0, 4, 2, 2]), logits()["main"]
    total, _, _ = Objective(("main",), "baseline")({"main": z}, labels, ())
    expected = keras.losses.sparse_categorical_crossentropy(labels, z, from_logits=True)
    np.testing.assert_allclose(ops.convert_to_numpy(total), ops.convert_to_numpy(expected), rtol=1e-5)


def test_kl_and_cross_entropy_differ_by_the_teachers_entropy_and_have_one_gradient():
    labels, z = np.arange(4), logits()
    kl, ce = Objective(HEADS), Objective(HEADS, divergence="cross_entropy")
    _, kl_grads = gradient(lambda z: ops.sum(kl(z, labels, kl.pairs)[0]), z)
    _, ce_grads = gradient(lambda z: ops.sum(ce(z, labels, ce.pairs)[0]), z)
    for head in HEADS:
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (kl_grads[head], ce_grads[head])), atol=1e-6)
    log_p = ops.convert_to_numpy(log_softmax(z["main"]))
    difference = ce(z, labels, ce.pairs)[2]["main", "aux1"] - kl(z, labels, kl.pairs)[2]["main", "aux1"]
    np.testing.assert_allclose(ops.convert_to_numpy(difference), -(np.exp(log_p) * log_p).sum(-1), rtol=1e-5)


def test_the_teacher_is_a_constant():
    objective = Objective(HEADS, ce_weights=0.0, direction="top_down")
    _, grads = gradient(lambda z: ops.sum(objective(z, np.arange(4), (("main", "aux1"),))[0]), logits())
    assert np.all(ops.convert_to_numpy(grads["main"]) == 0)
    assert np.any(ops.convert_to_numpy(grads["aux1"]) != 0)


def test_gradient_for_a_student_does_not_vanish_where_probabilities_underflow():
    z = {"main": np.array([[200.0, 0.0]], "float32"), "aux1": np.array([[0.0, 200.0]], "float32")}
    objective = Objective(("main", "aux1"), ce_weights=0.0)
    value, grads = gradient(lambda z: ops.sum(objective(z, np.array([0]), (("main", "aux1"),))[0]), z)
    assert float(value) == pytest.approx(200)
    np.testing.assert_allclose(ops.convert_to_numpy(grads["aux1"]), [[-1, 1]])


def test_half_precision_logits_are_computed_in_float32():
    z = {head: ops.cast(value, "float16") for head, value in logits().items()}
    total, _, _ = Objective(HEADS)(z, np.arange(4), Objective(HEADS).pairs)
    again, _, _ = Objective(HEADS)(
        {h: ops.cast(v, "float32") for h, v in z.items()}, np.arange(4), Objective(HEADS).pairs
    )
    assert keras.backend.standardize_dtype(total.dtype) == "float32"
    np.testing.assert_array_equal(ops.convert_to_numpy(total), ops.convert_to_numpy(again))


def test_weights_per_head_and_pair():
    labels, z = np.arange(4), logits()
    objective = Objective(HEADS, ce_weights={"aux1": 0.5}, mimic_weights={("main", "aux2"): 3.0, ("aux1", "main"): 0.0})
    total, ce, mimic = objective(z, labels, objective.pairs)
    expected = ce["main"] + 0.5 * ce["aux1"] + ce["aux2"]
    for pair, term in mimic.items():
        expected += {("main", "aux2"): 3.0, ("aux1", "main"): 0.0}.get(pair, 1.0) * term
    np.testing.assert_allclose(ops.convert_to_numpy(total), ops.convert_to_numpy(expected), rtol=1e-6)


def test_a_callable_divergence_sees_teacher_and_student_log_probabilities():
    def squared(teacher_log_probs, student_log_probs):
        return ops.sum(ops.square(ops.exp(teacher_log_probs) - ops.exp(student_log_probs)), axis=-1)

    z = logits()
    _, _, mimic = Objective(HEADS, divergence=squared, temperature=2.0)(z, np.arange(4), (("aux1", "main"),))
    p, q = (np.exp(ops.convert_to_numpy(log_softmax(z[head], 2.0))) for head in ("aux1", "main"))
    np.testing.assert_allclose(ops.convert_to_numpy(mimic["aux1", "main"]), 4 * ((p - q) ** 2).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("wrong", [lambda p, q: p - q, lambda p, q: ops.mean(p - q), lambda p, q: ops.sum(p - q, 0)])
def test_a_divergence_that_is_not_one_value_per_example_is_refused(wrong):
    with pytest.raises(ValueError, match="one value per example"):
        Objective(HEADS, divergence=wrong)(logits(), np.arange(4), (("main", "aux1"),))


def test_pairs_and_directions():
    assert len(ordered_pairs(HEADS)) == 6 and len(ordered_pairs((*HEADS, "aux3"))) == 12
    assert set(ordered_pairs(HEADS, "top_down")) == {("main", "aux1"), ("main", "aux2"), ("aux1", "aux2")}
    assert set(ordered_pairs(HEADS, "bottom_up")) == {("aux1", "main"), ("aux2", "main"), ("aux2", "aux1")}
    assert sort_heads({"aux10": 0, "aux2": 0, "main": 0, "aux1": 0}) == ("main", "aux1", "aux2", "aux10")


def test_labels_in_every_form_mean_the_same():
    one_hot = ops.convert_to_numpy(targets(np.array([2, 0]), 3))
    np.testing.assert_array_equal(one_hot, [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(ops.convert_to_numpy(targets(np.array([[2], [0]], "uint8"), 3)), one_hot)
    np.testing.assert_array_equal(ops.convert_to_numpy(targets(one_hot, 3)), one_hot)


def test_a_label_out_of_range_is_nan_and_not_silence():
    rows = ops.convert_to_numpy(targets(np.array([0, 3, -1]), 3))
    assert np.isfinite(rows[0]).all() and np.isnan(rows[1:]).all()


@pytest.mark.parametrize(
    "labels, words",
    [
        (np.array([0, 1, 7]), "Received: 7 at position 2"),
        (np.array([0, -1]), "Received: -1 at position 1"),
        (np.array([0.0, 1.0]), "dtype=float"),
        (np.zeros((2, 4)), "shape=(2, 4)"),
        (np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.5]]), "at position 1"),
        (np.array([[1.5, -0.5, 0.0]]), "at position 0"),
        (np.zeros((2, 2, 3)), "shape="),
    ],
)
def test_wrong_labels_are_refused(labels, words):
    with pytest.raises(ValueError, match="Invalid labels") as error:
        check_labels(labels, 3)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"method": "kd"}, "`method`"),
        ({"direction": "up"}, "`direction`"),
        ({"divergence": "js"}, "`divergence`"),
        ({"temperature": 0}, "`temperature`"),
        ({"ce_weights": {"aux3": 1.0}}, "'aux3'"),
        ({"ce_weights": -1.0}, "`ce_weights`"),
        ({"mimic_weights": {("aux1", "aux3"): 1.0}}, "('aux1', 'aux3')"),
        ({"mimic_weights": {("main", "aux1"): 1.0}, "direction": "bottom_up"}, "('main', 'aux1')"),
        ({"mimic_weights": float("nan")}, "`mimic_weights`"),
        ({"method": "baseline"}, "branches=()"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ValueError) as error:
        Objective(HEADS, **settings)
    assert words in str(error.value)


@pytest.mark.parametrize("method", ["dsl", "dhm"])
def test_a_method_with_branches_needs_branches(method):
    with pytest.raises(ValueError, match="needs a network with branches"):
        Objective(("main",), method)


def test_config_round_trip_and_lambda():
    settings = {
        "method": "dhm",
        "ce_weights": {"aux1": 0.5},
        "mimic_weights": {("main", "aux1"): 2.0},
        "temperature": 3.0,
        "direction": "top_down",
        "divergence": "cross_entropy",
        "triplet_weight": 0.5,
        "triplet_margin": 0.2,
    }
    assert read_config(Objective(HEADS, **settings).get_config()) == settings
    for divergence in (lambda p, q: p, unregistered, functools.partial(unregistered)):
        with pytest.raises(ValueError, match="register_keras_serializable"):
            Objective(HEADS, divergence=divergence).get_config()


def unregistered(teacher_log_probs, student_log_probs):
    return ops.sum(teacher_log_probs - student_log_probs, axis=-1)
