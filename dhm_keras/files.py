"""Files that are there whole or not at all, and folders that belong to one process."""

import contextlib
import csv
import hashlib
import json
import os
import pathlib
import shutil
import socket

try:
    import fcntl
except ImportError:  # Windows: nobody guards a folder there
    fcntl = None


@contextlib.contextmanager
def replacing(path, size=0):
    """Within, a file is written under another name; at the end it takes the place of `path`, on the disk.

    Example:

    ```python
    with replacing("result.json") as partial:
        partial.write_text("{}")
    ```

    Args:
        path: Path.
        size: Integer. Bytes that must have room before anything is written: HDF5 ends the process where a disk gets
            full. Defaults to `0`.

    Yields:
        `pathlib.Path` to write to, in the same folder and with the same suffixes.

    Raises:
        OSError: if it cannot be written; `path` stays as it was.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        if size and hasattr(os, "posix_fallocate"):
            with open(partial, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync(path.parent)
    except OSError as error:
        _remove(partial)
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}). What was saved before is kept. Make room, or make "
            "the folder writable, and start the same again."
        ) from error
    except BaseException:
        _remove(partial)
        raise


@contextlib.contextmanager
def new_folder(path):
    """Within, a folder is filled under another name, beginning with a dot; at the end it appears, on the disk.

    Args:
        path: Path of the folder, which must not be there: none is ever replaced.

    Yields:
        `pathlib.Path` of the empty folder to fill, in the same folder.

    Raises:
        OSError: if something is at `path`, or cannot be written.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        for each in partial.rglob("*"):
            _sync(each)
        if path.exists():  # an empty one would be replaced
            raise FileExistsError(f"{path} is there already")
        os.rename(partial, path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_json(path, value):
    """Writes a JSON file that is there whole or not at all.

    Args:
        path: Path.
        value: JSON value.

    Raises:
        OSError: if it cannot be written.
    """
    text = json.dumps(value, indent=2) + "\n"
    with replacing(path) as partial:
        partial.write_text(text)


def read_json(path):
    """The object in a JSON file.

    Args:
        path: Path.

    Returns:
        Dict; `None` if there is no such file.

    Raises:
        ValueError: if it holds anything else than a JSON object.
    """
    try:
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error}).") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object.")
    return value


def write_table(path, columns, rows):
    """Writes a CSV file that is there whole or not at all.

    Args:
        path: Path.
        columns: Iterable of names.
        rows: Iterable of rows, each with a value a column.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def differences(before, now):
    """How two dicts of settings differ.

    Args:
        before: Dict, of what a folder holds.
        now: Dict.

    Returns:
        String, as `"rate: 0.1 there, 0.2 here"`; empty if they are equal.
    """
    keys = sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
    return ", ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} here" for key in keys)


def sha256(path):
    """The SHA-256 of a file, in hexadecimal.

    Args:
        path: Path.

    Returns:
        String.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(folder, wait=False):
    """Takes a folder for this process until the lock is closed, or the process ends, however it ends.

    Args:
        folder: Path; made if need be.
        wait: Boolean. Whether to wait until another process that has the folder is done. Defaults to `False`.

    Returns:
        Open file; `close` releases the folder.

    Raises:
        OSError: if another process has the folder and `wait` is false, or it cannot be made or written.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")  # noqa: SIM115, it stays open
    except OSError as error:
        raise OSError(
            f"The folder {folder} cannot be written ({error.strerror or error}). Make it writable, or choose another."
        ) from error
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise OSError(
            f"The folder {folder} is in use by another training ({holder or 'unknown process'}). Wait until it ends, "
            "stop it, or choose another folder."
        ) from None
    except OSError:  # a file system that knows no locks: nobody guards the folder there
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def _remove(path):
    with contextlib.suppress(OSError):
        path.unlink()


def _sync(path):
    """Puts a file, or the names in a folder, on the disk; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
