"""`model_card.json`: what a version is, what it was made of, and how to tell that it is whole."""

import datetime
import json
import pathlib

import keras

from dhm_keras import files
from dhm_keras.analysis import multiply_adds

CARD = pathlib.PurePath("assets.extra", "model_card.json")  # a server ignores what is in this folder
OWN = ("model", "heads", "signatures", "classes", "parameters", "multiply_adds", "made_with", "created", "sha256")


def check_card(card):
    """Raises `ValueError` if a card is not a dict of JSON values, or has an entry that is the export's to write."""
    try:
        is_json = json.loads(json.dumps(card, allow_nan=False)) == card and isinstance(card, (dict, type(None)))
    except (TypeError, ValueError):
        is_json = False
    taken = sorted(set(card or ()) & set(OWN)) if is_json else []
    if not is_json or taken:
        raise ValueError(
            "Invalid value for argument `card`. Expected a dict of JSON values"
            + (f" without the entries {taken}, which the export writes." if taken else f". Received: {card!r}.")
        )


def write_card(folder, shipped, functions, card):
    """Writes the card of a version that is complete but for it.

    Args:
        folder: Path of the version.
        shipped: `Shipped`.
        functions: Dict from the signature's name to a `tf.function`.
        card: Dict of JSON values, or `None`.
    """
    digests = {
        path.relative_to(folder).as_posix(): files.sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    (folder / CARD.parent).mkdir(exist_ok=True)
    own = {
        "model": shipped.name,
        "heads": list(shipped.heads),
        "signatures": {name: _signature(function) for name, function in functions.items()},
        "classes": shipped.num_classes,
        "parameters": sum(weight.size for weight in shipped.model.get_weights()),
        "multiply_adds": _multiply_adds(shipped.model),
        "made_with": _made_with(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sha256": digests,
    }
    files.write_json(folder / CARD, {**own, **(card or {})})


def read_card(version):
    """The card of a version, after a look whether its files are those that were written.

    Args:
        version: Path of the version.

    Returns:
        Dict.

    Raises:
        ValueError: if there is no card, or a file is missing or has been changed since.
    """
    version = pathlib.Path(version)
    card = files.read_json(version / CARD)
    if card is None or not isinstance(card.get("sha256"), dict):
        raise ValueError(
            f"{version} is no version that dhm_keras.export.export_main wrote: it has no whole {CARD}. Give the "
            "numbered folder of one."
        )
    for name, digest in card["sha256"].items():
        if not (version / name).is_file() or files.sha256(version / name) != digest:
            raise ValueError(f"{version / name} is not what was exported: it is missing, or was changed. Export again.")
    return card


def _signature(function):
    """`{"inputs": {name: text}, "outputs": {name: text}}` of a function, as `"uint8 (batch, 32, 32, 3)"`."""
    concrete = function.get_concrete_function()
    (given,), _ = concrete.structured_input_signature
    text = lambda spec: as_text(spec.dtype.name, spec.shape)
    outputs = {name: text(spec) for name, spec in sorted(concrete.structured_outputs.items())}
    return {"inputs": {given.name: text(given)}, "outputs": outputs}


def as_text(dtype, shape):
    """`"uint8 (batch, 32, 32, 3)"`; where a size is open, what it is of."""
    sides = ("batch", "height", "width", "channels")
    return f"{dtype} ({', '.join(str(n or side) for n, side in zip(shape, sides))})"


def _multiply_adds(model):
    """For one image; `None` of a network with a layer whose shapes Keras cannot tell."""
    try:
        return multiply_adds(model)
    except ValueError:
        return None


def _made_with():
    import tensorflow as tf

    import dhm_keras

    return {"dhm_keras": dhm_keras.__version__, "keras": keras.__version__, "tensorflow": tf.__version__}
