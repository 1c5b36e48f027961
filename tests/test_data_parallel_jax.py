"""`data_parallel` on JAX: two devices against one."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from networks import batch, free_ports, sgd, values

import dhm_keras as dhm
from dhm_keras import distribute

jax = pytest.importorskip("jax")

pytestmark = pytest.mark.jax


@pytest.fixture
def float64(float64, monkeypatch):
    """As `conftest.float64`, and JAX computes in float64, too."""
    from keras.src.backend.common import dtypes

    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def small():
    """Batch normalization before each of two heads, and no convolution: quick to compile."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(image)
    logits = {}
    for depth, name in enumerate(("aux1", "main")):
        x = keras.layers.Dense(4, use_bias=False, name=f"stem{depth}")(x)
        x = keras.layers.ReLU()(dhm.layers.BatchNormalization(name=f"stem{depth}_bn")(x))
        logits[name] = keras.layers.Dense(3, name=name)(x)
    return dhm.network.Network(image, logits, name="small")


def train(devices, make, x, y=None, active=None, learning_rate=0.1, metrics=None, compiled="auto", **kwargs):
    """Model and history of a training of a few steps on one device or two."""
    with distribute.data_parallel(devices):
        keras.utils.set_random_seed(0)
        model = dhm.DHM(make())
        model.compile(optimizer=sgd(learning_rate), metrics=metrics, jit_compile=compiled)
        if active is not None:
            model.activate(active, scope="branch")
        history = model.fit(x, y, verbose=0, **kwargs).history
    return model, history


def state_of(model):
    return [*values(model.variables).items(), *values(model.optimizer.variables).items()]


def assert_equal_training(make, *args, tolerance=1e-9, **kwargs):
    """Logs, weights and optimizer state of one device and of two are the same; gives back both models."""
    (one, one_logs), (two, two_logs) = (train(devices, make, *args, **kwargs) for devices in (1, 2))
    assert one_logs.keys() == two_logs.keys()
    for key in one_logs:
        np.testing.assert_allclose(two_logs[key], one_logs[key], rtol=tolerance, err_msg=key)
    pairs = zip(state_of(one), state_of(two), strict=True)
    for (path, value), (_, other) in pairs:  # paths differ in the optimizer's name
        np.testing.assert_allclose(other, value, rtol=tolerance, atol=tolerance, err_msg=path)
    return one, two


def arrays(n, dtype="float64"):
    x, y = batch(n)
    return x.astype(dtype), y


@pytest.mark.parametrize(("n", "active"), [(9, None), (3, ())], ids=["all", "none"])
def test_two_devices_equal_one(n, active, float64):
    x, y = arrays(n)
    weights, validation = np.linspace(0.5, 1.5, n), (*arrays(7), np.linspace(0.5, 1.5, 7))
    kwargs = {"batch_size": 4, "epochs": 2, "sample_weight": weights, "metrics": ["accuracy"]}  # 4, 4 and 1; 4 and 3
    _, two = assert_equal_training(small, x, y, active, validation_data=validation, **kwargs)
    assert all(len(variable.value.sharding.device_set) == 2 for variable in two.variables)


def test_the_batches_of_a_source(float64):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (9, 8, 8, 3)).astype("uint8"), rng.integers(0, 3, 9)
    source = dhm.data.TrainBatches(images, labels, batch_size=3, pad=1, flip=True)
    sampler = dhm.callbacks.SampleBranches("bernoulli", scope="branch")
    assert_equal_training(
        small, source, learning_rate=1e-4, epochs=3, callbacks=[sampler], validation_data=(images, labels)
    )


def test_a_step_splits_its_batch():
    x, y = batch(8)
    size = lambda array: None if array is None else array.addressable_data(0).shape[0]
    with distribute.data_parallel(2):
        sizes = lambda state, data: [size(array) for array in data]
        assert distribute.run_step(sizes, (None, (x, y, None))) == [4, 4, None]
        first = lambda state, data: keras.ops.cast(data[0], "float32")
        uneven = jax.jit(lambda *data: distribute.run_step(first, (None, data)))(x[:5])  # within a compiled step
        np.testing.assert_array_equal(uneven, x[:5])
        assert distribute.run_step(first, (None, (keras.ops.array(x[:5]),))).shape == (5, 8, 8, 3)


def test_one_device_is_no_distribution():
    with distribute.data_parallel(), distribute.data_parallel(1):
        assert keras.distribution.distribution() is None
    assert distribute.process() == (0, 1) and distribute.is_chief()


@pytest.mark.parametrize(("devices", "expected"), [(0, "an integer"), (True, "an integer"), (3, "at most 2, the cpu")])
def test_devices_that_are_not_there(devices, expected):
    message = f"`devices`. Expected {expected}.* Received: {devices}"
    with pytest.raises(ValueError, match=message), distribute.data_parallel(devices):
        pass


@pytest.mark.parametrize("mixed", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_mixed_precision_trains_on_two_devices(mixed):
    x, y = batch(7)
    model, history = train(2, small, x, y, batch_size=7, epochs=6)
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (mixed == "mixed_float16")
    if mixed == "mixed_float16":
        scale, counter = float(model.optimizer.dynamic_scale), int(model.optimizer.step_counter)
        assert (scale == 2**15 and counter == 6) or (scale < 2**15 and counter < 6)  # an overflow halves and restarts


def run_workers(files, devices):
    """Runs a process for each file; gives back what each wrote."""
    tests = pathlib.Path(__file__).parent
    workers = [f"127.0.0.1:{port}" for port in free_ports(len(files))]
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    processes = []
    for index, file in enumerate(files):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, str(tests / "data_parallel_worker.py"), str(devices), str(file)]
        processes.append(
            subprocess.Popen(
                command, env={**environment, "TF_CONFIG": json.dumps(task)}, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [dict(np.load(file)) for file in files]


@pytest.mark.slow
def test_two_processes_of_two_devices_equal_one(tmp_path):
    (one,) = run_workers([tmp_path / "one.npz"], 1)
    first, second = run_workers([tmp_path / "first.npz", tmp_path / "second.npz"], 2)
    processes = [dict(file).pop("process").tolist() for file in (one, first, second)]
    assert processes == [[0, 1], [0, 2], [1, 2]]
    assert one.keys() == first.keys() == second.keys() and len(one) > 50
    for key in one.keys() - {"process"}:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
        np.testing.assert_allclose(first[key], one[key], rtol=1e-8, atol=1e-8, err_msg=key)
    names = [pathlib.Path(f"{tmp_path}/{name}.npz.weights.h5") for name in ("one", "first", "second")]
    assert [name.exists() for name in names] == [True, True, False]
