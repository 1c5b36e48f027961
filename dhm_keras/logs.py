"""What `DHM` logs: the mean of its objective, and the metrics of all heads and pairs."""

import keras
from keras import ops


class HeadMean(keras.metrics.Mean):
    """A mean that is NaN, not 0, of no values: what a head that was inactive for a whole epoch logs."""

    def result(self):
        return ops.where(self.count > 0, super().result(), float("nan"))


class HeadLogs:
    """The mean of the objective, and the metrics of all heads and pairs.

    A plain object: the trainer lists them in `metrics`, and they do not enter its files.

    Args:
        heads: Names of the heads.
        pairs: (teacher, student) pairs.
        num_classes: Integer.
    """

    def __init__(self, heads, pairs, num_classes):
        self.loss = keras.metrics.Mean(name="loss")
        self._ce = {head: HeadMean(name=f"{head}_ce") for head in heads}
        self._accuracy = {head: HeadMean(name=f"{head}_accuracy") for head in heads}
        self._top5 = {head: HeadMean(name=f"{head}_top5") for head in heads if num_classes > 5}
        self._mimic = {pair: HeadMean(name=f"mimic_{pair[0]}_to_{pair[1]}") for pair in pairs}

    @property
    def metrics(self):
        return [m for group in (self._ce, self._mimic, self._accuracy, self._top5) for m in group.values()]

    def update_terms(self, ce, mimic, weights):
        """Takes one batch of terms of the objective: dicts of `(batch,)` tensors, times `weights`."""
        for head, term in ce.items():
            self._ce[head].update_state(term * weights)
        for pair, term in mimic.items():
            self._mimic[pair].update_state(term * weights)

    def update_hits(self, logits, true_class):
        """Takes one batch of logits, `{head: (batch, classes)}`, and the true classes, `(batch,)` integers."""
        for head, z in logits.items():
            hits = ops.equal(ops.argmax(z, axis=-1), true_class)
            self._accuracy[head].update_state(ops.cast(hits, "float32"))
            if self._top5:
                hits = ops.in_top_k(true_class, ops.cast(z, "float32"), k=5)
                self._top5[head].update_state(ops.cast(hits, "float32"))


def build_metrics(model, labels):
    """Makes the variables of the metrics of `compile`, which Keras makes at the first step, with any values.

    Args:
        model: A compiled `DHM`.
        labels: Array, the labels of one example: `(1,)` or `(1, classes)`.
    """
    logits = {head: ops.zeros((1, model.num_classes)) for head in model.heads}
    model.compute_metrics(None, ops.convert_to_tensor(labels), logits)
