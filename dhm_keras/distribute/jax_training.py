"""JAX: the compiled function of Keras's training, a step a call or many, and what a step updates."""

import contextlib
import functools
import warnings

import jax
import keras


def make_train_function(model, make, source=None):
    """Makes `model.train_function`, which no other one is mistaken for.

    jax.jit finds a compiled program by the function it was made from, and two bound methods of one object are equal:
    without a fresh one a second train function of the same model runs the first one's program.

    Args:
        model: A `keras.Model`.
        make: Keras's function that makes it, of a step a call.
        source: `data.TrainBatches.source`: then a call takes the steps that an item of its `DrawnCalls` says. Always
            compiled. Defaults to `None`.
    """
    train_step = functools.partial(type(model).train_step, model)
    if source is not None:
        model.train_function = _many_steps(model, train_step, source)
        return
    object.__setattr__(model, "train_step", train_step)
    try:
        make()
    finally:
        object.__delattr__(model, "train_step")


def _many_steps(model, train_step, source):
    """A train function of the steps that an item of `DrawnCalls` says.

    The images are an argument of what is compiled: there is no copy of them in the program.
    """

    def one_step(state, draws, arrays):
        return train_step(state, source.batch(draws, arrays))

    @functools.partial(jax.jit, donate_argnums=0)
    def in_a_loop(state, draws, count, arrays):  # count is an argument, too: one program for all calls
        leaves, structure = jax.tree.flatten(state)

        def step(number, leaves):
            _, after = one_step(jax.tree.unflatten(structure, leaves), draws[number], arrays)
            return [new.astype(old.dtype) for new, old in zip(jax.tree.leaves(after), leaves, strict=True)]

        state = jax.tree.unflatten(structure, jax.lax.fori_loop(0, count, step, leaves))
        metrics = zip(model.metrics_variables, state[-1], strict=True)
        with keras.StatelessScope(state_mapping=list(metrics)):
            return model.get_metrics_result(), state

    one_by_one = jax.jit(one_step, donate_argnums=0)

    def train_function(state, iterator):
        draws, count, rest = next(iterator)
        logs, singles = {}, rest
        if len(draws) and _loops_are_fast():
            logs, state = in_a_loop(state, draws, count, source.arrays)
        else:
            singles = [*draws[: int(count)], *rest]
        for each in singles:
            logs, state = one_by_one(state, each, source.arrays)
        return logs, state

    return train_function


def _loops_are_fast():
    """Whether a loop is as fast as its steps: on a CPU XLA's convolutions are many times slower within one."""
    return jax.default_backend() != "cpu"


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
