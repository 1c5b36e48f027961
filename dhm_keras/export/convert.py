"""An exported version as a file for another runtime: ONNX and LiteRT."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

from dhm_keras.export.contents import size
from dhm_keras.files import replacing

# The newest that tf2onnx writes but one: onnxruntime reads it since 1.12 (2022), so old installations and devices do.
OPSET = 17

LITERT = """
import pathlib, sys, tensorflow as tf
converter = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1], signature_keys=["serving_default"])
pathlib.Path(sys.argv[2]).write_bytes(converter.convert())
"""


def to_onnx(version):
    """Writes an exported version as an ONNX file beside it.

    For ONNX Runtime and the accelerators that read ONNX. The file has the input and the outputs of the signature
    `serving_default`, their names, types and shapes, the batch size open.

    Example:

    ```python
    version = dhm.export.export_main(model, "serving/resnet32")  # serving/resnet32/1
    path = dhm.export.to_onnx(version)  # serving/resnet32/1.onnx
    session = onnxruntime.InferenceSession(path)
    logits = session.run(["logits"], {"images": images})[0]
    ```

    Args:
        version: Path of a version that `export_main` wrote.

    Returns:
        Path of the file, a string. One that was there is replaced.

    Raises:
        ImportError: if tf2onnx is not installed.
        OSError: if the file cannot be written; one that was there stays.
        ValueError: if `version` is no such folder, or has an operator that ONNX has not.
    """
    version = version_folder(version)
    return str(_write(write_onnx, version, beside(version, ".onnx")))


def to_litert(version):
    """Writes an exported version as a LiteRT file (TensorFlow Lite) beside it, in float32.

    For telephones and small boards. The file has the signature `serving_default` with its input and outputs, their
    names, types and shapes, the batch size open.

    Example:

    ```python
    version = dhm.export.export_main(model, "serving/resnet32")  # serving/resnet32/1
    path = dhm.export.to_litert(version)  # serving/resnet32/1.tflite
    serve = ai_edge_litert.interpreter.Interpreter(path).get_signature_runner("serving_default")
    logits = serve(images=images)["logits"]
    ```

    Args:
        version: Path of a version that `export_main` wrote.

    Returns:
        Path of the file, a string. One that was there is replaced.

    Raises:
        OSError: if the file cannot be written; one that was there stays.
        ValueError: if `version` is no such folder, or has an operator that LiteRT has not.
    """
    version = version_folder(version)
    return str(_write(write_litert, version, beside(version, ".tflite")))


def version_folder(version, argument="version"):
    """The folder of a version.

    Args:
        version: Path.
        argument: String, what the caller calls it. Defaults to `"version"`.

    Returns:
        `pathlib.Path`, absolute.

    Raises:
        ValueError: if there is no SavedModel.
    """
    folder = pathlib.Path(version).expanduser().resolve()
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected the folder of a version that export_main wrote, as "
            f"serving/resnet32/1. Received: {str(version)!r}, where no saved_model.pb is."
        )
    return folder


def beside(version, suffix):
    """Where the file of a version with this suffix is: `1.onnx` for `1`."""
    return version.with_name(version.name + suffix)


def require_tf2onnx():
    """Raises `ImportError` if tf2onnx is not installed."""
    if importlib.util.find_spec("tf2onnx") is None:
        raise ImportError("An ONNX file is written by tf2onnx, which is not installed: pip install 'dhm_keras[onnx]'.")


def write_onnx(version, path):
    """Converts the SavedModel in `version` to the ONNX file `path`."""
    require_tf2onnx()
    # Its Python call from_function would make an input of each constant that the function captures.
    command = ["-m", "tf2onnx.convert", "--saved-model", version, "--signature_def", "serving_default"]
    process = run_program(*command, "--output", path, "--opset", str(OPSET))
    unsupported = re.findall(r"Tensorflow op \[[^]]*: (\w+)\] is not supported", process.stderr)
    # tf2onnx ends with 0, and writes a file that no runtime reads, when operators are missing: its log has them.
    if process.returncode or unsupported or " - ERROR - " in process.stderr:
        raise ValueError(_refused(version, "ONNX", unsupported, process.stderr))


def write_litert(version, path):
    """Converts the SavedModel in `version` to the LiteRT file `path`."""
    process = run_program("-c", LITERT, version, path)
    if process.returncode:
        unsupported = re.findall(r"'tf\.(\w+)' op is neither", process.stderr)
        raise ValueError(_refused(version, "LiteRT", unsupported, process.stderr))


def run_program(*arguments):
    """Runs this Python with arguments in a fresh process, on the CPU.

    What a converter or a runtime prints, sets or breaks stays there. The GPU is hidden: the process that trained may
    hold all of its memory, and a GPU multiplies in less than float32.

    Args:
        *arguments: Strings or paths.

    Returns:
        `subprocess.CompletedProcess` with text.
    """
    # -P: no file of the working directory, or beside the program, is taken for a module.
    command = [sys.executable, "-P", *map(str, arguments)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")


def _write(write, version, path):
    with replacing(path, size=size(version)) as partial:  # no file is larger than what it is made from
        write(version, partial)
    return path


def _refused(version, kind, operators, log):
    """Why a version was not converted: the operators, or else the last of what the converter said."""
    if operators:
        return f"{version} cannot be converted to {kind}, which has no operator {', '.join(sorted(set(operators)))}."
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"^[\w.]+(Error|Exception): | - ERROR - ", line)]
    said = (errors or lines or ["the converter ended without a word"])[-1]
    return f"{version} cannot be converted to {kind}: {said[:400]}."
