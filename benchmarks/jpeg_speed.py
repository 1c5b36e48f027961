"""How fast JPEGs of ImageNet's size reach the training: decoding, random crop, resizing to 224x224; images per second.

    python benchmarks/jpeg_speed.py

Prints medians of interleaved repeats in one run, all on the same cores and from files in the page cache: decoding whole
images with `tf.io.decode_jpeg` in `tf.data` and nothing else, which is the decoder's speed; `JpegTrainBatches` as
TensorFlow gets it, and as JAX gets it; and what most tutorials have, decode, crop, `tf.image.resize`, once as it is
mostly written and once antialiased, as ours is. The processor time of an image holds on a busy machine, too. Generated
images of about 500x375 pixels and 125 kB; no training takes place beside it. Each measurement has a process of its own.
Three minutes.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import dhm_keras as dhm

EXAMPLES, BATCH_SIZE, WARM_UP, STEPS, REPEATS = 512, 64, 4, 32, 3
SIZES = ((375, 500), (500, 375), (333, 500), (500, 500))  # height, width
DECODER, SLOWEST = "decode_jpeg alone", "decode, crop, resize"


def write_images(folder):
    """Writes pictures with detail of all scales, as photographs have it: noise whose amplitude falls with frequency."""
    rng = np.random.default_rng(0)
    for i in range(EXAMPLES):
        height, width = SIZES[i % len(SIZES)]
        waves = np.fft.rfft2(rng.standard_normal((3, height, width)))
        frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
        picture = np.fft.irfft2(waves / np.maximum(frequency, 1) ** 1.1, (height, width))
        picture = 120 + 60 * picture / picture.std(axis=(1, 2), keepdims=True)
        path = pathlib.Path(folder, "train", f"class{i % 8}", f"{i}.JPEG")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype("uint8").transpose(1, 2, 0)).save(path, quality=90)


def ours(files):
    return iter(dhm.data.JpegTrainBatches(files, BATCH_SIZE).for_backend())


def ours_in_numpy(files):
    return map(dhm.data.JpegTrainBatches(files, BATCH_SIZE).__getitem__, itertools.count())


def mapped(files, function):
    paths = tf.data.Dataset.from_tensor_slices([files.where(i) for i in range(len(files))]).shuffle(EXAMPLES).repeat()
    return paths.map(lambda path: function(tf.io.read_file(path)), num_parallel_calls=tf.data.AUTOTUNE)


def decoder(files):
    """Of each image one pixel goes on, so that nothing but decoding takes time."""
    decoded = mapped(files, lambda content: tf.io.decode_jpeg(content, channels=3)[0, 0])
    return iter(decoded.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE))


def tutorial(files, antialias=False):
    def augment(content):
        image = tf.io.decode_jpeg(content, channels=3)
        (top, left, _), (height, width, _), _ = map(
            tf.unstack,
            tf.image.sample_distorted_bounding_box(
                tf.shape(image), tf.zeros((0, 0, 4)), seed=1, area_range=(0.08, 1), aspect_ratio_range=(3 / 4, 4 / 3),
                max_attempts=10, use_image_if_no_bounding_boxes=True,
            ),
        )  # fmt: skip
        image = image[top : top + height, left : left + width]
        return tf.image.random_flip_left_right(tf.image.resize(image, (224, 224), antialias=antialias))

    return iter(mapped(files, augment).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE))


SOURCES = {
    DECODER: decoder,
    "JpegTrainBatches, tf.data": ours,
    "JpegTrainBatches, NumPy (JAX)": ours_in_numpy,
    SLOWEST: tutorial,
    f"{SLOWEST}, antialiased": lambda files: tutorial(files, antialias=True),
}


def measure(name, folder):
    """Images per second of one source, after a warm-up, and milliseconds of processor time an image."""
    batches = SOURCES[name](dhm.data.image_folder(folder))
    for _ in range(WARM_UP):
        next(batches)
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        next(batches)
    n = STEPS * BATCH_SIZE
    return n / (time.perf_counter() - start), 1000 * (time.process_time() - busy) / n


def main():
    spawn = multiprocessing.get_context("spawn")
    speeds = {name: [] for name in SOURCES}
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder)
        size = statistics.mean(path.stat().st_size for path in pathlib.Path(folder).rglob("*.JPEG"))
        with concurrent.futures.ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
            for _ in range(REPEATS):
                for name in SOURCES:
                    speeds[name].append(pool.submit(measure, name, folder).result())
    medians = {name: [statistics.median(column) for column in zip(*values)] for name, values in speeds.items()}
    fastest, least = medians[DECODER]
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} cores, {size / 1000:.0f} kB an image"
    )
    for name, (speed, busy) in medians.items():
        print(
            f"{name:<35}{speed:>6,.0f} images/s x {speed / fastest:.2f}  {busy:.2f} ms of a core x {busy / least:.2f}"
        )


if __name__ == "__main__":
    main()
