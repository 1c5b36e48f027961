"""Top-k Sample Search: which operators of a layer are computed, and how their logits learn from it.

A layer that is searched has n operators and as many logits, the alphas. With p = softmax(alpha) it computes the k
operators S of the largest p and adds up what they give; the straight-through weights

    w = onehot_S - stopgrad(p) + p

are 1 and 0, and have the gradient of p (Li et al., "Combined Depth Space based Architecture Search For Person
Re-identification", CVPR 2021). The name says "sample", yet nothing is drawn: the k largest are taken, as in the
authors' code.
"""

import keras
import numpy as np
from keras import ops


def draw_ties(layers, operators, seed=0):
    """The order in which operators of the same alpha come, each layer's own.

    At the start all alphas are the same, and something has to decide what is computed first: not the order of the
    list, which differs from one description of the space to the next, nor a framework's sort, which promises nothing.

    Args:
        layers: Integer. Layers that are searched.
        operators: Integer. Operators of each.
        seed: Integer >= 0. Defaults to `0`.

    Returns:
        Integers `(layers, operators)`: in each row a permutation; the smaller comes first.
    """
    generator = np.random.default_rng([seed, 1])
    return np.stack([generator.permutation(operators) for _ in range(layers)])


def choose(alphas, k, ties=None):
    """The k operators of the largest alphas in each layer: those that are computed.

    Args:
        alphas: Array `(layers, operators)`.
        k: Integer from 1 to the number of operators.
        ties: As of `draw_ties`; of equal alphas that of the smaller number is taken. Defaults to the order of the list.

    Returns:
        Integers `(layers, k)`, ascending in each row.

    Raises:
        ValueError: if an argument is not as above.
    """
    alphas = np.asarray(alphas)
    if alphas.ndim != 2 or not np.isfinite(alphas).all():
        raise ValueError(
            "Invalid value for argument `alphas`. Expected finite numbers (layers, operators). Received: "
            f"{alphas.dtype} {alphas.shape}."
        )
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= alphas.shape[1]:
        raise ValueError(f"Invalid value for argument `k`. Expected 1 to {alphas.shape[1]}. Received: {k!r}.")
    if ties is None:
        ties = np.broadcast_to(np.arange(alphas.shape[1]), alphas.shape)
    if np.shape(ties) != alphas.shape:
        raise ValueError(
            f"Invalid value for argument `ties`. Expected the shape {alphas.shape}. Received: {np.shape(ties)}."
        )
    order = np.lexsort((ties, -alphas))  # the last key is the first to be sorted by
    return np.sort(order[:, :k])


def straight_through(alphas, chosen):
    """The weights of the operators: 1 for those chosen and 0 for the others, to the bit, with the gradient of softmax.

    Args:
        alphas: Float tensor `(layers, operators)`.
        chosen: Integers `(layers, k)`, as of `choose`.

    Returns:
        Tensor `(layers, operators)`.
    """
    p = ops.softmax(alphas, axis=-1)
    onehot = np.zeros(tuple(alphas.shape), keras.backend.standardize_dtype(alphas.dtype))
    np.put_along_axis(onehot, np.asarray(chosen), 1, axis=-1)
    return onehot + (p - ops.stop_gradient(p))  # in this order nothing is rounded


def mix(outputs, weights, chosen):
    """What a layer gives: the sum, not the mean, of the chosen operators' outputs; and how all the weights learn.

    Operators that were not chosen add their weight, 0, to every number: theirs is the sum of the gradient that arrives.

    Args:
        outputs: k tensors of one shape, those of the chosen operators.
        weights: Tensor `(operators,)`, a row of `straight_through`.
        chosen: k integers.

    Returns:
        Tensor of that shape.
    """
    others = [i for i in range(weights.shape[0]) if i not in set(chosen)]
    mixed = sum(weights[i] * output for i, output in zip(chosen, outputs, strict=True))
    return mixed + ops.sum(ops.take(weights, np.array(others, "int32"))) if others else mixed
