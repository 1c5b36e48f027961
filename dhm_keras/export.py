"""The main head as a SavedModel for TensorFlow Serving."""

import os
import pathlib
import shutil

import keras
import numpy as np

from dhm_keras.network import Network, set_weights


def export_main(model, directory):
    """Writes the main head as the next version in `directory`.

    The signature `serving_default` takes `images` and gives `logits`, float32 `(batch, classes)`, equal to the float32
    evaluation of the weights whatever the training precision. A network that begins with normalization, or with a
    rescaling from 0-255, takes raw images, uint8 `(batch, height, width, channels)`, any other float32 images as it was
    trained on. No variable of a branch is in it, each variable once. The folder appears when it is complete.

    Example:

    ```python
    path = dhm_keras.export.export_main(model, "serving/resnet32")  # serving/resnet32/1
    logits = tf.saved_model.load(path).signatures["serving_default"](images=images)["logits"]
    ```

    Args:
        model: A `DHM`.
        directory: Path of the folder of versions; made if need be.

    Returns:
        Path of the new version, a string.

    Raises:
        ValueError: if the backend is not TensorFlow, `model` is no `DHM` of one input, or `directory` is not a local
            path.
        OSError: if the folder cannot be written; versions already there stay as they are.
    """
    check_backend()
    if not isinstance(getattr(model, "main", None), keras.Model):
        raise ValueError(f"Invalid value for argument `model`. Expected a `DHM`. Received: {model!r}.")
    import tensorflow as tf

    if len(model.main.inputs) != 1:
        names = [tensor.name for tensor in model.main.inputs]
        raise ValueError(f"Invalid value for argument `model`. Expected one input. Received: the inputs {names}.")

    directory = prepare(directory)
    main = float32_copy(model.main)
    shape = main.inputs[0].shape
    takes_raw = len(shape) == 4 and any(map(_is_of_raw_images, main.layers[:2]))
    spec = tf.TensorSpec(shape, tf.uint8 if takes_raw else tf.float32, name="images")

    @tf.function(input_signature=[spec])
    def serve(images):
        return {"logits": main(tf.cast(images, tf.float32), training=False)}

    module = tf.Module()
    module.variables_of_main = [variable.value for variable in main.variables]

    versions = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
    version = directory / str(max(versions, default=0) + 1)
    partial = directory / f".{version.name}.partial"  # no integer: a watching server does not look at it
    shutil.rmtree(partial, ignore_errors=True)
    try:
        tf.saved_model.save(module, str(partial), signatures={"serving_default": serve})
        os.replace(partial, version)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "message", None) or getattr(error, "strerror", None) or error
        raise OSError(
            f"{version} cannot be written ({reason}). The versions there are kept. Make room, or make the folder "
            "writable, and export again."
        ) from error
    return str(version)


def _is_of_raw_images(layer):
    """Whether a layer normalises images of 0-255, or takes them to a range of about 1."""
    if isinstance(layer, keras.layers.Rescaling):
        return np.max(layer.scale) < 0.1
    is_of_integers = isinstance(layer, keras.layers.InputLayer) and layer.dtype == "uint8"
    return is_of_integers or isinstance(layer, keras.layers.Normalization)


def float32_copy(main):
    """The same functional model and weights under the float32 policy.

    Args:
        main: Functional model.

    Returns:
        A new functional model with its own variables.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")  # for nested models, which keep no policy in their config
    try:
        copy = Network.from_config(_in_float32(main.get_config()))
    finally:
        keras.config.set_dtype_policy(policy)
    set_weights(copy, main.get_weights())
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


def prepare(directory):
    """Makes the folder of versions if need be.

    Args:
        directory: Path.

    Returns:
        `pathlib.Path`.

    Raises:
        ValueError: if it is an address and not a local path.
        OSError: if it cannot be made or written.
    """
    if "://" in str(directory):
        raise ValueError(f"Invalid value for argument `directory`. Expected a local path. Received: {directory!r}.")
    directory = pathlib.Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise OSError(f"The folder {directory} cannot be written. Make it writable, or choose another.")
    return directory


def check_backend():
    """Raises `ValueError` if the backend cannot write a SavedModel."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"A SavedModel is written by TensorFlow, and the Keras backend is {keras.backend.backend()!r}. Save the "
            "model (.keras), set KERAS_BACKEND=tensorflow, load it and export it there."
        )
