"""Losses and necks of re-identification: golden numbers, gradients, and a plain Keras training with both."""

import keras
import numpy as np
import pytest
from keras import ops
from networks import values

import dhm_keras as dhm
from dhm_keras.reid import BatchHardTriplet, SmoothedCrossEntropy, batch_hard_triplet, bn_neck

FEATURES = np.array([(0, 0), (3, 4), (1, 0), (0, 2), (6, 8), (5, 5)], "float32")
PERSONS = np.array([0, 0, 1, 1, 2, 2])
POSITIVE = np.array([5, 5, 5**0.5, 5**0.5, 10**0.5, 10**0.5])
NEGATIVE = np.array([1, 5**0.5, 1, 2, 5, 5**0.5])


def number(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def gradient(function, x):
    """The gradient of the sum of a function's values."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = ops.sum(function(x))
        return tape.gradient(total, x).numpy()
    import jax

    return np.asarray(jax.grad(lambda x: ops.sum(function(x)))(x))


def by_loops(labels, features, margin):
    """The loss by its definition, in float64."""
    x = features.astype("float64")
    d = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    others = [d[i][labels != labels[i]] for i in range(len(x))]
    return [
        max(0, margin + d[i][labels == labels[i]].max() - far.min()) if len(far) else 0 for i, far in enumerate(others)
    ]


def test_the_golden_triplets():
    loss = number(batch_hard_triplet(PERSONS, FEATURES, 0.3))
    np.testing.assert_allclose(loss, np.maximum(0, POSITIVE - NEGATIVE + 0.3), atol=1e-6)
    assert loss.mean() == pytest.approx(1.777046, abs=1e-6)
    assert float(BatchHardTriplet()(PERSONS, FEATURES)) == pytest.approx(1.777046, abs=1e-6)
    assert float(BatchHardTriplet(margin=0.0)(PERSONS[:, None], FEATURES)) == pytest.approx(
        np.maximum(0, POSITIVE - NEGATIVE).mean(), abs=1e-6
    )


@pytest.mark.parametrize("offset, scale", [(0.0, 1.0), (300.0, 1.0), (0.0, 1e-3)])
def test_the_loss_is_that_of_the_definition_far_from_the_origin_too(offset, scale):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 40)
    features = (offset + scale * rng.standard_normal((40, 64))).astype("float32")
    loss = number(batch_hard_triplet(labels, features, 0.3))
    np.testing.assert_allclose(loss, by_loops(labels, features, 0.3), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    loss = lambda x: batch_hard_triplet(PERSONS, x, 0.3)
    by_hand = np.zeros_like(FEATURES, "float64")
    for place in np.ndindex(FEATURES.shape):
        step = np.zeros_like(FEATURES, "float64")
        step[place] = 1e-6
        ends = [sum(by_loops(PERSONS, FEATURES + sign * step, 0.3)) for sign in (-1, 1)]
        by_hand[place] = (ends[1] - ends[0]) / 2e-6
    np.testing.assert_allclose(gradient(loss, FEATURES), by_hand, atol=1e-4)


def test_identical_features_have_finite_gradients_and_cost_the_margin():
    same = np.full((4, 8), 1.7, "float32")
    labels = np.array([0, 0, 1, 1])
    np.testing.assert_allclose(number(batch_hard_triplet(labels, same, 0.3)), 0.3, atol=1e-5)
    np.testing.assert_array_equal(gradient(lambda x: batch_hard_triplet(labels, x, 0.3), same), 0)
    some = FEATURES.copy()
    some[1] = some[0]
    assert np.isfinite(gradient(lambda x: batch_hard_triplet(PERSONS, x, 0.3), some)).all()


def test_anchors_without_a_negative_or_another_positive():
    alone = number(batch_hard_triplet([5, 5, 5], FEATURES[:3], 0.3))  # nobody else is there
    np.testing.assert_array_equal(alone, 0)
    loss = lambda x: batch_hard_triplet([5, 5, 5], x, 0.3)
    np.testing.assert_array_equal(gradient(loss, FEATURES[:3]), 0)
    near = np.array([(0, 0), (0.1, 0), (0.3, 0)], "float32")  # each of another person
    np.testing.assert_allclose(number(batch_hard_triplet([1, 2, 3], near, 0.3)), [0.2, 0.2, 0.1], atol=1e-5)


@pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_half_precision_is_computed_with_in_float32(mixed):
    dtype = mixed.removeprefix("mixed_")
    features = ops.cast(100 * FEATURES, dtype)  # of which squares are beyond float16
    loss = batch_hard_triplet(PERSONS, features, 0.3)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    expected = by_loops(PERSONS, number(features), 0.3)
    np.testing.assert_allclose(number(loss), expected, rtol=1e-5)
    assert float(BatchHardTriplet()(PERSONS, features)) == pytest.approx(np.mean(expected), rel=1e-5)
    logits = ops.cast([[2.0, 1.0, 0.0, -1.0]], dtype)
    assert float(SmoothedCrossEntropy()(np.array([0]), logits)) == pytest.approx(0.590190, abs=1e-6)


def test_the_golden_smoothed_cross_entropy():
    logits = np.array([[2, 1, 0, -1], [0, 0, 0, 0]], "float32")
    loss = SmoothedCrossEntropy(reduction=None)(np.array([0, 3]), logits)
    np.testing.assert_allclose(number(loss), [0.590190, np.log(4)], atol=1e-6)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for labels in (np.array([1, 2]), np.array([[1], [2]])):
        assert float(SmoothedCrossEntropy(0.0)(labels, logits)) == pytest.approx(float(plain(labels, logits)), rel=1e-6)
    soft = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    expected = float(soft(np.eye(4, dtype="float32")[[1, 2]], logits))
    assert float(SmoothedCrossEntropy(0.2)(np.array([1, 2]), logits)) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(float(SmoothedCrossEntropy()(np.array([0, 4]), logits)))  # a label out of range cannot train


def test_losses_are_saved_with_their_settings():
    for loss in (BatchHardTriplet(0.7, name="a"), SmoothedCrossEntropy(0.3, reduction="sum")):
        again = keras.losses.deserialize(keras.losses.serialize(loss))
        assert type(again) is type(loss) and again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: BatchHardTriplet(-1), "`margin`"),
        (lambda: BatchHardTriplet(float("nan")), "`margin`"),
        (lambda: SmoothedCrossEntropy(1.0), "`label_smoothing`"),
        (lambda: SmoothedCrossEntropy()(np.eye(4), np.eye(4)), "CategoricalCrossentropy"),
        (lambda: batch_hard_triplet([0, 1], np.zeros((2, 3, 4))), "(batch, d)"),
        (lambda: bn_neck(keras.Input((4, 4, 3)), 5), "a global pooling"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value) and "Received" in str(error.value)


def network_with_a_neck(num_classes=4):
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(image)
    features = keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits, _ = bn_neck(features, num_classes)
    return keras.Model(image, {"main": logits, "features": features})


def test_the_neck_is_as_published():
    features = keras.Input((512,))
    logits, embedding = bn_neck(features, 300, name="aux1")
    network = keras.Model(features, {"aux1": logits, "embedding": embedding})
    neck, classifier = network.get_layer("aux1_neck"), network.get_layer("aux1")
    assert not neck.center and [w.name for w in neck.trainable_weights] == ["gamma"] and not classifier.use_bias
    kernel = ops.convert_to_numpy(classifier.kernel.value)
    assert kernel.std() == pytest.approx(0.001, rel=0.02) and abs(kernel.mean()) < 1e-5
    x = (3 + 2 * np.random.default_rng(0).standard_normal((64, 512))).astype("float32")
    normalised = number(network(x, training=True)["embedding"])
    np.testing.assert_allclose(normalised, (x - x.mean(0)) / x.std(0), atol=1e-3)  # and a variance not Bessel's
    np.testing.assert_allclose(number(network(x)["aux1"]), number(network(x)["embedding"]) @ kernel, atol=1e-5)


@pytest.mark.parametrize("mixed", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)], indirect=True)
def test_a_plain_keras_model_learns_with_both_losses(mixed, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 4
    looks = rng.uniform(0, 1, (4, 1, 1, 3))  # each person wears a colour
    images = (looks[labels] + 0.1 * rng.standard_normal((32, 8, 8, 3))).astype("float32")
    model = network_with_a_neck()
    assert model.output["main"].dtype == "float32"
    losses = {"main": SmoothedCrossEntropy(), "features": BatchHardTriplet()}
    model.compile(keras.optimizers.Adam(0.02), loss=losses, metrics={"main": "accuracy"})
    y = {"main": labels, "features": labels}
    history = model.fit(images, y, batch_size=16, epochs=15, verbose=0).history
    assert {"main_loss", "features_loss"} <= set(history)
    assert history["main_loss"][-1] < 0.8 * history["main_loss"][0]
    assert history["features_loss"][-1] < 0.5 * history["features_loss"][0]
    assert model.evaluate(images, y, verbose=0, return_dict=True)["main_accuracy"] > 0.9
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for variable, value in values(again.variables).items():
        np.testing.assert_array_equal(value, values(model.variables)[variable])
    assert again.loss["features"].margin == 0.3


def test_a_network_with_a_neck_trains_with_branches_too():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(image)
    logits = {
        head: bn_neck(keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(x)), 3, name=head)[0]
        for head in ("main", "aux1")
    }
    model = dhm.DHM(dhm.network.Network(image, logits))
    model.compile(dhm.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    images = np.random.default_rng(0).standard_normal((6, 8, 8, 3)).astype("float32")
    assert np.isfinite(model.train_on_batch(images, np.arange(6) % 3, return_dict=True)["loss"])
