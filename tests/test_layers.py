"""BatchNormalization: PyTorch's conventions, fused and not, over replicas, in half precision."""

import keras
import numpy as np
import pytest
from keras import ops

from dhm_keras.layers import BatchNormalization, PadChannels


def images(n=6, size=5, channels=3, seed=0):
    return (3 + 2 * np.random.default_rng(seed).standard_normal((n, size, size, channels))).astype("float32")


def layer_with_state(channels=3, rank=4, **kwargs):
    layer = BatchNormalization(**kwargs)
    layer.build((None, 5, 5, channels) if rank == 4 else (None, channels))
    rng = np.random.default_rng(1)
    for variable in layer.variables:
        variable.assign(0.5 + rng.random(channels))
    return layer


def numpy_step(layer, x):
    """Outputs and running statistics after one training step, by the definition."""
    gamma, beta, mean, variance = (ops.convert_to_numpy(v.value).astype("float64") for v in layer.variables)
    axes = tuple(range(x.ndim - 1))
    y = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * gamma + beta
    return y, 0.9 * mean + 0.1 * x.mean(axes), 0.9 * variance + 0.1 * x.var(axes, ddof=1)


@pytest.mark.parametrize("rank", [2, 4])  # 4-D is fused on TensorFlow, 2-D is not
def test_training_step_by_the_definition(rank):
    x = images() if rank == 4 else images()[:, 0, 0]
    layer = layer_with_state(rank=rank)
    y, mean, variance = numpy_step(layer, x.astype("float64"))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x, training=True)), y, atol=2e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.moving_mean.value), mean, rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.moving_variance.value), variance, rtol=1e-6)


def test_inference_uses_the_running_statistics_and_leaves_them():
    x, layer = images(), layer_with_state()
    gamma, beta, mean, variance = (ops.convert_to_numpy(v.value) for v in layer.variables)
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x, training=False)), expected, atol=1e-5)
    frozen = layer_with_state(trainable=False)
    np.testing.assert_allclose(ops.convert_to_numpy(frozen(x, training=True)), expected, atol=1e-5)
    for variable, before in zip(layer.variables, (gamma, beta, mean, variance)):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable.value), before)


@pytest.mark.tensorflow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float16", 1e-2), ("bfloat16", 1e-1)])
@pytest.mark.parametrize("size, channels", [(5, 3), (4, 3), (4, 24), (4, 20), (4, 16)])  # folded: the middle three
def test_fused_and_unfused_agree_in_value_and_gradient(training, dtype, tolerance, size, channels):
    import tensorflow as tf

    class Unfused(BatchNormalization):
        def _is_fusible(self, *args):
            return False

    x = tf.cast(images(6, size, channels), dtype)
    results = []
    for kind in (BatchNormalization, Unfused):
        layer = kind(dtype=f"mixed_{dtype}" if dtype != "float32" else dtype)
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 2, channels))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(tf.cast(y, "float32") ** 3)
        gradients = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
        assert y.dtype == dtype
        results.append([y, *gradients, *(v.value for v in layer.variables)])
    for fused, unfused in zip(*results):
        scale = np.abs(np.asarray(unfused, "float32")).max()
        np.testing.assert_allclose(*(np.asarray(t, "float32") for t in (fused, unfused)), atol=tolerance * scale)


@pytest.mark.tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("channels", [24, 16])
def test_a_compiled_step_with_any_number_of_channels(channels, jit_compile):
    import tensorflow as tf

    x, layer = images(size=4, channels=channels), layer_with_state(channels)
    y, mean, variance = numpy_step(layer, x.astype("float64"))
    step = tf.function(
        lambda x: layer(x, training=True),
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec((None, 4, 4, channels))],
    )
    np.testing.assert_allclose(step(x), y, atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-5)


@pytest.mark.parametrize("channels", [3, 16])
def test_without_momentum_the_running_statistics_are_the_batch_s(channels):
    x, layer = images(size=4, channels=channels), layer_with_state(channels, momentum=0.0)
    layer(x, training=True)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.moving_mean.value), x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.moving_variance.value), x.var((0, 1, 2), ddof=1), rtol=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("n", [0, 1])  # of no image: a replica's share of a small batch
def test_statistics_of_copies_with_a_position_each_or_none(n):
    import tensorflow as tf

    x, layer = tf.constant(images(n, 4)), layer_with_state()
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x, training=True))
    for gradient in tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]):
        assert np.isfinite(gradient).all()
    if n:
        _, *statistics = numpy_step(layer_with_state(), images(n, 4).astype("float64"))
        for variable, expected in zip(layer.variables[2:], statistics, strict=True):
            np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5)


@pytest.mark.tensorflow
def test_synchronized_replicas_equal_one_device(mirrored):
    import tensorflow as tf

    x = images(8)
    alone = layer_with_state()
    with tf.GradientTape() as tape:
        y = alone(x, training=True)
        loss = tf.reduce_sum(y**3)
    gradient = tape.gradient(loss, alone.gamma.value)

    with mirrored.scope():
        together = layer_with_state(synchronized=True)

    def step(x):
        with tf.GradientTape() as tape:
            y = together(x, training=True)
            loss = tf.reduce_sum(y**3)
        return y, tape.gradient(loss, together.gamma.value)

    # Unequal parts: three examples on one replica, five on the other.
    parts = mirrored.experimental_distribute_values_from_function(
        lambda context: tf.constant(x[:3] if context.replica_id_in_sync_group == 0 else x[3:])
    )
    outputs, gradients = tf.function(lambda parts: mirrored.run(step, (parts,)))(parts)
    np.testing.assert_allclose(np.concatenate([o.numpy() for o in outputs.values]), y.numpy(), atol=1e-5)
    np.testing.assert_allclose(sum(g.numpy() for g in gradients.values), gradient.numpy(), rtol=1e-4)
    for one, other in zip(alone.variables, together.variables):
        for local in mirrored.experimental_local_results(other.value):
            np.testing.assert_allclose(local.numpy(), one.numpy(), rtol=1e-5)


def test_config_round_trip():
    layer = BatchNormalization(synchronized=True, epsilon=1e-4, momentum=0.8, name="bn")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (again.synchronized, again.epsilon, again.momentum, again.name) == (True, 1e-4, 0.8, "bn")
    assert isinstance(again, keras.layers.BatchNormalization)
    with pytest.raises(ValueError, match="renormalization"):
        BatchNormalization(renorm=True)


def test_pad_channels_appends_zeros():
    x = images(channels=3)
    y = ops.convert_to_numpy(PadChannels(7)(x))
    np.testing.assert_array_equal(y[..., :3], x)
    assert y.shape == (6, 5, 5, 7) and not y[..., 3:].any()
