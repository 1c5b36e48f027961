"""Initial weights drawn with NumPy: for a seed the same on every backend, and nothing to compile for each shape.

JAX compiles a random function anew for every shape, and a DenseNet has a shape for every layer: its networks took
minutes to build.
"""

import numbers

import keras
import numpy as np
from keras import ops


def _generator(seed):
    if not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(f"Invalid value for argument `seed`. Expected an integer >= 0. Received: {seed!r}.")
    return np.random.default_rng(seed)


def _weights(values, dtype):
    """A tensor of float32 draws; other dtypes round, or hold, the same numbers."""
    return ops.convert_to_tensor(values.astype(keras.backend.standardize_dtype(dtype)))


@keras.saving.register_keras_serializable(package="dhm_keras")
class RandomNormal(keras.initializers.RandomNormal):
    """`keras.initializers.RandomNormal` drawn with NumPy.

    Args:
        mean: Float. Defaults to `0.0`.
        stddev: Float. Defaults to `0.05`.
        seed: Integer >= 0. Defaults to one that `keras.utils.set_random_seed` decides.
    """

    def __call__(self, shape, dtype=None):
        draws = _generator(self.seed).standard_normal(shape, "float32")
        return _weights(np.float32(self.mean) + np.float32(self.stddev) * draws, dtype)


@keras.saving.register_keras_serializable(package="dhm_keras")
class RandomUniform(keras.initializers.RandomUniform):
    """`keras.initializers.RandomUniform` drawn with NumPy.

    Args:
        minval: Float. Defaults to `-0.05`.
        maxval: Float. Defaults to `0.05`.
        seed: Integer >= 0. Defaults to one that `keras.utils.set_random_seed` decides.
    """

    def __call__(self, shape, dtype=None):
        draws = _generator(self.seed).random(shape, "float32")
        return _weights(np.float32(self.minval) + np.float32(self.maxval - self.minval) * draws, dtype)
