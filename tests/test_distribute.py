"""Two replicas on two logical CPUs against one device."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import Kill, Killed, batch, resnet8, sgd, tiny, values

import dhm_keras as dhm

pytestmark = pytest.mark.tensorflow


def train(strategy, make, x, y, active=None, epochs=1, **kwargs):
    """History, weights and initial weights of a training of a few steps; under a strategy if there is one.

    Without a strategy it runs eagerly, if it is short: tracing a graph would take longer.
    """
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        model = dhm.DHM(make())
        model.compile(optimizer=sgd(), run_eagerly=not strategy and epochs < 6)
    if active is not None:
        model.activate(active, scope="branch")
    before = values(model.trainable_variables)
    history = model.fit(
        x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, validation_data=(x, y), **kwargs
    ).history
    return model, history, before


@pytest.mark.parametrize(
    "active",
    [pytest.param(None, marks=pytest.mark.slow), pytest.param(("aux1",), marks=pytest.mark.slow), ()],
    ids=["all", "aux1", "none"],
)
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


def test_frozen_branches_stay_frozen_on_every_replica(mirrored):
    x, y = batch(32)
    model, _, before = train(mirrored, tiny, x, y, active=("aux2",), epochs=2)
    for variable in model.trainable_variables:
        for local in mirrored.experimental_local_results(variable.value):
            frozen = "aux1" in variable.path
            assert np.array_equal(local.numpy(), before[variable.path]) == frozen, variable.path


@pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.slow
def test_mixed_precision_trains_on_two_replicas(mirrored, mixed):
    x, y = batch(64)
    model, history, _ = train(mirrored, lambda: tiny(synchronized=True), x, y, epochs=12)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (mixed == "mixed_float16")
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    _, alone, _ = train(None, lambda: tiny(synchronized=True), x, y, epochs=12)
    np.testing.assert_allclose(history["loss"], alone["loss"], rtol=0.05)


@pytest.mark.slow
def test_sampling_under_a_strategy(mirrored):
    x, y = batch(32)
    sampler = dhm.callbacks.SampleBranches("bernoulli", scope="branch")
    _, two, _ = train(mirrored, lambda: tiny(synchronized=True), x, y, epochs=5, callbacks=[sampler])
    _, one, _ = train(None, lambda: tiny(synchronized=True), x, y, epochs=5, callbacks=[sampler])
    assert np.isnan(one["aux1_ce"]).any() and not np.isnan(one["aux1_ce"]).all()
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
    np.testing.assert_array_equal(np.isnan(two["aux1_ce"]), np.isnan(one["aux1_ce"]))


# Batches that do not split evenly

slow = lambda *case: pytest.param(*case, marks=pytest.mark.slow)


def uneven(strategy, way, n, synchronized=True, **kwargs):
    """As `train`: two epochs on `n` images in batches of four, from arrays or from `TrainBatches`."""
    images, labels = np.random.default_rng(1).integers(0, 256, (n, 8, 8, 3)).astype("uint8"), np.arange(n) % 3
    regularizer = keras.regularizers.L2(1e-2)
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        model = dhm.DHM(tiny(3, ("main", "aux1"), regularizer, synchronized, head_dtype=keras.config.floatx()))
        model.compile(optimizer=sgd(1e-4), metrics=["sparse_categorical_crossentropy"], run_eagerly=not strategy)
    before = values(model.trainable_variables)
    data = (
        (images.astype("float32"), labels)
        if way == "arrays"
        else (dhm.data.TrainBatches(images, labels, 4, pad=1, flip=True),)
    )
    if way == "arrays":
        kwargs.update(batch_size=4, shuffle=False)
    validation = images[:5].astype("float32"), labels[:5], np.linspace(0.5, 1.5, 5)[:n]
    history = model.fit(
        *data, epochs=2, verbose=0, validation_data=validation, validation_batch_size=4, **kwargs
    ).history
    return model, history, before


@pytest.mark.parametrize(("way", "n"), [("arrays", 3), ("source", 9), slow("arrays", 9), slow("source", 1)])
def test_uneven_shares_equal_one_device(mirrored, way, n, float64):
    weights = {"sample_weight": np.linspace(0.5, 1.5, n)} if way == "arrays" else {}
    one, one_logs, before = uneven(None, way, n, **weights)
    two, two_logs, _ = uneven(mirrored, way, n, **weights)
    assert one_logs.keys() == two_logs.keys()
    for key in one_logs:
        np.testing.assert_allclose(two_logs[key], one_logs[key], rtol=1e-8, err_msg=key)
    after, other = values(one.variables), values(two.variables)
    for path, value in after.items():
        np.testing.assert_allclose(other[path], value, rtol=1e-8, atol=1e-8, err_msg=path)
    assert all(not np.array_equal(after[path], value) for path, value in before.items() if "kernel" in path)


def test_an_empty_share_leaves_a_replica_s_own_statistics(mirrored):
    model, history, before = uneven(mirrored, "source", 1, synchronized=False)  # the second replica never has an image
    assert np.isfinite([history[key] for key in history]).all()
    statistics = [variable.value for variable in model.non_trainable_variables if "moving" in variable.path]
    assert len(statistics) == 6
    for statistic in statistics:
        first, second = (local.numpy() for local in mirrored.experimental_local_results(statistic))
        assert not np.array_equal(first, second) and set(second) <= {0.0, 1.0}
    for variable in model.trainable_variables:
        first, second = (local.numpy() for local in mirrored.experimental_local_results(variable.value))
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all() and (
            not np.array_equal(first, before[variable.path]) or "kernel" not in variable.path
        )


# What Keras cannot do under a strategy


@pytest.mark.parametrize("setting", [{"steps_per_execution": 2}, {"jit_compile": True}], ids=str)
def test_compile_turns_off_what_fails(mirrored, setting):
    (name, value), *_ = setting.items()
    with mirrored.scope():
        model = dhm.DHM(tiny())
    with pytest.warns(UserWarning, match=f"Going on with {name}"):
        model.compile(optimizer=sgd(), **setting)
    assert getattr(model, name) in (1, False)
    alone = dhm.DHM(tiny())
    alone.compile(optimizer=sgd(), **setting)
    assert getattr(alone, name) == value


# The scope


def enter(devices):
    with dhm.distribute.data_parallel(devices):
        return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None


def test_data_parallel_gives_one_strategy(mirrored):
    assert enter(1) is None
    assert enter(2) is mirrored
    with pytest.raises(ValueError, match=r"argument `devices`. Expected 2, as before in this process. Received: 3."):
        enter(3)
    with pytest.raises(ValueError, match=r"argument `devices`. Expected an integer >= 1. Received: 0."):
        enter(0)


def test_more_devices_than_tensorflow_started_with(mirrored, monkeypatch):
    monkeypatch.setattr("dhm_keras.distribute.tensorflow_devices._strategy", [])
    with pytest.raises(ValueError, match="Expected at most 2, the number of logical CPUs"):
        enter(3)


@pytest.mark.slow
@pytest.mark.parametrize("synchronized", [True, False])
def test_killed_within_an_epoch_on_two_replicas(mirrored, tmp_path, synchronized):
    """To the bit, also what each replica has for itself: metrics, and statistics that are not synchronized."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (29, 8, 8, 3)).astype("uint8"), rng.integers(0, 3, 29)

    def start(name, kill=None):
        keras.utils.set_random_seed(3)
        with mirrored.scope():
            model = dhm.DHM(tiny(synchronized=synchronized))
            model.compile(optimizer=sgd(0.01), metrics=["accuracy"])
        data = dhm.data.TrainBatches(images, labels, 8, pad=1, flip=True)
        callbacks = [dhm.callbacks.Resume(tmp_path / name, every=2), *([Kill(kill)] if kill else [])]
        history = model.fit(data, epochs=2, validation_data=(images[:9], labels[:9]), callbacks=callbacks, verbose=0)
        return history.history, values(model.variables), values(model.optimizer.variables)

    whole = start("whole")
    with pytest.raises(Killed):
        start("killed", kill=7)
    resumed = start("killed")
    for one, other in zip(whole, resumed):
        assert len(one) == len(other) > 10  # names of the optimizer's variables are numbered
        for value, expected in zip(other.values(), one.values()):
            np.testing.assert_array_equal(value, expected)


@pytest.mark.tensorflow
def test_batches_of_arrays_are_keras_s_and_no_thread_tunes_them():
    from dhm_keras import distribute

    x, y = np.arange(10.0), np.arange(10)
    batches = distribute.batches_of_arrays(x, y, None, None, batch_size=4, shuffle=False)
    assert len(batches) == 3 and batches.options().autotune.enabled is False
    given = [(images.numpy().tolist(), labels.numpy().tolist()) for images, labels in batches]
    assert given == [(x[i : i + 4].tolist(), y[i : i + 4].tolist()) for i in (0, 4, 8)]
    assert distribute.batches_of_arrays(batches, None, None, None, batch_size=None, shuffle=False) is None
