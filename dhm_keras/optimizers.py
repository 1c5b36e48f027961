"""SGD and Adam with PyTorch's update, the one that the papers' learning rates and weight decays are meant for."""

import math

import keras
from keras import ops


class CoupledWeightDecay:
    """Weight decay as the gradient of an L2 penalty: g + weight_decay * w, before momentum and moments see it.

    A mix-in for Keras optimizers. It replaces Keras's decoupled decay; `exclude_from_weight_decay` works as in Keras.
    """

    def _apply_weight_decay(self, variables):
        """Keras's decoupled decay: nothing here."""

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """Keras's, with the learning rate read once instead of once a variable."""
        super()._backend_update_step(grads, trainable_variables, ops.cast(learning_rate, "float32"))

    def decayed(self, gradient, variable):
        """The gradient of the loss plus `weight_decay / 2 * |w|^2`.

        Args:
            gradient: Tensor.
            variable: The variable, of the same shape.

        Returns:
            Tensor of the variable's shape and dtype.
        """
        gradient = ops.cast(gradient, variable.dtype)
        if self.weight_decay and self._use_weight_decay(variable):
            gradient = gradient + ops.cast(self.weight_decay, variable.dtype) * variable
        return gradient


@keras.saving.register_keras_serializable(package="dhm_keras")
class SGD(CoupledWeightDecay, keras.optimizers.SGD):
    """Stochastic gradient descent with momentum, as in PyTorch.

        g <- g + weight_decay * w
        v <- momentum * v + g
        w <- w - learning_rate * v        (Nesterov: w <- w - learning_rate * (g + momentum * v))

    Keras's own SGD keeps the learning rate inside v and decays the weights apart from it. After a drop of the learning
    rate the two differ, and at equal numbers Keras's decay acts about ten times weaker.

    Example:

    ```python
    model.compile(optimizer=dhm_keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4))
    ```

    Args:
        learning_rate: Float, or a `keras.optimizers.schedules.LearningRateSchedule`. Defaults to `0.01`.
        momentum: Float in [0, 1]. Defaults to `0.0`.
        nesterov: Boolean. Defaults to `False`.
        weight_decay: Float >= 0. Defaults to `0.0`.
        **kwargs: `clipnorm`, `use_ema`, `gradient_accumulation_steps`, ..., as in `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=0.0, **kwargs):
        super().__init__(
            learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, **kwargs
        )

    def update_step(self, gradient, variable, learning_rate):
        step = self.decayed(gradient, variable)
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            if keras.backend.backend() == "tensorflow":  # in one operation
                from dhm_keras.kernels_tensorflow import momentum_step

                momentum_step(variable, velocity.value, step, learning_rate, self.momentum, self.nesterov)
                return
            momentum = ops.cast(self.momentum, variable.dtype)
            new_velocity = momentum * velocity + step
            self.assign(velocity, new_velocity)
            step = step + momentum * new_velocity if self.nesterov else new_velocity
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * step)


@keras.saving.register_keras_serializable(package="dhm_keras")
class Adam(CoupledWeightDecay, keras.optimizers.Adam):
    """Adam and AMSGrad, as in PyTorch: epsilon added after the bias correction, weight decay in the gradient.

        g <- g + weight_decay * w
        m <- beta_1 m + (1 - beta_1) g,   v <- beta_2 v + (1 - beta_2) g^2    (AMSGrad: v is its largest value so far)
        w <- w - learning_rate / (1 - beta_1^t) * m / (sqrt(v / (1 - beta_2^t)) + epsilon)

    t counts the steps of the optimizer, also for a variable that was frozen in some of them.

    Args:
        learning_rate: Float, or a `keras.optimizers.schedules.LearningRateSchedule`. Defaults to `0.001`.
        beta_1: Float. Defaults to `0.9`.
        beta_2: Float. Defaults to `0.999`.
        epsilon: Float. Defaults to `1e-8`.
        amsgrad: Boolean. Defaults to `False`.
        weight_decay: Float >= 0. Defaults to `0.0`.
        **kwargs: `clipnorm`, `use_ema`, `gradient_accumulation_steps`, ..., as in `keras.optimizers.Adam`.
    """

    def __init__(
        self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8, amsgrad=False, weight_decay=0.0, **kwargs
    ):
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
            **kwargs,
        )

    def update_step(self, gradient, variable, learning_rate):
        dtype = variable.dtype
        gradient = self.decayed(gradient, variable)
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        new_m = m + (gradient - m) * (1 - self.beta_1)
        new_v = v + (ops.square(gradient) - v) * (1 - self.beta_2)
        self.assign(m, new_m)
        self.assign(v, new_v)
        if self.amsgrad:
            largest = self._velocity_hats[index]
            new_v = ops.maximum(largest, new_v)
            self.assign(largest, new_v)

        # 1 - beta^t, which a float32 power of 0.999 would round to three digits.
        t = ops.cast(self.iterations + 1, dtype)
        correction_1, correction_2 = (
            -ops.expm1(t * math.log(beta)) if beta else ops.ones_like(t) for beta in (self.beta_1, self.beta_2)
        )
        denominator = ops.sqrt(new_v) / ops.sqrt(correction_2) + self.epsilon
        self.assign_sub(variable, ops.cast(learning_rate, dtype) / correction_1 * new_m / denominator)
