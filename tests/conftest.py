"""What all tests share: two CPU devices, the golden numbers, float64 where a test asks for it."""

import atexit
import gc
import importlib.util
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# What JAX has compiled once in these tests is not compiled again, neither here nor in the processes that they start.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import keras
import numpy as np
import pytest

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

if ON_TENSORFLOW:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
else:
    import jax

    jax.config.update("jax_num_cpu_devices", 2)


def pytest_collection_modifyitems(config, items):
    """Tests of what one backend alone can do are not part of the suite on the other, nor PyTorch's where it is not."""
    others = ["jax" if ON_TENSORFLOW else "tensorflow"]
    if importlib.util.find_spec("torch") is None:
        others.append("torch")
    elsewhere = [item for item in items if any(map(item.get_closest_marker, others))]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def pytest_collection_finish(session):
    """What is imported by now stays: the garbage collector, which Keras calls often, need not go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def golden():
    """Loads a file of golden numbers by its name."""
    return lambda name: np.load(pathlib.Path(__file__).parent / "golden" / f"{name}.npz")


@pytest.fixture(scope="session")
def cifar(tmp_path_factory):
    """A folder with random images as CIFAR-100; few to train on, as many to test on as officially."""
    from cifar_files import write_cifar100

    folder, *_ = write_cifar100(tmp_path_factory.mktemp("data"), train=300, test=10_000)
    return folder


@pytest.fixture
def float64():
    """Within the test Keras computes in float64, on JAX with the precision that its settings allow."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def mixed(request):
    """Within the test the dtype policy is the test's parameter."""
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def mirrored():
    """A MirroredStrategy on two logical CPUs; one for all tests, a second one would meet the first's collectives."""
    from dhm_keras.distribute import tensorflow_devices as distribute

    distribute._strategy.append(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))  # on a machine with GPUs, too
    return distribute._strategy[0]


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)
