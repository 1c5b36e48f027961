"""Initial weights: NumPy's draws on every backend and in every dtype, and through a config."""

import keras
import numpy as np
import pytest

from dhm_keras.initializers import RandomNormal, RandomUniform


@pytest.mark.parametrize(
    "initializer, draws",
    [
        (RandomNormal(1.0, 0.5, seed=7), 1 + 0.5 * np.random.default_rng(7).standard_normal((3, 40), "float32")),
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
        return [keras.ops.convert_to_numpy(RandomNormal()((20,))) for _ in range(2)]

    (one, other), again = two(), two()
    assert not np.array_equal(one, other)  # each layer draws its own
    np.testing.assert_array_equal([one, other], again)


def test_a_wrong_seed_is_named():
    for seed in (-1, keras.random.SeedGenerator(3)):
        with pytest.raises(ValueError, match="`seed`"):
            RandomNormal(seed=seed)((3,))
