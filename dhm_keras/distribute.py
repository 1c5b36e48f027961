"""What depends on replicas, and on how a backend of Keras trains: the one place for it."""

import contextlib
import functools
import warnings

import keras
import numpy as np


def num_replicas():
    """Replicas of the current `tf.distribute` strategy; 1 without one, and on JAX, where a batch is one array."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def all_sum(value):
    """Sum over the replicas of the current `tf.distribute` strategy; differentiable.

    Args:
        value: Tensor.

    Returns:
        Tensor of the same shape; `value` itself where there is one replica, or none yet (while Keras builds a model).
    """
    if num_replicas() == 1:
        return value
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return value if replica is None else replica.all_reduce(tf.distribute.ReduceOp.SUM, value)


def checked_labels(labels, num_classes):
    """Labels that stop a TensorFlow graph with an error where one is out of range.

    Args:
        labels: Tensor of integers, or of soft labels, which pass.
        num_classes: Integer.

    Returns:
        The labels. On JAX, and in a graph that XLA compiles, nothing can stop: there the loss becomes NaN.
    """
    integers = "int" in keras.backend.standardize_dtype(labels.dtype)
    if keras.backend.backend() != "tensorflow" or not integers or keras.backend.is_keras_tensor(labels):
        return labels
    import tensorflow as tf

    labels = tf.convert_to_tensor(labels)
    as_int64 = tf.cast(labels, tf.int64)
    in_range = tf.reduce_all((as_int64 >= 0) & (as_int64 < num_classes))
    message = f"Invalid labels. Expected integer labels in [0, {num_classes}), one of the network's classes. Received:"
    with tf.control_dependencies([tf.debugging.Assert(in_range, [message, labels], summarize=8)]):
        return tf.identity(labels)


def without_autotune(dataset):
    """A `tf.data.Dataset` that no background thread tunes.

    The tuning thread sleeps for longer and longer, and whoever lets go of the iterator waits until it wakes: an
    evaluation takes twice its time, and after a long training seconds pass (seen with TensorFlow 2.19 and 2.21).

    Args:
        dataset: A `tf.data.Dataset`.

    Returns:
        The same data set with the option off.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def validation_dataset(data, batch_size):
    """Arrays to validate on, as Keras wants them on the backend at hand.

    Args:
        data: `validation_data` of `fit`.
        batch_size: Integer.

    Returns:
        On TensorFlow, in place of a tuple of NumPy arrays, a `tf.data.Dataset` of batches; otherwise `data`.
    """
    arrays = isinstance(data, (tuple, list)) and all(isinstance(array, np.ndarray) for array in data)
    if not arrays or keras.backend.backend() != "tensorflow":
        return data
    import tensorflow as tf

    return without_autotune(tf.data.Dataset.from_tensor_slices(tuple(data)).batch(batch_size).prefetch(2))


@contextlib.contextmanager
def fresh_train_step(model):
    """Within, on JAX, `model.train_step` is a callable that nobody has seen before.

    jax.jit finds a compiled program by the function it was made from, and two bound methods of one object are equal:
    without this a second train function of the same model runs the first one's program.

    Args:
        model: A `keras.Model`.

    Yields:
        Nothing.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    object.__setattr__(model, "train_step", functools.partial(type(model).train_step, model))
    try:
        yield
    finally:
        object.__delattr__(model, "train_step")


@contextlib.contextmanager
def updating_only(optimizer, active):
    """Within, on JAX, the optimizer leaves some variables and their slots exactly as they are.

    JAX differentiates all trainable variables, and the gradient of one that took no part is zero: with momentum or
    weight decay it would move. A gradient of None makes Keras pass the variable over. On TensorFlow the trainer
    differentiates the active variables only, and this does nothing.

    Args:
        optimizer: A built Keras optimizer.
        active: List of booleans, one for each of the variables that the optimizer was built with.

    Yields:
        Nothing.
    """
    if keras.backend.backend() != "jax" or all(active):
        yield
        return
    apply = optimizer.stateless_apply

    def stateless_apply(optimizer_variables, grads, trainable_variables):
        grads = [grad if moves else None for grad, moves in zip(grads, active)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Gradients do not exist for variables")
            return apply(optimizer_variables, grads, trainable_variables)

    object.__setattr__(optimizer, "stateless_apply", stateless_apply)
    try:
        yield
    finally:
        object.__delattr__(optimizer, "stateless_apply")
