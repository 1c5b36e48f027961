"""The feature vectors that persons are compared by: of a network, and of images wherever they are."""

import os
import pathlib
import warnings

import keras
import numpy as np

from dhm_keras.data import ImageFiles, jpeg
from dhm_keras.data.batches import check_integers
from dhm_keras.data.image_reader import Ahead, threads
from dhm_keras.export.heads import penultimate, takes_raw
from dhm_keras.forking.graph import is_functional
from dhm_keras.network import Network


def embedding(model, head="main"):
    """The part of a network that gives what a head's classifier takes.

    Of a ResNet or a MobileNet that are the pooled features; behind a `bn_neck` the normalised ones.

    Example:

    ```python
    features = dhm_keras.reid.embedding(model).predict(images)
    ```

    Args:
        model: `DHM`, or a functional model from images to logits or to a dict of which `head` has logits.
        head: String. Defaults to `"main"`.

    Returns:
        Functional model from images to features `(batch, d)`; shares layers and weights with `model`.

    Raises:
        ValueError: if there is no such head, or it does not end in a Dense layer.
    """
    network, features = penultimate(model, head)
    return Network(network.input, features, name=f"{network.name}_{head}_embedding")


class Extractor:
    """Features of persons' images, from wherever they are: files, arrays, the crops of a tracker.

    Images are resized as a whole to the network's size, bilinear and antialiased, whatever their aspect ratio, as all
    evaluations of re-identification do. They are read and resized in threads while the network computes, a few batches
    ahead: memory stays bounded, however many there are.

    An extractor of a model in memory shares its weights: made once, it follows the training.

    Example:

    ```python
    extract = dhm_keras.reid.Extractor("runs/reid/dhm-0/main.keras", flip=True)
    features = extract(["a.jpg", "b.jpg"])
    features = extract(people.gallery)
    features = extract([frame[top:bottom, left:right] for top, bottom, left, right in boxes])
    ```

    Args:
        model: One of
            - a `DHM`, or a functional model that `embedding` takes;
            - the path of a `.keras` file of one;
            - the path of a version that `export_main(..., embedding=True)` wrote. It needs TensorFlow.
            The model takes images of 0-255 and has a fixed image size.
        flip: Boolean. Whether features are the mean of those of the image and of its mirror image. Defaults to
            `False`.
        batch_size: Integer > 0. Defaults to `64`.
        head: String, see `embedding`; of an exported version the one that was exported. `None`: the model gives
            features, not logits. Defaults to `"main"`.

    Attributes:
        size: (height, width) of the images that the network takes.
        dim: Integer d.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ImportError: if TensorFlow is needed and missing.
        ValueError: if an argument is not as above.
    """

    def __init__(self, model, flip=False, batch_size=64, head="main"):
        check_integers(batch_size=(batch_size, 1))
        self.flip, self.batch_size, self.head = bool(flip), batch_size, head
        of = _of_saved_model if isinstance(model, (str, os.PathLike)) and os.path.isdir(model) else _of_network
        self._compute, shape, self.dim = of(model, head)
        if len(shape) != 3 or None in shape or shape[-1] != 3 or self.dim is None:
            raise ValueError(
                "Invalid value for argument `model`. Expected one from images of a fixed size with 3 channels to "
                f"features of a fixed length. Received: one from {shape} to {self.dim}."
            )
        self.size = tuple(shape[:2])

    def __call__(self, images):
        """The features of some images.

        Args:
            images: `PersonImages` or other `ImageFiles`; a sequence of paths and uint8 arrays `(height, width, 3)` of
                any sizes; or an array, uint8 `(n, height, width, 3)`. Colours are in the order red, green, blue, as
                Pillow has them; of OpenCV's images give `[..., ::-1]`.

        Returns:
            float32 `(n, d)`.

        Raises:
            ImportError: if images have to be decoded or resized, and Pillow is not installed.
            OSError: if a file cannot be read.
            ValueError: if an image cannot be decoded, the message names it; if the images are not as above.
        """
        read = _reader(images, self.size)
        features = np.empty((len(images), self.dim), "float32")
        ahead, count = Ahead(), -(-len(images) // self.batch_size)
        make = lambda step: np.stack(list(threads().map(read, self._rows(step, len(images)))))
        for step in range(count):
            rows = self._rows(step, len(images))
            features[rows.start : rows.stop] = self._of_batch(ahead.get(step, make, count))
        return features

    def _rows(self, step, count):
        return range(step * self.batch_size, min((step + 1) * self.batch_size, count))

    def _of_batch(self, batch):
        """Features `(b, d)` of images `(b, height, width, 3)`."""
        count = len(batch)
        if keras.backend.backend() != "tensorflow":  # it compiles anew for every size: let there be few of them
            filled = min(self.batch_size, 1 << (count - 1).bit_length())
            batch = np.pad(batch, [(0, filled - count), (0, 0), (0, 0), (0, 0)])
        features = self._compute(batch)
        if self.flip:
            features = (features + self._compute(np.ascontiguousarray(batch[:, :, ::-1]))) / 2
        return features[:count]


def _of_network(model, head):
    """`(compute, shape, d)` of a model, or of a `.keras` file."""
    if isinstance(model, (str, os.PathLike)):
        path = pathlib.Path(model).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}. Expected a .keras file, or an exported version's folder.")
        model = keras.models.load_model(path, compile=False)
    if head is not None:
        network = embedding(model, head)
    elif is_functional(model) and len(model.inputs) == len(model.outputs) == 1 and len(model.outputs[0].shape) == 2:
        network = Network(model.inputs[0], model.outputs[0], name=model.name)
    else:
        raise ValueError(
            "Invalid value for argument `model`. Expected, with head=None, a functional model from images to features "
            f"of shape (batch, d). Received: {model!r}."
        )
    if not takes_raw(network):
        _warn_of_raw(network.name)
    run = network.predict_on_batch
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras's own function is traced anew for other batch sizes.
        signature = [tf.TensorSpec((None, *network.inputs[0].shape[1:]), tf.uint8)]
        run = tf.function(lambda images: network(images, training=False), signature, autograph=False)

    def compute(images):
        return np.asarray(keras.ops.convert_to_numpy(run(images)), "float32")

    return compute, network.inputs[0].shape[1:], network.outputs[0].shape[-1]


def _of_saved_model(path, head):
    """`(compute, shape, d)` of an exported version."""
    path = pathlib.Path(path).expanduser()
    if not (path / "saved_model.pb").is_file():
        versions = sorted(each.parent.name for each in path.glob("*/saved_model.pb"))
        raise ValueError(
            f"Invalid value for argument `model`. {path} is no SavedModel: it has no saved_model.pb. "
            + (f"Give one of its versions, {versions}." if versions else "Give the folder of an exported version.")
        )
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(f"{path} is a SavedModel, which TensorFlow reads: pip install tensorflow") from error
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures.get("serving_default")
    given = serve.structured_input_signature[1] if serve else {}
    if "embedding" not in (serve.structured_outputs if serve else ()) or set(given) != {"images"}:
        raise ValueError(
            f"Invalid value for argument `model`. The version {path} gives no embedding. Export it again with "
            "dhm_keras.export.export_main(model, directory, embedding=True)."
        )
    if given["images"].dtype != tf.uint8:
        _warn_of_raw(path)

    def compute(images):
        # The attribute is read at each call: `loaded` has to live as long as its functions.
        images = tf.constant(images, given["images"].dtype)
        return loaded.signatures["serving_default"](images=images)["embedding"].numpy()

    return compute, tuple(given["images"].shape[1:]), serve.structured_outputs["embedding"].shape[-1]


def _warn_of_raw(name):
    warnings.warn(
        f"{name} does not begin by normalising images of 0-255, and is given them all the same. Build it with "
        "normalization=(mean, std), or put a keras.layers.Rescaling or Normalization in front.",
        stacklevel=4,
    )


def _reader(images, size):
    """A function from a number to that image, uint8 `(height, width, 3)`; `ValueError` if images are none."""
    if isinstance(images, ImageFiles):
        jpeg.require_pillow()
        return lambda i: _resized(_decoded(images.read(i), images.where(i)), size)
    if isinstance(images, np.ndarray):
        if images.dtype != "uint8" or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
            raise _not_images(f"an array {images.dtype} {images.shape}")
    elif isinstance(images, (list, tuple)):
        for i, image in enumerate(images):
            fits = isinstance(image, np.ndarray) and image.dtype == "uint8" and image.ndim == 3
            if not isinstance(image, (str, os.PathLike)) and not (fits and image.shape[-1] == 3 and image.size):
                of_array = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else repr(image)
                raise _not_images(f"{of_array} at position {i}")
    else:
        raise _not_images(repr(images))
    if any(not isinstance(image, np.ndarray) or image.shape[:2] != size for image in images):
        jpeg.require_pillow()

    def read(i):
        image = images[i]
        if isinstance(image, np.ndarray):
            return image if image.shape[:2] == size else _resized(_picture(image), size)
        return _resized(_decoded(pathlib.Path(image).expanduser().read_bytes(), image), size)

    return read


def _not_images(received):
    return ValueError(
        "Invalid value for argument `images`. Expected PersonImages, a list of paths and of uint8 arrays (height, "
        f"width, 3), or a uint8 array (n, height, width, 3). Received: {received}."
    )


def _decoded(content, where):
    try:
        return jpeg.decode(content)
    except jpeg.CorruptImage as error:
        raise ValueError(f"{where} is not an image that can be decoded ({error}).") from None


def _picture(array):
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(array))


def _resized(image, size):
    return jpeg.resized(image, (0, 0, *image.size), size)
