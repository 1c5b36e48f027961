"""The parity report: whether an exported version is the trained model, in other runtimes and at the same cost."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import re
import tempfile
from collections.abc import Callable

import numpy as np

from dhm_keras.export import convert
from dhm_keras.export.card import read_card
from dhm_keras.export.contents import compare, contents, size
from dhm_keras.export.report import Report, Row

PROGRAM = pathlib.Path(__file__).with_name("runtimes.py")
SECONDS = 3.0  # of measuring a runtime


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A runtime: its name, here and in runtimes.py; its module, its package; suffix and writers of its file."""

    name: str
    key: str
    module: str
    package: str
    suffix: str = ""
    write: Callable | None = None
    write_beside: Callable | None = None


RUNTIMES = (
    Runtime("TensorFlow", "tensorflow", "tensorflow", "tensorflow"),
    Runtime("OpenVINO", "openvino", "openvino", "openvino"),
    Runtime("ONNX Runtime", "onnxruntime", "onnxruntime", "onnxruntime", ".onnx", convert.write_onnx, convert.to_onnx),
    Runtime("LiteRT", "litert", "ai_edge_litert", "ai-edge-litert", ".tflite", convert.write_litert, convert.to_litert),
)


def check(version, images, logits, never_branched=None):
    """Compares an exported version to the trained model, and to the network that never had branches.

    Each runtime answers in a fresh process that knows neither Keras nor this library: plain TensorFlow and, where
    installed, OpenVINO, which reads the SavedModel, too, and ONNX Runtime and LiteRT, if `to_onnx` and `to_litert` have
    written their files. All compute on the CPU in float32. Whether a difference is small is the caller's judgement:
    sums in another order differ by about 1e-6 of the logits.

    Example:

    ```python
    version = dhm.export.export_main(model, "serving/resnet32")
    plain = dhm.export.export_main(dhm.models.resnet32(branches=()), "scratch/plain")
    print(dhm.export.check(version, images, model.main.predict(images), never_branched=plain))
    ```

    Args:
        version: Path of a version that `export_main` wrote.
        images: Array `(images, ...)` as the signature `serving_default` takes them.
        logits: Array `(images, classes)`, what the trained model answers in float32; of a version that gives an
            embedding alone `(images, features)`. `float32_logits` gives either.
        never_branched: Path of a version of the same network built without branches; its weights do not matter.
            Defaults to `None`: no comparison.

    Returns:
        `Report`. A runtime that fails on the model has a row that says so.

    Raises:
        ImportError: if `never_branched` is given, and TensorFlow is not installed.
        ValueError: if an argument is not as above, or a file of a version was changed after it was written.
    """
    given, version = str(version), convert.version_folder(version)
    images, logits = np.asarray(images), np.asarray(logits)
    card = read_card(version)
    _check_arrays(images, logits, card)
    equal, notes, other = None, [], None
    if never_branched is not None:
        other = convert.version_folder(never_branched, "never_branched")
        output = _output(read_card(other))
        ours, theirs = contents(version), contents(other)
        equal, sentence = compare(ours, theirs)
        notes.append(sentence)
        if ours.takes != theirs.takes or output != _output(card):
            other = None  # it cannot be timed on the same image, or gives something else
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        np.save(scratch / "images.npy", images)
        for runtime in RUNTIMES:
            missing = _missing(runtime, version)
            if missing:
                notes.append(f"{runtime.name} was not run: {missing}")
                continue
            models = [convert.beside(version, runtime.suffix)]
            if other is not None:
                models += _never_branched(runtime, other, scratch, notes)
            rows.append(_row(runtime, models, logits, _output(card), scratch))
    return Report(given, len(images), tuple(rows), equal, tuple(notes))


def _check_arrays(images, logits, card):
    """Raises `ValueError` if the arrays are not those of a model with this card."""
    takes = card["signatures"]["serving_default"]["inputs"]["images"]  # as "uint8 (batch, 32, 32, 3)"
    dtype, *sides = re.findall(r"\w+", takes)
    fits = images.ndim == len(sides) and all(
        not side.isdecimal() or int(side) == n for side, n in zip(sides, images.shape)
    )
    if images.dtype.name != dtype or not fits:
        raise ValueError(
            f"Invalid value for argument `images`. Expected {takes}. Received: {images.dtype.name} {images.shape}."
        )
    *_, width = re.findall(r"\d+", card["signatures"]["serving_default"]["outputs"][_output(card)])
    shape = len(images), int(width)
    if logits.shape != shape or not np.isfinite(logits).all():
        raise ValueError(
            f"Invalid value for argument `logits`. Expected finite numbers of shape {shape}. Received: "
            f"{logits.dtype.name} {logits.shape}, {np.size(logits) - np.isfinite(logits).sum()} of them not finite."
        )


def _output(card):
    """The output that is compared: `"logits"`, or `"embedding"` of a version without."""
    return "logits" if "logits" in card["signatures"]["serving_default"]["outputs"] else "embedding"


def _missing(runtime, version):
    """What is missing to run a runtime, and how to get it; empty if nothing is."""
    if importlib.util.find_spec(runtime.module) is None:
        return f"pip install {runtime.package}"
    if not convert.beside(version, runtime.suffix).exists():
        return f"dhm_keras.export.{runtime.write_beside.__name__}({str(version)!r}) writes the file that it reads."
    return ""


def _never_branched(runtime, version, scratch, notes):
    """The never-branched network as the runtime reads it, in a list; where it has no such file, one is made for now."""
    path = convert.beside(version, runtime.suffix)
    if path.exists():
        return [path]
    path = scratch / f"never_branched{runtime.suffix}"
    try:
        runtime.write(version, path)
    except (ImportError, ValueError) as error:
        notes.append(f"{runtime.name} was not timed beside the never-branched network: {error}")
        return []
    return [path]


def _row(runtime, models, logits, output, scratch):
    """Runs a runtime and compares its answers."""
    row = functools.partial(Row, size=size(models[0]))
    answers = scratch / "answers.npy"
    process = convert.run_program(PROGRAM, runtime.key, scratch / "images.npy", answers, SECONDS, output, *models)
    try:
        told = json.loads(process.stdout.splitlines()[-1])
    except (ValueError, IndexError):  # it was killed, or broke down
        last = "".join(process.stderr.strip().splitlines()[-1:])
        return row(runtime.name, problem=f"its process ended with {process.returncode}. {last[:400]}")
    if "error" in told:
        return row(runtime.name, problem=told["error"][:400])
    answers = np.load(answers)
    return row(
        f"{runtime.name} {told['version']}",
        difference=float(np.abs(answers - logits).max(initial=0.0)),
        **(_other_classes(answers, logits) if output == "logits" else {"others": None}),
        milliseconds=told["ms"][0],
        ratio=told["ratio"] and tuple(told["ratio"]),
    )


def _other_classes(answers, logits):
    """`others` and `margin` of a `Row`."""
    others = np.flatnonzero(answers.argmax(axis=1) != logits.argmax(axis=1))
    best = np.sort(logits[others], axis=1)[:, -2:]
    return {"others": tuple(others.tolist()), "margin": float(np.ptp(best, axis=1).max(initial=0.0))}
