"""Copies of a model's own layers, wider or narrower."""

import fractions
import inspect
import math

import keras

OUTPUT_WIDTHS = ("filters", "units", "channels", "output_filters", "output_channels", "out_channels")
INPUT_WIDTHS = ("projection_dim", "input_filters", "input_channels", "in_channels")
SHAPES = ("target_shape", "newshape")  # of a reshape


def copy_of(call, config, changes):
    """A new operation of a call's class.

    Args:
        call: `Call`.
        config: Dict for the class's `from_config`.
        changes: Dict of entries that replace those of the config, where it has them, with the name at least.
    """
    copy = type(call.operation).from_config({key: changes.get(key, value) for key, value in config.items()})
    if "name" not in config:  # as in some operations of older versions of Keras
        copy.name = changes["name"]
    activation = getattr(call.operation, "activation", None)
    if "activation" not in changes and inspect.isfunction(activation):
        copy.activation = activation  # a config has its name only, which could be another's, too
    return copy


def scaled(call, factor, given, changes):
    """A new layer like a call's, for another input, with `factor` times its own width.

    Convolutions and dense layers have `factor` times the filters or units; a depthwise convolution has as many as its
    input, a grouped one keeps its number of groups. The layer is trainable and initialised anew.

    Args:
        call: `Call` of the layer, whose input has the original number of channels.
        factor: Float, of the widths.
        given: Symbolic tensor, the new layer's first input.
        changes: As in `copy_of`, such as the name.

    Raises:
        ValueError: if the layer cannot have that width.
    """
    config = _without_seeds(call.config)
    of_layer = config
    if _is_wrapper(call.operation):
        config["layer"].pop("build_config", None)  # of the width before
        of_layer = config["layer"]["config"]
    before = call.inputs[0]
    _widen(of_layer, factor, before.shape[-1], given.shape[-1])
    for key in SHAPES:
        if isinstance(config.get(key), (tuple, list)):
            config[key] = _reshaped(config[key], ratio(given, before))
    return copy_of(call, config, {**changes, "trainable": True})


def _widen(config, factor, before, channels):
    """Changes a layer's config from `before` channels of input to `channels`, and its width by the factor."""
    times = lambda width: max(1, round(width * factor)) if width > 1 else width  # one channel: a gate
    groups = config.get("groups", 1)
    if groups == before > 1:  # of a depthwise convolution, or of a normalization of each channel
        config["groups"] = channels
        times = lambda width: width * channels // before
    elif groups > 1 and (channels % groups or times(config.get("filters", 0)) % groups):
        of_output = f" and {times(config['filters'])} of output" if "filters" in config else ""
        raise ValueError(f"its {groups} groups do not divide {channels} channels of input{of_output}")
    for key in OUTPUT_WIDTHS:
        if isinstance(config.get(key), int):
            config[key] = times(config[key])
    for key in INPUT_WIDTHS:
        if config.get(key) == before:
            config[key] = channels


def _reshaped(shape, times):
    """A reshape's target for so many times the numbers; the last size that is not 1 has channels."""
    at = max((i for i, size in enumerate(shape) if size != 1), default=0)
    if shape[at] < 1 or times.numerator * shape[at] % times.denominator:
        return shape
    return (*shape[:at], int(times * shape[at]), *shape[at + 1 :])


def ratio(tensor, before):
    """How many times as many numbers an example of a symbolic tensor has as that of another: a `Fraction`."""
    pairs = zip(tensor.shape[1:], before.shape[1:])
    return math.prod(fractions.Fraction(now, then) for now, then in pairs if now is not None)


def has_width(call):
    """Whether a layer decides how many channels its output has, whatever its input, and can be widened."""
    layer = call.operation.layer if _is_wrapper(call.operation) else call.operation
    return any(isinstance(getattr(layer, key, None), int) for key in OUTPUT_WIDTHS)


def _is_wrapper(operation):
    return isinstance(operation, keras.layers.Wrapper)


def _without_seeds(config):
    """A config whose layers and initializers draw anew: a branch must not begin with the backbone's own draws."""
    if isinstance(config, dict):
        return {key: None if key == "seed" else _without_seeds(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_without_seeds(value) for value in config)
    return config
