"""TensorFlow: what a training step and the state of a training need under `tf.distribute`."""

import contextlib
import contextvars
import gc
import warnings

import keras
import numpy as np
import tensorflow as tf

from dhm_keras.distribute.tensorflow_devices import process, strategy_of

_has_rows = contextvars.ContextVar("has_rows", default=None)  # a replica's thread has its own


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
    with _without_collector():
        logs = step(*arguments)
    if not tf.distribute.get_strategy().extended._in_multi_worker_mode():
        return logs
    return {"loss": tf.reshape(logs["loss"], (1,))}


@contextlib.contextmanager
def _without_collector():
    """Within, Python looks for no cycles among the many objects that tracing a step makes: a tenth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def to_numpy(variable):
    """The value of a variable, for `assign`.

    Args:
        variable: A Keras variable.

    Returns:
        NumPy array of its shape; with a first axis of replicas where those of one machine have values of their own, as
        metrics have, and statistics that are not synchronized. On several machines the sum over all of them, which all
        processes must ask for.
    """
    values = [tf.convert_to_tensor(part).numpy() for part in _parts(variable)]
    return values[0] if all(np.array_equal(value, values[0]) for value in values) else np.stack(values)


def assign(variable, array):
    """Gives a variable the value that it had.

    Args:
        variable: A Keras variable.
        array: What `to_numpy` gave, the same on every process.
    """
    parts = _parts(variable)
    arrays = array if array.ndim > len(variable.shape) else [array] * len(parts)
    for part, value in zip(parts, arrays, strict=True):
        part.assign(value)


def _parts(variable):
    """What the replicas of this machine have for a variable; itself on one device, and on several machines."""
    value = variable.value
    several = isinstance(value, tf.distribute.DistributedValues) and process()[1] == 1
    return value.values if several else [value]


def make_train_function(model, make, source=None):
    """Makes `model.train_function`.

    Args:
        model: A `keras.Model`.
        make: Keras's function that makes it from `model.train_step`.
        source: `data.TrainBatches.source`: then a step gets draws, and cuts its batch from the images there. Defaults
            to `None`.
    """
    if source is None:
        make()
        return
    train_step = model.train_step
    object.__setattr__(model, "train_step", lambda draws: train_step(source.batch(draws, source.arrays)))
    try:
        make()
    finally:
        object.__delattr__(model, "train_step")


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
