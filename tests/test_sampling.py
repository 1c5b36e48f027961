"""Branch sampling: rates, independence, and the same draw for the same (seed, epoch)."""

import numpy as np
import pytest

from dhm_keras.sampling import sample

BRANCHES = ("aux1", "aux2", "aux3")


def indicator(sampler, epochs=4000, seed=0, **kwargs):
    """(epochs, branches) of 0 and 1."""
    drawn = [sample(sampler, BRANCHES, seed, epoch, **kwargs) for epoch in range(epochs)]
    return np.array([[branch in active for branch in BRANCHES] for active in drawn], float)


def test_fixed_is_all_of_them():
    assert indicator("fixed", epochs=10).all()


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_bernoulli_rates_and_independence(p):
    active = indicator("bernoulli", p=p)
    # 4000 draws: the standard deviation of a rate is at most 0.008; four of them.
    np.testing.assert_allclose(active.mean(0), p, atol=0.032)
    pairs = (active[:, :, None] * active[:, None, :]).mean(0)
    np.testing.assert_allclose(pairs[~np.eye(3, dtype=bool)], p * p, atol=0.032)
    np.testing.assert_allclose((active[1:] * active[:-1]).mean(0), p * p, atol=0.032)  # from epoch to epoch


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_uniform_draws_k_without_replacement(k):
    active = indicator("uniform", k=k)
    assert (active.sum(1) == k).all()
    np.testing.assert_allclose(active.mean(0), k / 3, atol=0.032)


def test_a_draw_is_a_function_of_seed_and_epoch():
    later = [sample("bernoulli", BRANCHES, 7, epoch) for epoch in range(50, 60)]
    assert later == [sample("bernoulli", BRANCHES, 7, epoch) for epoch in range(60)][50:]
    assert not np.array_equal(indicator("bernoulli", 100, seed=0), indicator("bernoulli", 100, seed=1))


def test_known_draws():
    # A change of these numbers breaks the resume of runs that were started before it.
    assert [sample("bernoulli", BRANCHES, 0, epoch) for epoch in range(4)] == KNOWN


KNOWN = [("aux1", "aux2", "aux3"), ("aux1", "aux3"), (), ("aux1",)]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"sampler": "gumbel"}, "`sampler`"),
        ({"p": 1.5}, "`p`"),
        ({"k": -1}, "`k`"),
        ({"sampler": "uniform", "k": 4}, "at most 3"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError) as error:
        sample(**{"sampler": "bernoulli", "branches": BRANCHES, "seed": 0, "epoch": 0, **arguments})
    assert words in str(error.value)
