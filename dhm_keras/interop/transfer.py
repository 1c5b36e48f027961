"""Weights of a training of this library into another network, by the names of the layers."""

import os
import pathlib

import keras
import numpy as np

from dhm_keras.interop.names import abbreviated
from dhm_keras.network import classifiers


def transfer(model, source, without=()):
    """Loads the weights of another network of this library, layer by layer, as the start of another training.

    Both have to have the same layers, by name and shapes, except for what is left out: the parts that `without` names,
    and classifiers of other classes, or that only one of both has. So nothing stays random that was not named.
    Everything is checked first; nothing is loaded unless all fits. Layers that normalise raw images are left as they
    are, and so is the state of optimizers.

    Example: a network for persons that starts from ImageNet's weights; its local neck and its branches are new.

    ```python
    network = dhm_keras.models.cdnet(num_classes=751)
    new = dhm_keras.interop.transfer(network, "imagenet.keras", without=("main_local", "aux1", "aux2"))
    ```

    Args:
        model: Functional model, or a `DHM`.
        source: The same, or the path of a `.keras` file of one.
        without: Names of parts of either or both, as `("main_local", "aux1")`: the layers of that name, and those whose
            names begin with it and `_`. The model's keep their weights. Defaults to `()`.

    Returns:
        Tuple of the names of the model's layers that kept their weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the layers do not fit; the message has the missing, unexpected and misshapen names. If an
            argument is not as above.
    """
    network, other = _network(model, "model"), _network(_read(source), "source")
    has, given = _layers(network), _layers(other)
    without = _checked(without, [*has, *given])
    is_left_out = lambda name: any(name == part or name.startswith(f"{part}_") for part in without)
    last = {layer.name for each in (network, other) for layer in _classifiers(each)}
    kept = [name for name in has if is_left_out(name) or (name in last and _is_of_others(name, has, given))]
    wanted = {name: layer for name, layer in has.items() if name not in kept}
    unexpected = [name for name in given if name not in has and not is_left_out(name) and name not in last]
    title = source if isinstance(source, (str, os.PathLike)) else repr(other.name)
    values = _fitting(wanted, given, unexpected, f"{title} does not fit {network.name!r}; nothing was loaded.")
    for name, arrays in values.items():
        for variable, array in zip(wanted[name].weights, arrays):
            variable.assign(array)
    return tuple(kept)


def _read(source):
    """The model in a `.keras` file; any other source as it is."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    path = pathlib.Path(source)
    if path.suffix != ".keras":
        raise ValueError(
            f"Invalid value for argument `source`. Expected a model, or the path of a .keras file. Received: {path}. "
            "Weights alone (.h5) do not say of which network they are: load them into it and give that."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever the file leads it to
        said = str(error).strip() or type(error).__name__
        raise ValueError(f"{path} cannot be loaded: {said.splitlines()[0]}") from error


def _network(model, argument):
    """The network that a `DHM` trains, or the model itself."""
    network = getattr(model, "network", model)
    if not isinstance(network, keras.Model) or not getattr(network, "outputs", None):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a functional model, or a `DHM`. Received: {model!r}."
        )
    return network


def _layers(network):
    """The layers with weights, by name."""
    return {
        layer.name: layer
        for layer in network.layers
        if layer.weights and not isinstance(layer, keras.layers.Normalization)
    }


def _classifiers(network):
    """The layers behind which a network has logits."""
    outputs = network.output if isinstance(network.output, dict) else {"main": network.outputs[0]}
    of_necks = ("_features", "embedding")
    return [layer for name, tensor in outputs.items() if not name.endswith(of_necks) for layer in classifiers(tensor)]


def _checked(without, names):
    """`without` as a tuple."""
    begins = lambda part: isinstance(part, str) and any(n == part or n.startswith(f"{part}_") for n in names)
    if not isinstance(without, (tuple, list)) or not all(map(begins, without)):
        raise ValueError(
            "Invalid value for argument `without`. Expected parts that one of both networks has, in a tuple, as "
            f"('main_local', 'aux1'). Received: {without!r}."
        )
    return tuple(without)


def _is_of_others(name, has, given):
    """Whether a classifier is in one of both alone, or of other numbers of classes."""
    if name not in given:
        return True
    ours, theirs = (each[name].kernel.shape for each in (has, given))
    return ours[0] == theirs[0] and ours[1] != theirs[1]


def _fitting(wanted, given, unexpected, complaint):
    """The arrays for each layer, a dict of lists, or an error that lists what does not fit."""
    shapes = lambda layer: ", ".join(f"{each.name} {tuple(each.shape)}" for each in layer.weights)
    both = {name: (shapes(given[name]), shapes(layer)) for name, layer in wanted.items() if name in given}
    fit = [name for name, (theirs, ours) in both.items() if theirs == ours]
    values = {name: [keras.ops.convert_to_numpy(each.value) for each in given[name].weights] for name in fit}
    is_finite = lambda array: np.isfinite(array.astype("float32")).all()
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": unexpected,
        "misshapen": [f"{name} with {both[name][0]} instead of {both[name][1]}" for name in both if name not in fit],
        "not finite": [name for name, arrays in values.items() if not all(map(is_finite, arrays))],
    }
    if any(problems.values()):
        lists = [f"{kind} ({len(each)}): {abbreviated(each)}" for kind, each in problems.items() if each]
        advice = "Parts that are to be left out are named by `without`, as without=('main_local', 'aux1')."
        raise ValueError("\n  ".join([complaint, *lists, advice]))
    return values
