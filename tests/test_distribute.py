"""Two replicas on two logical CPUs against one device."""

import contextlib

import keras
import numpy as np
import pytest
from networks import batch, resnet8, sgd, tiny, values

import dhm_keras as dhm

pytestmark = pytest.mark.tensorflow


def train(strategy, make, x, y, active=None, epochs=1, **kwargs):
    """History, weights and initial weights of a training of a few steps; under a strategy if there is one."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        model = dhm.DHM(make())
        model.compile(optimizer=sgd())
    if active is not None:
        model.activate(active, scope="branch")
    before = values(model.trainable_variables)
    history = model.fit(
        x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, validation_data=(x, y), **kwargs
    ).history
    return model, history, before


@pytest.mark.parametrize("active", [None, ("aux1",), ()], ids=["all", "aux1", "none"])
def test_two_replicas_equal_one_device(mirrored, active, float64):
    # In float64: in float32 a rounding can flip a ReLU, and then the first convolution differs by 1e-5.
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 32, 32, 3)).astype("float64"), rng.integers(0, 10, 64)  # four steps of 8 + 8
    make = lambda: resnet8(synchronized=True)
    weights = np.linspace(0.5, 1.5, 64)
    one, one_logs, before = train(None, make, x, y, active, sample_weight=weights)
    two, two_logs, _ = train(mirrored, make, x, y, active, sample_weight=weights)
    assert one_logs.keys() == two_logs.keys()
    for key in one_logs:
        np.testing.assert_allclose(two_logs[key], one_logs[key], rtol=1e-9, err_msg=key)
    moved = 0
    after, other = values(one.variables), values(two.variables)
    for path, value in after.items():
        np.testing.assert_allclose(other[path], value, rtol=1e-9, atol=1e-9, err_msg=path)
        moved += path in before and not np.array_equal(value, before[path])
    assert moved >= 15


def test_two_replicas_share_the_batches_of_a_source(mirrored, float64):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (32, 16, 16, 3)).astype("uint8"), rng.integers(0, 10, 32)
    weights = []
    for strategy in (None, mirrored):
        with strategy.scope() if strategy else contextlib.nullcontext():
            keras.utils.set_random_seed(0)
            normalization = dhm.data.CIFAR10_MEAN_STD
            model = dhm.DHM(resnet8(input_shape=(16, 16, 3), normalization=normalization, synchronized=True))
            model.compile(optimizer=sgd(0.01))
        train = dhm.data.TrainBatches(images, labels, batch_size=8, pad=1, flip=True)
        model.fit(train, epochs=2, verbose=0)
        weights.append(values(model.variables))
    for path, value in weights[0].items():
        np.testing.assert_allclose(weights[1][path], value, rtol=1e-8, atol=1e-8, err_msg=path)


def test_frozen_branches_stay_frozen_on_every_replica(mirrored):
    x, y = batch(32)
    model, _, before = train(mirrored, tiny, x, y, active=("aux2",), epochs=2)
    for variable in model.trainable_variables:
        for local in mirrored.experimental_local_results(variable.value):
            frozen = "aux1" in variable.path
            assert np.array_equal(local.numpy(), before[variable.path]) == frozen, variable.path


@pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_mixed_precision_trains_on_two_replicas(mirrored, mixed):
    x, y = batch(64)
    model, history, _ = train(mirrored, lambda: tiny(synchronized=True), x, y, epochs=12)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (mixed == "mixed_float16")
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    _, alone, _ = train(None, lambda: tiny(synchronized=True), x, y, epochs=12)
    np.testing.assert_allclose(history["loss"], alone["loss"], rtol=0.05)


def test_sampling_under_a_strategy(mirrored):
    x, y = batch(32)
    sampler = dhm.callbacks.SampleBranches("bernoulli", scope="branch")
    _, two, _ = train(mirrored, lambda: tiny(synchronized=True), x, y, epochs=5, callbacks=[sampler])
    _, one, _ = train(None, lambda: tiny(synchronized=True), x, y, epochs=5, callbacks=[sampler])
    assert np.isnan(one["aux1_ce"]).any() and not np.isnan(one["aux1_ce"]).all()
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
    np.testing.assert_array_equal(np.isnan(two["aux1_ce"]), np.isnan(one["aux1_ce"]))
