"""CIFAR-100 as in the paper: Table 1, supplements D (sampling), E (corrupt labels) and F (dropout).

    python recipes/cifar100.py --arch densenet100                              # one training with DHM
    python recipes/cifar100.py --arch resnet32 --method baseline,dsl,dhm --seeds 5    # a row of Table 1
    python recipes/cifar100.py --arch resnet32 --sampling bernoulli --seeds 5         # supplement D
    python recipes/cifar100.py --arch wrn28_10 --method baseline,dhm --corrupt 0.2    # supplement E
    python recipes/cifar100.py --arch wrn28_10 --method baseline,dhm --dropout 0.3    # supplement F
    python recipes/cifar100.py --arch wrn28_10 --devices 4                     # four GPUs
    python recipes/cifar100.py --arch resnet20 --smoke                         # two short epochs: does it work?

The recipe prints what it trains with and where each number is from; by default that is what the paper has for the
network. Data: `--data_dir` is the official binary release (cifar-100-binary.tar.gz, or its unpacked folder); without it
tensorflow-datasets downloads 169 MB. Prints top-1 and top-5 errors of every head after the best and the last epoch, and
draws `curves.png`. The folder of a run holds its config, history, best weights, last model, TensorBoard logs and the
exported main head. A second start with the same settings keeps the runs that are finished, and goes on where one was
stopped, or killed.

The networks of Table 1 are meant for a GPU: on two CPU cores an epoch of ResNet-32 with branches takes five minutes, of
the others more. Runs with KERAS_BACKEND=jax too, also where TensorFlow is not installed: no TensorBoard, no export.
"""

import logging as python_logging
import math
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
from absl import app, flags, logging

import dhm_keras as dhm
from dhm_keras.run import Run, best_and_last, left_out

METHODS = ("baseline", "dsl", "dhm")
PAPER = "the paper, section 4.1"
NORMALIZATION = "the paper; the authors' release takes CIFAR-10's mean and deviation"
# What the networks are trained with: value and source. The paper takes the schedules from the networks' own papers.
RECIPES = {
    "resnet": {
        "batch_size": (128, PAPER),
        "epochs": (164, "ResNet's schedule, as the paper says"),
        "milestones": ((81, 122), "ResNet's schedule, as the paper says"),
        "decay": (0.1, "ResNet's schedule, as the paper says"),
        "weight_decay": (1e-4, PAPER),
    },
    "densenet": {
        "batch_size": (64, "the authors' release; the paper's text has 128 for all"),
        "epochs": (300, "DenseNet's schedule, as the paper says"),
        "milestones": ((150, 225), "DenseNet's schedule, as the paper says"),
        "decay": (0.1, "DenseNet's schedule, as the paper says"),
        "weight_decay": (1e-4, PAPER),
    },
    "wrn": {
        "batch_size": (128, PAPER),
        "epochs": (200, "WRN's schedule, as the paper says"),
        "milestones": ((60, 120, 160), "WRN's schedule, as the paper says"),
        "decay": (0.2, "WRN's schedule, as the paper says"),
        "weight_decay": (5e-4, "the authors' release; the paper's text has 1e-4 for all"),
    },
}
FOR_ALL = {
    "learning_rate": (0.1, PAPER),
    "momentum": (0.9, PAPER),
    "warmup_epochs": (0.0, "off, as in the authors' release; linear, ours"),
    "train_examples": (None, "all 50,000"),
    "corrupt": (0.0, "supplement E has 0.2 and 0.5"),
    "dropout": (0.0, "supplement F has 0.3, WRN only"),
    "sampling": ("fixed", "the paper; supplement D has bernoulli, p = 0.5"),
    "scope": ("mimic", "supplement D; eq. 8-9 have branch"),
    "direction": ("both", "the paper"),
    "precision": ("float32", "ours"),
    "devices": (1, "ours; of each machine"),
}
SETTINGS = [*RECIPES["resnet"], *FOR_ALL]
ARCHS = [name for name in dhm.models.names() if name.startswith(tuple(RECIPES))]
SMOKE = {"epochs": 2, "train_examples": 256}

FLAGS = flags.FLAGS
flags.DEFINE_enum("arch", "resnet32", ARCHS, "The network.")
flags.DEFINE_list("method", "dhm", f"One or several of {','.join(METHODS)}.")
flags.DEFINE_string("data_dir", None, "cifar-100-binary.tar.gz or its unpacked folder. Default: tensorflow-datasets.")
flags.DEFINE_integer("seeds", 1, "Number of seeds; the paper has 5.", lower_bound=1)
flags.DEFINE_string("run_dir", None, "Folder of the runs. Default: runs/cifar100/ARCH and the flags given.")
flags.DEFINE_integer("devices", None, "GPUs, or CPU cores without one, that share each batch.", lower_bound=1)
flags.DEFINE_boolean("synchronized", True, "On several devices, batch statistics of the whole batch (TensorFlow).")
flags.DEFINE_integer("checkpoint_every", None, "Steps between checkpoints. Default: one an epoch.", lower_bound=1)
flags.DEFINE_boolean("smoke", False, "Two epochs of 256 images; flags can say otherwise. Tests on as many.")
flags.DEFINE_integer("epochs", None, "Epochs; the milestones of the schedule move in proportion.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Images in a batch.", lower_bound=1)
flags.DEFINE_float("learning_rate", None, "First learning rate.", lower_bound=1e-9)
flags.DEFINE_float("weight_decay", None, "Of all variables, part of the gradient as in PyTorch.", lower_bound=0.0)
flags.DEFINE_float("warmup_epochs", None, "Epochs over which the learning rate rises from 0.", lower_bound=0.0)
flags.DEFINE_integer("train_examples", None, "The first so many training images only.", 1, 50_000)
flags.DEFINE_float("corrupt", None, "Share of the training labels that is redrawn.", 0.0, 1.0)
flags.DEFINE_float("dropout", None, "Dropout rate between the convolutions of a WRN's block.", 0.0, 0.99)
flags.DEFINE_enum("sampling", None, dhm.sampling.SAMPLERS, "Branches that take part in an epoch.")
flags.DEFINE_enum("scope", None, ("mimic", "branch"), "What a branch that does not take part leaves out.")
flags.DEFINE_enum("direction", None, ("both", "top_down", "bottom_up"), "Which heads learn from which.")
flags.DEFINE_enum("precision", None, ("float32", "mixed_bfloat16", "mixed_float16"), "Keras's dtype policy.")


def main(arguments):
    if len(arguments) > 1:
        raise app.UsageError(f"Too many arguments: {arguments[1:]}. Every option begins with --.")
    logging.set_verbosity(logging.ERROR)  # TFDS and the exports say what they do
    python_logging.getLogger("tensorflow").setLevel("ERROR")  # it warns of several trainings in one process
    check_flags()
    dhm.distribute.deterministic()
    settings = read_settings()
    folder = pathlib.Path(FLAGS.run_dir or default_folder()).expanduser()
    print(f"Runs go to {folder}/METHOD-SEED: {', '.join(FLAGS.method)}, {FLAGS.seeds} seed{'s' * (FLAGS.seeds > 1)}")
    for sentence in left_out():
        print(sentence)
    try:
        with dhm.distribute.data_parallel(settings["devices"]):  # before anything computes
            runs, unfinished, data = prepare(settings, folder)
        for number, run in enumerate(unfinished, start=1):
            print(f"Run {number} of {len(unfinished)}: {run.folder}", flush=True)
            keras.utils.clear_session()
            with dhm.distribute.data_parallel(settings["devices"]):
                train(run, data, epochs_after=(len(unfinished) - number) * settings["epochs"])
    except KeyboardInterrupt:
        raise SystemExit("\ncifar100.py: stopped. The same command goes on from there.") from None
    except (ValueError, OSError, FloatingPointError) as error:  # of a run's folder, or its loss
        raise SystemExit(f"cifar100.py: {error}") from None
    if not dhm.distribute.is_chief():  # the results are the first machine's to tell
        return
    print_table(runs)
    draw_curves(runs, folder / "curves.png")


def prepare(settings, folder):
    """`{method: runs}`, the runs to train in order, and their data; exits where a folder or the data are wrong."""
    try:
        runs = {
            method: [Run(folder / f"{method}-{seed}", config(settings, method, seed)) for seed in range(FLAGS.seeds)]
            for method in FLAGS.method
        }
        # A seed of all methods before the next seed: an early look compares them.
        unfinished = [run for seed in zip(*runs.values()) for run in seed if run.result is None]
        return runs, unfinished, load_data(settings) if unfinished else None
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"cifar100.py: {error}") from None


def check_flags():
    """Stops at flags that have no effect on what is asked for."""
    methods, sampled = FLAGS.method, (FLAGS.sampling or "fixed") != "fixed"
    wrong = None
    if not methods or not set(methods) <= set(METHODS) or len(set(methods)) < len(methods):
        wrong = f"--method is one or several of {','.join(METHODS)}, each once. Received: {','.join(methods)}."
    elif FLAGS.dropout and not FLAGS.arch.startswith("wrn"):
        wrong = f"--dropout is of the WRNs, {FLAGS.arch} has none. Leave it out, or choose --arch wrn28_10."
    elif FLAGS.scope and not sampled:
        wrong = "--scope says what unsampled branches leave out. Give --sampling bernoulli or uniform, too."
    elif (FLAGS.direction or "both") != "both" and "dhm" not in methods:
        wrong = f"--direction is of the mimicking, which {','.join(methods)} has not. Give --method dhm, too."
    elif sampled and not ({"dhm"} | ({"dsl"} if FLAGS.scope == "branch" else set())) & set(methods):
        wrong = "--sampling masks the mimicking, with --scope branch whole branches. Give --method dhm, too."
    for name in SETTINGS:
        if name in FLAGS and isinstance(FLAGS[name].value, float) and not math.isfinite(FLAGS[name].value):
            wrong = f"--{name} is a finite number. Received: {FLAGS[name].value}."
    if wrong:
        raise SystemExit(f"cifar100.py: {wrong}")


def default_folder():
    """`runs/cifar100/ARCH`, with what the flags change in its name: other settings, other folder."""
    changed = [f"{name}={FLAGS[name].value}" for name in SETTINGS if name in FLAGS and FLAGS[name].value is not None]
    return pathlib.Path("runs", "smoke" if FLAGS.smoke else "cifar100", "-".join([FLAGS.arch, *changed]))


def read_settings():
    """The settings of all runs, a dict; printed with their sources."""
    family = next(family for family in RECIPES if FLAGS.arch.startswith(family))
    settings = {**RECIPES[family], **FOR_ALL}
    for name, (value, source) in settings.items():
        given = FLAGS[name].value if name in FLAGS else None
        if given is not None:
            settings[name] = given, f"--{name} (default {source if value is None else f'{value}: {source}'})"
        elif FLAGS.smoke and name in SMOKE:
            settings[name] = SMOKE[name], "--smoke"
    epochs, of_epochs = settings["epochs"][0], RECIPES[family]["epochs"][0]
    if epochs != of_epochs:
        milestones, _ = settings["milestones"]
        scaled = tuple(round(milestone * epochs / of_epochs, 2) for milestone in milestones)
        settings["milestones"] = scaled, f"{milestones} of {of_epochs} epochs, in proportion"
    print(f"CIFAR-100, {FLAGS.arch}, {keras.backend.backend()}")
    augmentation = {"augmentation": ("pad 4, crop 32, flip", PAPER), "normalization": ("CIFAR-100's", NORMALIZATION)}
    for name, (value, source) in {**settings, **augmentation}.items():
        print(f"  {name:<15} {'all' if value is None else str(value):<21} {source}")
    return {name: value for name, (value, _) in settings.items()}


def config(settings, method, seed):
    """What the result of one run depends on: the settings that its method heeds."""
    has_branches, mimics = method != "baseline", method == "dhm"
    sampled = settings["sampling"] != "fixed" and (mimics or (has_branches and settings["scope"] == "branch"))
    heeded = {
        **settings,
        "sampling": settings["sampling"] if sampled else "fixed",
        "scope": settings["scope"] if sampled else None,
        "direction": settings["direction"] if mimics else None,
        "test_examples": settings["train_examples"] if FLAGS.smoke else None,
        "processes": dhm.distribute.process()[1],
    }
    if heeded["devices"] * heeded["processes"] > 1:
        heeded["synchronized"] = FLAGS.synchronized
    return {"arch": FLAGS.arch, "method": method, "seed": seed, **heeded, "backend": keras.backend.backend()}


def load_data(settings):
    """`(train_images, train_labels), (test_images, test_labels)`; of the training labels a share is redrawn."""
    n = settings["train_examples"]
    if FLAGS.data_dir:
        (images, labels), test = dhm.data.cifar100(FLAGS.data_dir, n)
    else:
        (images, labels), test = dhm.data.from_tfds("cifar100", n, download=True)
    labels = dhm.data.corrupt_labels(labels, settings["corrupt"], num_classes=100, seed=0)  # the same for every run
    if FLAGS.smoke:
        test = test[0][:n], test[1][:n]
    print(f"Data: {FLAGS.data_dir or 'tensorflow-datasets'}, {len(labels)} training, {len(test[1])} test images")
    return (images, labels), test


def train(run, data, epochs_after):
    """Trains one network and leaves history, logs, checkpoints, export and result in the run's folder."""
    (images, labels), test = data
    config, seed = run.config, run.config["seed"]
    keras.config.set_dtype_policy(config["precision"])
    keras.utils.set_random_seed(seed)
    batches = dhm.data.TrainBatches(images, labels, config["batch_size"], pad=4, flip=True, seed=seed)
    network = dhm.models.get(
        config["arch"],
        num_classes=100,
        normalization=dhm.data.CIFAR100_MEAN_STD,
        **({"branches": ()} if config["method"] == "baseline" else {}),
        **({"dropout": config["dropout"]} if config["dropout"] else {}),
        synchronized=config.get("synchronized", False),
    )
    model = dhm.DHM(network, method=config["method"], direction=config["direction"] or "both", name=run.folder.name)
    schedule = dhm.schedules.MultiStep(
        config["learning_rate"], batches.steps_per_epoch, config["milestones"], config["decay"], config["warmup_epochs"]
    )
    model.compile(optimizer=dhm.optimizers.SGD(schedule, config["momentum"], weight_decay=config["weight_decay"]))
    callbacks = [
        *run.start(FLAGS.checkpoint_every),
        dhm.callbacks.WarnOfCollapse(),
        dhm.callbacks.Progress(epochs_after),
    ]
    if config["sampling"] != "fixed":
        callbacks.append(dhm.callbacks.SampleBranches(config["sampling"], scope=config["scope"], seed=seed))
    if config["backend"] == "tensorflow":
        callbacks.append(dhm.callbacks.ExportMain(run.path("serving")))
    history = model.fit(
        batches,
        epochs=config["epochs"],
        validation_data=test,
        validation_batch_size=500,
        callbacks=callbacks,
        verbose=0,
    ).history
    run.finish(model, best_and_last(history, model.heads))


def print_table(runs):
    """Errors of every head on the test set, after the best and the last epoch."""
    print("\nTest error, %: mean (standard deviation over the seeds)")
    print(f"{'':<15}{'last epoch':>14}{'':>14}  {'best epoch':>14}")
    print(f"{'method':<9}{'head':<6}{'top-1':>14}{'top-5':>14}  {'top-1':>14}{'top-5':>14}")
    for method, of_method in runs.items():
        results = [run.result for run in of_method]
        heads = [key.removesuffix("_top1_error") for key in results[0]["last"] if key.endswith("_top1_error")]
        for head in heads:
            last_1, last_5, best_1, best_5 = (
                dhm.analysis.mean_std([result[when][f"{head}_{top}_error"] for result in results])
                for when in ("last", "best")
                for top in ("top1", "top5")
            )
            print(f"{method:<9}{head:<6}{last_1:>14}{last_5:>14}  {best_1:>14}{best_5:>14}")
    print("The best epoch is main's, chosen on the test set, as papers on CIFAR do; the last is not chosen at all.\n")


def draw_curves(runs, path):
    try:
        dhm.analysis.plot_curves(
            {
                f"CIFAR-100, {FLAGS.arch}": {
                    method: {run.folder.name: run.history for run in of_method} for method, of_method in runs.items()
                }
            },
            path,
        )
        print(f"Curves: {path}")
    except ImportError as error:
        print(f"No curves: {error}")


if __name__ == "__main__":
    app.run(main)
