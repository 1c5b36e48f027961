"""Where a network looks: activation maps of its last convolutions."""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from dhm_keras.analysis.agreement import compiled, replay
from dhm_keras.forking.graph import is_functional, trace

BATCH = 32  # images at a time


def activation_maps(model, images, layer=None):
    """How strongly a network responds to each place of some images.

    Of a map of features, by default the last of main, which its global pooling takes, the squares of the channels are
    summed up at each place. The sums are brought to the image's size, bilinear, and to [0, 1], image by image: a map
    tells where the network looks, not how strongly it responds to one image more than to another. So does torchreid,
    after Zagoruyko and Komodakis, "Paying More Attention to Attention" (2017); what it divides by before, the length of
    the map, makes no difference.

    Example: Figure 6 of the OSNet paper

    ```python
    maps = {name: dhm_keras.analysis.activation_maps(model, images) for name, model in models.items()}
    dhm_keras.analysis.plot_activations(images, maps, "activations.png")
    ```

    Args:
        model: `DHM`, or a functional model or `keras.Sequential` of one input, and of one output or a dict of which
            one is `"main"`. Models within it are opened.
        images: Array `(n, height, width, channels)`, as the model takes them.
        layer: String. Name of a layer whose output is taken instead, its last if it is called several times. Defaults
            to `None`: what main's classifier is computed from, the last map larger than 1x1; of several the deepest.

    Returns:
        float32 `(n, height, width)` in [0, 1]; zeros where the response is the same everywhere.

    Raises:
        ValueError: if the model is none of these or has no map, if the images do not fit it, or the layer is not
            there or gives no map `(batch, height, width, channels)`.
    """
    network = getattr(model, "network", model)  # of a `DHM`
    graph, images = _graph(network), np.asarray(images)
    expected = tuple(network.inputs[0].shape[1:])
    if images.ndim != 4 or not len(images) or any(n not in (None, m) for n, m in zip(expected, images.shape[1:])):
        raise ValueError(
            f"Invalid value for argument `images`. Expected the shape (n, {', '.join(map(str, expected))}), n > 0. "
            f"Received: {images.shape}."
        )
    at = _last_map(graph) if layer is None else _map_of(graph, layer)
    compute = compiled(network, functools.partial(_sums, graph, graph.leading_to([at]), at))
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    sums = np.concatenate([ops.convert_to_numpy(compute(batch)) for batch in batches])
    lowest, highest = (bound(sums, axis=(1, 2), keepdims=True) for bound in (np.min, np.max))
    return np.where(highest > lowest, (sums - lowest) / np.where(highest > lowest, highest - lowest, 1), 0)


def _graph(network):
    """The graph of a functional model; its output is main's."""
    if not is_functional(network) or not network.built or len(network.inputs) != 1:
        raise ValueError(
            "Invalid value for argument `model`. Expected a DHM, a functional model or a built keras.Sequential, of "
            f"one input. Received: {network!r}."
        )
    graph = trace(network)
    output = graph.output["main"] if isinstance(graph.output, dict) and "main" in graph.output else graph.output
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            "Invalid value for argument `model`. Expected one output, or a dict of which one is 'main'. Received: "
            f"{network!r} with the outputs {network.output_names}."
        )
    if any(getattr(call.operation, "data_format", None) == "channels_first" for call in graph.calls):
        raise ValueError(f"Invalid value for argument `model`. Expected channels last. Received: {network!r}.")
    return dataclasses.replace(graph, output=output)


def _is_map(tensor):
    return len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1)


def _last_map(graph):
    """The map that the output is computed from without another map between them; the deepest of several."""
    made_by = {id(x): call for call in graph.calls for x in call.outputs}
    found, ends, seen = [], [graph.output], set()
    while ends:
        end = ends.pop()
        if id(end) in seen:
            continue
        seen.add(id(end))
        if _is_map(end):
            found.append(end)
        elif id(end) in made_by:
            ends += made_by[id(end)].inputs
    found = [x for x in found if x is not graph.image]
    if not found:
        raise ValueError(
            "Invalid value for argument `model`. Expected one with maps (batch, height, width, channels), larger than "
            "1x1, that its output is computed from. Received: one without."
        )
    return max(found, key=lambda x: len(graph.leading_to([x])))


def _map_of(graph, layer):
    """The output of a layer."""
    calls = [call for call in graph.calls if call.name == layer]
    if not calls or not _is_map(calls[-1].output):
        names = list(dict.fromkeys(call.name for call in graph.calls if _is_map(call.output)))
        raise ValueError(
            "Invalid value for argument `layer`. Expected the name of one that gives a map (batch, height, width, "
            f"channels), the last of them {names[-3:]}. Received: {layer!r}"
            + (f", which gives {tuple(calls[-1].output.shape)}." if calls else ".")
        )
    return calls[-1].output


def _sums(graph, calls, at, images):
    """The sums of the squares of the channels at the images' size, `(n, height, width)`."""
    given = {id(graph.image): ops.cast(images, graph.image.dtype)}
    features = ops.cast(replay(calls, given, training=False)[id(at)], "float32")
    sums = ops.sum(ops.square(features), axis=-1, keepdims=True)
    size = tuple(images.shape[1:3])
    return ops.image.resize(sums, size, interpolation="bilinear", data_format="channels_last")[..., 0]
