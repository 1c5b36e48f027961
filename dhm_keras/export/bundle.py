"""A version folder for TensorFlow Serving, written beside the others."""

import contextlib
import logging
import os
import pathlib

import keras
import numpy as np

from dhm_keras import files
from dhm_keras.export.card import CARD, as_text, check_card, write_card
from dhm_keras.export.heads import choose, shipped
from dhm_keras.export.server_files import write_server_files
from dhm_keras.export.warmup import write_warmup


def export_main(model, directory, heads="main", crop=1.0, class_names=None, embedding=False, card=None):
    """Writes the main head as the next version in a folder that TensorFlow Serving loads as it is.

    The version appears when it is complete, and none is ever overwritten. No variable of a branch is in it, each
    variable once; the answers equal the float32 evaluation of the weights, whatever the training precision. A network
    that begins with normalization, or with a rescaling from 0-255, takes raw images in `serving_default`, uint8
    `(batch, height, width, channels)`, JPEGs and PNGs in `image_bytes`, strings `(batch,)`, and images that are
    normalised already in `logits`, float32; any other network takes images in `serving_default` as it was trained on.
    All signatures give `logits` and `probabilities`, float32 `(batch, classes)`, the most probable `classes`, int32,
    with their `scores`, float32, and `class_names`, strings, `(batch, 5)` each, best first; of fewer classes all.

    A network with the output `embedding`, as `models.cdnet` and every one with a `reid.bl_neck` or `reid.fbl_neck`, is
    for comparing, not for classifying: `heads="main"` ships what leads to the embedding and nothing behind or beside
    it, no classifier and no names. All signatures then give `embedding` alone, float32 `(batch, features)`, and the one
    for normalised images is called `normalized`.

    Beside the versions are the files that a server and its clients need, written where they are missing: see
    `docs/serving.md`.

    Example:

    ```python
    path = dhm_keras.export.export_main(model, "serving/resnet32")  # serving/resnet32/1
    answer = tf.saved_model.load(path).signatures["serving_default"](images=images)
    answer["logits"], answer["classes"]
    ```

    Args:
        model: `DHM`, or a functional model from images to logits, to a dict of logits by head, or to an embedding.
        directory: Path of the folder of versions; made if need be.
        heads: String, or sequence of strings: of several heads the probabilities are the mean. `None`: the model, such
            as the `main` of a network with the output `embedding`, gives one and no logits. Defaults to `"main"`.
        crop: How `image_bytes` brings an image to the network's size, antialiased and bilinear. Float in (0, 1]: its
            shorter side is resized to `size / crop`, and the centre cut out, as `data.JpegTestBatches` does with
            `224 / 256`. `None`: the whole image is resized, whatever its aspect ratio. Defaults to `1.0`: the largest
            central square.
        class_names: Sequence of strings, the name of class 0 first. Defaults to the model's own; with an embedding
            alone there are none.
        embedding: Boolean. Whether all signatures give `embedding`, float32 `(batch, features)`, too: what the head's
            classifier takes. Defaults to `False`.
        card: Dict of JSON values, such as the data, the recipe and the metrics, for `assets.extra/model_card.json`.
            Defaults to `None`.

    Returns:
        Path of the new version, a string.

    Raises:
        ValueError: if the backend is not TensorFlow, an argument is not as above, a weight is not finite, or the folder
            has versions that take other images.
        OSError: if the folder cannot be written; versions already there stay as they are.
    """
    to_ship, directory = check_arguments(model, directory, heads, crop, class_names, embedding, card)
    with files.lock(directory, wait=True):
        version = directory / str(max(versions(directory), default=0) + 1)
        check_finite(to_ship)
        write_server_files(directory, to_ship.name)
        _write(to_ship, version, crop, card)
    return str(version)


def check_arguments(model, directory, heads="main", crop=1.0, class_names=None, embedding=False, card=None):
    """Looks at the arguments of `export_main` and copies what is to be shipped; makes the folder, and writes nothing.

    Returns:
        `Shipped`, and the folder's `pathlib.Path`.

    Raises:
        ValueError: if the backend is not TensorFlow, an argument is not as in `export_main`, or the folder has versions
            that take other images.
        OSError: if the folder cannot be made or written.
    """
    check_backend()
    check_card(card)
    if crop is not None and (isinstance(crop, bool) or not isinstance(crop, (int, float)) or not 0 < crop <= 1):
        raise ValueError(
            f"Invalid value for argument `crop`. Expected a number in (0, 1], or None. Received: {crop!r}."
        )
    to_ship, directory = shipped(*choose(model, heads, class_names, embedding)), prepare(directory)
    check_images(to_ship, directory)
    return to_ship, directory


def check_finite(to_ship):
    """Raises `ValueError` if a weight that is to be shipped is not finite."""
    for variable in to_ship.model.variables:
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            raise ValueError(
                f"{to_ship.name} is not exported: the weight {variable.path} has values that are not finite. Export an "
                "epoch before the training diverged, or train with a lower learning rate. What is served stays."
            )


def check_images(to_ship, directory):
    """Raises `ValueError` if the versions in a folder take other images: whoever asks the server sends theirs."""
    newest = max(versions(directory), default=None)
    card = newest and files.read_json(directory / str(newest) / CARD)
    before = card and card["signatures"]["serving_default"]["inputs"]["images"]
    now = as_text("uint8" if to_ship.takes_raw else "float32", to_ship.model.inputs[0].shape)
    if before and before != now:
        raise ValueError(
            f"{directory} has versions of {card['model']}, which take images {before}. {to_ship.name} takes {now}, and "
            "whoever asks the server would fail. Choose another folder."
        )


def _write(to_ship, version, crop, card):
    """Writes the folder of a version; `OSError` if it cannot be written."""
    import tensorflow as tf

    from dhm_keras.export.signatures import signatures

    functions, examples = signatures(to_ship, crop)
    module = tf.Module()
    module.weights = [variable.value for variable in to_ship.model.variables]
    try:
        with files.new_folder(version) as partial:
            if to_ship.class_names:
                names = partial / "class_names.txt"
                names.write_text("".join(f"{name}\n" for name in to_ship.class_names), encoding="utf-8")
                module.class_names = tf.saved_model.Asset(str(names))
            with _silent(tf.get_logger()):  # in a notebook it would tell the name of the folder that is renamed
                tf.saved_model.save(module, str(partial), signatures=functions)
            if to_ship.class_names:
                names.unlink()  # it is in assets now
            requests = {name: {key: tensor.numpy() for key, tensor in each.items()} for name, each in examples.items()}
            write_warmup(partial / "assets.extra" / "tf_serving_warmup_requests", to_ship.name, requests)
            write_card(partial, to_ship, functions, card)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or getattr(error, "strerror", None) or error
        raise OSError(
            f"{version} cannot be written ({reason}). The versions there are kept. Make room, or make the folder "
            "writable, and export again."
        ) from error


@contextlib.contextmanager
def _silent(logger):
    """Within, a logger of Python tells warnings and errors alone."""
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def versions(directory):
    """Numbers of the versions in a folder.

    Args:
        directory: `pathlib.Path`.

    Returns:
        List of integers.
    """
    return [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]


def prepare(directory):
    """The folder of versions, made if need be, as a `pathlib.Path`; `ValueError` or `OSError` if it cannot be one."""
    if "://" in str(directory):
        raise ValueError(f"Invalid value for argument `directory`. Expected a local path. Received: {directory!r}.")
    directory = pathlib.Path(directory).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"The folder {directory} cannot be made ({error.strerror}). Choose another.") from error
    if not os.access(directory, os.W_OK):
        raise OSError(f"The folder {directory} cannot be written. Make it writable, or choose another.")
    return directory


def check_backend():
    """Raises `ValueError` if the backend cannot write a SavedModel."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"A SavedModel is written by TensorFlow, and the Keras backend is {keras.backend.backend()!r}. Save the "
            "model (.keras), set KERAS_BACKEND=tensorflow, load it and export it there."
        )
