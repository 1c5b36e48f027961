"""Exports what was trained for TensorFlow Serving, and shows that it is the same model.

    python recipes/export.py runs/cifar100/resnet32/dhm-0 serving/resnet32             # main, after the best epoch
    python recipes/export.py runs/cifar100/resnet32/dhm-0 serving/resnet32 --which last
    python recipes/export.py model.keras serving/mine --heads main,aux1                # the mean of two heads
    python recipes/export.py main.keras serving/mine --heads=                          # a model that gives an embedding
    python recipes/export.py model.keras serving/mine --check --onnx --litert          # with a report

CHECKPOINT is the folder of a finished run, or a `.keras` file that `DHM.save` wrote, on TensorFlow or JAX. Each export
is the next version in DEST; `docker compose up` there serves it. `--check` re-loads it in fresh processes, with plain
TensorFlow and with whatever of OpenVINO, ONNX Runtime and LiteRT is installed, and prints how far the answers are from
the trained model's, the time of an image and the size, beside the same network built without branches. See
docs/serving.md.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import math
import pathlib
import re
import tempfile
import zipfile

import keras
import numpy as np
from absl import app, flags, logging

import dhm_keras as dhm
from dhm_keras.export.convert import require_tf2onnx
from dhm_keras.run import Run
from run_folders import card_of

FLAGS = flags.FLAGS
flags.DEFINE_enum("which", None, ("best", "last"), "The weights of a run's best or last epoch. Default: best.")
flags.DEFINE_list("heads", "main", "The head to export, or several: the mean of their probabilities; or, empty, none.")
flags.DEFINE_float("crop", None, "Share of an image's shorter side that image_bytes takes. Default: the recipe's, or 1")
flags.DEFINE_boolean("squash", False, "Resize whole images whatever their aspect ratio, instead of --crop.")
flags.DEFINE_boolean("embedding", None, "Give what the classifier takes, too. Default: of persons' networks alone.")
flags.DEFINE_string("class_names", None, "Text file with a name a line. Default: those the model was trained with.")
flags.DEFINE_boolean("onnx", False, "Write VERSION.onnx, too.")
flags.DEFINE_boolean("litert", False, "Write VERSION.tflite, too.")
flags.DEFINE_boolean("check", False, "Print whether it is the same model, in all runtimes that are installed.")

EVALUATED = {"imagenet": 224 / 256, "reid": None}  # the crop of a recipe's evaluation; of others 1, all there is
IMAGES = 256  # of noise, that --check compares on


def main(arguments):
    if len(arguments) != 3:
        raise app.UsageError(f"Expected CHECKPOINT DEST. Received: {arguments[1:]}.")
    logging.set_verbosity(logging.ERROR)
    checkpoint, directory = map(pathlib.Path, arguments[1:])
    try:
        if FLAGS.squash and FLAGS.crop is not None:
            raise ValueError("--squash resizes whole images, --crop takes a part of them. Give one of them.")
        if FLAGS.onnx:
            require_tf2onnx()  # before a version is written
        model, of_recipe, card = load(checkpoint)
        crop = EVALUATED.get(of_recipe, 1.0) if FLAGS.crop is None else FLAGS.crop
        as_exported = {
            "crop": None if FLAGS.squash else crop,
            "class_names": class_names(),
            "embedding": of_recipe == "reid" if FLAGS.embedding is None else FLAGS.embedding,
        }
        heads = FLAGS.heads or None  # none: the model gives an embedding
        path = dhm.export.export_main(model, directory, heads, card=card, **as_exported)
        print(f"Exported {' and '.join(heads or ['the embedding'])} of {checkpoint} to {path}")
        for wanted, convert in ((FLAGS.onnx, dhm.export.to_onnx), (FLAGS.litert, dhm.export.to_litert)):
            if wanted:
                print(f"Converted to {convert(path)}")
        if FLAGS.check:
            check(model, path, as_exported)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"export.py: {error}") from None


def load(checkpoint):
    """`(model, recipe, card)` of a run's folder, or of a `.keras` file, whose recipe is `None`."""
    if (checkpoint / "config.json").exists():
        return load_run(Run.open(checkpoint))
    if FLAGS.which:
        raise ValueError(f"--which is of the folder of a run. Received: {checkpoint}.")
    if runs := sorted(path.parent.name for path in checkpoint.glob("*/config.json")):
        raise ValueError(f"{checkpoint} is a folder of runs. Name one of them: {', '.join(runs)}.")
    if not checkpoint.exists():
        raise ValueError(f"There is no file or folder {checkpoint}.")
    if checkpoint.suffix != ".keras" or not checkpoint.is_file():
        raise ValueError(
            f"{checkpoint} is neither the folder of a run nor a .keras file. Weights alone (.h5, .npz, .pth) do not "
            "say of which network they are: load them into it and save that as .keras."
        )
    return load_model(checkpoint), None, {"file": checkpoint.name}


def load_model(path):
    """The model in a `.keras` file; `ValueError` if it cannot be loaded."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} cannot be loaded: it is damaged, or no .keras file.")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever the file leads it to
        said = str(error).strip() or type(error).__name__
        hint = re.search(r"Could not (?:locate|deserialize) [^.]*", said)
        more = (
            f" {hint[0]}: export it in code, where that is defined, or save `model.main` and export that."
            if hint
            else ""
        )
        raise ValueError(f"{path} cannot be loaded: {said.splitlines()[0]}{more}") from error


def load_run(run):
    """`(model, recipe, card)` of a finished run."""
    if run.result is None:
        raise ValueError(f"The run in {run.folder} is not finished. Start its recipe again: it goes on from there.")
    which = FLAGS.which or "best"
    if which not in run.result:
        raise ValueError(f"{run.folder} is no run of this project's recipes: its result has no {which!r} epoch.")
    model = load_model(run.checked("last.keras"))
    if which == "best":
        model.network.load_weights(run.checked("best.weights.h5"))
    epoch = run.result[which]["epoch"]
    logs = {name: value for name, value in run.history[epoch - 1].items() if math.isfinite(value)}
    card = {**card_of(run.config, run.result.get("images")), "metrics": {**logs, "epoch": epoch}}
    return model, run.config["recipe"], card


def class_names():
    """The lines of --class_names, or `None`: the model's own."""
    if not FLAGS.class_names:
        return None
    try:
        return pathlib.Path(FLAGS.class_names).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--class_names {FLAGS.class_names} is no text file in UTF-8 that can be read: {error}."
        ) from None


def check(model, path, as_exported):
    """Prints the parity report of a version, on noise; `as_exported`: the arguments it was exported with."""
    network = getattr(model, "network", model)
    shape = [IMAGES, *(side or 224 for side in network.inputs[0].shape[1:])]
    card = dhm.export.read_card(path)
    rng = np.random.default_rng(0)
    if card["signatures"]["serving_default"]["inputs"]["images"].startswith("uint8"):
        images = rng.integers(0, 256, shape).astype("uint8")
    else:
        images = rng.standard_normal(shape).astype("float32")
    logits = dhm.export.float32_logits(model, images, FLAGS.heads or None)
    plain = never_branched(network) if FLAGS.heads == ["main"] else None
    if card["classes"]:
        as_exported = {**as_exported, "class_names": as_exported["class_names"] or getattr(model, "class_names", None)}
    with tempfile.TemporaryDirectory() as folder:
        beside = plain and dhm.export.export_main(plain, folder, **as_exported)
        print(dhm.export.check(path, images, logits, beside))
    if plain is None:
        print(
            "No never-branched network beside it: that is made of main of dhm.models.names() alone. In code give it as "
            "never_branched of dhm.export.check."
        )


def never_branched(network):
    """The library's network of the same name and size, built without branches; `None` of any other network."""
    if network.name not in dhm.models.names() or not isinstance(network.output, dict):
        return None
    normalizes = any(isinstance(layer, keras.layers.Normalization) for layer in network.layers)
    plain = dhm.models.get(
        network.name,
        **of_family(network),
        num_classes=network.output["main"].shape[-1],
        input_shape=network.inputs[0].shape[1:],
        branches=(),
        normalization=((0.5,) * 3, (0.25,) * 3) if normalizes else None,
    )
    return plain if variables_of_main(plain) == variables_of_main(network) else None  # it may have another genotype


def variables_of_main(network):
    """Names and shapes of the variables that are shipped."""
    shipped = network.output.get("embedding", network.output["main"])
    part = dhm.network.Network(network.inputs[0], shipped)
    return {variable.path: tuple(variable.shape) for variable in part.variables}


def of_family(network):
    """The arguments of a network's builder that its name leaves open, as far as they change what is shipped."""
    layers = {layer.name: layer for layer in network.layers}
    if network.name == "mobilenet":
        return {"last_stride": layers["stack5_block2_conv1"].strides[0]}
    if not network.name.startswith(("osnet", "cdnet", "cnet")):
        return {}
    stem = layers["conv"]
    has_local = "main_local_conv" in layers
    if network.name.startswith("osnet"):
        is_max = isinstance(layers["main_pool"], keras.layers.GlobalMaxPooling2D)
        neck = {"neck": "fblneck" if has_local else "dense", "pooling": "max" if is_max else "avg"}
    else:
        task = "reid" if "embedding" in network.output else "classification"
        neck = {"neck": "fblneck" if has_local else "blneck", "task": task, "width": stem.filters / 64}
    return {"stem": stem.kernel_size[0], **neck}


if __name__ == "__main__":
    app.run(main)
