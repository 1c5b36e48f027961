"""JAX: `keras.distribution`, and what its functional training step asks for."""

import contextlib
import functools
import os

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from dhm_keras.distribute.cluster import read_cluster


def process():
    """Which of the processes of a training this one is.

    Returns:
        Tuple `(index, count)`: as TF_CONFIG says, or `jax.distributed` where that is initialized; else `(0, 1)`.
    """
    addresses, index = read_cluster()
    if addresses:
        return index, len(addresses)
    return (jax.process_index(), jax.process_count()) if jax.distributed.is_initialized() else (0, 1)


def is_chief():
    """Whether this is the process that writes files and reports: the first."""
    return process()[0] == 0


@contextlib.contextmanager
def data_parallel(devices=None):
    """The scope in which to build, compile and fit a model on several devices and machines.

    A batch of `fit`, `evaluate` or `validation_data` is the global one, of any size: each device computes its part of
    it, and the result is that of one device. With several processes, one for each machine (see
    `dhm_keras.distribute.cluster.read_cluster`), each runs the same program with the same data and the same seed, and
    takes its part of each batch.

    Example:

    ```python
    with dhm_keras.distribute.data_parallel():
        model = dhm_keras.DHM(dhm_keras.models.resnet32(num_classes=100))
        model.compile(optimizer=dhm_keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4))
        model.fit(images, labels, batch_size=128, epochs=164)
    ```

    Args:
        devices: Integer >= 1. Devices of this process; the same on all processes. Defaults to all its accelerators, or
            1 CPU. On a machine without accelerators: that many CPU devices, if nothing has run on JAX yet.

    Yields:
        Nothing.

    Raises:
        ValueError: if there are fewer devices, or TF_CONFIG is malformed.
    """
    if devices is not None and (not isinstance(devices, int) or isinstance(devices, bool) or devices < 1):
        raise _invalid_devices("an integer >= 1", repr(devices))
    addresses, index = read_cluster()
    if devices is not None and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX runs already, with the devices that it has
            jax.config.update("jax_num_cpu_devices", max(devices, jax.config.jax_num_cpu_devices))
    if len(addresses) > 1:
        _join(tuple(addresses), index)
    chosen = _devices(devices)
    if len(chosen) == 1:
        yield
        return
    distribution = _DataParallel([f"{device.platform}:{device.id}" for device in chosen])
    with distribution.scope():
        yield


def _invalid_devices(expected, received):
    return ValueError(f"Invalid value for argument `devices`. Expected {expected}. Received: {received}.")


@functools.cache
def _join(addresses, index):
    """Joins the processes, which then have the same random seed; once a process."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(addresses[0], len(addresses), index)


def _devices(count):
    """The first `count` devices of each process, those of the first process first."""
    local = len(jax.local_devices())
    platform = jax.default_backend()
    if count is None:
        count = 1 if platform == "cpu" else local
    if count > local:
        advice = ""
        if platform == "cpu":
            advice = (
                "; for more CPU devices enter the scope before anything runs on JAX, or set the environment variable "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
            )
        raise _invalid_devices(f"at most {local}, the {platform} devices of this process{advice}", count)
    by_process = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    return [device for process in sorted(by_process) for device in by_process[process][:count]]


class _DataParallel(keras.distribution.DataParallel):
    """Hands the whole batch to every device; the step splits it, see `run_step`.

    Keras lays out all batches as it did the first, and an array that lies on several devices has to divide by them.
    What a compiled step splits does not.
    """

    def __init__(self, devices):
        super().__init__(devices=devices, auto_shard_dataset=False)
        self._is_multi_process = False  # Keras 3.10 would take nothing but a tf.data.Dataset

    def get_data_layout(self, data_shape):
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    def split(self, array):
        layout = super().get_data_layout(array.shape)
        if not isinstance(array, jax.core.Tracer) and len(array) % self.device_mesh.devices.size:
            return array  # in a step that is not compiled every device computes the whole of it
        return keras.distribution.distribute_tensor(array, layout)


def run_step(step, arguments):
    """Calls Keras's training or test step, with the batch split among the devices of `data_parallel`.

    Args:
        step: Function.
        arguments: What Keras called with: the state and the batch.

    Returns:
        What `step` returns.
    """
    distribution = keras.distribution.distribution()
    if isinstance(distribution, _DataParallel):
        state, data = arguments
        split = lambda array: None if array is None else distribution.split(array)
        arguments = state, keras.tree.map_structure(split, data)
    return step(*arguments)


def alone(function):
    """Calls a function for this process alone: for what not all processes do, such as saving a model.

    In the scope of `data_parallel` a new variable, or NumPy values assigned to one, wait for all processes to do the
    same; saving makes variables that no one sees.

    Args:
        function: Function without arguments.

    Returns:
        What it returns.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        return function()
    finally:
        keras.distribution.set_distribution(distribution)


def all_equal(model, numbers):
    """Whether all processes have the same integers; all of them must ask.

    Args:
        model: A `keras.Model`.
        numbers: Sequence of integers.

    Returns:
        Boolean.
    """
    if process()[1] == 1:
        return True
    everywhere = multihost_utils.process_allgather(np.array(numbers))
    return bool((everywhere == everywhere[0]).all())


def num_devices(model):
    """Devices, of all machines together, that a model trains on.

    Args:
        model: A `keras.Model`.

    Returns:
        Integer.
    """
    return len(model.trainable_variables[0].value.sharding.device_set)


def to_numpy(variable):
    """The value of a variable, which every device of every process has.

    Args:
        variable: A Keras variable of a model or an optimizer that was built in the scope of `data_parallel`.

    Returns:
        NumPy array.
    """
    return keras.ops.convert_to_numpy(variable.value)


def assign(variable, array):
    """Assigns the same array on every process, without asking the others.

    Args:
        variable: As of `to_numpy`.
        array: NumPy array of the variable's shape.
    """
    sharding = variable.value.sharding
    variable.assign(jax.make_array_from_process_local_data(sharding, np.asarray(array, variable.dtype)))


def num_replicas():
    """1: on JAX a batch is one array, whatever the devices."""
    return 1


def all_sum(value):
    """The value itself: a sum over a batch is over the whole batch.

    Args:
        value: Tensor.

    Returns:
        `value`.
    """
    return value


def share_of_mean(values):
    """The mean.

    Args:
        values: Tensor `(batch,)`.

    Returns:
        Scalar tensor.
    """
    return keras.ops.mean(values)


def on_share(network, inputs, training):
    """Calls a network on a batch.

    Args:
        network: A functional model.
        inputs: Tensor.
        training: As of `network`.

    Returns:
        The network's outputs.
    """
    return network(inputs, training=training)


def unless_empty(value, otherwise):
    """`value`: a batch is never empty.

    Args:
        value, otherwise: Tensors of one shape.

    Returns:
        `value`.
    """
    return value


def strategy_of(model):
    """None: `tf.distribute` is TensorFlow's.

    Args:
        model: A `keras.Model`.

    Returns:
        None.
    """
    return None


def compile_settings(model, settings):
    """The settings of `compile` as they are.

    Args:
        model: A `keras.Model`.
        settings: Dict of keyword arguments.

    Returns:
        `settings`.
    """
    return settings


def symbolic_build(model, iterator, data_batch):
    """Nothing: Keras asks for it on TensorFlow alone.

    Args:
        model: A `keras.Model`.
        iterator: Keras's epoch iterator or None.
        data_batch: Tuple of arrays or None.
    """


def checked_labels(labels, num_classes):
    """The labels as they are: nothing can stop a compiled step, and the loss of a label out of range is NaN.

    Args:
        labels: Tensor.
        num_classes: Integer.

    Returns:
        `labels`.
    """
    return labels


def deterministic():
    """Does nothing: on a CPU, compiled operations are deterministic."""


def validation_data(data, batch_size, strategy=None):
    """What to validate on, as Keras wants it: `data`.

    Args:
        data: `validation_data` of `fit`.
        batch_size: Integer.
        strategy: None.

    Returns:
        (`data`, None).
    """
    return data, None


def batches_of_arrays(x, y, sample_weight, class_weight, batch_size, shuffle):
    """None: on JAX Keras cuts the batches itself.

    Args:
        x, y, sample_weight, class_weight, batch_size, shuffle: As in `keras.Model.fit`.
    """
    return None


def plain_errors(*sources):
    """A scope that does nothing: Keras asks the sources for batches itself, and their errors pass.

    Args:
        *sources: What was given to train or evaluate on.
    """
    return contextlib.nullcontext()
