"""How fast images reach the training: CIFAR's pad-4 crop and flip, images per second.

    python benchmarks/input_speed.py

Prints medians of interleaved repeats in one run: `TrainBatches` as TensorFlow gets it, as JAX gets it, and what most
tutorials have, a `tf.image.random_crop` and a flip per image in `tf.data`, with all its automatic parallelism. Random
pixels; no training takes place beside it. Each measurement has a process of its own. Two minutes.
"""

import concurrent.futures
import multiprocessing
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
import numpy as np
import tensorflow as tf

import dhm_keras as dhm

EXAMPLES, BATCH_SIZE, WARM_UP, STEPS, REPEATS = 50_000, 128, 100, 800, 3


def ours(images, labels):
    return iter(dhm.data.TrainBatches(images, labels, BATCH_SIZE, pad=4, flip=True).for_backend())


def ours_in_numpy(images, labels):
    train = dhm.data.TrainBatches(images, labels, BATCH_SIZE, pad=4, flip=True)
    return map(train.__getitem__, range(WARM_UP + STEPS))


def image_by_image(images, labels):
    def augment(image, label):
        image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), (32, 32, 3))
        return tf.image.random_flip_left_right(image), label

    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(EXAMPLES).repeat()
    dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(dataset.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE))


SOURCES = {
    "TrainBatches, tf.data": ours,
    "TrainBatches, NumPy (JAX)": ours_in_numpy,
    "tf.image, image by image": image_by_image,
}


def measure(name):
    """Images per second of one source, after a warm-up."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 32, 32, 3)).astype("uint8")
    batches = SOURCES[name](images, rng.integers(0, 100, EXAMPLES))
    for _ in range(WARM_UP):
        next(batches)
    start = time.perf_counter()
    for _ in range(STEPS):
        next(batches)
    return STEPS * BATCH_SIZE / (time.perf_counter() - start)


def main():
    spawn = multiprocessing.get_context("spawn")
    speeds = {name: [] for name in SOURCES}
    with concurrent.futures.ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        for _ in range(REPEATS):
            for name in SOURCES:
                speeds[name].append(pool.submit(measure, name).result())
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    slowest = medians["tf.image, image by image"]
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} cores, batches of {BATCH_SIZE}")
    for name, speed in medians.items():
        print(f"{name:<28}{speed:>10,.0f} images/s   x {speed / slowest:.1f}")


if __name__ == "__main__":
    main()
