"""Top-k Sample Search: the estimator, the split, the supernet."""

import collections
import math

import keras
import numpy as np
import pytest
from keras import layers, ops
from search_space import toy

import dhm_keras as dhm
from dhm_keras.reid import PersonImages
from dhm_keras.search import choose, mix, split, straight_through
from dhm_keras.search.topk import draw_ties

ALPHAS = np.array([[0.3, 0.1, -0.2, 0.5]], "float32")


def gradient(function, x):
    """The gradient of a scalar function of an array, on the backend at hand."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x).numpy()
    import jax

    return np.asarray(jax.grad(function)(x))


def persons(*counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    names, pids = [f"{i}.jpg" for i in range(len(labels))], [f"{label:03}" for label in labels]
    return PersonImages.of("nowhere", names, pids, camids=np.arange(len(labels)) % 3)


# The estimator


def test_the_gradient_of_the_estimator_is_the_golden_one():
    of_weights = np.array([1, 0.5, -0.25, 2], "float32")
    chosen = choose(ALPHAS, 2)
    assert chosen.tolist() == [[0, 3]]
    learnt = gradient(lambda alphas: ops.sum(straight_through(alphas, chosen)[0] * of_weights), ALPHAS)
    np.testing.assert_allclose(learnt, [[-0.004051, -0.115574, -0.210363, 0.329989]], atol=6e-7)


def test_the_weights_are_one_and_zero_to_the_bit():
    alphas = np.random.default_rng(0).normal(size=(50, 12)).astype("float32") * 3
    chosen = choose(alphas, 4)
    weights = ops.convert_to_numpy(straight_through(alphas, chosen))
    assert (np.sort(weights)[:, 8:] == 1).all() and (np.sort(weights)[:, :8] == 0).all()
    assert (np.take_along_axis(weights, chosen, 1) == 1).all()


def test_operators_that_are_not_chosen_learn_from_the_sum_of_the_gradient():
    rng = np.random.default_rng(1)
    outputs, upstream = rng.normal(size=(4, 2, 3, 3, 5)).astype("float32"), rng.normal(size=(2, 3, 3, 5))
    upstream, chosen = upstream.astype("float32"), [0, 3]

    def loss(alphas):
        weights = straight_through(alphas, [chosen])
        return ops.sum(mix([outputs[i] for i in chosen], weights[0], chosen) * upstream)

    p = np.exp(ALPHAS[0]) / np.exp(ALPHAS[0]).sum()
    of_weights = [(upstream * outputs[i]).sum() if i in chosen else upstream.sum() for i in range(4)]
    expected = p * (of_weights - p @ of_weights)  # dL/dalpha_j = p_j (dL/dw_j - sum_i p_i dL/dw_i)
    np.testing.assert_allclose(gradient(loss, ALPHAS)[0], expected, rtol=1e-4, atol=1e-5)
    mixed = mix([outputs[i] for i in chosen], straight_through(ALPHAS, [chosen])[0], chosen)
    np.testing.assert_array_equal(ops.convert_to_numpy(mixed), outputs[0] + outputs[3])  # summed, not averaged


def test_all_operators_may_be_chosen():
    outputs = [np.full((1, 2), float(i), "float32") for i in range(4)]
    mixed = mix(outputs, straight_through(ALPHAS, [range(4)])[0], range(4))
    np.testing.assert_array_equal(ops.convert_to_numpy(mixed), [[6, 6]])


def test_ties_are_broken_by_the_seed_alone():
    same = np.full((6, 12), 1e-3, "float32")
    first = choose(same, 2, draw_ties(6, 12, seed=4))
    np.testing.assert_array_equal(first, choose(same, 2, draw_ties(6, 12, seed=4)))
    assert (first != choose(same, 2, draw_ties(6, 12, seed=6))).any()
    assert choose(same, 2).tolist() == [[0, 1]] * 6
    of_all = collections.Counter(i for seed in range(200) for i in choose(same, 2, draw_ties(6, 12, seed)).ravel())
    assert min(of_all.values()) > 150 and max(of_all.values()) < 250  # 200 of each expected: none is preferred
    larger = same + np.eye(6, 12, dtype="float32") * 1e-7  # a difference counts, be it ever so small
    assert all(i in row for i, row in enumerate(choose(larger, 1, draw_ties(6, 12))))


@pytest.mark.parametrize(
    ("alphas", "k", "ties", "message"),
    [
        (ALPHAS, 0, None, "`k`. Expected 1 to 4"),
        (ALPHAS, 5, None, "`k`. Expected 1 to 4"),
        (ALPHAS[0], 2, None, "`alphas`"),
        (ALPHAS * math.nan, 2, None, "`alphas`. Expected finite"),
        (ALPHAS, 2, np.zeros((2, 4)), "`ties`. Expected the shape"),
    ],
)
def test_arguments_of_choose(alphas, k, ties, message):
    with pytest.raises(ValueError, match=message):
        choose(alphas, k, ties)


# The split


def test_the_split_is_disjoint_and_leaves_the_weights_as_many():
    counts = np.arange(1, 31)
    images = persons(*counts)
    weights, alphas = split(images, seed=3)
    assert not set(weights.names) & set(alphas.names)
    assert set(weights.names) | set(alphas.names) == set(images.names)
    of_alphas = np.bincount(alphas.labels, minlength=30)
    np.testing.assert_array_equal(of_alphas, np.minimum(4, counts // 2))
    np.testing.assert_array_equal(np.bincount(weights.labels), counts - of_alphas)
    assert weights.class_names == alphas.class_names == images.class_names
    where = {name: i for i, name in enumerate(images.names)}
    for part in (weights, alphas):  # each image keeps its person and its camera
        rows = [where[name] for name in part.names]
        np.testing.assert_array_equal(part.labels, images.labels[rows])
        np.testing.assert_array_equal(part.camids, images.camids[rows])


def test_the_published_split_overlaps():
    counts = np.arange(1, 31)
    weights, alphas = split(persons(*counts), seed=3, overlap=True)
    assert (np.bincount(alphas.labels) == 4).all()  # 4 x the persons
    moved = np.where(counts % 4, counts % 4, 4)
    expected = np.where(counts < 4, 4, np.where(counts == 4, 4, counts - moved))
    np.testing.assert_array_equal(np.bincount(weights.labels), expected)
    of = lambda part, person: {name for name, label in zip(part.names, part.labels) if label == person}
    for person, n in enumerate(counts):
        shared = of(weights, person) & of(alphas, person)
        assert len(of(alphas, person)) == 4 or n < 4
        if n > 4:
            assert len(shared) == 4 - moved[person]  # those that were copied
            assert len(of(weights, person) | of(alphas, person)) == n
    assert of(weights, 3) == of(alphas, 3) and len(of(alphas, 3)) == 4


def test_a_split_follows_from_the_seed():
    images = persons(*[12] * 8)
    first, other = (split(images, seed)[1].names for seed in (1, 2))
    assert split(images, 1)[1].names == first != other


def test_persons_of_one_image_cannot_be_split():
    with pytest.raises(ValueError, match=r"persons with two images or more, to be split\. Received: 3 images"):
        split(persons(1, 1, 1))


# The supernet


def test_parameters_of_cnets_supernet():
    assert dhm.search.supernet("cnet").count_params() == 7_811_471


@pytest.mark.slow
def test_parameters_of_cdnets_supernet():
    assert dhm.search.supernet("cdnet").count_params() == 19_526_735


@pytest.mark.tensorflow
def test_a_step_computes_the_sum_of_the_chosen_operators():
    supernet = toy()
    chosen, images = np.array([[0, 2], [1, 2], [0, 1], [0, 2], [0, 1], [1, 2]]), np.full((2, 8, 8, 3), [1.0, 2, 3])
    x = images.astype("float32")
    for part, models in zip(supernet.parts, supernet.chosen_models(chosen), strict=True):
        outputs = [model(x, training=True) for model in models]
        x = sum(outputs) if isinstance(part, tuple) else outputs[0]
    computed = supernet(images, np.zeros((6, 3), "float32"), chosen)
    np.testing.assert_allclose(computed["main"], x["main"], rtol=1e-5, atol=1e-6)
    assert supernet.network(chosen)(images).shape == (2, 4)


@pytest.mark.parametrize("parts", ["none", "other"])
def test_parts_of_a_supernet(parts):
    x = keras.Input((4,))
    model = keras.Model(x, layers.ReLU()(x))
    with pytest.raises(ValueError, match="Expected tuples of 2 models, one for each operator"):
        dhm.search.Supernet([model] if parts == "none" else [model, (model,) * 3], [(3, 5), (3, 7)])


def test_a_space_has_a_name():
    with pytest.raises(ValueError, match=r"argument `space`. Expected one of \('cnet', 'cdnet'\)"):
        dhm.search.supernet("osnet")
