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
        of_necks: Names of the terms that `Objective.of_necks` gives. Defaults to `()`.
    """

    def __init__(self, heads, pairs, num_classes, of_necks=()):
        self.loss = keras.metrics.Mean(name="loss")
        self._ce = {head: HeadMean(name=f"{head}_ce") for head in heads}
        self._accuracy = {head: HeadMean(name=f"{head}_accuracy") for head in heads}
        self._top5 = {head: HeadMean(name=f"{head}_top5") for head in heads if num_classes > 5}
        self._mimic = {pair: HeadMean(name=f"mimic_{pair[0]}_to_{pair[1]}") for pair in pairs}
        self._of_necks = {name: HeadMean(name=name) for name in of_necks}

    @property
    def metrics(self):
        groups = self._ce, self._mimic, self._accuracy, self._top5, self._of_necks
        return [metric for group in groups for metric in group.values()]

    def update_terms(self, ce, mimic, of_necks, weights):
        """Takes one batch of terms of the objective: dicts of `(batch,)` tensors, times `weights`."""
        for metrics, terms in ((self._ce, ce), (self._mimic, mimic), (self._of_necks, of_necks)):
            for key, term in terms.items():
                metrics[key].update_state(term * weights)

    def update_hits(self, outputs, true_class):
        """Takes one batch of outputs, by name, the heads' `(batch, classes)`, and the true classes, `(batch,)`."""
        for head in (head for head in self._accuracy if head in outputs):
            z = outputs[head]
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
