"""Files of weights: `.safetensors`, `.npz`, and PyTorch's own, which is read without running what it holds."""

import io
import os
import pathlib
import pickle
import re
from collections.abc import Mapping

import ml_dtypes  # noqa: F401, gives NumPy the type bfloat16, which safetensors asks for by its name
import numpy as np

from dhm_keras.files import replacing
from dhm_keras.interop.names import abbreviated

TORCH = (".pth", ".pt", ".tar")  # .pth.tar, too
SUFFIXES = (*TORCH, ".safetensors", ".npz")
SAFE = (2, 10)  # PyTorch before it can be led to run code by a file of weights: CVE-2025-32434, CVE-2026-24747


def read(source):
    """The weights in a file, or in a state dict.

    Args:
        source: Path, or mapping: a state dict, or a checkpoint that has one under `"state_dict"`.

    Returns:
        Dict from name, without the prefix `module.`, to NumPy array.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the package that reads it is missing, or too old.
        ValueError: if it is no such file, is damaged, or holds more than weights.
    """
    if not isinstance(source, (str, os.PathLike, Mapping)):
        raise ValueError(
            "Invalid value for argument `source`. Expected a path or a state dict, as module.state_dict() gives it. "
            f"Received: {type(source).__name__}."
        )
    where = title(source)
    state = source if isinstance(source, Mapping) else _read_file(pathlib.Path(source))
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{where} holds no state dict, a dict from name to tensor, but {type(state).__name__}.")
    others = [f"{name} ({type(value).__name__})" for name, value in state.items() if not hasattr(value, "__array__")]
    if others:
        raise ValueError(
            f"{where} holds other things than tensors: {abbreviated(others)}. Give the state dict alone, from name to "
            "tensor; of a checkpoint it is found under 'state_dict'."
        )
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): _array(name, value, where) for name, value in state.items()}


def title(source):
    """What a message calls the source of weights: the path of a file."""
    return "The state dict" if isinstance(source, Mapping) else str(source)


def write(path, arrays):
    """Writes a file of weights that is there whole or not at all.

    Args:
        path: Path that ends in one of `SUFFIXES`.
        arrays: Dict from name to NumPy array.

    Raises:
        ImportError: if the package that writes such a file is missing.
        OSError: if it cannot be written; a file of that name stays as it was.
        ValueError: on another suffix.
    """
    path = pathlib.Path(path)
    suffix = _suffix(path)
    if suffix == ".safetensors":
        data = _safetensors(path).save(arrays, metadata={"format": "pt"})  # without it some readers refuse the file
    elif suffix == ".npz":
        np.savez(buffer := io.BytesIO(), **arrays)
        data = buffer.getbuffer()
    else:
        torch = _torch(path)
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, buffer := io.BytesIO())
        data = buffer.getbuffer()
    with replacing(path) as partial:
        partial.write_bytes(data)


def _suffix(path):
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Invalid file of weights. Expected a name that ends in one of {SUFFIXES}. Received: {path}.")
    return path.suffix.lower()


def _read_file(path):
    suffix = _suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if suffix in TORCH:
        return _read_torch(path)
    try:
        if suffix == ".safetensors":
            return _safetensors(path).load_file(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ImportError, OSError):
        raise
    except Exception as error:  # whatever zipfile, NumPy and safetensors say to bytes that none of them wrote
        raise ValueError(f"{path} cannot be read as a {suffix} file ({_line(error)}).") from None


def _read_torch(path):
    torch = _torch(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever zipfile, pickle and PyTorch say to other bytes
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise ValueError(
                f"{path} holds more than weights, {found[1]}, and is not loaded: to unpickle that could run any code. "
                "Ask for the weights alone, as a .safetensors file or by torch.save(model.state_dict(), path). If you "
                f"know {found[1]} and trust it, allow it by torch.serialization.add_safe_globals, and load again."
            ) from None
        raise ValueError(f"{path} cannot be read as a file of PyTorch ({_line(error)}).") from None


def _line(error):
    """An error in a line: the first sentence of what may be a page."""
    return f"{type(error).__name__}: {re.split(r'[.:]? *$|[.:] ', str(error), maxsplit=1, flags=re.M)[0]}"


def _safetensors(path):
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(f"{path} needs safetensors, which is not installed: pip install safetensors.") from None
    return safetensors.numpy


def _torch(path):
    least = ".".join(map(str, SAFE))
    way = f'pip install "torch>={least}", or take a .safetensors file, which needs no PyTorch'
    try:
        import torch
    except ImportError:
        raise ImportError(f"{path} needs PyTorch, which is not installed: {way}.") from None
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE:
        raise ImportError(
            f"{path} needs PyTorch {least} or newer: an older one can be led to run code by a file of weights "
            f"(CVE-2026-24747). Received: {torch.__version__}. {way[0].upper()}{way[1:]}."
        )
    return torch


def _array(name, value, where):
    """A tensor of PyTorch, or of another package, as NumPy array."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    try:
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantized, without values
        raise ValueError(f"{where} holds under {name} a tensor that is no plain array ({_line(error)}).") from None
