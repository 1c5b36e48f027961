"""A data set that lies on the accelerator, and what its batches are cut by there."""

import keras
import numpy as np
from keras import ops

from dhm_keras.data.crops import cut, padded


class ImagesOnDevice:
    """All images of `TrainBatches`, padded, and their labels, as tensors of the backend.

    Pixels that are uint8 are stored as float16, which is exact: TensorFlow gathers uint8 on a GPU only within XLA, and
    else would copy all of them to the CPU for each batch.

    Args:
        images: Array `(n, height, width, channels)`.
        labels: Array `(n, ...)`.
        pad: Integer. Zero pixels on every side.

    Attributes:
        arrays: `(pixels, labels)`: tensors `(n * padded height * padded width, channels)`, float16 or as `images`, and
            `(n, ...)`, int64 (on JAX int32) or as `labels`.

    Raises:
        ValueError: if there are more pixels than an int32 can number.
    """

    def __init__(self, images, labels, pad):
        self.height, self.width, self.pad = *images.shape[1:3], pad
        count = len(images) * (self.height + 2 * pad) * (self.width + 2 * pad)
        if count >= 2**31:
            raise ValueError(
                f"Invalid value for argument `on_device`. Expected at most {2**31 - 1:,} pixels, the padding of {pad} "
                f"included. Received: {len(images):,} images of {self.height}x{self.width}, {count:,} pixels. Leave "
                "on_device out."
            )
        pixels = padded(images, pad).reshape(-1, images.shape[-1])
        self.dtype = pixels.dtype.name
        pixels = pixels.astype("float16") if self.dtype == "uint8" else pixels
        labels = labels.astype("int64") if labels.dtype.kind in "iu" else labels
        self.arrays = ops.convert_to_tensor(pixels), ops.convert_to_tensor(labels)

    def batch(self, draws, arrays):
        """A batch, cut from the images.

        Args:
            draws: Integers `(b, 4)`, see `crops.cut`.
            arrays: `self.arrays`, or what stands for them in a compiled function.

        Returns:
            Images `(b, height, width, channels)` and labels `(b, ...)`.
        """
        take = lambda array, indices: ops.take(array, indices, axis=0)
        images, labels = cut(take, *arrays, draws, self.height, self.width, self.pad)
        return ops.cast(images, self.dtype), labels


class DrawnCalls(keras.utils.PyDataset):
    """Endless items of what the steps of a call are made of: of one call `(draws, count, rest)`.

    `draws` is int32 `(steps, batch_size, 4)`, of which the first `count` are meant; `(0, batch_size, 4)` if there are
    none. `rest` is `(1, b, 4)` where the call ends with the smaller last batch of an epoch, else `(0, 0, 4)`. So the
    calls of a training have two shapes, whatever their number of steps.

    Args:
        draws: Function of epoch and step to int64 `(b, 4)`.
        steps_per_epoch: Integer.
        batch_size: Integer.
        steps: Integer, a divisor of `steps_per_epoch`. Steps of a call.
        first_step: Integer, counted through all epochs; a multiple of `steps`.
    """

    def __init__(self, draws, steps_per_epoch, batch_size, steps, first_step):
        super().__init__()
        self.draws, self.steps_per_epoch, self.batch_size = draws, steps_per_epoch, batch_size
        self.steps, self.first_step = steps, first_step

    @property
    def num_batches(self):
        return None  # endless

    def __getitem__(self, index):
        epoch, step = divmod(self.first_step + index * self.steps, self.steps_per_epoch)
        each = [self.draws(epoch, step + number) for number in range(self.steps)]
        whole = [draws for draws in each if len(draws) == self.batch_size]
        rest = np.stack(each[len(whole) :]) if len(whole) < self.steps else np.zeros((0, 0, 4))
        draws = np.zeros((self.steps if whole else 0, self.batch_size, 4), "int32")
        draws[: len(whole)] = whole or draws
        return draws, np.array(len(whole), "int32"), rest.astype("int32")
