"""TensorFlow: `tf.distribute`."""

import contextlib
import contextvars
import warnings

import keras
import numpy as np
import tensorflow as tf

from dhm_keras.distribute.cluster import read_cluster

_strategy = []  # the one of this process: the collectives of two would meet each other's
_has_rows = contextvars.ContextVar("has_rows", default=None)  # a replica's thread has its own


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
        ValueError: if there are fewer devices, the process trains with another number of them already, or TF_CONFIG is
            malformed.
        RuntimeError: if TensorFlow has started already and its devices can no longer be set up.
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
            raise RuntimeError(
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
        raise RuntimeError(
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


def num_replicas():
    """Replicas of the current `tf.distribute` strategy; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def all_sum(value):
    """Sum over the replicas of the current `tf.distribute` strategy; differentiable.

    Args:
        value: Tensor. Within `on_share`, that of a replica without images counts as zero.

    Returns:
        Tensor of the same shape; `value` itself where there is one replica, or none yet (while Keras builds a model).
    """
    replica = tf.distribute.get_replica_context()
    if num_replicas() == 1 or replica is None:
        return value
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, unless_empty(value, tf.zeros_like(value)))


def share_of_mean(values):
    """This replica's summand of the mean over the whole batch; Keras adds the gradients of all replicas up.

    Args:
        values: Tensor `(share of the batch,)`.

    Returns:
        Scalar tensor: the sum of `values` by the number of examples on all replicas.
    """
    count = tf.cast(tf.shape(values)[0], values.dtype)
    return tf.reduce_sum(values) / all_sum(count)


def on_share(network, inputs, training):
    """Calls a network on a replica's share of a batch, which may be empty: then on one blank image that counts nowhere.

    Convolutions and batch normalization cannot do with an empty batch: on a CPU a convolution gives it a wrong number
    of channels (seen with TensorFlow 2.21), and the statistics are NaN.

    Args:
        network: A functional model with a dict of outputs.
        inputs: Tensor `(share of the batch, ...)`.
        training: As of `network`.

    Returns:
        Dict of tensors with as many rows as `inputs`.
    """
    if num_replicas() == 1 or tf.distribute.get_replica_context() is None or keras.backend.is_keras_tensor(inputs):
        return network(inputs, training=training)
    inputs = tf.convert_to_tensor(inputs)
    rows = tf.shape(inputs)[0]
    blank = tf.cast(rows == 0, rows.dtype)
    padded = tf.pad(inputs, [[0, blank]] + [[0, 0]] * (len(inputs.shape) - 1))
    token = _has_rows.set(rows > 0)
    try:
        outputs = network(tf.ensure_shape(padded, (None, *inputs.shape[1:])), training=training)
    finally:
        _has_rows.reset(token)
    return {head: value[:rows] for head, value in outputs.items()}


def unless_empty(value, otherwise):
    """Within `on_share`, `otherwise` on a replica that has no images.

    Args:
        value, otherwise: Tensors of one shape.

    Returns:
        `value` or `otherwise`; always `value` elsewhere.
    """
    has_rows = _has_rows.get()
    return value if has_rows is None else tf.where(has_rows, value, otherwise)


def checked_labels(labels, num_classes):
    """Labels that stop a graph with an error where one is out of range.

    Args:
        labels: Tensor of integers, or of soft labels, which pass.
        num_classes: Integer.

    Returns:
        The labels. In a graph that XLA compiles nothing can stop: there the loss becomes NaN.
    """
    if "int" not in keras.backend.standardize_dtype(labels.dtype) or keras.backend.is_keras_tensor(labels):
        return labels
    labels = tf.convert_to_tensor(labels)
    as_int64 = tf.cast(labels, tf.int64)
    in_range = tf.reduce_all((as_int64 >= 0) & (as_int64 < num_classes))
    message = f"Invalid labels. Expected integer labels in [0, {num_classes}), one of the network's classes. Received:"
    with tf.control_dependencies([tf.debugging.Assert(in_range, [message, labels], summarize=8)]):
        return tf.identity(labels)


def compile_settings(model, settings):
    """Settings of `compile` without those that Keras cannot do under a strategy of several replicas.

    Args:
        model: A `keras.Model`.
        settings: Dict of keyword arguments.

    Returns:
        Dict.
    """
    if strategy_of(model) is None:
        return settings
    settings = dict(settings)
    for name, value in (("steps_per_execution", 1), ("jit_compile", False)):
        if settings.get(name) not in (None, "auto", value):
            warnings.warn(
                f"Keras cannot train with {name}={settings[name]!r} under a tf.distribute strategy of several replicas "
                f"(its step then fails in TensorFlow). Going on with {name}={value!r}.",
                stacklevel=3,
            )
            settings[name] = value
    return settings


def symbolic_build(model, iterator, data_batch):
    """What `keras.Model._maybe_symbolic_build` is for, where the replicas' shares of a batch may differ in size.

    Keras reduces the first batch over the replicas, which fails if it splits unevenly, and on several machines always.
    One share says as much about shapes, and without metrics of `compile` nothing asks for them.

    Args:
        model: A built model.
        iterator: Keras's epoch iterator or None.
        data_batch: Tuple of arrays or None.
    """
    strategy = strategy_of(model)
    if strategy is None:
        return
    metrics = model._compile_metrics
    if metrics is not None and not metrics.built:
        if iterator is not None:
            # An item is (step, iterator) in Keras 3.10, (first step, last step, iterator) in 3.15.
            shares = next(next(iter(iterator))[-1])
            data_batch = keras.tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], shares)
        data_batch = keras.tree.map_structure(_any_rows, data_batch)
    with strategy.scope():
        model._symbolic_build(data_batch=data_batch)


def _any_rows(value):
    """A symbolic tensor like `value`, of any number of rows."""
    if value is None:
        return None
    return keras.KerasTensor((None, *value.shape[1:]), keras.backend.standardize_dtype(value.dtype))


def run_step(step, arguments):
    """Calls Keras's training or test step, and gives its logs as Keras can take them.

    On several machines Keras averages each log over an axis, which a scalar lacks, with two all-reduces a log. There a
    step logs the loss alone; the logs of an epoch come from the metrics themselves.

    Args:
        step: Function.
        arguments: What Keras called with: the batch.

    Returns:
        Dict of logs; on several machines `{"loss": tensor (1,)}`.
    """
    logs = step(*arguments)
    if not tf.distribute.get_strategy().extended._in_multi_worker_mode():
        return logs
    return {"loss": tf.reshape(logs["loss"], (1,))}


@contextlib.contextmanager
def alone():
    """Within, Keras makes variables for this process alone; so it does on TensorFlow anyway.

    Yields:
        Nothing.
    """
    yield


def to_numpy(variable):
    """The value of a variable. Of a metric on several replicas it is their sum, which all processes must ask for.

    Args:
        variable: A Keras variable.

    Returns:
        NumPy array.
    """
    return keras.ops.convert_to_numpy(variable.value)


def assign(variable, array):
    """Assigns the same array on every replica and process.

    Args:
        variable: A Keras variable.
        array: NumPy array of its shape.
    """
    variable.assign(array)


def deterministic():
    """Makes all operations deterministic on a machine without GPU, where that costs nothing; with one, does nothing.

    A random seed must be set: `keras.utils.set_random_seed`.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def fresh_train_step(model):
    """Within, `model.train_step` makes a new function each time; so it does on TensorFlow anyway.

    Args:
        model: A `keras.Model`.

    Yields:
        Nothing.
    """
    yield


@contextlib.contextmanager
def updating_only(optimizer, active):
    """Within, the optimizer leaves some variables as they are; on TensorFlow the trainer differentiates no others.

    Args:
        optimizer: A built Keras optimizer.
        active: List of booleans, one for each of the variables that the optimizer was built with.

    Yields:
        Nothing.
    """
    yield
