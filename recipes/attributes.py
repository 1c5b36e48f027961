"""Attributes of pedestrians as in OSNet's paper, supplement B: PA-100K, your own images in its layout, or drawn ones.

    python recipes/attributes.py --dataset synthetic --arch osnet_x0_25 --image_size 64x32 --epochs 10  # no data needed
    python recipes/attributes.py --data_dir PA-100K                                                     # OSNet x1.0
    python recipes/attributes.py --dataset folder --data_dir DIR                # another set in PA-100K's layout
    python recipes/attributes.py --dataset synthetic --smoke

Trains from scratch with the weighted multi-label loss, prints what with and where each number is from, and after each
epoch the mean accuracy (mA) of the validation images. At the end come mA, and accuracy, precision, recall and F1 of the
images, of validation and test after the last epoch, and the mA of each attribute.

The folder of a run has `config.json`, `history.csv`, `last.keras`, `predictions.npz` (names, true attributes and
probabilities of validation and test) and `result.json`. A second start with the same settings keeps a finished run, and
goes on with one that was stopped from the end of its last epoch, to the same result; other settings are refused.

Nothing is downloaded. Meant for a GPU: OSNet x1.0 on PA-100K is 50 epochs of 80,000 images at one billion multiply-adds
each, forward. Runs with KERAS_BACKEND=jax too, also where TensorFlow is not installed.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import pathlib
import re
import time

import keras
import numpy as np
from absl import app, flags, logging

import dhm_keras as dhm
from dhm_keras import attributes, files
from dhm_keras.resume import Resume
from dhm_keras.run import HistoryFile, KeepBest, Run, left_out

PAPER = "OSNet's paper, supplement B"
CODE = "the authors' code, torchreid"
SETTINGS = {
    "dataset": ("pa100k", PAPER),
    "image_size": ("256x128", CODE),
    "batch_size": (32, CODE),
    "epochs": (50, PAPER),
    "learning_rate": (0.065, PAPER),
    "milestones": ((30, 40), PAPER),
    "decay": (0.1, PAPER),
    "momentum": (0.9, PAPER),
    "weight_decay": (5e-4, CODE),
    "weighting": ("attribute", f"exp(-share of positives), both labels: {CODE}"),
    "examples": (None, "all of them; --smoke has a few"),
    "seed": (0, "ours"),
}
NOTES = {
    "augmentation": ("translation, flip", f"{PAPER}; for one half, a crop of 1.125 times the size, {CODE}"),
    "pooling": ("max", CODE),
    "threshold": (0.5, CODE),
    "normalization": ("ImageNet's", CODE),
}
SMOKE = {"epochs": 2, "examples": 32, "batch_size": 8, "image_size": "64x32"}
METRICS = {"mA": "mA", "accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1"}

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", None, ("pa100k", "folder", "synthetic"), "What is trained and tested on.")
flags.DEFINE_string("data_dir", None, "Its folder, with annotation.mat. Nothing is downloaded.")
flags.DEFINE_enum("arch", "osnet_x1_0", ("osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25"), "The network.")
flags.DEFINE_integer("epochs", None, "Epochs; the milestones of the schedule move in proportion.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Images in a batch.", lower_bound=1)
flags.DEFINE_float("learning_rate", None, "First learning rate.", lower_bound=1e-9)
flags.DEFINE_string("image_size", None, "HEIGHTxWIDTH that images are resized to.")
flags.DEFINE_enum("weighting", None, ("attribute", "label"), "What has a weight in the loss.")
flags.DEFINE_integer("seed", None, "Of the first weights and the batches.", lower_bound=0)
flags.DEFINE_string("run_dir", None, "Folder of the run. Default: runs/attributes/ARCH and the flags given.")
flags.DEFINE_boolean("smoke", False, "Two short epochs; flags can say otherwise. Tests on as few images.")


def main(arguments):
    if len(arguments) > 1:
        raise app.UsageError(f"Too many arguments: {arguments[1:]}. Every option begins with --.")
    logging.set_verbosity(logging.ERROR)
    if wrong := check():
        raise SystemExit(f"attributes.py: {wrong}")
    dhm.distribute.deterministic()
    settings = read_settings()
    folder = pathlib.Path(FLAGS.run_dir or default_folder(settings)).expanduser()
    print(f"The run goes to {folder}")
    for sentence in left_out():
        print(sentence)
    try:
        people = load(settings)
        config = {"recipe": "attributes", "arch": FLAGS.arch, **settings, "backend": keras.backend.backend()}
        run = Run(folder, {**config, "data": checksum(people)})
        if run.result is None:
            train(run, people)
        else:
            print("It was finished before, and is kept as it is.")
        print_tables(run.result)
    except KeyboardInterrupt:
        raise SystemExit("\nattributes.py: stopped. The same command goes on after the last finished epoch.") from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:  # of the data, the folder, or the loss
        raise SystemExit(f"attributes.py: {error}") from None


def check():
    """A sentence about the first wrong flag, or `None`."""
    dataset = FLAGS.dataset or SETTINGS["dataset"][0]
    if not FLAGS.data_dir and dataset != "synthetic":
        return f"--dataset {dataset} wants --data_dir, where it is: nothing is downloaded. Without any: synthetic."
    if FLAGS.image_size and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", FLAGS.image_size):
        return f"--image_size is HEIGHTxWIDTH, as 256x128. Received: {FLAGS.image_size}."
    if FLAGS.image_size and any(side % 16 for side in size_of({"image_size": FLAGS.image_size})):
        return f"--image_size is of multiples of 16, as OSNet takes them. Received: {FLAGS.image_size}."
    return None


def read_settings():
    """The settings, a dict; printed with their sources."""
    settings = dict(SETTINGS)
    for name, (default, source) in SETTINGS.items():
        if name in FLAGS and FLAGS[name].value is not None:
            settings[name] = FLAGS[name].value, f"--{name} (default {default}: {source})"
        elif FLAGS.smoke and name in SMOKE:
            settings[name] = SMOKE[name], "--smoke"
    epochs, of_epochs = settings["epochs"][0], SETTINGS["epochs"][0]
    if epochs != of_epochs:
        milestones = SETTINGS["milestones"][0]
        scaled = tuple(round(milestone * epochs / of_epochs, 2) for milestone in milestones)
        settings["milestones"] = scaled, f"{milestones} of {of_epochs} epochs, in proportion"
    print(f"Attributes of pedestrians, {FLAGS.arch}, {keras.backend.backend()}")
    for name, (value, source) in {**settings, **NOTES}.items():
        print(f"  {name:<17} {'all' if value is None else str(value):<21} {source}")
    return {name: value for name, (value, _) in settings.items()}


def default_folder(settings):
    """`runs/attributes/ARCH`, with what the flags change in its name: other settings, other folder."""
    changed = [f"{name}={settings[name]}" for name in settings if name in FLAGS and FLAGS[name].value is not None]
    return pathlib.Path("runs", "smoke" if FLAGS.smoke else "attributes", "-".join([FLAGS.arch, *changed]))


def load(settings):
    """The `AttributeSet` to train and test on; with --smoke a few images of it."""
    readers = {"pa100k": attributes.pa100k, "folder": attributes.attribute_folder, "synthetic": draw}
    people, n = readers[settings["dataset"]](FLAGS.data_dir), settings["examples"]
    few = lambda images: images.subset(n and min(n, len(images)))
    people = attributes.AttributeSet(people.title, *(few(each) for each in (people.train, people.val, people.test)))
    if settings["batch_size"] > len(people.train):
        raise ValueError(f"There are {len(people.train)} training images. Give a --batch_size of as many, or fewer.")
    print(people)
    return people


def draw(folder):
    """Drawn pedestrians, drawn where they are not there yet; with --smoke a few, in a folder of their own."""
    folder = folder or f"runs/{'smoke' if FLAGS.smoke else 'attributes'}/drawn-pedestrians"
    few = SMOKE["examples"]
    train, held_out = (few, few) if FLAGS.smoke else (3000, 500)
    folder = attributes.synthetic_attributes(folder, train=train, val=held_out, test=held_out)
    return attributes.attribute_folder(folder, title="Drawn pedestrians")


def checksum(people):
    """What tells one set of images from another, in a run's config."""
    return [int(images.checksum) for images in (people.train, people.val, people.test)]


def size_of(config):
    """(height, width) of the images."""
    return tuple(map(int, config["image_size"].split("x")))


def build(config, people):
    """The plain network, from raw images to a logit an attribute."""
    network = dhm.models.get(
        config["arch"],
        num_classes=len(people.attribute_names),
        branches=(),
        input_shape=(*size_of(config), 3),
        pooling=NOTES["pooling"][0],
        normalization=dhm.data.IMAGENET_MEAN_STD,
    )
    return keras.Model(network.input, network.output["main"], name=config["arch"])


def train(run, people):
    """Trains the network, or goes on with it, and leaves all in the run's folder."""
    config = run.config
    keras.utils.set_random_seed(config["seed"])
    model = build(config, people)
    seeded = {"batch_size": config["batch_size"], "image_size": size_of(config), "seed": config["seed"]}
    batches = attributes.AttributeTrainBatches(people.train, **seeded)
    schedule = dhm.schedules.MultiStep(
        config["learning_rate"], batches.steps_per_epoch, config["milestones"], config["decay"]
    )
    model.compile(
        optimizer=dhm.optimizers.SGD(schedule, config["momentum"], weight_decay=config["weight_decay"]),
        loss=attributes.WeightedAttributeLoss(people.train.positive_ratios, config["weighting"]),
    )
    of_run = [each for each in run.start() if not isinstance(each, (KeepBest, Resume))]  # those are for DHM
    history = next(each for each in of_run if isinstance(each, HistoryFile))
    checkpoints = attributes.EpochCheckpoints(run.path("checkpoints"), history)
    callbacks = [attributes.EvaluateAttributes(people.val), Progress(), *of_run, checkpoints]
    with dhm.distribute.plain_errors(batches):
        model.fit(
            batches.starting_at(checkpoints.epoch).for_backend(),
            steps_per_epoch=batches.steps_per_epoch,
            initial_epoch=checkpoints.epoch,
            epochs=config["epochs"],
            shuffle=False,
            callbacks=callbacks,
            verbose=0,
        )
    run.finish(model, evaluate(run, model, people))


class Progress(keras.callbacks.Callback):
    """Prints a line an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        told = ", ".join(f"{METRICS[name]} {100 * logs[f'val_{name}']:.2f} %" for name in ("mA", "f1"))
        seconds = time.perf_counter() - self._begin
        print(
            f"epoch {epoch + 1}/{self.params['epochs']}: loss {logs['loss']:.4f}, {told}, {seconds:.0f} s", flush=True
        )


def evaluate(run, model, people):
    """Predicts validation and test, saves the predictions, and gives the results, a dict."""
    arrays, result = {"attributes": np.array(people.attribute_names)}, {"attributes": people.attribute_names}
    for split in ("val", "test"):
        images = getattr(people, split)
        probabilities = attributes.predict(model, images)
        arrays |= {f"{split}_names": np.array(images.names), f"{split}_true": images.attributes}
        arrays[f"{split}_probabilities"] = probabilities
        found = attributes.evaluate(images.attributes, probabilities, NOTES["threshold"][0])
        of_each = {"positives": found.positives.tolist(), "mA_of_each": found.attribute_accuracy.tolist()}
        result[split] = {"images": len(images), **found.summary, **of_each}
    with files.replacing(run.folder / "predictions.npz") as partial:
        np.savez(partial, **arrays)
    return result


def print_tables(result):
    """The metrics of validation and test after the last epoch, and of each attribute, in per cent."""
    print(f"\nAfter the last epoch, %\n{'':<12}{'images':>8}{''.join(f'{title:>11}' for title in METRICS.values())}")
    for title, split in (("validation", "val"), ("test", "test")):
        numbers = "".join(f"{100 * result[split][name]:>11.2f}" for name in METRICS)
        print(f"{title:<12}{result[split]['images']:>8}{numbers}")
    print(f"\n{'attribute, of test':<20}{'positives':>11}{'mA':>9}")
    rows = zip(result["attributes"], result["test"]["positives"], result["test"]["mA_of_each"], strict=True)
    for name, positives, accuracy in rows:
        print(f"{name:<20}{positives:>11}{100 * accuracy:>9.2f}")


if __name__ == "__main__":
    app.run(main)
