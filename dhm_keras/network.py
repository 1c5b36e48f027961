"""The functional model that every builder returns."""

import contextlib
import sys

import keras

PASSING = (keras.layers.Activation, keras.layers.Dropout, keras.layers.Identity)  # logits are logits behind them, too


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


def head_of(name, names):
    """The head that an output of a network belongs to.

    A head has logits under its own name. `NAME_local` are the logits of a second classifier of the same branch,
    `NAME_features` and `NAME_local_features` what a triplet loss acts on. `embedding` is of no head: what is shipped.

    Args:
        name: String, as `"main_local"`.
        names: Names of all the outputs.

    Returns:
        String, as `"main"`; `None` for the embedding.
    """
    if name == "embedding":
        return None
    head = name.removesuffix("_features").removesuffix("_local")
    return head if head in names else name


def heads_of(names):
    """Those of a network's outputs that are heads, a list.

    Args:
        names: Names of all the outputs.
    """
    return [name for name in names if head_of(name, names) == name]


def classifier_input(logits):
    """What the dense layer behind some logits takes, a symbolic tensor `(batch, features)`.

    The edges of a functional graph have no public names in Keras: `_keras_history` and `_inbound_nodes` are its own.

    Args:
        logits: Symbolic tensor.

    Raises:
        ValueError: if they are not of a dense layer.
    """
    layer, node, _ = logits._keras_history
    while isinstance(layer, PASSING):
        layer, node, _ = layer._inbound_nodes[node].input_tensors[0]._keras_history
    if not isinstance(layer, keras.layers.Dense):
        raise ValueError(
            "There is no embedding. Expected a head that ends in a Dense layer. Received: one that ends in "
            f"{layer.name!r}, a {type(layer).__name__}."
        )
    return layer._inbound_nodes[node].input_tensors[0]


def before_normalization(features):
    """What a normalization made some features of, as in a `bn_neck`, a symbolic tensor; `None` if it is of none.

    Args:
        features: Symbolic tensor `(batch, d)`.
    """
    layer, node, _ = features._keras_history
    return layer._inbound_nodes[node].input_tensors[0] if isinstance(layer, keras.layers.BatchNormalization) else None


def classifiers(logits):
    """The dense layers whose sum, or one of which, is some logits: a list, empty if they are of no dense layer.

    Args:
        logits: Symbolic tensor.
    """
    layer, node, _ = logits._keras_history
    if isinstance(layer, keras.layers.Dense):
        return [layer]
    if not isinstance(layer, (*PASSING, keras.layers.Add)):
        return []
    return [each for tensor in layer._inbound_nodes[node].input_tensors for each in classifiers(tensor)]


def checked_heads(network):
    """The names of the heads of a network as `DHM` needs it, a list.

    Args:
        network: What should be one.

    Raises:
        ValueError: if it is not.
    """
    outputs = getattr(network, "output", None)
    if not isinstance(network, keras.Model) or not isinstance(outputs, dict) or "main" not in outputs:
        raise ValueError(
            "Invalid value for argument `network`. Expected a functional Keras model whose output is a dict of logits "
            f"with the key 'main', such as dhm_keras.models.resnet32(). Received: {network!r} with the output "
            f"{outputs!r}."
        )
    of_necks = ("_features", "embedding")
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in outputs.items()
        if head_of(name, outputs) == name or not name.endswith(of_necks)
    }
    if any(len(shape) != 2 or shape != shapes["main"] for shape in shapes.values()):
        raise ValueError(
            "Invalid value for argument `network`. Expected logits of one shape (batch, classes) from every head. "
            f"Received: {shapes}."
        )
    if (shapes["main"][1] or 0) < 2:
        raise ValueError(
            "Invalid value for argument `network`. Expected logits of at least two classes; a yes-or-no question has "
            f"two. Received: {shapes}."
        )
    return heads_of(outputs)


def with_features(network, heads):
    """The network, which gives the features of each head, too, that a triplet loss acts on.

    Where it does not, they are what the head's classifier takes; behind a `bn_neck`, what is before its normalization.

    Args:
        network: Functional model with a dict of outputs.
        heads: Names of its heads.

    Returns:
        Functional model that shares the layers; the network itself, if it gives them.

    Raises:
        ValueError: if a head without features does not end in a Dense layer.
    """
    outputs, features = network.output, {}
    for head in (head for head in heads if f"{head}_features" not in outputs):
        taken = classifier_input(outputs[head])
        before = before_normalization(taken)
        features[f"{head}_features"] = taken if before is None else before
    return Network(network.input, {**outputs, **features}, name=network.name) if features else network


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
