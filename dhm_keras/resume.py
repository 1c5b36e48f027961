"""`Resume`: a training that goes on exactly where it was stopped, whatever stopped it."""

import contextlib
import json
import math
import pathlib
import signal
import threading
import zlib

import keras
import numpy as np

from dhm_keras import checkpoint, distribute, files
from dhm_keras.logs import build_metrics
from dhm_keras.remembering import check_remembered, remembering

OBJECTIVE = ("method", "ce_weights", "mimic_weights", "temperature", "direction", "divergence")


class Resume(keras.callbacks.Callback):
    """Saves the whole state of a training, and goes on from there when the same training is started again.

    The state: weights, running statistics and random seeds of the network; the optimizer with its counters and loss
    scale; within an epoch the metrics; what callbacks remember (early stopping, best value so far, history); the
    position. It is saved at the end of each epoch, every so many steps if asked for, and on SIGTERM and Ctrl-C. A
    training that was killed and is started again ends with the weights, optimizer state and history of one that ran
    through: bit for bit, on a CPU with deterministic operations, with the batches of `dhm_keras.data`, which are
    functions of (seed, epoch, step). Other data are entered at the beginning of an epoch only, and their order is up to
    them. For the steps of an epoch that were taken before, callbacks get empty logs.

    On SIGTERM and Ctrl-C nothing new is saved where the data cannot be entered within an epoch, nor on several
    machines, where the others are not asked; the checkpoints written before stand.

    The newest two checkpoints are kept; one that is damaged is told and passed over for the one before it. `fit`
    returns the history of all epochs. What is complete is not trained again; with more `epochs` it goes on.

    Other callbacks take part if they name the attributes that they remember, JSON values or lists of arrays, as
    `remembers = ("best", "wait")`. Keras's own do. What a callback has in `settings`, a dict of JSON values, is
    compared with the training that is gone on with. A divergence of your own is compared by its name alone.

    Example:

    ```python
    model.fit(train, epochs=164, callbacks=[dhm_keras.callbacks.Resume("runs/mine/checkpoints", every=1000)])
    ```

    Args:
        folder: Path; made if need be. It belongs to one training at a time.
        every: Integer > 0. Steps between checkpoints within an epoch, for the batches of `dhm_keras.data`. Defaults to
            `None`: at the end of each epoch only.

    Raises:
        ValueError: in `fit`, if the folder holds checkpoints of another training (the message has the settings that
            differ), of a later epoch than asked for, of another format, or damaged ones alone; if `every` is given and
            the data cannot be entered within an epoch.
        OSError: in `fit`, if another process has the folder, or a checkpoint cannot be written; saved ones stay.
        FloatingPointError: in `fit`, if the loss or a weight is not finite any more. The last good checkpoint stays.
        SystemExit: in `fit`, with the code 143, on SIGTERM after a checkpoint; `KeyboardInterrupt` on Ctrl-C.
    """

    def __init__(self, folder, every=None):
        super().__init__()
        if every is not None and (not isinstance(every, (int, np.integer)) or every < 1):
            raise ValueError(f"Invalid value for argument `every`. Expected an integer >= 1. Received: {every!r}.")
        self.folder = pathlib.Path(folder).expanduser()
        self.every = every
        self._settings = self._found = None

    # What `DHM.fit` does around the training

    @contextlib.contextmanager
    def session(self, model, data, callbacks, epochs, initial_epoch, of_fit):
        """Within, the folder is this process's, and SIGTERM and Ctrl-C wait for the end of a step.

        Args:
            model: Compiled `DHM`.
            data: What it is trained on; a source with `starting_at` can be entered at any step.
            callbacks: List of the training's callbacks.
            epochs: Integer. Number of the last epoch.
            initial_epoch: Integer. Where to start without a checkpoint.
            of_fit: Dict of JSON values, other arguments of `fit` that the result depends on.

        Yields:
            `(epoch, step)`, where to start.
        """
        self._data, self._enters_anywhere = data, hasattr(data, "starting_at")
        if self.every and not self._enters_anywhere:
            raise ValueError(
                "Invalid value for argument `every` of Resume. Expected none for data of type "
                f"{type(data).__name__}, which cannot be entered within an epoch as dhm_keras.data.TrainBatches can. "
                f"Received: {self.every}. Leave it out: checkpoints are written at the end of each epoch."
            )
        self._settings, self._signal = _settings(model, data, callbacks, of_fit), None
        self._remembering = remembering(callbacks)
        held = contextlib.closing(files.lock(self.folder)) if distribute.is_chief() else contextlib.nullcontext()
        with held, self._signals_noted():
            self._found = checkpoint.read_newest(self.folder)
            self._check_processes(model)
            start = initial_epoch, 0
            if self._found:
                self._check_settings(self._found.notes["settings"])
                self._check_position(model, epochs)
                start = (epochs, 0) if self._found.notes["stopped"] else (self._found.epoch, self._found.step)
            try:
                yield start
            finally:
                self._settings = self._found = None

    def _check_processes(self, model):
        """Raises `ValueError` if the processes of several machines do not start from the same checkpoint."""
        position = (self._found.epoch, self._found.step) if self._found else (-1, -1)
        if not distribute.all_equal(model, position):
            raise ValueError(
                f"The processes of this training do not see the same checkpoints in {self.folder}. Give a folder that "
                "all machines share."
            )

    def _check_settings(self, before):
        """Raises `ValueError` if a checkpoint was written with other settings."""
        differ = files.differences(before, self._settings)
        if differ:
            raise ValueError(
                f"The folder {self.folder} holds checkpoints of a training with other settings ({differ}). Choose "
                "another folder, or remove this one."
            )

    def _check_position(self, model, epochs):
        """Raises `ValueError` if a checkpoint is beyond the end, or the steps of an execution would pass it by."""
        if (self._found.epoch, self._found.step) > (epochs, 0):
            raise ValueError(
                f"Invalid value for argument `epochs`. {self._found.path} was written later: after epoch "
                f"{self._found.epoch}, step {self._found.step}. Received: epochs={epochs}. Choose another folder for a "
                "shorter training."
            )
        if self._found.step % model.steps_per_execution:
            raise ValueError(
                f"{self._found.path} was written after step {self._found.step} of an epoch, which is no multiple of "
                f"steps_per_execution={model.steps_per_execution}. Compile with the value that it was written with."
            )

    @contextlib.contextmanager
    def _signals_noted(self):
        """Within, SIGTERM and Ctrl-C are noted for the end of the step; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():  # others cannot have handlers
            yield
            return

        def note(number, frame):
            self._signal = number
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            with contextlib.suppress(RuntimeError):  # the signal came within a print
                print(f"\n{signal.Signals(number).name}: the training stops after this step.", flush=True)

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # What Keras calls; `DHM.fit` puts this callback last

    def on_train_begin(self, logs=None):
        if self._settings is None:
            raise ValueError(
                f"Resume works with `DHM.fit`, in a list of callbacks. Received: {self.model!r}. Train DHM(network) "
                "instead of the network, and give no CallbackList."
            )
        check_remembered([callback for _, callback, _ in self._remembering])
        self._steps_at_once = self.model.steps_per_execution
        if self._found:
            self._restore_all()
            print(f"{self.model.name} goes on from {self._found.path}", flush=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._step = epoch, 0
        if self._found and self._found.step and not self._found.notes["stopped"]:  # within this epoch
            self._step = self._found.step
            self._restore_all()  # what callbacks change at the beginning of an epoch was changed before
            if len(self.model.metrics_variables) < sum(name.startswith("metrics/") for name in self._found.arrays):
                build_metrics(self.model, self._data.labels[:1])
            self._restore("metrics", self.model.metrics_variables)
            _pass_over(self.model, self._step // self._steps_at_once)
        self._found = None

    def on_train_batch_end(self, batch, logs=None):
        if not logs:  # a step that was passed over
            return
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(self._not_finite(f"The loss is {logs['loss']}", self._step + self._steps_at_once))
        before, self._step = self._step, self._step + self._steps_at_once
        if self._step >= (self.params["steps"] or math.inf):  # the end of the epoch will see to it
            return
        is_due = self.every and self._step // self.every > before // self.every
        # On several machines a signal comes to one process, and what an epoch's metrics hold is asked of all.
        is_asked = self._signal and distribute.process()[1] == 1
        if self._enters_anywhere and (is_due or is_asked):
            self._save(self._epoch, self._step)
        self._stop_if_told()

    def on_epoch_end(self, epoch, logs=None):
        self._save(epoch + 1, 0)
        self._stop_if_told()

    def on_train_end(self, logs=None):
        self._stop_if_told()  # while the others ended

    # Its parts

    def _restore_all(self):
        self._restore("model", self.model.variables)
        self._restore("optimizer", self.model.optimizer.variables)
        for place, callback, names in self._remembering:
            remembered = self._found.notes["callbacks"].get(place, {})
            for name in names:
                if name in remembered:
                    setattr(callback, name, self._found.unpack(f"{place}/{name}", remembered[name]))

    def _save(self, epoch, step):
        model = self.model
        arrays = _values("model", model.variables) | _values("optimizer", model.optimizer.variables)
        if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
            raise FloatingPointError(self._not_finite("A weight is not finite", self._step))
        if step:
            arrays |= _values("metrics", model.metrics_variables)
        state = checkpoint.Checkpoint(epoch, step, arrays, {"settings": self._settings, "callbacks": {}})
        for place, callback, names in self._remembering:
            state.notes["callbacks"][place] = {
                name: state.pack(f"{place}/{name}", getattr(callback, name))
                for name in names
                if hasattr(callback, name)
            }
        state.notes["stopped"] = bool(model.stop_training)
        if distribute.is_chief():
            checkpoint.write(self.folder, state)

    def _restore(self, group, variables):
        found = {name: array for name, array in self._found.arrays.items() if name.startswith(f"{group}/")}
        odd = [v.path for i, v in enumerate(variables) if not _fits(found.get(f"{group}/{i}"), v)]
        if odd or len(found) != len(variables):
            raise ValueError(
                f"{self._found.path} is not of this model: it holds {len(found)} variables of the {group}, and "
                f"{len(variables)} are expected; the first that differs: {odd[0] if odd else 'the last'}. Choose "
                "another folder, or remove this one."
            )
        for i, variable in enumerate(variables):
            distribute.assign(variable, found[f"{group}/{i}"].view(keras.backend.standardize_dtype(variable.dtype)))

    def _stop_if_told(self):
        if self._signal is None:
            return
        kept = next(iter(checkpoint.paths(self.folder)), None)
        said = f"{signal.Signals(self._signal).name}: stopped. " + (
            f"The same training goes on from {kept}." if kept else "No epoch was finished, and nothing is saved."
        )
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt(said)
        print(said, flush=True)
        raise SystemExit(128 + self._signal)

    def _not_finite(self, what, step):
        kept = next(iter(checkpoint.paths(self.folder)), None)
        rate = float(self.model.optimizer.learning_rate)
        steps = f"steps {step - self._steps_at_once + 1} to {step}" if self._steps_at_once > 1 else f"step {step}"
        return (
            f"{what} in epoch {self._epoch + 1}, {steps} of {self.params['steps']}, learning rate {rate:.3g}. "
            + (f"The last checkpoint, {kept}, is finite and kept. " if kept else "There is no checkpoint yet. ")
            + "The same training would come here again: start one with a lower learning rate, or a warm-up, in another "
            "folder."
        )


def in_order(callbacks):
    """The callbacks of a training, with its `Resume` last, after a `History`: it saves what the others have done.

    Args:
        callbacks: What `fit` was given: one callback, nested lists of them, or `None`.

    Returns:
        `(callbacks, resume)`: what to give to Keras, and the `Resume` among them or `None`.

    Raises:
        ValueError: if there are several.
    """
    flat = keras.tree.flatten(callbacks) if callbacks is not None else []
    found = [callback for callback in flat if isinstance(callback, Resume)]
    if not found:
        return callbacks, None
    if len(found) > 1:
        raise ValueError(f"Invalid value for argument `callbacks`. Expected one Resume. Received: {len(found)}.")
    others = [callback for callback in flat if callback is not found[0]]
    if not any(isinstance(callback, keras.callbacks.History) for callback in others):
        others.append(keras.callbacks.History())
    return [*others, found[0]], found[0]


def optimizer_config(optimizer):
    """What tells one optimizer from another: its serialized form, or its class where it has none.

    Args:
        optimizer: Keras optimizer.

    Returns:
        JSON value.
    """
    try:
        return keras.saving.serialize_keras_object(optimizer)
    except NotImplementedError:  # of a schedule without `get_config`
        return type(optimizer).__name__


def _settings(model, data, callbacks, of_fit):
    """What a training must have in common with the one that wrote a checkpoint: a flat dict of JSON values."""
    of_objective = {name: getattr(model, name) for name in OBJECTIVE}
    of_objective["divergence"] = getattr(model.divergence, "__name__", model.divergence)
    if model.triplet_weight:
        of_objective |= {"triplet_weight": model.triplet_weight, "triplet_margin": model.triplet_margin}
    readable = lambda value: value if isinstance(value, str | float | int) else repr(value)
    settings = {
        "backend": keras.backend.backend(),
        "devices": distribute.num_devices(model),
        "dtype": model.dtype_policy.name,
        "network": _checksum(model.network),
        **{name: readable(value) for name, value in of_objective.items()},
        "optimizer": model.compiled_optimizer,
        "data": getattr(data, "settings", None),
        **{type(callback).__name__: callback.settings for callback in callbacks if hasattr(callback, "settings")},
        **of_fit,
    }
    return json.loads(json.dumps(dict(_flat(settings)), default=repr))


def _checksum(network):
    """A number for the network's layers and their settings, whatever their names."""
    layers = [[type(layer).__name__, dict(_flat(layer.get_config()))] for layer in network.layers]
    return zlib.crc32(json.dumps(layers, default=lambda value: type(value).__name__).encode())


def _flat(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif key not in ("name", "module", "registered_name", "build_config"):  # names are numbered in a notebook
            yield f"{prefix}{key}", value


def _values(group, variables):
    """`{name: array}`; a dtype that NumPy does not have, as bfloat16, as unsigned integers of its size."""
    arrays = {f"{group}/{i}": distribute.to_numpy(variable) for i, variable in enumerate(variables)}
    return {name: a.view(_stored(a.dtype)) for name, a in arrays.items()}


def _stored(dtype):
    """The NumPy dtype in which `_values` has a dtype."""
    dtype = np.dtype(keras.backend.standardize_dtype(dtype))
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype


def _fits(array, variable):
    """Whether an array can be what `_values` has for a variable, with or without a first axis of replicas."""
    if array is None or array.dtype != _stored(variable.dtype):
        return False
    shape = tuple(variable.shape)
    return array.shape == shape or (array.ndim == len(shape) + 1 and array.shape[1:] == shape)


def _pass_over(model, calls):
    """Makes the next calls of the train function do nothing: their steps were taken before the checkpoint."""
    train, left = model.train_function, calls

    def train_function(*args):
        nonlocal left
        left -= 1
        if not left:
            model.train_function = train
        return {} if keras.backend.backend() == "tensorflow" else ({}, args[0])  # on JAX the state goes in and out

    model.train_function = train_function
