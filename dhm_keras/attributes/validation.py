"""Predicted attributes of images, and their evaluation while a network trains."""

import keras
import numpy as np

from dhm_keras.attributes.metrics import evaluate
from dhm_keras.data.batches import check_integers
from dhm_keras.reid.features import Extractor


def predict(model, images, batch_size=64):
    """The probabilities of the attributes of some images.

    Images are resized as a whole to the network's size, antialiased and bilinear.

    Example:

    ```python
    model = keras.models.load_model("runs/attributes/mine/last.keras")
    probabilities = dhm_keras.attributes.predict(model, ["a.jpg", "b.jpg"])
    ```

    Args:
        model: Functional model from raw images, 0-255, to logits `(batch, attributes)`, or the path of its `.keras`
            file.
        images: As of `reid.Extractor`: `AttributeImages` or other `data.ImageFiles`, paths, or uint8 arrays.
        batch_size: Integer > 0. Defaults to `64`.

    Returns:
        float32 `(n, attributes)`, the sigmoid of the logits.

    Raises:
        FileNotFoundError, ImportError, OSError, ValueError: as of `reid.Extractor`.
    """
    return _sigmoid(Extractor(model, batch_size=batch_size, head=None)(images))


class EvaluateAttributes(keras.callbacks.Callback):
    """Evaluates the attributes of validation images every so many epochs, and after the last.

    The logs of such an epoch get `val_mA`, `val_accuracy`, `val_precision`, `val_recall` and `val_f1`, see `evaluate`;
    the training is the same with and without it. Put it before callbacks that read them.

    Example:

    ```python
    model.fit(..., callbacks=[dhm_keras.attributes.EvaluateAttributes(people.val)])
    ```

    Args:
        images: `AttributeImages`.
        every: Integer > 0. Epochs from one evaluation to the next. Defaults to `1`.
        batch_size: Integer > 0. Defaults to `64`.

    Raises:
        ValueError: if a number is no integer > 0; in `fit`, if the model has another number of attributes.
    """

    def __init__(self, images, every=1, batch_size=64):
        super().__init__()
        check_integers(every=(every, 1), batch_size=(batch_size, 1))
        self.images, self.every, self.batch_size = images, every, batch_size
        self._logits = None

    def on_train_begin(self, logs=None):
        self._logits = Extractor(self.model, batch_size=self.batch_size, head=None)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 < self.params["epochs"]:
            return
        found = evaluate(self.images.attributes, _sigmoid(self._logits(self.images)))
        if logs is not None:
            logs |= {f"val_{name}": value for name, value in found.summary.items()}

    def on_train_end(self, logs=None):
        self._logits = None  # it holds the model


def _sigmoid(logits):
    return 0.5 * (1 + np.tanh(0.5 * logits))  # of large negative numbers exp would overflow
