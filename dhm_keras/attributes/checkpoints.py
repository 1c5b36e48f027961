"""Checkpoints at the end of each epoch for plain Keras models, as `Resume` writes for `DHM`."""

import pathlib

import keras
import numpy as np

from dhm_keras import checkpoint, distribute


class EpochCheckpoints(keras.callbacks.Callback):
    """Saves the whole state of a plain Keras model after each epoch, and has the next start go on from there.

    `callbacks.Resume` does more, for `DHM` alone. The state: weights, running statistics and random seeds of the model,
    the optimizer with its counters, and the history. With batches that are a function of (seed, epoch, step) a training
    that was killed and is started again ends with the weights, optimizer state and history of one that ran through: bit
    for bit, on a CPU with deterministic operations. The newest two checkpoints are kept; one that is damaged is told
    and passed over for the one before it.

    Nothing is compared: whoever starts the training sees to it that it is the same. Put it last among the callbacks, as
    it saves what the others have put into the logs.

    Example:

    ```python
    checkpoints = dhm_keras.attributes.EpochCheckpoints("runs/mine/checkpoints")
    later = train.starting_at(checkpoints.epoch).for_backend()
    model.fit(
        later, steps_per_epoch=train.steps_per_epoch, epochs=50, shuffle=False, initial_epoch=checkpoints.epoch,
        callbacks=[checkpoints],
    )
    ```

    Args:
        folder: Path; made if need be. It belongs to one training.
        history: `keras.callbacks.History` that is among the callbacks, or `None`: no history is kept. Defaults to
            `None`.

    Attributes:
        epoch: Integer, the epoch to start with: so many are finished.

    Raises:
        ValueError: if none of the checkpoints can be read; in `fit`, if they are of another model.
        OSError: in `fit`, if a checkpoint cannot be written; saved ones stay.
        FloatingPointError: in `fit`, if the loss or a weight is not finite any more. The last good checkpoint stays.
    """

    def __init__(self, folder, history=None):
        super().__init__()
        self.folder, self.history = pathlib.Path(folder).expanduser(), history
        self._found = checkpoint.read_newest(self.folder)

    @property
    def epoch(self):
        return self._found.epoch if self._found else 0

    def on_train_begin(self, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        if self._found:
            self._restore()
            print(f"{self.model.name} goes on from {self._found.path}", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        arrays = {name: distribute.to_numpy(variable) for name, variable in self._variables().items()}
        finite = all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")
        if not finite or not np.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"The loss or a weight is not finite after epoch {epoch + 1}, loss {logs['loss']}. The checkpoints "
                f"before are kept in {self.folder}. The same training would come here again: start one with a lower "
                "learning rate, in another folder."
            )
        notes = {} if self.history is None else {"epochs": self.history.epoch, "history": self.history.history}
        checkpoint.write(self.folder, checkpoint.Checkpoint(epoch + 1, 0, arrays, notes))

    def _variables(self):
        """Dict from a name to a variable, of all that makes up the state."""
        groups = {"model": self.model.variables, "optimizer": self.model.optimizer.variables}
        return {f"{group}/{i}": variable for group, of in groups.items() for i, variable in enumerate(of)}

    def _restore(self):
        found, variables = self._found.arrays, self._variables()
        shapes = lambda arrays: {name: tuple(array.shape) for name, array in arrays.items()}
        if shapes(found) != shapes(variables):
            raise ValueError(
                f"{self._found.path} is not of this model: it holds {len(found)} variables, and {len(variables)} are "
                "expected, of other shapes. Choose another folder, or remove this one."
            )
        for name, variable in variables.items():
            distribute.assign(variable, found[name])
        if self.history is not None:
            self.history.epoch, self.history.history = self._found.notes["epochs"], self._found.notes["history"]
