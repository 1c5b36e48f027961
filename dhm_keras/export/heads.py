"""The heads to ship as a functional model of their own, in float32.

The edges of a functional graph have no public names in Keras: `_keras_history` and `_inbound_nodes` are its own.
"""

import dataclasses
import re

import keras
import numpy as np

from dhm_keras.forking.graph import is_functional
from dhm_keras.network import Network, check_class_names, set_weights


@dataclasses.dataclass(frozen=True)
class Shipped:
    """What is shipped of a model.

    Attributes:
        name: String, the network's name in characters that can stand in an address.
        heads: Names of the heads whose mean is the answer.
        model: Functional float32 model with its own variables: images to a dict of logits `(batch, classes)`, and
            `embedding` `(batch, features)` where it was asked for.
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
        return self.model.output[self.heads[0]].shape[-1]


def choose(model, heads, class_names, embedding):
    """What is to be shipped of a model, before anything is copied.

    Args:
        model: `DHM`, or a functional model from images to logits or to a dict of logits by head.
        heads: String or sequence of strings.
        class_names: Sequence of strings, or `None` for the model's own.
        embedding: Boolean. Whether the input of the head's classifier is an output, too.

    Returns:
        `(network, outputs, class_names)`: the functional model; a dict of its symbolic tensors, the heads in their
        order; a tuple or `None`.

    Raises:
        ValueError: if an argument is not as above.
    """
    network = getattr(model, "network", model)  # of a `DHM`
    outputs = network.output if is_functional(network) else None
    logits = outputs if isinstance(outputs, dict) else {"main": outputs}
    shapes = [getattr(tensor, "shape", ()) for tensor in logits.values()]
    if any(len(shape) != 2 or (shape[1] or 0) < 2 for shape in shapes):
        raise ValueError(
            "Invalid value for argument `model`. Expected a `DHM`, or a functional model from images to logits of "
            f"shape (batch, classes), or to a dict of them. Received: {model!r}."
        )
    if len(network.inputs) != 1:
        names = [tensor.name for tensor in network.inputs]
        raise ValueError(f"Invalid value for argument `model`. Expected one input. Received: the inputs {names}.")
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    if not heads or len(set(heads)) < len(heads) or not set(heads) <= logits.keys():
        raise ValueError(
            f"Invalid value for argument `heads`. Expected one or several of {sorted(logits)}, each once. Received: "
            f"{heads}."
        )
    if embedding and len(heads) > 1:
        raise ValueError(
            f"Invalid value for argument `embedding`. Expected it with one head alone. Received: the heads {heads}."
        )
    names = class_names if class_names is not None else getattr(model, "class_names", None)
    outputs = {head: logits[head] for head in heads}
    if embedding:
        outputs["embedding"] = _features(logits[heads[0]])
    return network, outputs, check_class_names(names, logits[heads[0]].shape[-1])


def shipped(network, outputs, class_names):
    """What `choose` gives, cut out and copied.

    Args:
        network, outputs, class_names: As `choose` gives them.

    Returns:
        `Shipped`.
    """
    copy = in_float32(Network(network.inputs[0], outputs, name=network.name))
    layers, prepared = _preprocessing(copy)
    takes_raw = _takes_raw_images(copy, layers)
    preprocess, compute = None, copy
    if takes_raw and layers:
        preprocess, compute = Network(copy.inputs[0], prepared), Network(prepared, copy.output)
    heads = tuple(name for name in outputs if name != "embedding")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", network.name).strip(".") or "model"
    return Shipped(name, heads, copy, takes_raw, preprocess, compute, class_names)


def float32_logits(model, images, heads="main"):
    """What an export has to answer: the float32 evaluation of a model's weights by Keras.

    Args:
        model, heads: As `export_main` takes them.
        images: Array `(n, height, width, channels)`, as the model takes them.

    Returns:
        float32 `(n, classes)`; of several heads the logarithm of their mean probabilities.

    Raises:
        ValueError: if an argument is not as above.
    """
    network, outputs, _ = choose(model, heads, None, embedding=False)
    part = in_float32(Network(network.inputs[0], outputs))
    logits = part.predict(images, batch_size=256, verbose=0)
    if len(logits) == 1:
        return logits.popitem()[1]
    log_probs = [z - np.logaddexp.reduce(z, axis=-1, keepdims=True) for z in logits.values()]
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs), dtype="float32")


def in_float32(model):
    """The same functional model and weights under the float32 policy.

    Args:
        model: Functional model.

    Returns:
        A new functional model with its own variables.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for nested models, which keep no policy in their config
    try:
        copy = Network.from_config(_in_float32(model.get_config()))
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


def _features(logits):
    """What the dense layer behind some logits takes, a symbolic tensor."""
    layer, node, _ = logits._keras_history
    while not isinstance(layer, keras.layers.Dense):
        inputs = layer._inbound_nodes[node].input_tensors
        if len(inputs) != 1:
            raise ValueError(
                "Invalid value for argument `embedding`. Expected a head that ends in a Dense layer. Received: one "
                f"that ends in {layer.name!r}, a {type(layer).__name__}."
            )
        layer, node, _ = inputs[0]._keras_history
    return layer._inbound_nodes[node].input_tensors[0]


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


def _takes_raw_images(model, layers):
    """Whether a network takes images of 0-255: as integers, or normalising them or bringing them to about 1."""
    normalises = [isinstance(layer, keras.layers.Normalization) or np.max(layer.scale) < 0.1 for layer in layers]
    (images,) = model.inputs  # Keras 3.10 has a list in `input`
    return len(images.shape) == 4 and (images.dtype == "uint8" or any(normalises))
