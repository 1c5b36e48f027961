"""A run: one training, and the folder with its config, history, logs and checkpoints."""

import csv
import hashlib
import importlib.util
import json
import math
import pathlib
import reprlib
import shutil
import time

import keras

from dhm_keras import distribute, files
from dhm_keras.resume import Resume

FORMAT = 2  # of the folder; 1 had no checkpoints to resume from


def has_tensorboard():
    """Whether runs get TensorBoard logs: on the TensorFlow backend, where TensorBoard is installed."""
    return keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tensorboard") is not None


def left_out():
    """What a run goes without on this backend and installation: a list of sentences, mostly empty."""
    if keras.backend.backend() != "tensorflow":
        return [f"The backend is {keras.backend.backend()}, not TensorFlow: no TensorBoard logs, no export."]
    if not has_tensorboard():
        return ["TensorBoard is not installed: no TensorBoard logs. (pip install 'dhm_keras[demo]')"]
    return []


class Run:
    """The folder of one training.

    | file | |
    |---|---|
    | `config.json` | the settings; a folder belongs to one config |
    | `checkpoints/` | the whole state, see `Resume`; until the run is finished |
    | `history.csv` | a row an epoch, all heads and pairs |
    | `timings.csv` | a row an epoch, seconds: what is left out of the rest, which a resumed run repeats to the bit |
    | `agreement.csv` | a row an epoch, where `callbacks.MeasureAgreement` was given `run.path("agreement.csv")` |
    | `best.weights.h5` | the network's weights after the best epoch, see `start` |
    | `last.keras` | the model after the last epoch, with its optimizer |
    | `result.json` | written last: the run is finished; with checksums of the files above |
    | `tensorboard/` | logs, where TensorBoard is installed |

    A finished run is kept and not trained again; an unfinished one goes on where it was stopped. Nothing is written
    before `start`. On several machines the first process alone writes, to a folder that all of them see.

    Args:
        folder: Path.
        config: Dict of JSON values, the settings that the result depends on.

    Raises:
        ValueError: if the folder holds a run with other settings; the message names them.
    """

    def __init__(self, folder, config):
        self.folder = pathlib.Path(folder)
        self.config = json.loads(json.dumps(config))
        self._lock = None
        before = _read_config(self.folder)
        if before is not None and (differ := files.differences(before, self.config)):
            raise ValueError(
                f"The folder {self.folder} holds a run with other settings ({differ}). Choose another folder, or "
                "remove this one."
            )

    @classmethod
    def open(cls, folder):
        """The run that a folder holds.

        Args:
            folder: Path.

        Raises:
            ValueError: if it holds none.
        """
        config = _read_config(pathlib.Path(folder))
        if config is None:
            raise ValueError(f"Invalid value for argument `folder`. Expected the folder of a run. Received: {folder}.")
        return cls(folder, config)

    @property
    def result(self):
        """What `finish` wrote, or `None` while the run is not finished.

        Raises:
            ValueError: if the file has been changed since.
        """
        return _checked(self.folder / "result.json")[0]

    @property
    def history(self):
        """The rows of `history.csv`, a list of dicts from log name to float.

        Raises:
            ValueError: if the run is finished and the file has been changed since.
        """
        return _table(self.checked("history.csv"))

    @property
    def agreement(self):
        """The rows of `agreement.csv`, as of `history`; `None` if there is no such file.

        Raises:
            ValueError: if the run is finished and the file has been changed since.
        """
        path = pathlib.Path(self.checked("agreement.csv"))
        return _table(path) if path.exists() else None

    @property
    def seconds(self):
        """Wall time of the epochs, those counted twice that were trained twice."""
        return sum(row["seconds"] for row in _table(self.path("timings.csv"), ["epoch", "seconds"]))

    def path(self, name):
        """Path of a file or folder in the run's folder, a string."""
        return str(self.folder / name)

    def checked(self, name):
        """Path of a file of the run, after a look whether it is what the run wrote.

        Args:
            name: String, as `"best.weights.h5"`.

        Returns:
            String.

        Raises:
            ValueError: if the run is finished and the file is missing or has been changed since.
        """
        written = _checked(self.folder / "result.json")[1].get(name)
        path = self.folder / name
        if written is not None and (not path.is_file() or files.sha256(path) != written):
            raise ValueError(
                f"{path} is not what the run wrote: it is damaged, or was changed since. Bring it back, or remove the "
                f"folder {self.folder} to train anew."
            )
        return str(path)

    def start(self, every=None, monitor="val_main_accuracy"):
        """Makes the folder and writes the config; the folder belongs to this process until the run is finished.

        Args:
            every: Integer or `None`. Steps between checkpoints within an epoch, see `Resume`. Defaults to `None`.
            monitor: String. The log whose highest value makes the best epoch. Defaults to `"val_main_accuracy"`.

        Returns:
            List of Keras callbacks that fill the folder, and go on from its checkpoints.

        Raises:
            ValueError: if another process has finished the run, or made it one with other settings.
            OSError: if the folder cannot be written, or another process trains in it.
        """
        resume = Resume(self.path("checkpoints"), every)
        if not distribute.is_chief():
            return [resume]
        if self._lock:
            self._lock.close()
        self._lock = files.lock(self.folder)
        Run(self.folder, self.config)  # it may have changed since this run looked
        if self.result is not None:
            raise ValueError(f"The run in {self.folder} was finished meanwhile by another process. Start again.")
        _write(self.folder / "config.json", {"format": FORMAT, **self.config})
        callbacks = [KeepBest(self.path("best.weights.h5"), monitor), Timings(self.path("timings.csv"))]
        if has_tensorboard():
            callbacks.append(keras.callbacks.TensorBoard(self.path("tensorboard"), write_graph=False))
        return [*callbacks, HistoryFile(self.path("history.csv")), resume]

    def finish(self, model, result):
        """Saves the model and writes the result; the run is finished, and its checkpoints are removed.

        Args:
            model: The trained `DHM`.
            result: Dict of JSON values.

        Raises:
            OSError: if something cannot be written; the same training can be started again.
        """
        if not distribute.is_chief():
            return
        with files.replacing(self.folder / "last.keras") as partial:
            distribute.alone(lambda: model.save(partial))
        names = ("history.csv", "agreement.csv", "embeddings.npz", "best.weights.h5", "last.keras")
        names = [name for name in names if (self.folder / name).exists()]
        _write(self.folder / "result.json", result, {name: files.sha256(self.folder / name) for name in names})
        shutil.rmtree(self.path("checkpoints"), ignore_errors=True)
        if self._lock:
            self._lock.close()


class KeepBest(keras.callbacks.Callback):
    """Keeps the network's weights of the epoch with the highest value of a log, the first of equals.

    They are written before the epoch's checkpoint. Where operations are not deterministic, an epoch that is trained
    again, because the training was killed between the two, may leave the weights of its first time.

    Args:
        path: Path of the file, `*.weights.h5`.
        monitor: String, the log; epochs without it are passed over. Defaults to `"val_main_accuracy"`.
    """

    remembers = ("best",)

    def __init__(self, path, monitor="val_main_accuracy"):
        super().__init__()
        self.path, self.monitor, self.best = path, monitor, float("-inf")

    def on_epoch_end(self, epoch, logs=None):
        value = (logs or {}).get(self.monitor)
        if value is not None and value > self.best:
            network = self.model.network
            with files.replacing(self.path, _bytes_of_weights(network)) as partial:
                distribute.alone(lambda: network.save_weights(partial))
            self.best = value


class HistoryFile(keras.callbacks.History):
    """Keras's History, in a CSV file, too, which is there whole after each epoch; NaN where an epoch has no value.

    Args:
        path: Path.
    """

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        for name in logs:
            self.history.setdefault(name, [float("nan")] * len(self.epoch))
        super().on_epoch_end(epoch, {**dict.fromkeys(self.history, float("nan")), **logs})
        columns = {"epoch": self.epoch, **dict(sorted(self.history.items()))}
        files.write_table(self.path, columns, zip(*columns.values(), strict=True))


class Timings(keras.callbacks.Callback):
    """Appends the seconds of each epoch to a CSV file, validation included.

    Args:
        path: Path.
    """

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        rows = self.path.read_text(encoding="utf-8") if self.path.exists() else "epoch,seconds\n"
        with files.replacing(self.path) as partial:
            partial.write_text(f"{rows}{epoch},{time.perf_counter() - self._begin:.3f}\n", encoding="utf-8")


def best_and_last(history, heads):
    """The errors of the heads after the best epoch, which is the first with main's lowest top-1 error, and the last.

    Args:
        history: Dict from log name to a list of values, one an epoch: `history` of what `fit` returns, with validation
            data.
        heads: Names of the heads.

    Returns:
        `{"best": errors, "last": errors}`, each a dict: `epoch` (from 1), and `main_top1_error`, `main_top5_error`,
        ..., in per cent, of the validation data. Without the top-5 errors of up to five classes, which have none.
    """
    accuracies = history["val_main_accuracy"]
    errors = {}
    for name, index in (("best", accuracies.index(max(accuracies))), ("last", len(accuracies) - 1)):
        errors[name] = {"epoch": index + 1}
        for head in heads:
            errors[name][f"{head}_top1_error"] = 100 * (1 - history[f"val_{head}_accuracy"][index])
            if f"val_{head}_top5" in history:
                errors[name][f"{head}_top5_error"] = 100 * (1 - history[f"val_{head}_top5"][index])
    return errors


def _bytes_of_weights(model):
    """At most what an HDF5 file of them takes: the numbers, and up to 8 kB for each variable's place in it."""
    return sum(8192 + math.prod(variable.shape) * 4 for variable in model.variables)


def _read_config(folder):
    """The settings in a run's folder, `None` if there are none."""
    path = folder / "config.json"
    form = (_read(path) or {}).get("format", 1)
    if path.exists() and form != FORMAT:
        raise ValueError(
            f"The folder {folder} holds a run in format {reprlib.repr(form)}, of another version of dhm_keras; this "
            f"one has format {FORMAT}. Go on with that version, or choose another folder."
        )
    config, _ = _checked(path)
    return config and {name: value for name, value in config.items() if name != "format"}


def _write(path, value, digests=None):
    """Writes a JSON object with SHA-256 digests: those given, of other files, and its own."""
    value = {**json.loads(json.dumps(value)), "sha256": digests or {}}
    own = {path.stem: _digest(value)}
    files.write_json(path, {**value, "sha256": value["sha256"] | own})


def _checked(path):
    """`(value, digests)` that `_write` was given, `(None, {})` if there is no such file; `ValueError` if it differs."""
    value = _read(path)
    if value is None:
        return None, {}
    digests = value.get("sha256")
    own = digests.pop(path.stem, None) if isinstance(digests, dict) else None
    try:
        is_whole = own is not None and own == _digest(value)
    except RecursionError:
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"{path} is not what the run wrote: it is damaged, or was changed since. Bring it back, or remove the "
            f"folder {path.parent} to train anew."
        )
    return value, value.pop("sha256")


def _read(path):
    try:
        return files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{error} Remove the folder {path.parent} to start anew.") from None


def _table(path, columns=None):
    """The rows of a CSV file of numbers, dicts from name to float; `ValueError` if it is none, or of other columns."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if columns and reader.fieldnames != columns:
                raise ValueError(f"its columns are not {', '.join(columns)}")
            return [{key: float(value) for key, value in row.items()} for row in reader]
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of numbers ({error}).") from None


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
