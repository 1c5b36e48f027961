"""What depends on replicas, and on how a backend of Keras trains: the one place for it."""

import contextlib
import functools
import warnings

import keras


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
