"""The functional model that every builder returns."""

import contextlib
import sys

import keras


@keras.saving.register_keras_serializable(package="dhm_keras")
class Network(keras.Model):
    """A functional `keras.Model` of any depth.

    Keras walks a functional graph by recursion, one Python frame a layer, so a chain of a thousand layers
    (ResNet-1202 has 4,200) passes Python's recursion limit. This class raises the limit for that walk alone, wherever
    it happens: in a builder, in `load_model`, in `.main`. In every other respect it is a plain functional model.

    Args:
        *args: `inputs` and `outputs`, as in `keras.Model`; of a network with branches, `outputs` is a dict from head to
            logits.
        **kwargs: `name` and `trainable`, as in `keras.Model`.
    """

    def __init__(self, *args, **kwargs):  # these very names: Keras revives such a subclass as a functional model
        with recursion_limit(100_000):
            super().__init__(*args, **kwargs)


def set_weights(layer, weights):
    """As `layer.set_weights`, also for `keras.layers.Normalization`, which computes with constants made of its weights.

    Args:
        layer: Layer or model.
        weights: As `layer.get_weights()` of another.
    """
    layer.set_weights(weights)
    parts = [layer]
    for part in parts:
        parts += getattr(part, "layers", [])
        if isinstance(part, keras.layers.Normalization):
            part.finalize_state()


def check_class_names(class_names, num_classes):
    """The names of the classes as a tuple; `None` stays `None`.

    Args:
        class_names: List or tuple of strings, or `None`.
        num_classes: Integer.

    Raises:
        ValueError: if they are not as many strings, in one line each.
    """
    if class_names is None:
        return None
    names = tuple(class_names) if isinstance(class_names, (tuple, list)) else (class_names,)
    odd = [name for name in names if not isinstance(name, str) or len(name.splitlines()) != 1]
    if odd or len(names) != num_classes:
        received = f"{len(names)} names" + (f", among them {odd[0]!r}" if odd else "")
        raise ValueError(
            f"Invalid value for argument `class_names`. Expected {num_classes} strings of one line, the name of class "
            f"0 first. Received: {received}."
        )
    return names


@contextlib.contextmanager
def recursion_limit(limit):
    """Within, Python's recursion limit is at least `limit`.

    The frames of Python functions are on the heap since Python 3.11, so depth costs memory and no C stack.

    Args:
        limit: Integer.

    Yields:
        Nothing.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, before))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
