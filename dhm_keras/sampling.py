"""Which branches are active in an epoch (section 3.2, supplement D): pure functions of (seed, epoch)."""

import numpy as np

SAMPLERS = ("fixed", "bernoulli", "uniform")


def sample(sampler, branches, seed, epoch, p=0.5, k=1):
    """Draws the active branches of one epoch.

    Args:
        sampler: `"fixed"`: all of them (the paper's "binary" sampling). `"bernoulli"`: each independently with
            probability `p` (supplement D). `"uniform"`: `k` of them without replacement (section 1).
        branches: Names of the branches.
        seed: Integer >= 0.
        epoch: Integer >= 0, counted from 0.
        p: Float in [0, 1], for `"bernoulli"`. Defaults to `0.5`.
        k: Integer in [0, len(branches)], for `"uniform"`. Defaults to `1`.

    Returns:
        Tuple of names in the order of `branches`; the same for the same arguments, on every machine and backend.

    Raises:
        ValueError: on an unknown sampler, or `p`, `k`, `seed` or `epoch` out of range.
    """
    check(sampler, seed, p, k)
    branches = tuple(branches)
    if sampler == "fixed":
        return branches
    if sampler == "uniform" and k > len(branches):
        raise ValueError(
            f"Invalid value for argument `k`. Expected at most {len(branches)}, the number of branches {branches}. "
            f"Received: {k!r}."
        )
    # Philox is counter-based: key and counter say everything, nothing is carried over from the epoch before.
    draws = np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, 0, epoch])).random(len(branches))
    if sampler == "bernoulli":
        return tuple(branch for branch, draw in zip(branches, draws) if draw < p)
    chosen = np.argsort(draws)[:k]
    return tuple(branch for i, branch in enumerate(branches) if i in chosen)


def check(sampler, seed, p, k):
    """Raises `ValueError` where an argument of `sample` is wrong whatever the network.

    Args:
        sampler: As in `sample`.
        seed: As in `sample`.
        p: As in `sample`.
        k: As in `sample`.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"Invalid value for argument `sampler`. Expected one of {SAMPLERS}. Received: {sampler!r}.")
    if not 0 <= p <= 1:
        raise ValueError(f"Invalid value for argument `p`. Expected a number in [0, 1]. Received: {p!r}.")
    for name, value in (("k", k), ("seed", seed)):
        if not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"Invalid value for argument `{name}`. Expected an integer >= 0. Received: {value!r}.")
