"""How long the images of Market-1501's test take: 19,281 of 256x128 pixels, 128 at a time, the mean of 5 passes.

    python benchmarks/reid_inference.py                   # for a GPU
    python benchmarks/reid_inference.py --images 512      # some minutes on a CPU; the seconds are those for 19,281
    KERAS_BACKEND=jax python benchmarks/reid_inference.py

The protocol of Table 5 of CDNet's supplement, in float32: from raw images in memory to the features that persons are
compared by, without classifiers and what else is left out of what is shipped. Passes of the networks are interleaved in
one process; one of each, which compiles, is not counted. The images are drawn at random, once.

The table's ResNet-50 is that of "Bag of Tricks": with a last stride of 1, 4,053 million multiply-adds; its parameters
are given with the classifier. The one here has a last stride of 2, as in DHM's experiments.
"""

import math
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
import numpy as np
from absl import app, flags

import dhm_keras as dhm

OF_TEST, BATCH_SIZE, SIZE, REPEATS = 19281, 128, (256, 128, 3), 5
PUBLISHED = {"resnet50": 248.3, "osnet_x1_0": 156.0, "cdnet": 142.4}  # seconds on an RTX 2080

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", OF_TEST, "Images of a pass.", lower_bound=1)


def embedder(arch):
    """The part of a network that gives the features, from raw images."""
    raw = {"input_shape": SIZE, "normalization": dhm.data.IMAGENET_MEAN_STD}
    return dhm.reid.embedding(dhm.models.get(arch, num_classes=751, branches=(), **raw))


def infer(network, images):
    """Seconds of a pass."""
    start = time.perf_counter()
    for i in range(0, len(images), BATCH_SIZE):
        network.predict_on_batch(images[i : i + BATCH_SIZE])
    return time.perf_counter() - start


def machine():
    """What the networks run on, in words."""
    cores = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "CPU"
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    else:
        import jax

        names = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    return f"{keras.backend.backend()}, Keras {keras.__version__}, {', '.join([*names[:1], cores])}"


def main(arguments):
    if len(arguments) > 1:
        raise SystemExit(f"reid_inference.py: expected flags alone, as --images 512. Received: {arguments[1]}.")
    print(f"{machine()}; {FLAGS.images:,} images of 256x128, batches of {BATCH_SIZE}, {REPEATS} passes", flush=True)
    images = np.random.default_rng(0).integers(0, 256, (FLAGS.images, *SIZE), "uint8")
    networks = {arch: embedder(arch) for arch in PUBLISHED}
    seconds = {arch: [infer(network, images)][1:] for arch, network in networks.items()}
    for _ in range(REPEATS):
        for arch, network in networks.items():
            seconds[arch].append(infer(network, images) * OF_TEST / FLAGS.images)
    medians = {arch: statistics.median(values) for arch, values in seconds.items()}
    ratio = lambda values, arch: values[arch] / values["osnet_x1_0"]
    print(f"{'':<40}{'images/s':>10}{'s for 19,281: mean':>20}{'median':>9}{'x OSNet':>9}{'in the paper':>15}")
    for arch, network in networks.items():
        parameters = sum(math.prod(weight.shape) for weight in network.trainable_weights)
        cost = f"{parameters / 1e6:.2f} M, {dhm.analysis.multiply_adds(network) / 1e6:,.0f} M mult-adds"
        mean, median, speed = statistics.mean(seconds[arch]), medians[arch], OF_TEST / medians[arch]
        print(
            f"{arch:<11}{cost:<29}{speed:>10,.1f}{mean:>20,.1f}{median:>9,.1f}"
            f"{ratio(medians, arch):>9.2f}{PUBLISHED[arch]:>8} x {ratio(PUBLISHED, arch):.2f}"
        )


if __name__ == "__main__":
    app.run(main)
