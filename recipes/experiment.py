"""What the recipes of the paper's experiments share: flags, settings, runs one after another, the table at the end.

A recipe describes its data set in a subclass of `Recipe` and hands it to `main`.
"""

import dataclasses
import logging as python_logging
import math
import os
import pathlib
from collections.abc import Callable

import keras
from absl import app, flags, logging

import dhm_keras as dhm
import protocols
from dhm_keras.run import Run, left_out

METHODS = ("baseline", "dsl", "dhm")
ALONE = ("aux1", "aux2", "aux3")  # as a method: that branch alone, from the image on
OF_MIMICKING = ("direction", "temperature", "mimic_weight")
FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What one data set's recipe has of its own.

    A subclass has `train(run, data, epochs_after)`, which trains one network and leaves everything in the folder of the
    `Run`, `data` being what `load` gave and `epochs_after` the epochs of the runs that follow; `print_table(runs)`, of
    `{method: runs}`; and `draw_figures(folder)`, of all the finished runs in it.

    Attributes:
        name: String, as `protocols.settings_of` knows it.
        title: String, the data set's name.
        smoke: Dict, the settings of `--smoke`.
        normalization: (mean, std) per channel.
        notes: Dict from name to (value, source): what is printed with the settings and no flag changes.
        load: Function of the settings to the data: any value.
        check: Function to a sentence about the first wrong flag of the recipe's own, or `None`.
    """

    name: str
    title: str
    smoke: dict
    normalization: tuple
    notes: dict
    load: Callable
    check: Callable = lambda: None

    def identify(self, settings):
        """What the results depend on besides the settings: a dict for the config of every run. Here nothing.

        Raises:
            ValueError: if the data are not as they should be.
            OSError: if they cannot be read.
        """
        return {}


def define_flags(recipe, default_arch, most_examples=None, checkpoint_every=None):
    """Defines the flags that all the recipes have; the settings' defaults are in `protocols`.

    Args:
        recipe: String, the recipe's name.
        default_arch: String.
        most_examples: Integer. Training images there are. Defaults to no limit.
        checkpoint_every: Integer. Default of the flag. Defaults to `None`.
    """
    known = f"{','.join(METHODS)}, or a branch to be trained alone: {','.join(ALONE)}"
    flags.DEFINE_enum("arch", default_arch, protocols.ARCHS[recipe], "The network.")
    flags.DEFINE_list("method", "dhm", f"One or several of {known}.")
    flags.DEFINE_integer("seeds", 1, "Number of seeds; the paper has 5 on CIFAR-100.", lower_bound=1)
    flags.DEFINE_string("run_dir", None, f"Folder of the runs. Default: runs/{recipe}/ARCH and the flags given.")
    flags.DEFINE_string(
        "only", None, "Of all these runs train one, as dhm-0, and draw no figures: for several machines."
    )
    flags.DEFINE_integer("devices", None, "GPUs, or CPU cores without one, that share each batch.", lower_bound=1)
    flags.DEFINE_boolean("synchronized", True, "On several devices, batch statistics of the whole batch (TensorFlow).")
    flags.DEFINE_integer("checkpoint_every", checkpoint_every, "Steps between checkpoints. Default: one an epoch.", 1)
    flags.DEFINE_boolean("smoke", False, "Two short epochs; flags can say otherwise. Tests on as few images.")
    flags.DEFINE_boolean("agreement", False, "Measure after each epoch of DSL and DHM how far the heads agree.")
    flags.DEFINE_integer("epochs", None, "Epochs; the milestones of the schedule move in proportion.", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "Images in a batch.", lower_bound=1)
    flags.DEFINE_float("learning_rate", None, "First learning rate.", lower_bound=1e-9)
    flags.DEFINE_float("weight_decay", None, "Of all variables, part of the gradient as in PyTorch.", lower_bound=0.0)
    flags.DEFINE_float("warmup_epochs", None, "Epochs over which the learning rate rises from 0.", lower_bound=0.0)
    flags.DEFINE_integer("train_examples", None, "So many training images only.", 1, most_examples)
    flags.DEFINE_float("corrupt", None, "Share of the training labels that is redrawn.", 0.0, 1.0)
    flags.DEFINE_list("branches", None, "Branches that DSL and DHM train with.")
    flags.DEFINE_enum("sampling", None, dhm.sampling.SAMPLERS, "Branches that take part in an epoch.")
    flags.DEFINE_float("p", None, "Probability of each branch, of --sampling bernoulli.", 0.0, 1.0)
    flags.DEFINE_enum("scope", None, ("mimic", "branch"), "What a branch that does not take part leaves out.")
    flags.DEFINE_enum("direction", None, ("both", "top_down", "bottom_up"), "Which heads learn from which.")
    flags.DEFINE_float("temperature", None, "Of the mimicking.", lower_bound=1e-9)
    flags.DEFINE_float("ce_weight", None, "Weight of every branch's cross-entropy.", lower_bound=0.0)
    flags.DEFINE_float("mimic_weight", None, "Weight of every pair's mimicking.", lower_bound=0.0)
    flags.DEFINE_enum("precision", None, ("float32", "mixed_bfloat16", "mixed_float16"), "Keras's dtype policy.")


def main(recipe, arguments):
    """Trains what the flags ask for, prints the table and draws the curves."""
    if len(arguments) > 1:
        raise app.UsageError(f"Too many arguments: {arguments[1:]}. Every option begins with --.")
    logging.set_verbosity(logging.ERROR)  # TFDS and the exports say what they do
    python_logging.getLogger("tensorflow").setLevel("ERROR")  # it warns of several trainings in one process
    wrong = check_flags() or recipe.check()
    if wrong:
        raise SystemExit(f"{recipe.name}.py: {wrong}")
    dhm.distribute.deterministic()
    settings = read_settings(recipe)
    folder = pathlib.Path(FLAGS.run_dir or default_folder(recipe, settings)).expanduser()
    wanted = FLAGS.only or f"{', '.join(FLAGS.method)}, {FLAGS.seeds} seed{'s' * (FLAGS.seeds > 1)}"
    print(f"Runs go to {folder}/METHOD-SEED: {wanted}")
    for sentence in left_out():
        print(sentence)
    try:
        with dhm.distribute.data_parallel(settings["devices"]):  # before anything computes
            runs, unfinished, data = prepare(recipe, settings, folder)
        if before := sum(map(len, runs.values())) - len(unfinished):
            print(f"{before} run{'s' * (before > 1)} finished before, kept as they are")
        for number, run in enumerate(unfinished, start=1):
            print(f"Run {number} of {len(unfinished)}: {run.folder}", flush=True)
            keras.utils.clear_session()
            with dhm.distribute.data_parallel(settings["devices"]):
                recipe.train(run, data, epochs_after=(len(unfinished) - number) * settings["epochs"])
        if dhm.distribute.is_chief():  # the results are the first machine's to tell
            recipe.print_table(runs)
            if not FLAGS.only:  # others may be at work in the same folder
                recipe.draw_figures(folder)
    except KeyboardInterrupt:
        raise SystemExit(f"\n{recipe.name}.py: stopped. The same command goes on from there.") from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:  # of a run's folder, its data, or its loss
        raise SystemExit(f"{recipe.name}.py: {error}") from None


def prepare(recipe, settings, folder):
    """`{method: runs}`, the runs to train in order, and their data; exits where a folder or the data are wrong."""
    try:
        runs = runs_of(recipe, {**settings, **recipe.identify(settings)}, folder)
        # A seed of all methods before the next seed: an early look compares them.
        unfinished = [run for seed in zip(*runs.values()) for run in seed if run.result is None]
        return runs, unfinished, recipe.load(settings) if unfinished else None
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{recipe.name}.py: {error}") from None


def runs_of(recipe, settings, folder):
    """`{method: runs}`, a run a seed, that the flags ask for; with --only one run of one method.

    Raises:
        ValueError: if a run's folder holds one with other settings.
    """
    seeds = {
        method: [seed for seed in range(FLAGS.seeds) if FLAGS.only in (None, f"{method}-{seed}")]
        for method in FLAGS.method
    }
    return {
        method: [Run(folder / f"{method}-{seed}", config_of(recipe, settings, method, seed)) for seed in of_method]
        for method, of_method in seeds.items()
        if of_method
    }


def check_flags():
    """A sentence about the first flag that has no effect on what is asked for, or cannot be met; else `None`."""
    methods, sampled = FLAGS.method, (FLAGS.sampling or "fixed") != "fixed"
    table = tuple(dhm.models.branches(FLAGS.arch))
    if (FLAGS.devices or 1) > os.cpu_count():  # GPUs are fewer than that, too
        return f"--devices is at most {os.cpu_count()}, the number of CPU cores here. Received: {FLAGS.devices}."
    known = (*METHODS, *table)
    if not methods or not set(methods) <= set(known) or len(set(methods)) < len(methods):
        return f"--method is one or several of {','.join(known)}, each once. Received: {','.join(methods)}."
    if FLAGS.only and FLAGS.only not in (f"{method}-{seed}" for method in methods for seed in range(FLAGS.seeds)):
        return f"--only is METHOD-SEED, of {','.join(methods)} and 0 to {FLAGS.seeds - 1}. Received: {FLAGS.only}."
    chosen = FLAGS.branches
    if chosen is not None and (not chosen or not set(chosen) <= set(table) or len(set(chosen)) < len(chosen)):
        return (
            f"--branches is one or several of {','.join(table)}, the branches of {FLAGS.arch}, each once. Received: "
            f"{','.join(chosen)}."
        )
    of_branches = [name for name in ("branches", "ce_weight", "agreement") if FLAGS[name].value not in (None, False)]
    if of_branches and not {"dsl", "dhm"} & set(methods):
        return f"--{of_branches[0]} is of training with branches, not of {','.join(methods)}. Give --method dhm, too."
    for name in OF_MIMICKING:
        if FLAGS[name].value is not None and "dhm" not in methods:
            return f"--{name} is of the mimicking, which {','.join(methods)} has not. Give --method dhm, too."
    if FLAGS.scope and not sampled:
        return "--scope says what unsampled branches leave out. Give --sampling bernoulli or uniform, too."
    if FLAGS.p is not None and FLAGS.sampling != "bernoulli":
        return "--p is the probability of --sampling bernoulli. Give that, too."
    if sampled and not ({"dhm"} | ({"dsl"} if FLAGS.scope == "branch" else set())) & set(methods):
        return "--sampling masks the mimicking, with --scope branch whole branches. Give --method dhm, too."
    for name in FLAGS:
        if isinstance(FLAGS[name].value, float) and not math.isfinite(FLAGS[name].value):
            return f"--{name} is a finite number. Received: {FLAGS[name].value}."
    return None


def read_settings(recipe):
    """The settings of all runs, a dict; printed with their sources."""
    settings = settings_of_flags(recipe)
    print(f"{recipe.title}, {FLAGS.arch}, {keras.backend.backend()}")
    for name, (value, source) in {**settings, **recipe.notes}.items():
        print(f"  {name:<17} {_text(value):<21} {source}")
    return {name: value for name, (value, _) in settings.items()}


def settings_of_flags(recipe):
    """The settings of all runs, a dict from name to (value, source)."""
    start = FLAGS.start if "start" in FLAGS else None
    paper = protocols.settings_of(recipe.name, FLAGS.arch, start)
    settings = dict(paper)
    for name, (value, source) in paper.items():
        given = FLAGS[name].value if name in FLAGS else None
        if isinstance(given, list):
            given = tuple(sorted(given))
        if given is not None:
            settings[name] = given, f"--{name} (default {source if value is None else f'{_text(value)}: {source}'})"
        elif FLAGS.smoke and name in recipe.smoke:
            settings[name] = recipe.smoke[name], "--smoke"
    epochs, of_epochs = settings["epochs"][0], paper["epochs"][0]
    if epochs != of_epochs and "milestones" in paper:
        milestones, _ = paper["milestones"]
        scaled = tuple(round(milestone * epochs / of_epochs, 2) for milestone in milestones)
        settings["milestones"] = scaled, f"{milestones} of {of_epochs} epochs, in proportion"
    return settings


def _text(value):
    """A setting as it is printed."""
    if value is None:
        return "all"
    return ",".join(value) if isinstance(value, tuple) and isinstance(value[0], str) else str(value)


def default_folder(recipe, settings):
    """`runs/RECIPE/ARCH`, with what the flags change in its name: other settings, other folder."""
    given = [name for name in settings if name in FLAGS and FLAGS[name].value is not None]
    changed = [f"{name}={_text(settings[name])}" for name in given]
    changed += ["on_device"] if "on_device" in FLAGS and FLAGS.on_device else []
    if "genotype" in FLAGS and FLAGS.genotype:  # of a search, whose folder it is in
        changed.append(f"genotype={pathlib.Path(FLAGS.genotype).absolute().parent.name}")
    return pathlib.Path("runs", "smoke" if FLAGS.smoke else recipe.name, "-".join([FLAGS.arch, *changed]))


def config_of(recipe, settings, method, seed):
    """What the result of one run depends on: the settings that its method heeds, `None` for the others."""
    has_branches, mimics = method in ("dsl", "dhm"), method == "dhm"
    sampled = settings["sampling"] != "fixed" and (mimics or (has_branches and settings["scope"] == "branch"))
    unheeded = {
        *(() if has_branches else ("branches", "ce_weight")),
        *(() if mimics else OF_MIMICKING),
        *(() if sampled else ("scope", "p")),
        *(() if settings["sampling"] == "bernoulli" else ("p",)),
    }
    heeded = {
        **settings,
        **dict.fromkeys(unheeded),
        "sampling": settings["sampling"] if sampled else "fixed",
        "test_examples": settings["train_examples"] if FLAGS.smoke else None,
        "processes": dhm.distribute.process()[1],
    }
    if settings.get("augmentation") == "auto":
        heeded["augmentation"] = protocols.augmentation(FLAGS.arch, method)
    if FLAGS.agreement and has_branches:
        heeded["agreement"] = True  # the folder has a table more
    if "on_device" in FLAGS and FLAGS.on_device:
        heeded["on_device"] = True  # the same but for rounding, as with other devices
    if heeded["devices"] * heeded["processes"] > 1:
        heeded["synchronized"] = FLAGS.synchronized
    identity = {"recipe": recipe.name, "arch": FLAGS.arch, "method": method, "seed": seed}
    return {**identity, **heeded, "backend": keras.backend.backend()}


def objective_of(config):
    """The arguments of `DHM` that a config says."""
    method = config["method"]
    if method not in ("dsl", "dhm"):
        return {"method": "baseline"}
    weights = {"ce_weights": dict.fromkeys(config["branches"], config["ce_weight"])}
    if method == "dhm":
        weights |= {"mimic_weights": config["mimic_weight"], "temperature": config["temperature"]}
        weights |= {"direction": config["direction"]}
    return {"method": method, **weights}


def triplets_of(config):
    """The arguments of `DHM` for the triplet loss that a config says."""
    return {"triplet_weight": config["triplet_weight"]} if config.get("triplet_weight") else {}


def build(config, **arguments):
    """The network of a run.

    Args:
        config: Dict, the run's.
        **arguments: Of the network's builder, besides the branches.
    """
    method = config["method"]
    branches = config["branches"] or (() if method == "baseline" else (method,))
    synchronized = config.get("synchronized", False)
    network = dhm.models.get(config["arch"], branches=tuple(branches), synchronized=synchronized, **arguments)
    return dhm.models.alone(network, method) if method in ALONE else network


def schedule_of(config, steps_per_epoch):
    """The learning rate that a config says."""
    rate, warmup = config["learning_rate"], config["warmup_epochs"]
    schedule = config.get("schedule", "steps")
    if schedule == "cosine":
        return dhm.schedules.Cosine(rate, steps_per_epoch, config["epochs"], warmup)
    if schedule == "exponential":
        return dhm.schedules.Exponential(rate, steps_per_epoch, config["decay"], warmup)
    return dhm.schedules.MultiStep(rate, steps_per_epoch, config["milestones"], config["decay"], warmup)


def callbacks_of(run, epochs_after, measured, monitor="val_main_accuracy"):
    """The callbacks of every training: the run's own, progress, a warning of collapse, sampling and agreement.

    Args:
        run: `Run`, which is started.
        epochs_after: Integer. Epochs of the runs that follow.
        measured: Function to the images and labels of `--agreement`.
        monitor: String. The log whose highest value makes the best epoch. Defaults to `"val_main_accuracy"`.
    """
    config = run.config
    callbacks = [
        *run.start(FLAGS.checkpoint_every, monitor),
        dhm.callbacks.WarnOfCollapse(),
        dhm.callbacks.Progress(epochs_after),
    ]
    if config["sampling"] != "fixed":
        p = {"p": config["p"]} if config["sampling"] == "bernoulli" else {}
        of_run = {"scope": config["scope"], "seed": config["seed"]}
        callbacks.append(dhm.callbacks.SampleBranches(config["sampling"], **p, **of_run))
    if config.get("agreement"):
        callbacks.append(dhm.callbacks.MeasureAgreement(*measured(), run.path("agreement.csv")))
    return callbacks


def draw_agreement(runs, folder, title):
    """With `--agreement`, draws `agreement.png` of the runs, `{method: [run, ...]}`, that were measured."""
    if not FLAGS.agreement:
        return
    kept = {method: of_method for method, of_method in runs.items() if of_method[0].agreement is not None}
    tables = {method: {run.folder.name: run.agreement for run in of} for method, of in kept.items()}
    dhm.analysis.plot_agreement(tables, folder / "agreement.png", title)
    print(f"Agreement of the heads: {folder}/agreement.png")


def skipped(*sources):
    """`{"skipped": number}` of images that no source could decode and all left out, told too; empty without any."""
    names = sorted({name for source in sources for name in getattr(source, "skipped", ())})
    if not names:
        return {}
    images = "images" if len(names) > 1 else "image"
    print(
        f"Left out {len(names)} {images} that cannot be decoded: {', '.join(names[:10])}{', ...' * (len(names) > 10)}"
    )
    return {"skipped": len(names)}
