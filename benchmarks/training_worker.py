"""A process that trains one network one way, and takes a step when told: one side of the comparisons of `run.py`.

    python benchmarks/training_worker.py WAY ARCH BATCH_SIZE [HEADS]

WAY: `baseline`, `dhm`, `keras` (the network of `dhm` with Keras's own BatchNormalization and optimizer, losses by name
and six KLDivergence terms, as one writes it in plain Keras); or `dhm` with something else: `input`, batches cut and
flipped beside the training; `remat`, Keras's `RematScope`; `accumulation`, the batch in two halves. HEADS: the active
ones, as `main,aux1`; the others are left out (scope `branch`).

Prints a line of JSON when the first step has ended, then one for each number of steps on a line of its input.
"""

import contextlib
import itertools
import json
import os
import resource
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
import numpy as np
from keras import ops

import dhm_keras as dhm


class PlainKeras(keras.Model):
    """Cross-entropies by `compile`, and the divergences on top."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, dict.fromkeys(y_pred, y), y_pred, sample_weight)
        probabilities = {head: ops.softmax(logits) for head, logits in y_pred.items()}
        for teacher, student in itertools.permutations(probabilities, 2):
            loss += keras.losses.KLDivergence()(ops.stop_gradient(probabilities[teacher]), probabilities[student])
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, dict.fromkeys(y_pred, y), y_pred, sample_weight)


def own_layers(layer):
    """A copy of a layer, with Keras's own normalization."""
    if isinstance(layer, dhm.layers.BatchNormalization):
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=layer.name)
    return type(layer).from_config(layer.get_config())


def build(way, arch):
    branches = {"branches": ()} if way == "baseline" else {}
    scope = keras.RematScope(mode="activations") if way == "remat" else contextlib.nullcontext()
    with scope:
        network = dhm.models.get(arch, num_classes=100, normalization=dhm.data.CIFAR100_MEAN_STD, **branches)
    if way == "keras":
        network = keras.models.clone_model(network, clone_function=own_layers)
        model = PlainKeras(network.input, network.output)
        losses = {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in network.output}
        metrics = {name: ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5)] for name in network.output}
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=1e-4), loss=losses, metrics=metrics)
        return model
    halves = {"gradient_accumulation_steps": 2} if way == "accumulation" else {}
    model = dhm.DHM(network, method="baseline" if way == "baseline" else "dhm")
    model.compile(dhm.optimizers.SGD(0.01, momentum=0.9, weight_decay=1e-4, **halves))
    return model


class Steps(keras.callbacks.Callback):
    """Notes when each step ended; on a backend that computes later, waits for it."""

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])
        self.ends.append(time.perf_counter())


def main(way, arch, batch_size, heads=None):
    start = time.perf_counter()
    model = build(way, arch)
    built = time.perf_counter()
    rng = np.random.default_rng(0)
    per_step = 2 if way == "accumulation" else 1
    size = int(batch_size) // per_step
    images = rng.integers(0, 256, (size, 32, 32, 3)).astype("uint8")
    labels = rng.integers(0, 100, size)
    data = repeated(images, labels)
    if way == "input":
        images, labels = np.repeat(images, 50_000 // size, axis=0), np.repeat(labels, 50_000 // size)
        data = dhm.data.TrainBatches(images, labels, size, pad=4, flip=True)
    if heads:
        model.activate(heads.split(",")[1:], scope="branch")
    steps = Steps()

    def take(count):
        steps.ends = [time.perf_counter()]
        model.fit(data, steps_per_epoch=count * per_step, verbose=0, callbacks=[steps])
        return np.diff(steps.ends[::per_step]).tolist()

    take(1)
    first = time.perf_counter()
    print(json.dumps({"build": built - start, "first step": first - built}), flush=True)
    for line in sys.stdin:
        seconds = take(1 + int(line))[1:]  # the first fills the pipeline
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "GiB": memory}), flush=True)


def repeated(images, labels):
    """One batch again and again: nothing is measured but the steps."""
    if keras.backend.backend() != "tensorflow":
        return itertools.repeat((images, labels))
    import tensorflow as tf

    from dhm_keras.distribute.tensorflow_data import without_autotune

    return without_autotune(tf.data.Dataset.from_tensors((images, labels)).repeat())


if __name__ == "__main__":
    main(*sys.argv[1:])
