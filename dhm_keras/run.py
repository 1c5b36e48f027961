"""A run: one training, and the folder with its config, history, logs and checkpoints."""

import csv
import json
import os
import pathlib


class Run:
    """The folder of one training.

    `config.json` holds the settings, `history.csv` a row an epoch, `result.json`, written last, says that the run is
    finished. A folder belongs to one config: a finished run is kept and not trained again, an unfinished one starts
    anew.

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
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "config.json", self.config)

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

    def finish(self, result):
        """Writes the result; the run is finished.

        Args:
            result: Dict of JSON values.
        """
        write_json(self.folder / "result.json", result)


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
