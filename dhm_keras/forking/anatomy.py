"""A model taken apart: where its resolution ends, its classifier, its stages."""

import dataclasses

import keras

from dhm_keras.forking.blocks import Stage, stages_of
from dhm_keras.forking.graph import Call, Graph, is_functional, tensors, trace
from dhm_keras.forking.scaling import has_width
from dhm_keras.forking.units import Unit, units_of

BEHIND_CLASSIFIER = ("Reshape", "Flatten", "Activation", "Identity", "Dropout", "Squeeze")
POOLED_CLASSIFIER = ("ReLU", "GlobalAveragePooling2D", "GlobalMaxPooling2D")  # between a convolution and a softmax


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The parts of a CNN.

    Args:
        graph: `Graph` of the model.
        units: `Unit`s from the image to the last tensor that has a resolution.
        head: `Unit`s behind these up to the logits, or to the features of a model without a classifier.
        stages: `Stage`s of `units`.
        logits: Symbolic tensor: the logits, or the features.
        classifier: `Call` of the layer that gives the logits, `None` of a model that ends in features.
    """

    graph: Graph
    units: list[Unit]
    head: list[Unit]
    stages: list[Stage]
    logits: keras.KerasTensor
    classifier: Call | None


def anatomy_of(model):
    """Takes a model apart.

    Raises:
        ValueError: if it is not a functional model from one image to logits, a softmax of them, or features; or has
            fewer than two stages.
    """
    _check(model)
    graph = trace(model)
    for call in graph.calls:
        if getattr(call.operation, "data_format", None) == "channels_first":
            raise ValueError(
                "Invalid value for argument `model`. Expected channels last; build the model after "
                "keras.config.set_image_data_format('channels_last'). Received: the layer "
                f"{call.name!r} with data_format='channels_first'."
            )
    made_by = {id(x): call for call in graph.calls for x in call.outputs}
    logits, classifier = _ending(tensors(graph.output)[0], made_by)
    units, head = units_of(dataclasses.replace(graph, output=logits))
    stages = stages_of(units)
    if len(stages) < 2:
        raise ValueError(
            f"Invalid value for argument `model`. The model {model.name!r} has no stages to fork between: a stage ends "
            "where a single tensor leads on and the resolution is halved after it, with convolutions on both sides. "
            f"Found: {stages}."
        )
    return Anatomy(graph, units, head, stages, logits, classifier)


def _check(model):
    if not is_functional(model) or (isinstance(model, keras.Sequential) and not model.built):
        raise ValueError(
            "Invalid value for argument `model`. Expected a functional Keras model, keras.Model(inputs, outputs), or a "
            f"keras.Sequential with an Input, whose graph can be read. Received: {model!r}."
        )
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise ValueError(
            "Invalid value for argument `model`. Expected one input, images (batch, height, width, channels). "
            f"Received: {[tuple(tensor.shape) for tensor in model.inputs]}."
        )
    if len(model.outputs) != 1:
        raise ValueError(
            "Invalid value for argument `model`. Expected one output; give keras.Model(model.input, one of them). "
            f"Received the outputs {list(model.output) if isinstance(model.output, dict) else model.output_names}."
        )


def _ending(output, made_by):
    """The logits and the call of the classifier, `None` where there are features; a softmax is passed over."""
    passed = BEHIND_CLASSIFIER
    call = made_by.get(id(output))
    if call and (call.kind == "Softmax" or (call.kind == "Activation" and _activation(call) == "softmax")):
        output = call.inputs[0]
        call = made_by.get(id(output))
        passed += POOLED_CLASSIFIER
    logits = output
    while call and call.kind in passed and (_activation(call) == "linear" or passed != BEHIND_CLASSIFIER):
        call = made_by.get(id(call.inputs[0]))
    is_classifier = call and has_width(call) and len(logits.shape) == 2 and _activation(call) in ("linear", "softmax")
    return logits, call if is_classifier else None


def _activation(call):
    """Name of a layer's activation, `"softmax"` also of TensorFlow's and of a layer."""
    activation = getattr(call.operation, "activation", None) or keras.activations.linear
    name = getattr(activation, "__name__", type(activation).__name__)
    return "softmax" if name in ("softmax_v2", "Softmax") else name
