"""Images per second of a training on an accelerator, and the share of what its matrix units can do.

    python benchmarks/device_speed.py                                                # ResNet-32 with DHM, for a GPU
    python benchmarks/device_speed.py --arch resnet20 --method baseline --steps 10   # some minutes on a CPU
    KERAS_BACKEND=jax python benchmarks/device_speed.py --precision mixed_bfloat16

Trains on random images, batches of 128, three ways: from ordinary batches, from images on the device, and from them
with many steps a call; and in PyTorch, where it is installed and has the network (see `torch_worker.py`): on a batch
that is there already, in float32. Prints the medians of three interleaved repeats and the ratios to the first;
compiling is not counted. The share is that of a large matrix product of the same precision, measured here; a training
step is three times the multiply-adds of the forward pass.
"""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # leave memory for PyTorch
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import keras
import numpy as np
from absl import app, flags
from keras import ops
from workers import Worker, torch_python

import dhm_keras as dhm

FLAGS = flags.FLAGS
ARCHS = ("resnet20", "resnet32", "resnet110", "densenet40", "densenet100", "wrn16_8", "wrn28_10")
flags.DEFINE_enum("arch", "resnet32", ARCHS, "The network.")
flags.DEFINE_enum("method", "dhm", ["baseline", "dhm"], "With branches or without.")
flags.DEFINE_enum("precision", "float32", ["float32", "mixed_bfloat16"], "Keras's dtype policy.")
flags.DEFINE_integer(
    "steps", 200, "Steps of an epoch, and of a call that takes many; an epoch is timed.", lower_bound=2
)

BATCH_SIZE, REPEATS = 128, 3
IN_TORCH = ("resnet32", "densenet40", "densenet100", "wrn16_8")
MATRIX = 4096  # rows and columns of the largest product
WAYS = {  # (images on the device, an epoch a call)
    "ordinary batches": (False, False),
    "on the device": (True, False),
    "on the device, many steps a call": (True, True),
}


def network():
    branches = {} if FLAGS.method == "dhm" else {"branches": ()}
    return dhm.models.get(FLAGS.arch, num_classes=100, normalization=dhm.data.CIFAR100_MEAN_STD, **branches)


def multiply_adds_per_second():
    """What the device reaches in products of square matrices, ten in a row; the best of five."""
    matrix = ops.full((MATRIX, MATRIX), 1 / MATRIX, dtype=keras.config.dtype_policy().compute_dtype)
    seconds = []
    for _ in range(6):
        start, product = time.perf_counter(), matrix
        for _ in range(10):
            product = ops.matmul(product, matrix)
        ops.convert_to_numpy(product[0, 0])  # waits for it
        seconds.append((time.perf_counter() - start) / 10)
    return MATRIX**3 / min(seconds[1:])


def training(way):
    """A function that trains an epoch; what it compiles is compiled."""
    on_device, at_once = WAYS[way]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (FLAGS.steps * BATCH_SIZE, 32, 32, 3)).astype("uint8")
    labels = rng.integers(0, 100, len(images))
    batches = dhm.data.TrainBatches(images, labels, BATCH_SIZE, pad=4, flip=True, on_device=on_device)
    model = dhm.DHM(network(), method=FLAGS.method)
    optimizer = dhm.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer=optimizer, steps_per_execution=FLAGS.steps if at_once else 1)
    train = lambda: model.fit(batches, epochs=1, verbose=0)
    train()
    return train


def main(_):
    keras.config.set_dtype_policy(FLAGS.precision)
    trainings = {way: training(way) for way in WAYS}
    speeds = {way: [] for way in WAYS}
    pytorch = None
    if FLAGS.arch in IN_TORCH and torch_python():
        pytorch = Worker("torch_worker", FLAGS.method, FLAGS.arch, BATCH_SIZE, python=torch_python())
        speeds[f"PyTorch {pytorch.started['torch']}, {pytorch.started['device']}"] = of_torch = []
    for _ in range(REPEATS):
        for way, train in trainings.items():
            start = time.perf_counter()
            train()
            speeds[way].append(FLAGS.steps * BATCH_SIZE / (time.perf_counter() - start))
        if pytorch:
            before = len(pytorch.seconds)
            pytorch.step(FLAGS.steps)
            of_torch.append(FLAGS.steps * BATCH_SIZE / sum(pytorch.seconds[before:]))
    print(f"{keras.backend.backend()}, Keras {keras.__version__}, {FLAGS.arch}, {FLAGS.method}, {FLAGS.precision}")
    medians = {way: statistics.median(values) for way, values in speeds.items()}
    share = 3 * dhm.analysis.multiply_adds(network()) / multiply_adds_per_second()
    for way, speed in medians.items():
        times = f"x {speed / medians['ordinary batches']:.2f}"
        print(f"{way:<34}{speed:>10,.0f} images/s   {times}   {100 * share * speed:.1f} % of the matrix products")


if __name__ == "__main__":
    app.run(main)
