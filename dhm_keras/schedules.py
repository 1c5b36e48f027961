"""The papers' learning-rate schedules, as functions of the epoch.

An epoch is counted in batches by the optimizer's own counter, so a schedule needs nothing else: it works in compiled
code on every backend, warms up within an epoch and resumes with the optimizer's state.
"""

import math
import numbers

import keras
from keras import ops


class EpochSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the epoch, with an optional linear warm-up. Subclasses override `factor`.

    Args:
        learning_rate: Float > 0. The rate after the warm-up.
        steps_per_epoch: Integer > 0. Batches in an epoch, also under gradient accumulation.
        warmup_epochs: Float >= 0. Over so many epochs the rate rises linearly from 0; the schedule proper is not
            shifted by it. Defaults to `0.0`.

    Raises:
        ValueError: where a number is out of range.
    """

    def __init__(self, learning_rate, steps_per_epoch, warmup_epochs=0.0):
        super().__init__()
        if not learning_rate > 0:
            raise ValueError(f"Invalid value for argument `learning_rate`. Expected > 0. Received: {learning_rate!r}.")
        if not isinstance(steps_per_epoch, numbers.Integral) or steps_per_epoch < 1:
            raise ValueError(
                f"Invalid value for argument `steps_per_epoch`. Expected an integer > 0. Received: {steps_per_epoch!r}."
            )
        if not warmup_epochs >= 0:
            raise ValueError(f"Invalid value for argument `warmup_epochs`. Expected >= 0. Received: {warmup_epochs!r}.")
        self.learning_rate = learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.warmup_epochs = warmup_epochs

    def factor(self, epoch):
        """What the learning rate is multiplied by; 1 here.

        Args:
            epoch: Float tensor, epochs finished; 1.5 is the middle of the second epoch.

        Returns:
            Float tensor.
        """
        return ops.ones_like(epoch)

    def __call__(self, step):
        """The learning rate of one step.

        Args:
            step: Integer, steps finished.

        Returns:
            Float tensor.
        """
        epoch = ops.cast(step, "float32") / self.steps_per_epoch
        rate = self.learning_rate * self.factor(epoch)
        if self.warmup_epochs:
            # The first step already moves: step i of n warm-up steps has (i + 1) / n of the rate.
            risen = (epoch + 1 / self.steps_per_epoch) / self.warmup_epochs
            rate = rate * ops.minimum(risen, 1.0)
        return rate

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "warmup_epochs": self.warmup_epochs,
        }


@keras.saving.register_keras_serializable(package="dhm_keras")
class MultiStep(EpochSchedule):
    """The learning rate is multiplied by `decay` at each milestone.

    Example: CIFAR-100, ResNet (164 epochs, x0.1 before the 82nd and the 123rd):

    ```python
    schedule = dhm_keras.schedules.MultiStep(0.1, steps_per_epoch=391, milestones=(81, 122))
    ```

    Args:
        learning_rate: Float > 0.
        steps_per_epoch: Integer > 0.
        milestones: Numbers of finished epochs, increasing; 81 is before the 82nd epoch.
        decay: Float. Defaults to `0.1`.
        warmup_epochs: Float >= 0. Defaults to `0.0`.
    """

    def __init__(self, learning_rate, steps_per_epoch, milestones, decay=0.1, warmup_epochs=0.0):
        super().__init__(learning_rate, steps_per_epoch, warmup_epochs)
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(
                f"Invalid value for argument `milestones`. Expected increasing numbers. Received: {milestones!r}."
            )
        self.milestones = list(milestones)
        self.decay = decay

    def factor(self, epoch):
        # Half a step of slack: no rounding of step / steps_per_epoch can move a milestone.
        slack = 0.5 / self.steps_per_epoch
        passed = [ops.cast(epoch + slack >= milestone, "float32") for milestone in self.milestones]
        return ops.power(ops.cast(self.decay, "float32"), sum(passed)) if passed else super().factor(epoch)

    def get_config(self):
        return {**super().get_config(), "milestones": self.milestones, "decay": self.decay}


@keras.saving.register_keras_serializable(package="dhm_keras")
class Exponential(EpochSchedule):
    """The learning rate is multiplied by `decay` after each epoch, and constant within one.

    Example: CDNet on ImageNet (x0.97 after each epoch of 10,010 batches of 128):

    ```python
    schedule = dhm_keras.schedules.Exponential(0.1, steps_per_epoch=10_010, decay=0.97)
    ```

    Args:
        learning_rate: Float > 0.
        steps_per_epoch: Integer > 0.
        decay: Float > 0.
        warmup_epochs: Float >= 0. Defaults to `0.0`.
    """

    def __init__(self, learning_rate, steps_per_epoch, decay, warmup_epochs=0.0):
        super().__init__(learning_rate, steps_per_epoch, warmup_epochs)
        if not decay > 0:
            raise ValueError(f"Invalid value for argument `decay`. Expected > 0. Received: {decay!r}.")
        self.decay = decay

    def factor(self, epoch):
        finished = ops.floor(epoch + 0.5 / self.steps_per_epoch)  # half a step of slack, as of milestones
        return ops.power(ops.cast(self.decay, "float32"), finished)

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}


@keras.saving.register_keras_serializable(package="dhm_keras")
class Cosine(EpochSchedule):
    """Half a cosine from `learning_rate` to `minimum` over `epochs`.

    The rate falls with every step. PyTorch's `CosineAnnealingLR`, stepped once an epoch, has the same rate at the start
    of each epoch and keeps it until the next.

    Args:
        learning_rate: Float > 0.
        steps_per_epoch: Integer > 0.
        epochs: Number > 0. Length of the training.
        warmup_epochs: Float >= 0. Defaults to `0.0`.
        minimum: Float, 0 to `learning_rate`. The rate from the last epoch's end on. Defaults to `0.0`.
    """

    def __init__(self, learning_rate, steps_per_epoch, epochs, warmup_epochs=0.0, minimum=0.0):
        super().__init__(learning_rate, steps_per_epoch, warmup_epochs)
        if not epochs > 0:
            raise ValueError(f"Invalid value for argument `epochs`. Expected > 0. Received: {epochs!r}.")
        if not 0 <= minimum <= learning_rate:
            raise ValueError(
                f"Invalid value for argument `minimum`. Expected 0 to {learning_rate}, the learning rate. Received: "
                f"{minimum!r}."
            )
        self.epochs = epochs
        self.minimum = minimum

    def factor(self, epoch):
        least = self.minimum / self.learning_rate
        return least + (1 - least) * 0.5 * (1 + ops.cos(math.pi * ops.minimum(epoch / self.epochs, 1.0)))

    def get_config(self):
        config = {**super().get_config(), "epochs": self.epochs}
        # A checkpoint knows the config of its training: those from before there was a minimum go on.
        return {**config, "minimum": self.minimum} if self.minimum else config
