"""The layers that Keras lacks, or has in another form than the papers' networks."""

import keras
from keras import ops

from dhm_keras import distribute


def full_precision():
    """The dtype that normalization and logits are computed in: float32, also under a mixed policy."""
    return keras.backend.result_type(keras.config.dtype_policy().compute_dtype, "float32")


@keras.saving.register_keras_serializable(package="dhm_keras")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with PyTorch's conventions, fused where TensorFlow can.

    Differences from `keras.layers.BatchNormalization`: epsilon 1e-5 and momentum 0.9 by default; the running variance
    is the unbiased one (Bessel's correction over all examples and positions), as the papers' networks have it; on
    TensorFlow a 4-D batch goes through the fused kernel, which also takes float16 and bfloat16 without copies in
    float32. Weights and files are the same on every backend.

    Args:
        momentum: Float. Running statistic <- momentum * running statistic + (1 - momentum) * batch statistic.
            Defaults to `0.9`.
        epsilon: Float added to the variance. Defaults to `1e-5`.
        synchronized: Boolean. On TensorFlow: statistics over all replicas of the `tf.distribute` strategy instead of
            each replica's own. On JAX a batch is always one, whatever the devices, so it changes nothing. Defaults to
            `False`.
        **kwargs: As in `keras.layers.BatchNormalization`, except batch renormalization.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, synchronized=False, **kwargs):
        if kwargs.get("renorm"):
            raise ValueError(
                "dhm_keras.layers.BatchNormalization has no batch renormalization. Received: renorm=True. Use "
                "keras.layers.BatchNormalization."
            )
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        self.synchronized = synchronized

    def call(self, inputs, training=None):
        axis = self.axis % len(inputs.shape)
        learning = bool(training and self.trainable)
        if self._is_fusible(inputs, axis, learning):
            outputs, *moved = self._fused(inputs, learning)
        elif learning:
            outputs, *moved = self._unfused(inputs, axis)
        else:
            return super().call(inputs, training=False)
        if learning:
            for moving, value in zip((self.moving_mean, self.moving_variance), moved, strict=True):
                moving.assign(value if self.synchronized else distribute.unless_empty(value, moving))
        return outputs

    def _is_fusible(self, inputs, axis, learning):
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and axis == 3
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
            and self.scale
            and self.center
            and not (learning and self.synchronized and distribute.num_replicas() > 1)
        )

    def _fused(self, inputs, learning):
        """Outputs in the inputs' dtype; if `learning` the new running statistics `(channels,)` in float32, too."""
        from dhm_keras.kernels_tensorflow import normalized, normalized_by_batch

        variables = self.gamma, self.beta, self.moving_mean, self.moving_variance
        if learning:
            return normalized_by_batch(inputs, *variables, self.momentum, self.epsilon)
        return (normalized(inputs, *variables, self.epsilon),)

    def _unfused(self, inputs, axis):
        """As `_fused`, on every backend, in any rank and dtype, over all replicas if `synchronized`."""
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        axes = [i for i in range(len(x.shape)) if i != axis]
        all_sum = distribute.all_sum if self.synchronized else lambda value: value
        shape = [1] * axis + [x.shape[axis]] + [1] * (len(x.shape) - axis - 1)

        size = ops.prod(ops.convert_to_tensor(ops.shape(x), "int32")) // x.shape[axis]
        # Sums and count go in one all-reduce: of two at a time, replicas could meet in different ones.
        totals = all_sum(ops.concatenate([ops.sum(x, axes), ops.cast(size, x.dtype)[None]]))
        count = totals[-1]
        mean = totals[:-1] / count
        squares = all_sum(ops.sum(ops.square(x - ops.reshape(mean, shape)), axes))
        outputs = ops.batch_normalization(
            x, mean, squares / count, self.axis, offset=self.beta, scale=self.gamma, epsilon=self.epsilon
        )
        moved = (
            self.momentum * moving + (1 - self.momentum) * statistic
            for moving, statistic in (
                (self.moving_mean, mean),
                (self.moving_variance, squares / ops.maximum(count - 1, 1)),
            )
        )
        return ops.cast(outputs, self.compute_dtype), *moved


@keras.saving.register_keras_serializable(package="dhm_keras")
class PadChannels(keras.layers.Layer):
    """Appends zero channels: the widening half of ResNet's parameter-free shortcut ("option A").

    Args:
        channels: Integer. Number of channels of the output; at least the input's.
        **kwargs: As in `keras.layers.Layer`.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, inputs):
        return ops.pad(inputs, [[0, 0]] * (len(inputs.shape) - 1) + [[0, self.channels - inputs.shape[-1]]])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}
