"""The heads to ship as a functional model of their own, in float32.

The edges of a functional graph have no public names in Keras: `_keras_history` and `_inbound_nodes` are its own.
"""

import dataclasses
import re

import keras
import numpy as np

from dhm_keras.forking.graph import essence, is_functional
from dhm_keras.network import Network, check_class_names, classifier_input, heads_of, set_weights

# No classifier ends in one of these, and what persons are compared by does.
ENDS_OF_FEATURES = (
    *(keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Concatenate),
    *(keras.layers.BatchNormalization, keras.layers.ReLU, keras.layers.UnitNormalization),
)


@dataclasses.dataclass(frozen=True)
class Shipped:
    """What is shipped of a model.

    Attributes:
        name: String, the network's name in characters that can stand in an address.
        heads: Names of the heads whose mean is the answer; empty: the embedding is, and there is no classifier.
        model: Functional float32 model with its own variables: images to a dict of logits `(batch, classes)`, and
            `embedding` `(batch, features)` where it was asked for, or is the answer.
        takes_raw: Boolean. Whether it takes images of 0-255, and not preprocessed ones.
        preprocess: The part of `model` that normalises raw images, shares its variables; `None`: there is none.
        compute: The rest of `model`.
        class_names: Tuple of strings, or `None`.
    """

    name: str
    heads: tuple
    model: keras.Model
    takes_raw: bool
    preprocess: keras.Model | None
    compute: keras.Model
    class_names: tuple | None

    @property
    def num_classes(self):
        """Integer; `None` of an embedding."""
        return self.model.output[self.heads[0]].shape[-1] if self.heads else None


def choose(model, heads, class_names, embedding):
    """What is to be shipped of a model, before anything is copied.

    Args:
        model: `DHM`, or a functional model from images to logits, to a dict of logits by head, or to an embedding.
        heads: String or sequence of strings; `None`: the model gives an embedding.
        class_names: Sequence of strings, or `None` for the model's own.
        embedding: Boolean. Whether the input of the head's classifier is an output, too.

    Returns:
        `(network, heads, outputs, class_names)`: the functional model; a tuple of names, empty where the embedding
        alone is shipped; a dict of its symbolic tensors, the heads and the embedding; a tuple or `None`.

    Raises:
        ValueError: if an argument is not as above.
    """
    network = getattr(model, "network", model)  # of a `DHM`
    outputs = _outputs(network)
    logits = {head: outputs[head] for head in heads_of(outputs)}
    shapes = [getattr(tensor, "shape", ()) for tensor in logits.values()]
    if any(len(shape) != 2 or shape != shapes[0] or (shape[1] or 0) < 2 for shape in shapes):
        raise ValueError(
            "Invalid value for argument `model`. Expected a `DHM`, or a functional model from images to logits of "
            f"shape (batch, classes), or to a dict of them. Received: {model!r}."
        )
    if len(network.inputs) != 1:
        names = [tensor.name for tensor in network.inputs]
        raise ValueError(f"Invalid value for argument `model`. Expected one input. Received: the inputs {names}.")
    if heads is None and not isinstance(getattr(network, "output", None), dict):
        return _embedding_alone(network, logits["main"], class_names)
    if "embedding" in outputs and heads in ("main", ["main"], ("main",)):
        return _embedding_alone(network, outputs["embedding"], class_names)
    chosen = _checked_heads(heads, logits, embedding)
    chosen_logits = {head: logits[head] for head in chosen}
    features = {"embedding": _compared(outputs, chosen[0])} if embedding else {}
    for head, tensor in chosen_logits.items():
        _check_no_softmax(head, tensor)
        _check_no_features(network, tensor)
    names = class_names if class_names is not None else getattr(model, "class_names", None)
    return network, chosen, {**chosen_logits, **features}, check_class_names(names, shapes[0][1])


def _embedding_alone(network, tensor, class_names):
    """What `choose` gives where persons are compared, and not classified."""
    if len(tensor.shape) != 2 or tensor.shape[1] is None:
        raise ValueError(
            "Invalid value for argument `model`. Expected an embedding of shape (batch, features). Received: "
            f"{tuple(tensor.shape)}."
        )
    if class_names is not None:
        raise ValueError(
            "Invalid value for argument `class_names`. Expected None with a network that ships an embedding: it has no "
            f"classifier then. Received: {class_names!r}."
        )
    return network, (), {"embedding": tensor}, None


def _checked_heads(heads, logits, embedding):
    """The heads to ship, in a tuple."""
    chosen = tuple(heads) if isinstance(heads, (tuple, list)) else (heads,)
    if not chosen or any(chosen.count(head) > 1 or head not in list(logits) for head in chosen):
        raise ValueError(
            f"Invalid value for argument `heads`. Expected one or several of {sorted(logits)}, each once. Received: "
            f"{heads!r}."
        )
    if embedding and len(chosen) > 1:
        raise ValueError(
            f"Invalid value for argument `embedding`. Expected it with one head alone. Received: the heads {chosen}."
        )
    return chosen


def penultimate(model, head):
    """What persons are compared by: of main the output `embedding` of a network that has one, of another head its
    `NAME_features`, else what the head's classifier takes. The other outputs of the model can be anything.

    Args:
        model: `DHM`, or a functional model from images to logits or to a dict of which `head` has logits.
        head: String, of a model with one output `"main"`.

    Returns:
        `(network, features)`: the functional model, and the symbolic tensor `(batch, features)`.

    Raises:
        ValueError: if there is no such head, or it does not end in a Dense layer.
    """
    network = getattr(model, "network", model)  # of a `DHM`
    outputs = _outputs(network)
    if not isinstance(next(iter(outputs.values()), None), keras.KerasTensor) or len(network.inputs) != 1:
        raise ValueError(
            "Invalid value for argument `model`. Expected a `DHM`, or a functional model from images to logits or to a "
            f"dict of them. Received: {model!r}."
        )
    if head not in outputs:
        raise ValueError(f"Invalid value for argument `head`. Expected one of {sorted(outputs)}. Received: {head!r}.")
    return network, _compared(outputs, head)


def _compared(outputs, head):
    """As of `penultimate`, a symbolic tensor."""
    if head == "main" and "embedding" in outputs:
        return outputs["embedding"]
    return outputs[f"{head}_features"] if f"{head}_features" in outputs else classifier_input(outputs[head])


def takes_raw(network):
    """Whether a functional model takes images of 0-255: of uint8, or it begins by normalising, or rescaling, such.

    Args:
        network: Functional model of one input.
    """
    layers, prepared = _preprocessing(network)
    (image,) = network.inputs
    if image.dtype == "uint8" or len(image.shape) != 4 or not layers:
        return image.dtype == "uint8"
    return _brings_to_about_one(Network(image, prepared))


def shipped(network, heads, outputs, class_names):
    """What `choose` gives, cut out and copied.

    Args:
        network, heads, outputs, class_names: As `choose` gives them.

    Returns:
        `Shipped`.

    Raises:
        ValueError: if a layer cannot be made again from its config.
    """
    copy = in_float32(Network(network.inputs[0], outputs, name=network.name))
    layers, prepared = _preprocessing(copy)
    preprocess, compute, (image,) = None, copy, copy.inputs
    is_uint8, is_image = image.dtype == "uint8", len(image.shape) == 4
    if layers and is_image:
        begin = Network(image, prepared)
        if is_uint8 or _brings_to_about_one(begin):
            preprocess, compute = begin, Network(prepared, copy.output)
    takes_raw = is_image and (is_uint8 or preprocess is not None)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", network.name).strip(".") or "model"
    return Shipped(name, heads, copy, takes_raw, preprocess, compute, class_names)


def float32_logits(model, images, heads="main"):
    """What an export has to answer: the float32 evaluation of a model's weights by Keras.

    Args:
        model, heads: As `export_main` takes them.
        images: Array `(n, height, width, channels)`, as the model takes them.

    Returns:
        float32 `(n, classes)`; of several heads the logarithm of their mean probabilities; of a network that ships an
        embedding that, `(n, features)`.

    Raises:
        ValueError: if an argument is not as above.
    """
    network, heads, outputs, _ = choose(model, heads, None, embedding=False)
    logits = in_float32(Network(network.inputs[0], outputs)).predict(images, batch_size=32, verbose=0)
    if len(logits) == 1:
        return next(iter(logits.values()))
    log_probs = [z - np.logaddexp.reduce(z, axis=-1, keepdims=True) for z in logits.values()]
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(heads), dtype="float32")


def in_float32(model):
    """The same functional model and weights under the float32 policy.

    Args:
        model: Functional model.

    Returns:
        A new functional model with its own variables.

    Raises:
        ValueError: if a layer cannot be made again from its config.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for nested models, which keep no policy in their config
    try:
        classes = {type(layer) for layer in model.layers}  # for those that nobody has registered; Keras knows its own
        others = {each.__name__: each for each in classes if not each.__module__.startswith("keras.")}
        copy = Network.from_config(_in_float32(model.get_config()), custom_objects=others)
    except Exception as error:  # another's layer: it may raise anything
        raise ValueError(
            f"The network {model.name!r} cannot be copied: {essence(error)} Each layer has to be one that Keras saves "
            "and loads: with a `get_config`, and no lambda."
        ) from error
    finally:
        keras.config.set_dtype_policy(policy)
    set_weights(copy, model.get_weights())
    return copy


def _in_float32(config):
    """A config of nested dicts and lists in which every dtype policy is float32, and every input of half precision."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": "float32"}}
        if config.get("dtype") in ("float16", "bfloat16"):
            config = {**config, "dtype": "float32"}
        return {key: _in_float32(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(value) for value in config)
    return config


def _outputs(network):
    """The outputs of a functional model by name, of one output `main`; of another model none that is a tensor."""
    if not is_functional(network):
        return {"": None}
    if isinstance(network, keras.Sequential):  # has `outputs`, and no `output`, when it was built and not called
        return {"main": network.outputs[0] if network.built and network.inputs else None}
    return network.output if isinstance(network.output, dict) else {"main": network.output}


def _check_no_softmax(head, tensor):
    """Raises `ValueError` if a head gives probabilities: they would be taken for logits."""
    layer, *_ = tensor._keras_history
    is_softmax = type(layer).__name__ == "Softmax"  # the layer, or the operation of keras.ops
    if is_softmax or getattr(layer, "activation", None) is keras.activations.softmax:
        raise ValueError(
            f"Invalid value for argument `model`. Expected logits. Received: a head {head!r} that ends in a softmax. "
            "`dhm_keras.fork(model, branches=0)` is the same network with logits."
        )


def _check_no_features(network, tensor):
    """Raises `ValueError` if the one output of a model is none of a classifier; that of a dict is called logits."""
    layer, *_ = tensor._keras_history
    if isinstance(layer, ENDS_OF_FEATURES) and not isinstance(getattr(network, "output", None), dict):
        raise ValueError(
            f"Invalid value for argument `model`. Expected logits. Received: {network.name!r}, which ends in "
            f"{layer.name!r}, a {type(layer).__name__}. If it gives an embedding, pass heads=None; if logits, a model "
            "whose output is the dict {'main': logits}."
        )


def _preprocessing(model):
    """A network's first layers as long as they only rescale and normalise, and the tensor behind them."""
    layers, tensor = [], model.inputs[0]
    while True:
        after = [
            (layer, node)
            for layer in model.layers
            for node in layer._inbound_nodes
            if any(each is tensor for each in node.input_tensors)
        ]
        if len(after) != 1 or not isinstance(after[0][0], (keras.layers.Rescaling, keras.layers.Normalization)):
            return layers, tensor
        (layer, node), *_ = after
        layers, tensor = [*layers, layer], node.output_tensors[0]


def _brings_to_about_one(model):
    """Whether a network's first layers make numbers of about 1 of 0-255, and so take raw images."""
    shape = [1, *(side or 1 for side in model.inputs[0].shape[1:])]
    ends = [model(np.full(shape, value, "float32"), training=False) for value in (0, 255)]
    return float(np.max(np.abs(ends))) < 50  # of images of 0-1 they would make hundreds
