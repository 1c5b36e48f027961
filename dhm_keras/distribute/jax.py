"""JAX: `keras.distribution`, and what its functional training step asks for."""

import contextlib
import functools
import warnings


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


def validation_data(data, batch_size):
    """What to validate on, as Keras wants it: `data`.

    Args:
        data: `validation_data` of `fit`.
        batch_size: Integer.

    Returns:
        `data`.
    """
    return data


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
