"""The persons that recipes train and test on: the flags of a data set, and what they read."""

import dataclasses
import functools
import re

import numpy as np
from absl import flags

from dhm_keras import reid
from dhm_keras.data import jpeg
from dhm_keras.data.image_reader import threads
from dhm_keras.reid.matching import Matching

FLAGS = flags.FLAGS


def define_flags():
    """Defines the flags of the data set and its images."""
    kinds = ("market1501", "duke", "folder", "synthetic")
    flags.DEFINE_enum("dataset", None, kinds, "What is trained and tested on.")
    flags.DEFINE_string("data_dir", None, "Its folder; of --dataset folder a folder or a CSV file. None is downloaded.")
    flags.DEFINE_string("pattern", None, "Of --dataset folder: a regular expression with the groups pid and camid.")
    flags.DEFINE_boolean("cameras", True, "Of --dataset folder: whether the cameras are known, and count.")
    flags.DEFINE_string("image_size", None, "HEIGHTxWIDTH that images are resized to.")


def check_flags():
    """A sentence about the first wrong flag of the data, or `None`."""
    dataset = FLAGS.dataset or "market1501"
    if not FLAGS.data_dir and dataset != "synthetic":
        return f"--dataset {dataset} wants --data_dir, where it is: nothing is downloaded. Without any: synthetic."
    if (FLAGS.pattern or not FLAGS.cameras) and dataset != "folder":
        return f"--pattern and --nocameras are of --dataset folder. Received: --dataset {dataset}."
    if FLAGS.pattern and is_table(FLAGS.data_dir):
        return f"--pattern is for a folder's names, not for a table. Received: --data_dir {FLAGS.data_dir}."
    if FLAGS.image_size and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", FLAGS.image_size):
        return f"--image_size is HEIGHTxWIDTH, as 256x128. Received: {FLAGS.image_size}."
    return None


def read(dataset, smoke=False):
    """The `PersonSet` that the flags name.

    Args:
        dataset: String, of `--dataset`.
        smoke: Boolean. Whether a few persons are enough. Defaults to `False`.

    Raises:
        ValueError: if it is not as it should be.
        OSError: if it cannot be read.
    """
    readers = {"market1501": reid.market1501, "duke": reid.dukemtmc, "folder": load_folder, "synthetic": draw}
    people = readers[dataset](FLAGS.data_dir)
    return some_of(people, persons=8) if smoke else people


def check_images(people):
    """Raises `ValueError` if an image to test on cannot be decoded: else that would be found after hours."""
    for images in (people.query, people.gallery, people.multi_query):
        damaged = [
            where for where in threads().map(functools.partial(damage, images), range(len(images or ()))) if where
        ]
        if damaged:
            raise ValueError(
                f"{len(damaged)} of {len(images)} images to test on cannot be decoded: {', '.join(damaged[:5])}"
                f"{', ...' * (len(damaged) > 5)}. Bring them back, or remove them."
            )


def damage(images, i):
    """What to call image `i` if it cannot be decoded, else `None`."""
    try:
        jpeg.decode(images.read(i))
    except jpeg.CorruptImage as error:
        return f"{images.where(i)} ({error})"


def load_folder(path):
    if is_table(path):
        return reid.person_table(path, cameras=FLAGS.cameras)
    return reid.person_folder(path, **({"pattern": FLAGS.pattern} if FLAGS.pattern else {}), cameras=FLAGS.cameras)


def is_table(path):
    return path.lower().endswith(".csv")


def draw(folder):
    """Synthetic persons, drawn where they are not there yet."""
    folder = folder or "runs/reid/synthetic-persons"
    return reid.person_folder(reid.synthetic_people(folder, train=100, test=100, images=4, distractors=100))


def some_of(people, persons):
    """A small part of a set: some persons to train on, and some to search for."""
    of_both = people.query.pids, people.gallery.pids, people.query.camids, people.gallery.camids
    chosen = np.unique(people.query.pids[Matching(*of_both).valid])[:persons]  # that can be found
    of = lambda images, names: images.take(np.isin(images.pids, names))
    return dataclasses.replace(
        people,
        train=of(people.train, people.train.class_names[:persons]),
        query=of(people.query, chosen),
        gallery=of(people.gallery, chosen),
        multi_query=None,
    )


def size_of(config):
    """(height, width) of the images."""
    return tuple(map(int, config["image_size"].split("x")))
