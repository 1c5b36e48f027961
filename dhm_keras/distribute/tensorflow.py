"""TensorFlow: `tf.distribute` and `tf.data`."""

import contextlib

import keras
import numpy as np
import tensorflow as tf


def num_replicas():
    """Replicas of the current `tf.distribute` strategy; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def all_sum(value):
    """Sum over the replicas of the current `tf.distribute` strategy; differentiable.

    Args:
        value: Tensor.

    Returns:
        Tensor of the same shape; `value` itself where there is one replica, or none yet (while Keras builds a model).
    """
    replica = tf.distribute.get_replica_context()
    if num_replicas() == 1 or replica is None:
        return value
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, value)


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


def deterministic():
    """Makes all operations deterministic on a machine without GPU, where that costs nothing; with one, does nothing.

    A random seed must be set: `keras.utils.set_random_seed`.
    """
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()


def without_autotune(dataset):
    """A `tf.data.Dataset` that no background thread tunes.

    The tuning thread sleeps for longer and longer, and whoever lets go of the iterator waits until it wakes: an
    evaluation takes twice its time, and after a long training seconds pass (seen with TensorFlow 2.19 and 2.21).

    Args:
        dataset: A `tf.data.Dataset`.

    Returns:
        The same data set with the option off.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def validation_data(data, batch_size):
    """Arrays to validate on, as Keras wants them.

    Args:
        data: `validation_data` of `fit`.
        batch_size: Integer.

    Returns:
        In place of a tuple of NumPy arrays a `tf.data.Dataset` of batches; otherwise `data`.
    """
    if not (isinstance(data, (tuple, list)) and all(isinstance(array, np.ndarray) for array in data)):
        return data
    return without_autotune(tf.data.Dataset.from_tensor_slices(tuple(data)).batch(batch_size).prefetch(2))


def split_batch(arguments):
    """The arguments as they are: `tf.distribute` splits a batch before a step.

    Args:
        arguments: What Keras calls a training or test step with.

    Returns:
        `arguments`.
    """
    return arguments


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
