"""Checkpoints: the whole state of a training in one file, checked by its digest."""

import dataclasses
import json
import pathlib
import re
import reprlib

import numpy as np

from dhm_keras.files import replacing, sha256

FORMAT = 1
KEPT = 2  # the newest, and the one before it should the newest be damaged
_NAME = re.compile(r"epoch(\d+)-step(\d+)-([0-9a-f]{16})\.npz")


@dataclasses.dataclass
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        epoch: Integer. Epochs finished.
        step: Integer. Steps finished of the epoch after them.
        arrays: Dict from name to NumPy array.
        notes: Dict of JSON values: all the rest of the state.
        path: Path of the file it was read from, `None` before it is written. Defaults to `None`.
    """

    epoch: int
    step: int
    arrays: dict
    notes: dict
    path: pathlib.Path | None = None

    def pack(self, name, value):
        """Something as a note; a list of arrays goes to `arrays`, under `name`."""
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            self.arrays |= {f"{name}/{i}": array for i, array in enumerate(value)}
            return {"arrays": len(value)}
        return value.item() if isinstance(value, np.generic) else value

    def unpack(self, name, note):
        """What `pack` made the note of."""
        if isinstance(note, dict) and note.keys() == {"arrays"}:
            return [self.arrays[f"{name}/{i}"] for i in range(note["arrays"])]
        return note


def write(folder, checkpoint):
    """Writes a checkpoint and removes all but the newest two.

    The file is an ordinary `.npz` without pickles. It appears when it is complete, and its name bears the position and
    the first 16 digits of its SHA-256.

    Args:
        folder: Path of a folder that exists.
        checkpoint: `Checkpoint`.

    Returns:
        Path of the file.

    Raises:
        OSError: if it cannot be written; the checkpoints that are there stay.
    """
    folder = pathlib.Path(folder)
    notes = {"format": FORMAT, "epoch": checkpoint.epoch, "step": checkpoint.step, **checkpoint.notes}
    text = np.frombuffer(json.dumps(notes, default=_plain).encode(), "uint8")
    fresh = folder / "new.npz"
    with replacing(fresh) as partial:
        with open(partial, "wb") as file:
            np.savez(file, notes=text, **checkpoint.arrays)
        digest = sha256(partial)[:16]
    path = folder / f"epoch{checkpoint.epoch:04}-step{checkpoint.step:06}-{digest}.npz"
    fresh.rename(path)
    others = [old for old in paths(folder) if old != path]
    later = [old for old in others if _position(old) > (checkpoint.epoch, checkpoint.step)]  # damaged, or passed over
    others = [old for old in others if old not in later]
    for old in [*later, *others[KEPT - 1 :]]:
        old.unlink(missing_ok=True)
    return path


def paths(folder):
    """The checkpoint files of a folder, the newest first.

    Args:
        folder: Path.

    Returns:
        List of `pathlib.Path`, empty if there is no such folder.
    """
    files = [path for path in pathlib.Path(folder).glob("*.npz") if _NAME.fullmatch(path.name)]
    return sorted(files, key=lambda path: (_position(path), path.stat().st_mtime), reverse=True)


def _position(path):
    """`(epoch, step)`, as a file's name has them."""
    name = _NAME.fullmatch(path.name)
    return int(name[1]), int(name[2])


def read_newest(folder):
    """Reads the newest checkpoint that is whole; prints a line for each newer one that is damaged.

    Args:
        folder: Path.

    Returns:
        `Checkpoint`, or `None` if the folder has no checkpoint.

    Raises:
        ValueError: if none is whole, or the newest whole one is of another format.
    """
    files = paths(folder)
    for path in files:
        try:
            return _read(path)
        except (_Damaged, OSError) as error:
            print(f"The checkpoint {path} is damaged ({error}): going on from the one before it.", flush=True)
    if files:
        raise ValueError(f"No checkpoint in {folder} can be read. Remove the folder to start the training anew.")
    return None


def _plain(value):
    """NumPy values as JSON has them; for `json.dumps`."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"A checkpoint cannot hold {value!r}. What callbacks remember, and what they add to the logs, are JSON values; "
        "lists of arrays may be remembered, too."
    )


class _Damaged(Exception):
    """A checkpoint file that is not what was written."""


def _read(path):
    name = _NAME.fullmatch(path.name)
    if sha256(path)[:16] != name[3]:
        raise _Damaged("its contents do not fit the digest in its name")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        notes = json.loads(arrays.pop("notes").tobytes())
        form = notes.pop("format")
    except OSError:
        raise
    except Exception as error:  # whatever zipfile, NumPy and JSON say to bytes that no `write` wrote
        raise _Damaged(f"{type(error).__name__}: {error}") from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise _Damaged("it holds something else than arrays")
    if form != FORMAT:
        raise ValueError(
            f"The checkpoint {path} has the format {reprlib.repr(form)}; this version of dhm_keras reads format "
            f"{FORMAT}. Go on with the version that wrote it, or choose another folder."
        )
    epoch, step = notes.pop("epoch", None), notes.pop("step", None)
    if (epoch, step) != _position(path):
        raise _Damaged("it is of another position than its name")
    return Checkpoint(epoch, step, arrays, notes, path)
