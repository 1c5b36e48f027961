"""Weights from PyTorch into a network, and back."""

import keras
import numpy as np

from dhm_keras.interop import files, names
from dhm_keras.interop.fit import fitting


def load_torch(model, source, heads=None, classifier=True):
    """Loads the weights of a PyTorch checkpoint into a network of `dhm_keras.models`.

    For checkpoints of the authors' release, CIFAR or ImageNet; torchvision's ResNet-18 to 152, which have the names of
    the release's main branch; and torchreid's OSNets, for ImageNet or persons. Everything is checked first: names,
    shapes, and that the numbers are finite; nothing is loaded unless all fits. Entries `num_batches_tracked`, the
    prefix `module.`, and what a checkpoint holds besides `"state_dict"` are passed over. A file is read without running
    what it holds; see docs/checkpoints.md.

    Example: torchvision's ResNet-50, and torchreid's OSNet, as the start of a training with branches.

    ```python
    network = dhm_keras.models.resnet50(num_classes=751, input_shape=(256, 128, 3))
    dhm_keras.interop.load_torch(network, "resnet50-11ad3fa6.pth", heads=("main",), classifier=False)
    network = dhm_keras.models.osnet_x1_0(num_classes=751)
    dhm_keras.interop.load_torch(network, "osnet_x1_0_imagenet.pth", heads=("main",), classifier=False)
    ```

    Args:
        model: Network of `dhm_keras.models` or the `main` of one, or a `DHM`.
        source: Path of a `.pth`, `.pt`, `.pth.tar`, `.safetensors` or `.npz` file; or a state dict, from name to
            tensor or array, in PyTorch's layout.
        heads: Names of the heads to load, as `("main",)`; the others keep their weights, and the source may have more.
            Defaults to all that the model has, and the source has to have the same.
        classifier: Boolean. `False`: the last layer of each head keeps its weights, and the source may have any, or
            none. Defaults to `True`.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if PyTorch or safetensors is needed and missing, or PyTorch is older than 2.10, whose reader of
            weights can be led to run code.
        ValueError: if the weights do not fit; the message has the missing, unexpected and misshapen names. If the
            source is not as above. If the model has layers that the release has no name for.
    """
    network, weights = _weights(model)
    of_model = names.in_order(set(map(names.head_of, weights)))
    if isinstance(network.output, dict) and set(of_model) != set(network.output):
        raise ValueError(
            f"Invalid value for argument `model`. {network.name!r} is a branch by itself, of dhm_keras.models.alone. "
            "Load the weights into the network that it was taken from, with which it shares them."
        )
    heads = _checked_heads(heads, of_model)
    found = files.read(source)
    values = fitting(found, weights, heads, classifier, f"{files.title(source)} does not fit {network.name!r}")
    for name, value in values.items():
        weights[name].variable.assign(value)


def to_torch(model):
    """The weights of a network under PyTorch's names, in PyTorch's layout.

    With the names, shapes and order of the authors' release, of a ResNet's main also torchvision's, of an OSNet's main
    torchreid's, so that a strict `load_state_dict` takes them:
    `{name: torch.from_numpy(array) for name, array in to_torch(model.main).items()}`. A first layer that normalises raw
    images has no counterpart there: PyTorch's network takes normalised images.

    Args:
        model: Network of `dhm_keras.models`, or a `DHM`, for all its heads; the `main` of one for main alone.

    Returns:
        Dict from name to NumPy array, float32 (float64 of a float64 network), kernels OIHW, dense ones (out, in);
        `num_batches_tracked` is 0, int64.

    Raises:
        ValueError: if the model has layers that the release has no name for.
    """
    arrays = {}
    for name, weight in _weights(model)[1].items():
        array = keras.ops.convert_to_numpy(weight.variable.value)
        arrays[name] = weight.to_torch(array.astype("float32") if array.dtype.itemsize < 4 else array)
        if name.endswith(".running_var"):
            arrays[name.replace("running_var", "num_batches_tracked")] = np.zeros((), "int64")
    return arrays


def save_torch(model, path):
    """Writes the weights of a network as a state dict for PyTorch, into a file that is there whole or not at all.

    Example:

    ```python
    dhm_keras.interop.save_torch(model.main, "resnet50.safetensors")
    ```

    In PyTorch: `net.load_state_dict(safetensors.torch.load_file("resnet50.safetensors"))`.

    Args:
        model: As of `to_torch`.
        path: Path that ends in `.safetensors`, `.npz`, or, with PyTorch installed, `.pth`, `.pt` or `.tar`.

    Raises:
        ImportError: if PyTorch or safetensors is needed and missing, or too old.
        OSError: if it cannot be written; a file of that name stays as it was.
        ValueError: if the model has layers that the release has no name for, or on another suffix.
    """
    files.write(path, to_torch(model))


def _weights(model):
    """The network that a `DHM` trains, or the model itself, and its weights by PyTorch's names."""
    network = getattr(model, "network", model)
    if not isinstance(network, keras.Model):
        raise ValueError(
            "Invalid value for argument `model`. Expected a network of dhm_keras.models, or a `DHM`. Received: "
            f"{model!r}."
        )
    return network, names.weights(network)


def _checked_heads(heads, of_model):
    """Those asked for, in a tuple, or `None`."""
    if heads is None:
        return None
    if not isinstance(heads, (tuple, list)) or not heads or not all(head in of_model for head in heads):
        raise ValueError(f"Invalid value for argument `heads`. Expected some of {of_model}. Received: {heads!r}.")
    return tuple(heads)
