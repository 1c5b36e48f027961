"""SGD and Adam against PyTorch's numbers: alone, over replicas, with loss scaling."""

import keras
import numpy as np
import pytest

from dhm_keras import optimizers

VARIANTS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "sgd_momentum_wd": lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "sgd_nesterov_wd": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam_wd": lambda: optimizers.Adam(0.1, weight_decay=0.01),
    "amsgrad_wd": lambda: optimizers.Adam(0.1, amsgrad=True, weight_decay=0.01),
    "adam_b2_0.9_wd": lambda: optimizers.Adam(0.1, beta_2=0.9, weight_decay=0.01),
    "amsgrad_b2_0.9_wd": lambda: optimizers.Adam(0.1, beta_2=0.9, amsgrad=True, weight_decay=0.01),
}


def rates(golden):
    """The golden learning rate of each step, as a schedule that the optimizer itself reads."""
    return keras.optimizers.schedules.PiecewiseConstantDecay([4], [float(golden["lr"][0]), float(golden["lr"][5])])


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_equal_pytorchs_after_every_step(golden, name):
    g = golden("optimizers")
    optimizer, w = VARIANTS[name](), keras.Variable(g["w0"])
    for step in range(10):
        optimizer.learning_rate = float(g["lr"][step])
        optimizer.apply([keras.ops.convert_to_tensor(g["grads"][step])], [w])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(w.value), g[name][step], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_scaling_changes_nothing(golden, name):
    g = golden("optimizers")
    optimizer = VARIANTS[name]()
    optimizer.learning_rate = rates(g)
    optimizer, w = keras.optimizers.LossScaleOptimizer(optimizer), keras.Variable(g["w0"])
    optimizer.build([w])
    for step in range(10):
        scaled = keras.ops.convert_to_tensor(g["grads"][step]) * optimizer.dynamic_scale
        if keras.backend.backend() == "jax":
            values = [v.value for v in optimizer.variables]
            (new,), values = optimizer.stateless_apply(values, [scaled], [w.value])
            w.assign(new)
            for variable, value in zip(optimizer.variables, values):
                variable.assign(value)
        else:
            optimizer.apply([scaled], [w])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(w.value), g[name][step], rtol=2e-6, atol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("scaled", [False, True], ids=["", "loss_scaling"])
@pytest.mark.parametrize("name", VARIANTS)
def test_two_replicas_that_halve_the_gradient_equal_one(golden, mirrored, name, scaled):
    import tensorflow as tf

    g = golden("optimizers")
    with mirrored.scope():
        optimizer = VARIANTS[name]()
        optimizer.learning_rate = rates(g)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        w = keras.Variable(g["w0"])
        optimizer.build([w])

    def on_replica(gradient):
        scale = optimizer.dynamic_scale if scaled else 1.0
        optimizer.apply_gradients([(gradient / 2 * scale, w)])

    step = tf.function(lambda gradient: mirrored.run(on_replica, (gradient,)))
    for i in range(10):
        step(tf.constant(g["grads"][i]))
        for local in mirrored.experimental_local_results(w.value):
            np.testing.assert_allclose(local.numpy(), g[name][i], rtol=2e-6, atol=1e-6)


def test_adam_without_first_moment_divides_by_the_second():
    w = keras.Variable(np.zeros(3, "float32"))
    optimizers.Adam(0.1, beta_1=0.0).apply([keras.ops.convert_to_tensor([1.0, -2.0, 4.0])], [w])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(w.value), [-0.1, 0.1, -0.1], rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_config_round_trip(name):
    optimizer = VARIANTS[name]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(again) is type(optimizer) and again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("make", [optimizers.SGD, optimizers.Adam])
def test_variables_can_be_excluded_from_weight_decay(make):
    decayed, free = (
        keras.Variable(np.ones(2, "float32"), name="kernel"),
        keras.Variable(np.ones(2, "float32"), name="bias"),
    )
    optimizer = make(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    zeros = keras.ops.zeros(2)
    optimizer.apply([zeros, zeros], [decayed, free])
    assert np.all(keras.ops.convert_to_numpy(decayed.value) < 1)
    assert np.all(keras.ops.convert_to_numpy(free.value) == 1)
