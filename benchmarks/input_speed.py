"""How fast images reach the training: CIFAR's pad-4 crop and flip, images per second.

    python benchmarks/input_speed.py

Prints medians of interleaved repeats in one run: `TrainBatches` as TensorFlow gets it, as JAX gets it, and what most
tutorials have, a `tf.image.random_crop` and a flip per image in `tf.data`, with all its automatic parallelism. Random
pixels; no training takes place beside it.
"""

import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
import numpy as np
import tensorflow as tf

import dhm_keras as dhm

EXAMPLES, BATCH_SIZE, STEPS, REPEATS = 50_000, 128, 200, 7


def per_image(images, labels):
    def augment(image, label):
        image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), (32, 32, 3))
        return tf.image.random_flip_left_right(image), label

    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(EXAMPLES).repeat()
    return dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def main():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 32, 32, 3)).astype("uint8")
    labels = rng.integers(0, 100, EXAMPLES)
    train = dhm.data.TrainBatches(images, labels, BATCH_SIZE, pad=4, flip=True)
    sources = {
        "TrainBatches, tf.data": iter(train.for_backend()),
        "TrainBatches, NumPy (JAX)": map(train.__getitem__, range(10**9)),
        "tf.image, image by image": iter(per_image(images, labels)),
    }
    speeds = {name: [] for name in sources}
    for _ in range(REPEATS):
        for name, batches in sources.items():
            next(batches)
            start = time.perf_counter()
            for _ in range(STEPS):
                next(batches)
            speeds[name].append(STEPS * BATCH_SIZE / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    slowest = medians["tf.image, image by image"]
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} cores, batches of {BATCH_SIZE}")
    for name, speed in medians.items():
        print(f"{name:<28}{speed:>10,.0f} images/s   x {speed / slowest:.1f}")


if __name__ == "__main__":
    main()
