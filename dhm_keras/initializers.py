"""Initial weights drawn with NumPy: for a seed the same on every backend, and nothing to compile for each shape.

JAX compiles a random function anew for every shape, and a DenseNet has a shape for every layer: its networks took
minutes to build.
"""

import math
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
class VarianceScaling(keras.initializers.VarianceScaling):
    """`keras.initializers.VarianceScaling` drawn with NumPy: weights of the variance `scale / fan`.

    The papers' networks draw convolutions from `VarianceScaling(2, "fan_out", "untruncated_normal")` and classifiers
    from `VarianceScaling(1 / 3, "fan_in", "uniform")`, which is uniform in +-1/sqrt(fan_in).

    Args:
        scale: Float > 0. Defaults to `1.0`.
        mode: `"fan_in"` or `"fan_out"`. Defaults to `"fan_in"`.
        distribution: `"untruncated_normal"` or `"uniform"`. Defaults to `"untruncated_normal"`.
        seed: Integer >= 0. Defaults to one that `keras.utils.set_random_seed` decides.
    """

    def __init__(self, scale=1.0, mode="fan_in", distribution="untruncated_normal", seed=None):
        for name, value, known in (
            ("mode", mode, ("fan_in", "fan_out")),
            ("distribution", distribution, ("untruncated_normal", "uniform")),
        ):
            if value not in known:
                raise ValueError(f"Invalid value for argument `{name}`. Expected one of {known}. Received: {value!r}.")
        super().__init__(scale, mode, distribution, seed)

    def get_config(self):
        config = super().get_config()  # newer versions of Keras have more in it
        return {key: config[key] for key in ("scale", "mode", "distribution", "seed")}

    def __call__(self, shape, dtype=None):
        positions = math.prod(shape[:-2])  # of a convolution's kernel
        fan = positions * (shape[-2] if self.mode == "fan_in" else shape[-1])
        if self.distribution == "uniform":
            limit = math.sqrt(3 * self.scale) * fan**-0.5
            return RandomUniform(-limit, limit, self.seed)(shape, dtype)
        draws = _generator(self.seed).standard_normal(shape, "float32")
        return _weights(np.float32(math.sqrt(self.scale / fan)) * draws, dtype)


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
