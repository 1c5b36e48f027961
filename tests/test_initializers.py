"""Initial weights: NumPy's draws on every backend and in every dtype, and through a config."""

import keras
import numpy as np
import pytest

from dhm_keras.initializers import RandomNormal, RandomUniform, VarianceScaling


@pytest.mark.parametrize(
    "initializer, draws",
    [
        (
            VarianceScaling(2.0, "fan_out", seed=7),
            0.05**0.5 * np.random.default_rng(7).standard_normal((3, 40), "float32"),
        ),
        (
            VarianceScaling(1 / 3, "fan_in", "uniform", seed=7),
            3**-0.5 * (2 * np.random.default_rng(7).random((3, 40), "float32") - 1),
        ),
        (RandomNormal(0.1, 0.5, seed=7), 0.1 + 0.5 * np.random.default_rng(7).standard_normal((3, 40), "float32")),
        (RandomUniform(-0.2, 0.6, seed=7), -0.2 + 0.8 * np.random.default_rng(7).random((3, 40), "float32")),
    ],
)
def test_draws_are_numpys_whatever_the_dtype(initializer, draws):
    for dtype, accuracy in (("float32", 1e-6), ("float64", 1e-6), ("bfloat16", 1e-2), (None, 1e-6)):
        weights = initializer((3, 40), dtype)
        if keras.backend.backend() == "tensorflow" or dtype != "float64":  # JAX has no float64 unless told so
            assert keras.backend.standardize_dtype(weights.dtype) == (dtype or "float32")
        np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.cast(weights, "float32")), draws, atol=accuracy)
    again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(i((3, 40))) for i in (initializer, again)))


def test_without_a_seed_the_global_one_decides():
    def two():
        keras.utils.set_random_seed(5)
        return [keras.ops.convert_to_numpy(VarianceScaling()((20, 1))) for _ in range(2)]

    (one, other), again = two(), two()
    assert not np.array_equal(one, other)  # each layer draws its own
    np.testing.assert_array_equal([one, other], again)


def test_a_wrong_seed_is_named():
    for seed in (-1, keras.random.SeedGenerator(3)):
        with pytest.raises(ValueError, match="`seed`"):
            VarianceScaling(seed=seed)((3, 3))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 3, 5, 7)])
def test_the_fan_is_keras(mode, shape):
    for of_keras, distribution in (("untruncated_normal",) * 2, ("uniform",) * 2):
        expected = keras.initializers.VarianceScaling(1.7, mode, of_keras, seed=0)(shape)
        draws = VarianceScaling(1.7, mode, distribution, seed=0)(shape)
        ratio = keras.ops.std(draws) / keras.ops.std(expected)
        assert 0.6 < float(ratio) < 1.6  # other draws of the same variance; another fan is a factor of 1.2 or 3 off


def test_wrong_modes_are_named():
    with pytest.raises(ValueError, match="`mode`"):
        VarianceScaling(mode="fan_avg")
    with pytest.raises(ValueError, match="`distribution`"):
        VarianceScaling(distribution="truncated_normal")
