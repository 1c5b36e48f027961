"""TensorFlow: the devices and machines of a training."""

import concurrent.futures
import contextlib

import numpy as np
import tensorflow as tf

from dhm_keras.distribute.cluster import read_cluster

_strategy = []  # the one of this process: the collectives of two would meet each other's


@contextlib.contextmanager
def data_parallel(devices=None):
    """The scope in which to build, compile and fit a model on several devices, of one machine or of several.

    Every step shares a batch out among the devices and does what one device would do with the whole of it; statistics
    of `BatchNormalization` are those of the whole batch where the layer has `synchronized=True`. Several machines
    train together where each runs the same program with an environment variable TF_CONFIG that lists them all (see
    the guide of `tf.distribute.MultiWorkerMirroredStrategy`); `devices` is then the number on each.

    Example:

    ```python
    with dhm_keras.distribute.data_parallel():
        model = dhm_keras.DHM(dhm_keras.models.resnet32(num_classes=100, synchronized=True))
        model.compile(optimizer=dhm_keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4))
        model.fit(train, epochs=164)
    ```

    Args:
        devices: Integer >= 1. Number of local devices: GPUs, or on a machine without one logical CPUs. Defaults to all
            GPUs, or one CPU.

    Yields:
        Nothing.

    Raises:
        ValueError: if there are fewer devices, the process trains with another number of them already, TensorFlow has
            started and its devices can no longer be set up, or TF_CONFIG is malformed.
    """
    if devices is not None and (not isinstance(devices, (int, np.integer)) or devices < 1):
        raise ValueError(f"Invalid value for argument `devices`. Expected an integer >= 1. Received: {devices!r}.")
    gpus = tf.config.get_visible_devices("GPU")
    if gpus and devices is not None and devices > len(gpus):
        raise _invalid_devices(f"at most {len(gpus)}, the number of this machine's GPUs", devices)
    wanted = devices or len(gpus) or 1
    workers = process()[1]
    if wanted == workers == 1:
        yield
        return
    if not _strategy:
        _strategy.append(_several_machines(gpus, wanted) if workers > 1 else _one_machine(gpus, wanted))
    if _strategy[0].num_replicas_in_sync != wanted * workers:
        made = _strategy[0].num_replicas_in_sync // workers
        raise _invalid_devices(f"{made}, as before in this process", devices)
    with _strategy[0].scope():
        yield


def _one_machine(gpus, devices):
    """A `MirroredStrategy`; on a machine without GPU, on logical CPUs."""
    if gpus:
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(devices)])
    cpu = tf.config.get_visible_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    except RuntimeError:  # TensorFlow has started
        there = len(tf.config.list_logical_devices("CPU"))
        if there < devices:
            raise ValueError(
                f"Invalid value for argument `devices`. Expected at most {there}, the number of logical CPUs that "
                "TensorFlow has started with; to have more, enter `data_parallel` before anything computes. Received: "
                f"{devices}."
            ) from None
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])


def _several_machines(gpus, devices):
    """A `MultiWorkerMirroredStrategy`, which takes all the GPUs that are visible."""
    if not gpus and devices > 1:
        raise _invalid_devices("1: on several machines without GPUs each trains on one CPU", devices)
    try:
        if devices < len(gpus):
            tf.config.set_visible_devices(gpus[:devices], "GPU")
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ValueError(
            "On several machines enter `dhm_keras.distribute.data_parallel` at the start of the program, before "
            f"anything computes. TensorFlow says: {error}"
        ) from error


def _invalid_devices(expected, devices):
    return ValueError(f"Invalid value for argument `devices`. Expected {expected}. Received: {devices}.")


def process():
    """This process among those that train together; valid before and after `data_parallel`.

    Returns:
        (index, count); (0, 1) for a process on its own.

    Raises:
        ValueError: if TF_CONFIG is malformed.
    """
    addresses, index = read_cluster()
    return index, max(len(addresses), 1)


def is_chief():
    """Whether this process is the one that writes files and prints: the first."""
    return process()[0] == 0


def strategy_of(model):
    """The `tf.distribute` strategy that a model was built under; None without one, or with one replica.

    Args:
        model: A `keras.Model`.

    Returns:
        `tf.distribute.Strategy` or None.
    """
    strategy = model.distribute_strategy
    return strategy if strategy.num_replicas_in_sync > 1 else None


def alone(function):
    """Calls a function for this process alone: for what not all processes do, such as saving a model.

    Variables that Keras makes in the scope of `data_parallel` are on all devices and wait for all processes. A new
    thread is in no scope.

    Args:
        function: Function without arguments.

    Returns:
        What it returns.
    """
    if not tf.distribute.has_strategy():
        return function()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def all_equal(model, numbers):
    """Whether all processes have the same integers; all of them must ask.

    Args:
        model: A `keras.Model`.
        numbers: Sequence of integers.

    Returns:
        Boolean.
    """
    index, count = process()
    if count == 1:
        return True
    strategy, own = model.distribute_strategy, np.zeros((count, len(numbers)), "float32")
    own[index] = numbers

    @tf.function
    def everywhere():
        return strategy.reduce("SUM", strategy.run(lambda: tf.constant(own)), axis=None)

    table = everywhere().numpy()  # a row a process, times its devices
    return bool((table == table[0]).all())


def deterministic():
    """Makes all operations deterministic on a machine without GPU, where that costs nothing; with one, does nothing.

    A random seed must be set: `keras.utils.set_random_seed`.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def num_devices(model):
    """Devices, of all machines together, that a model trains on.

    Args:
        model: A `keras.Model`.

    Returns:
        Integer.
    """
    return model.distribute_strategy.num_replicas_in_sync
