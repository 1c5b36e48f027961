"""Copies of a model's own layers, wider or narrower."""

import keras

OUTPUT_WIDTHS = ("filters", "units", "channels", "output_filters", "output_channels", "out_channels")
INPUT_WIDTHS = ("projection_dim", "input_filters", "input_channels", "in_channels")


def copy_of(call, config, changes):
    """A new operation of a call's class.

    Args:
        call: `Call`.
        config: Dict for the class's `from_config`.
        changes: Dict of entries that replace those of the config, where it has them: some operations have no name.

    Raises:
        ValueError: if that fails.
    """
    try:
        return type(call.operation).from_config({key: changes.get(key, value) for key, value in config.items()})
    except Exception as error:  # another's code: it may raise anything
        cause = str(error).strip().splitlines()[-1].removeprefix("Exception encountered: ")
        raise ValueError(
            f"The layer {call.name!r} ({call.kind}) cannot be made from its config: {cause} Give its class a "
            "`get_config` with every argument of its constructor; write a Lambda as a layer of its own."
        ) from error


def scaled(call, factor, channels, changes):
    """A new layer like a call's, for `channels` of input, with `factor` times its own width.

    Convolutions and dense layers have `factor` times the filters or units; a depthwise convolution has as many as its
    input, a grouped one keeps its number of groups. The layer is trainable and initialised anew.

    Args:
        call: `Call` of the layer, whose input has the original number of channels.
        factor: Float, of the widths.
        channels: Integer, of the new layer's input.
        changes: As in `copy_of`, such as the name.

    Raises:
        ValueError: if the layer cannot have that width.
    """
    config = _without_seeds(call.config)
    before = call.inputs[0].shape[-1]
    times = lambda width: max(1, round(width * factor))
    groups = config.get("groups", 1)
    if groups == before > 1:  # of a depthwise convolution, or of a normalization of each channel
        config["groups"] = channels
        times = lambda width: width * channels // before
    elif groups > 1 and (channels % groups or times(config.get("filters", groups)) % groups):
        raise ValueError(
            f"it has {groups} groups, which do not divide {channels} channels of input and "
            f"{times(config.get('filters', groups))} of output"
        )
    for key in OUTPUT_WIDTHS:
        if isinstance(config.get(key), int):
            config[key] = times(config[key])
    for key in INPUT_WIDTHS:
        if config.get(key) == before:
            config[key] = channels
    if isinstance(call.operation, keras.layers.Reshape) and config["target_shape"][-1] == before:
        config["target_shape"] = (*config["target_shape"][:-1], channels)
    return copy_of(call, config, {**changes, "trainable": True})


def has_width(call):
    """Whether a layer decides how many channels its output has, whatever its input."""
    return any(isinstance(getattr(call.operation, key, None), int) for key in OUTPUT_WIDTHS)


def _without_seeds(config):
    """A config whose layers and initializers draw anew: a branch must not begin with the backbone's own draws."""
    if isinstance(config, dict):
        return {key: None if key == "seed" else _without_seeds(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_without_seeds(value) for value in config)
    return config
