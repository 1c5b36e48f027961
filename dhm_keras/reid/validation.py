"""Evaluation on query and gallery while a network trains."""

import keras

from dhm_keras.data.batches import check_integers
from dhm_keras.reid.features import Extractor
from dhm_keras.reid.ranking import evaluate

RANKS = (1, 5, 10)


class EvaluateReID(keras.callbacks.Callback):
    """Searches for the query images in the gallery every so many epochs, and after the last.

    The logs of such an epoch get `val_mAP`, `val_mINP`, `val_rank1`, `val_rank5` and `val_rank10`, shares in [0, 1];
    the training is the same with and without it. Put it before callbacks that read them.

    Example:

    ```python
    people = dhm_keras.reid.market1501("Market-1501-v15.09.15")
    evaluate = dhm_keras.reid.EvaluateReID(people.query, people.gallery, every=10)
    model.fit(train, epochs=60, callbacks=[evaluate])
    ```

    Args:
        query, gallery: `PersonImages`; where their camids are known, the same-camera rule holds.
        every: Integer > 0. Epochs from one evaluation to the next. Defaults to `10`.
        batch_size: Integer > 0. Defaults to `64`.
        metric: As of `evaluate`. Defaults to `"euclidean"`.

    Raises:
        ValueError: if `every` is no integer > 0; in `fit`, if the queries cannot be evaluated, see `evaluate`.
    """

    def __init__(self, query, gallery, every=10, batch_size=64, metric="euclidean"):
        super().__init__()
        check_integers(every=(every, 1))
        self.query, self.gallery, self.every = query, gallery, every
        self.batch_size, self.metric = batch_size, metric
        self._extractor = None

    def on_train_begin(self, logs=None):
        self._extractor = Extractor(self.model, batch_size=self.batch_size)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 < self.params["epochs"]:
            return
        found = self.evaluate()
        if logs is not None:
            logs |= {f"val_{name}": value for name, value in found.items()}

    def on_train_end(self, logs=None):
        self._extractor = None  # it holds the model

    def evaluate(self):
        """Evaluates the model of `fit`, or of `set_model`, as it is: within the training, or after.

        Returns:
            Dict from `"mAP"`, `"mINP"`, `"rank1"`, `"rank5"`, `"rank10"` to float in [0, 1].

        Raises:
            ValueError: if there is no model yet; as of `evaluate`.
        """
        if self.model is None:
            raise ValueError("There is no model to evaluate yet. Give this callback to `fit`, or call `set_model`.")
        extractor = self._extractor or Extractor(self.model, batch_size=self.batch_size)
        features = [extractor(images) for images in (self.query, self.gallery)]
        of_both = self.query.pids, self.gallery.pids, self.query.camids, self.gallery.camids
        found = evaluate(*features, *of_both, metric=self.metric)
        return {"mAP": found.mean_ap, "mINP": found.mean_inp, **{f"rank{k}": found.rank(k) for k in RANKS}}
