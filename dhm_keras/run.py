"""A run: one training, and the folder with its config, history, logs and checkpoints."""

import csv
import importlib.util
import json
import os
import pathlib
import shutil

import keras


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

    `config.json` holds the settings, `history.csv` a row an epoch, `result.json`, written last, says that the run is
    finished. A folder belongs to one config: a finished run is kept and not trained again, an unfinished one starts
    anew. Nothing is written before `start`.

    Args:
        folder: Path.
        config: Dict of JSON values, the settings that the result depends on.

    Raises:
        ValueError: if the folder holds a run with other settings; the message names them.
    """

    def __init__(self, folder, config):
        self.folder = pathlib.Path(folder)
        self.config = json.loads(json.dumps(config))
        before = _read_json(self.folder / "config.json")
        if before is not None and before != self.config:
            keys = sorted(key for key in {**before, **self.config} if before.get(key) != self.config.get(key))
            differ = ", ".join(f"{key}: {before.get(key)!r} there, {self.config.get(key)!r} here" for key in keys)
            raise ValueError(
                f"The folder {self.folder} holds a run with other settings ({differ}). Choose another folder, or "
                "remove this one."
            )

    @property
    def result(self):
        """What `finish` wrote, or `None` while the run is not finished."""
        return _read_json(self.folder / "result.json")

    @property
    def history(self):
        """The rows of `history.csv`, a list of dicts from log name to float."""
        with open(self.path("history.csv"), newline="") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

    def path(self, name):
        """Path of a file or folder in the run's folder, a string."""
        return str(self.folder / name)

    def start(self):
        """Makes the folder and writes the config; the folder belongs to this run now.

        Returns:
            List of Keras callbacks that fill it: history, TensorBoard logs, weights of main's best epoch.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "config.json", self.config)
        callbacks = [
            keras.callbacks.ModelCheckpoint(
                self.path("best.weights.h5"),
                "val_main_accuracy",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
            ),
            keras.callbacks.CSVLogger(self.path("history.csv")),
        ]
        shutil.rmtree(self.path("tensorboard"), ignore_errors=True)  # of a run that was killed
        if has_tensorboard():
            callbacks.append(keras.callbacks.TensorBoard(self.path("tensorboard"), write_graph=False))
        return callbacks

    def finish(self, result):
        """Writes the result; the run is finished.

        Args:
            result: Dict of JSON values.
        """
        write_json(self.folder / "result.json", result)


def best_and_last(history, heads):
    """The errors of the heads after the best epoch, which is the first with main's lowest top-1 error, and the last.

    Args:
        history: Dict from log name to a list of values, one an epoch: `history` of what `fit` returns, with validation
            data of more than five classes.
        heads: Names of the heads.

    Returns:
        `{"best": errors, "last": errors}`, each a dict: `epoch` (from 1), and `main_top1_error`, `main_top5_error`,
        ..., in per cent, of the validation data.
    """
    accuracies = history["val_main_accuracy"]
    errors = {}
    for name, index in (("best", accuracies.index(max(accuracies))), ("last", len(accuracies) - 1)):
        errors[name] = {"epoch": index + 1}
        for head in heads:
            errors[name][f"{head}_top1_error"] = 100 * (1 - history[f"val_{head}_accuracy"][index])
            errors[name][f"{head}_top5_error"] = 100 * (1 - history[f"val_{head}_top5"][index])
    return errors


def write_json(path, value):
    """Writes a JSON file that is there whole or not at all.

    Args:
        path: Path.
        value: JSON value.
    """
    partial = f"{path}.partial"
    with open(partial, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    os.replace(partial, path)


def _read_json(path):
    """The value of a JSON file, `None` if there is no such file."""
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"{path} is not a JSON file ({error}). Remove the folder {path.parent} to start anew."
        ) from None
