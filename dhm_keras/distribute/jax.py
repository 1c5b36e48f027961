"""JAX: `keras.distribution`, and what its functional training step asks for."""

import contextlib
import functools
import warnings

from keras import ops


@contextlib.contextmanager
def data_parallel(devices=None):
    """The scope in which to build, compile and fit; one device.

    Args:
        devices: None or 1.

    Yields:
        Nothing.

    Raises:
        ValueError: if more are asked for.
    """
    if devices not in (None, 1):
        raise ValueError(f"Invalid value for argument `devices`. Expected 1 on JAX. Received: {devices!r}.")
    yield


def process():
    """(0, 1): a process on its own."""
    return 0, 1


def is_chief():
    """True: the only process."""
    return True


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
    return ops.mean(values)


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


def step_logs(logs):
    """The logs of a step as they are.

    Args:
        logs: What Keras's own step returns.

    Returns:
        `logs`.
    """
    return logs


def checked_labels(labels, num_classes):
    """The labels as they are: nothing can stop a compiled step, and the loss of a label out of range is NaN.

    Args:
        labels: Tensor.
        num_classes: Integer.

    Returns:
        `labels`.
    """
    return labels


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


@contextlib.contextmanager
def fresh_train_step(model):
    """Within, `model.train_step` is a callable that nobody has seen before.

    jax.jit finds a compiled program by the function it was made from, and two bound methods of one object are equal:
    without this a second train function of the same model runs the first one's program.

    Args:
        model: A `keras.Model`.

    Yields:
        Nothing.
    """
    object.__setattr__(model, "train_step", functools.partial(type(model).train_step, model))
    try:
        yield
    finally:
        object.__delattr__(model, "train_step")


@contextlib.contextmanager
def updating_only(optimizer, active):
    """Within, the optimizer leaves some variables and their slots exactly as they are.

    JAX differentiates all trainable variables, and the gradient of one that took no part is zero: with momentum or
    weight decay it would move. A gradient of None makes Keras pass the variable over.

    Args:
        optimizer: A built Keras optimizer.
        active: List of booleans, one for each of the variables that the optimizer was built with.

    Yields:
        Nothing.
    """
    if all(active):
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
