"""TensorFlow's fused kernels, one operation where ten would do the same.

Training normalizes as fast with any number of channels. On a CPU the kernel is six times slower where the channels are
no multiple of 16, the float32 numbers of an AVX-512 register: a DenseNet, which has 12 more channels in every layer,
spent a quarter of a training step in it. There, neighbouring positions are folded into the channels, which moves
nothing in memory: (..., 32, 32, 168) is read as (..., 1, 512, 336), and a channel's statistics are those of its copies.
Not so in inference: exports are read by other runtimes, too, and OpenVINO takes twice as long for a folded one.
"""

import math

import tensorflow as tf

LANES = 16


def normalized(x, scale, offset, mean, variance, epsilon):
    """Batch normalization with given statistics.

    Args:
        x: Float tensor `(batch, height, width, channels)`.
        scale, offset, mean, variance: float32 tensors or variables `(channels,)`.
        epsilon: Float added to the variance.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    given = map(tf.convert_to_tensor, (scale, offset, mean, variance))
    return _normalization(x, *given, epsilon=epsilon)[0]


def normalized_by_batch(x, scale, offset, mean, variance, momentum, epsilon):
    """Batch normalization with the statistics of the batch; differentiable.

    Args:
        x, scale, offset, epsilon: As of `normalized`.
        mean, variance: float32 tensors or variables `(channels,)`, the running statistics.
        momentum: Float, their share in the new ones.

    Returns:
        (outputs, mean, variance): tensor of the shape and dtype of `x`; the new running statistics, the variance from
        the unbiased one of the batch, float32 tensors `(channels,)`.
    """
    copies = _copies(x.shape)
    scale, offset, mean, variance = map(tf.convert_to_tensor, (scale, offset, mean, variance))
    if copies == 1:
        running = (mean, variance) if momentum else (tf.zeros([0]), tf.zeros([0]))
        settings = {"epsilon": epsilon, "is_training": True, "exponential_avg_factor": 1 - momentum}
        return _normalization(x, scale, offset, *running, **settings)[:3]

    of_batch = _moments(tf.stop_gradient(x), copies, epsilon)

    @tf.custom_gradient
    def normalize(x, scale, offset):
        def gradients(upstream):
            return tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=x,
                scale=scale,
                reserve_space_1=of_batch[0],
                reserve_space_2=of_batch[1],
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
            )[:3]

        given = tf.unstack(tf.tile(tf.stack([scale, offset, *of_batch]), [1, copies]))
        outputs = _normalization(_fold(x, copies), *given, epsilon=epsilon)[0]
        return tf.reshape(outputs, (-1, *x.shape[1:])), gradients

    count = tf.cast(tf.size(x) // x.shape[-1], "float32")
    unbiased = of_batch[1] * (count / tf.maximum(count - 1, 1))
    running = tf.stack([mean, variance])
    moved = running + (1 - momentum) * (tf.stack([of_batch[0], unbiased]) - running)
    return normalize(x, scale, offset), *tf.unstack(moved)


def _moments(x, copies, epsilon):
    """Mean and biased variance of each channel, from those of its copies, which the kernel keeps for its gradient."""
    any_scale, nothing = tf.constant(0.0, shape=[copies * x.shape[-1]]), tf.zeros([0])
    given = any_scale, any_scale, nothing, nothing
    kept = _normalization(_fold(x, copies), *given, epsilon=epsilon, is_training=True)[3:5]
    means, variances = tf.unstack(tf.reshape(tf.stack(kept), (2, copies, -1)))
    mean = tf.reduce_mean(means, axis=0)
    return mean, tf.reduce_mean(variances + tf.square(means - mean), axis=0)


def momentum_step(variable, velocity, gradient, learning_rate, momentum, nesterov):
    """A step of stochastic gradient descent with PyTorch's momentum, see `optimizers.SGD`.

    Args:
        variable, velocity: `tf.Variable`s of one shape and dtype, which are changed.
        gradient: Tensor of their shape and dtype.
        learning_rate, momentum: Float or scalar tensor.
        nesterov: Boolean.
    """
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=velocity.handle,
        lr=tf.cast(learning_rate, variable.dtype),
        grad=gradient,
        momentum=tf.cast(momentum, variable.dtype),
        use_nesterov=nesterov,
    )


def _copies(shape):
    """How many positions are folded into the channels: as few as make a multiple of 16, if they divide an image's."""
    _, height, width, channels = shape
    copies = LANES // math.gcd(LANES, channels)
    on_cpu = not tf.config.get_visible_devices("GPU")
    return copies if on_cpu and height and width and height * width % copies == 0 else 1


def _fold(x, copies):
    _, height, width, channels = x.shape
    return tf.reshape(x, (-1, 1, height * width // copies, copies * channels))


def _normalization(x, scale, offset, mean, variance, is_training=False, **settings):
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=mean, variance=variance, is_training=is_training, **settings
    )
