"""Keras callbacks: sampling of branches, what is measured and told per epoch, export of the main head."""

import contextlib
import math
import pathlib
import sys
import time
import zlib

import keras
import numpy as np

from dhm_keras import distribute, files, sampling
from dhm_keras.analysis.agreement import measuring
from dhm_keras.export.bundle import check_arguments, check_backend, export_main
from dhm_keras.network import set_weights
from dhm_keras.objective import check_labels
from dhm_keras.resume import Resume
from dhm_keras.run import KeepBest
from dhm_keras.trainer import DHM, SCOPES

__all__ = ["ExportMain", "MeasureAgreement", "Progress", "Resume", "SampleBranches", "WarnOfCollapse"]


def check_model(callback):
    """Raises `ValueError` if a callback of this module is used with another model than a `DHM`."""
    if not isinstance(callback.model, DHM):
        raise ValueError(
            f"{type(callback).__name__} works with a `DHM`. Received: {callback.model!r}. Train DHM(network) instead "
            "of the network."
        )


class SampleBranches(keras.callbacks.Callback):
    """Draws the active branches at the start of each epoch (eq. 6-9, supplement D).

    The draw is a function of (seed, epoch), so a resumed training continues with the same branches. After the training,
    however it ends, the branches are active that were so before it.

    Example: the paper's supplement D:

    ```python
    model.fit(train, epochs=164, callbacks=[dhm_keras.callbacks.SampleBranches("bernoulli", p=0.5)])
    ```

    Args:
        sampler: `"fixed"`: all branches. `"bernoulli"`: each independently with probability `p`. `"uniform"`: `k` of
            them without replacement. Defaults to `"fixed"`.
        p: Float in [0, 1]. Defaults to `0.5`.
        k: Integer >= 0. Defaults to `1`.
        scope: `"mimic"`: all heads keep their cross-entropy, and only pairs of active heads mimic (supplement D).
            `"branch"`: an inactive branch is not computed and stays exactly as it is (eq. 8-9). Defaults to `"mimic"`.
        seed: Integer >= 0. Defaults to `0`.

    Raises:
        ValueError: where an argument is out of range.
    """

    def __init__(self, sampler="fixed", p=0.5, k=1, scope="mimic", seed=0):
        super().__init__()
        sampling.check(sampler, seed, p, k)
        if scope not in SCOPES:
            raise ValueError(f"Invalid value for argument `scope`. Expected one of {SCOPES}. Received: {scope!r}.")
        self.sampler, self.p, self.k, self.scope, self.seed = sampler, p, k, scope, seed

    @property
    def settings(self):
        """The arguments, a dict: what `Resume` compares."""
        return {name: getattr(self, name) for name in ("sampler", "p", "k", "scope", "seed")}

    def on_train_begin(self, logs=None):
        check_model(self)

    def on_epoch_begin(self, epoch, logs=None):
        active = sampling.sample(self.sampler, self.model.heads[1:], self.seed, epoch, self.p, self.k)
        self.model.activate(active, self.scope)


class WarnOfCollapse(keras.callbacks.Callback):
    """Says so, once, when the heads agree on nothing.

    In the first steps of a training the heads can agree on the uniform distribution before they have learnt anything:
    every mimicking term falls to nearly 0, which holds them together, while every cross-entropy stays near
    log(classes). Such a training mostly never recovers. A large first learning rate causes it, a lower one or a short
    warm-up prevents it.

    The warning comes at the end of an epoch in which every active pair's mimicking term was below `agreement` and every
    head's cross-entropy above `ignorance` * log(classes), both means over the epoch.

    Args:
        agreement: Float, in the units of the divergence, T^2 included. Defaults to `0.02`.
        ignorance: Float. Defaults to `0.9`.
    """

    def __init__(self, agreement=0.02, ignorance=0.9):
        super().__init__()
        self.agreement, self.ignorance = agreement, ignorance
        self.collapsed_epoch = None

    remembers = ("collapsed_epoch",)

    def on_train_begin(self, logs=None):
        check_model(self)
        self.collapsed_epoch = None

    def on_epoch_end(self, epoch, logs=None):
        terms = [logs[f"mimic_{teacher}_to_{student}"] for teacher, student in self.model.objective.pairs]
        chance = math.log(self.model.num_classes)
        if self.model.divergence == "cross_entropy":  # holds the teacher's entropy, in a collapse that of chance
            terms = [abs(term - self.model.temperature**2 * chance) for term in terms]
        terms = [term for term in terms if not math.isnan(term)]
        entropies = [logs[f"{head}_ce"] for head in self.model.heads if not math.isnan(logs[f"{head}_ce"])]
        if self.collapsed_epoch is not None or not terms or not entropies:
            return
        if max(terms) < self.agreement and min(entropies) > self.ignorance * chance:
            self.collapsed_epoch = epoch
            rate = float(self.model.optimizer.learning_rate)
            print(
                f"\n{self.model.name}: consensus collapse in epoch {epoch + 1}. The heads agree with one another "
                f"(largest mimicking term {max(terms):.3f}) but not with the labels (lowest cross-entropy "
                f"{min(entropies):.2f}, chance {chance:.2f}). Training rarely recovers: start anew with a lower "
                f"learning rate (now {rate:.3g}) or a linear warm-up over the first epochs."
            )


class MeasureAgreement(keras.callbacks.Callback):
    """Measures at the end of each epoch how far the heads agree, see `analysis.agreement`, and keeps a table of it.

    The table is a CSV file that is there whole after each epoch: `epoch` (from 0), `cosine_main_aux1`, ... The training
    is the same with and without this callback, bit for bit. With `Resume` a training that goes on keeps the rows of the
    epochs before.

    Example:

    ```python
    measure = dhm_keras.callbacks.MeasureAgreement(images[:256], labels[:256], "runs/mine/agreement.csv")
    model.fit(images, labels, epochs=164, callbacks=[measure])
    ```

    Args:
        images: Array `(batch, height, width, channels)`. One batch for all epochs; a few hundred images are enough.
        labels: Integers `(batch,)` or soft labels `(batch, classes)`, as the model is trained on.
        path: Path of the file, in a folder that exists.

    Raises:
        ValueError: at the start of the training, if the model has one head alone, or the labels do not fit it or the
            images.
        OSError: at the end of an epoch, if the file cannot be written.
    """

    remembers = ("rows",)

    def __init__(self, images, labels, path):
        super().__init__()
        self.images, self.labels, self.path = np.asarray(images), np.asarray(labels), path
        self.rows = []
        self._measure = None

    @property
    def settings(self):
        """What `Resume` compares: rows measured on other images cannot stand in one table."""
        checksum = lambda array: zlib.crc32(np.ascontiguousarray(array).tobytes())
        return {"images": checksum(self.images), "labels": checksum(self.labels)}

    def on_train_begin(self, logs=None):
        check_model(self)
        check_labels(self.labels, self.model.num_classes)
        if len(self.images) != len(self.labels):
            raise ValueError(f"MeasureAgreement was given {len(self.images)} images and {len(self.labels)} labels.")
        self.rows = []
        self._measure = measuring(self.model)

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch, **self._measure(self.images, self.labels)}  # on every machine: all hold the variables
        self.rows = [*self.rows, row]
        if distribute.is_chief():
            files.write_table(self.path, row, [each.values() for each in self.rows])

    def on_train_end(self, logs=None):
        self._measure = None  # it holds the model


class Progress(keras.callbacks.Callback):
    """Prints a line an epoch: loss, errors of the heads on the validation data, or mAP and rank-1, time left.

    For `fit(..., verbose=0)`. Within an epoch it says which step it is at, on a terminal every second, in a log file
    every minute.

    Args:
        epochs_after: Integer. Epochs of the trainings that follow this one. They count for the time left, as if each
            took as long as one of this training. Defaults to `0`.
    """

    def __init__(self, epochs_after=0):
        super().__init__()
        self.epochs_after = epochs_after

    def on_train_begin(self, logs=None):
        check_model(self)
        self._steady = None  # (time, epochs done) after the first step, which compiles

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._printed = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        steps = self.params["steps"]
        if not steps or not logs:  # without logs: a step that was taken before the training was resumed
            return
        if self._steady is None:
            self._steady = time.perf_counter(), self._epoch + (batch + 1) / steps
        elif time.perf_counter() - self._printed >= (1 if sys.stdout.isatty() else 60):
            self._print(f"step {batch + 1}/{steps}", self._epoch + (batch + 1) / steps, passing=True)

    def on_epoch_end(self, epoch, logs=None):
        errors = [
            f"{head} {100 * (1 - logs[f'val_{head}_accuracy']):.2f} %"
            for head in self.model.heads
            if f"val_{head}_accuracy" in logs
        ]
        heads = f", error {', '.join(errors)}" if errors else ""
        if "val_mAP" in logs:  # of `reid.EvaluateReID`
            heads = f", mAP {100 * logs['val_mAP']:.2f} %, rank-1 {100 * logs['val_rank1']:.2f} %"
        self._print(f"loss {logs['loss']:.4f}{heads}", epoch + 1, passing=False)

    def _print(self, text, done, passing):
        """Prints a line; `done` is the number of epochs finished. A passing line is overwritten on a terminal."""
        self._printed = time.perf_counter()
        epochs = self.params["epochs"]
        since, done_then = self._steady or (self._printed, done)
        to_do = epochs - done + self.epochs_after
        left = "0 s" if not to_do else "?"
        if done > done_then:
            left = _duration((self._printed - since) / (done - done_then) * to_do)
        line = f"{self.model.name}, epoch {self._epoch + 1}/{epochs}: {text}, {left} left"
        on_terminal = sys.stdout.isatty()
        print(f"\r\033[K{line}" if on_terminal else line, end="" if passing and on_terminal else "\n", flush=True)


def _duration(seconds):
    """`"41 s"`, `"12 min"`, `"3 h 05 min"`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class ExportMain(keras.callbacks.Callback):
    """Exports the main head as a SavedModel when the training ends, see `export.export_main`.

    The metrics of the epoch stand in its model card, unless a `card` given has others.

    Example:

    ```python
    export = dhm_keras.callbacks.ExportMain("serving/resnet32", which="best")
    model.fit(images, labels, epochs=164, validation_data=test, callbacks=[export])
    ```

    Args:
        directory: Path. Each export is the next integer version folder in it, as TensorFlow Serving expects.
        which: `"last"`: the weights at the end. `"best"`: those of the epoch with main's highest validation accuracy,
            the first of equals, which are kept in the folder as `.best.weights.h5`. Defaults to `"last"`.
        **of_export: Other arguments of `export.export_main`.

    Raises:
        ValueError: if the backend is not TensorFlow, or `which` is neither; at the start of the training, if another
            argument is not as in `export_main`; after the first epoch, if `which` is `"best"` and there is no
            validation data; at its end, if no epoch had an accuracy.
        OSError: at the start of the training, if the folder cannot be made.
    """

    remembers = ("best", "metrics")

    def __init__(self, directory, which="last", **of_export):
        super().__init__()
        check_backend()
        if which not in ("last", "best"):
            raise ValueError(f"Invalid value for argument `which`. Expected 'last' or 'best'. Received: {which!r}.")
        self.directory, self.which, self.of_export = directory, which, of_export
        self._keep = KeepBest(pathlib.Path(directory).expanduser() / ".best.weights.h5")
        self.metrics = {}

    @property
    def best(self):
        """Main's validation accuracy in the best epoch until now."""
        return self._keep.best

    @best.setter
    def best(self, accuracy):
        self._keep.best = accuracy

    def on_train_begin(self, logs=None):
        check_model(self)
        self.metrics, self.best = {}, float("-inf")
        self._keep.set_model(self.model)
        if distribute.is_chief():  # what is wrong is told before the training, not after it
            distribute.alone(lambda: check_arguments(self.model, self.directory, **self.of_export))

    def on_epoch_end(self, epoch, logs=None):
        if self.which == "best":
            if "val_main_accuracy" not in logs:
                raise ValueError("ExportMain(which='best') needs validation data: give `fit` some, or export the last.")
            if not logs["val_main_accuracy"] > self.best:
                return
            if distribute.is_chief():
                self._keep.on_epoch_end(epoch, logs)
        self.metrics = {"epoch": epoch + 1, **{name: float(x) for name, x in logs.items() if math.isfinite(x)}}

    def on_train_end(self, logs=None):
        if distribute.is_chief():
            distribute.alone(self._export)

    def _export(self):
        arguments = {**self.of_export, "card": {"metrics": self.metrics, **(self.of_export.get("card") or {})}}
        with self._weights():
            export_main(self.model, self.directory, **arguments)

    @contextlib.contextmanager
    def _weights(self):
        """Within, the network has the weights that are to be exported."""
        network = self.model.network
        if self.which == "last":
            yield
            return
        if not math.isfinite(self.best):  # the file, if there is one, is another training's
            raise ValueError("ExportMain(which='best') exports nothing: no epoch had a validation accuracy of main.")
        last = network.get_weights()
        try:
            network.load_weights(self._keep.path)
            yield
        finally:
            set_weights(network, last)
