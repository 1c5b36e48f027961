"""The runs below some folders, for a report: which are finished, and those that differ in their seed alone together."""

import dataclasses
import json
import os
import pathlib
import statistics

import protocols
from dhm_keras.run import Run
from published import ARCHITECTURES, BACKBONES, METHODS, OF_RECIPE, OTHERS, RECIPES
from run_folders import OF_METHOD

ENVIRONMENT = ("backend", "precision", "devices", "processes", "synchronized", "on_device")
IDENTITY = ("recipe", "arch", "backbone", "method", "seed", "data", "start_weights")
SETS = {"market1501": "Market-1501", "duke": "DukeMTMC-reID", "folder": "persons", "synthetic": "synthetic persons"}
WORDS = {  # what is not said as "name value"
    "train_examples": "{} training images",
    "test_examples": "tested on {} images",
    "batch_size": "batches of {}",
    "num_classes": "{} classes",
    "corrupt": "{} of the training labels redrawn",
    "images": "{} images to train and test on",
    "warmup_epochs": "{} epochs of warm-up",
}


@dataclasses.dataclass
class Sample:
    """Finished runs with the same settings.

    Args:
        config: Dict, the settings without the seed.
        runs: Dict from seed to `(folder, result)`.
    """

    config: dict
    runs: dict

    def numbers(self, head, metric, when):
        """`(mean,)` over the seeds, with several `(mean, standard deviation)`, which divides by n - 1.

        Args:
            head: String.
            metric: Key of `published.METRICS`.
            when: `"best"` or `"last"`, the epoch.

        Returns:
            Tuple of floats in per cent; `None` where the runs have no such number.
        """
        errors = [result[when].get(f"{head}_{metric.replace('accuracy', 'error')}") for result in self._results]
        if None in errors:
            return None
        mean = statistics.fmean(errors)
        if metric.endswith("accuracy"):
            mean = 100 - mean
        return (mean, statistics.stdev(errors)) if len(errors) > 1 else (mean,)

    @property
    def heads(self):
        """Names of the heads that have results, `main` first."""
        last = f"_{metrics_of(self.config)[0]}"
        return sorted((key[: -len(last)] for key in self._results[0]["best"] if key.endswith(last)), key=_depth)

    @property
    def _results(self):
        """The runs' results, in the order of their seeds."""
        return [result for _, (_, result) in sorted(self.runs.items())]

    @property
    def folders(self):
        """The runs' folders, in the order of their seeds."""
        return [folder for _, (folder, _) in sorted(self.runs.items())]

    @property
    def deviations(self):
        """In what it differs from the paper's experiment: a dict from setting to `(value, the paper's)`."""
        config = self.config
        if config["recipe"] not in protocols.ARCHS:
            return {}
        differ = dict(protocols.deviations(config))
        if config.get("test_examples") is not None:
            differ["test_examples"] = config["test_examples"], None
        images, of_paper = self._results[0].get("images"), protocols.images_of(config)
        if (
            images
            and of_paper
            and tuple(images) != of_paper
            and not {"train_examples", "test_examples"} & differ.keys()
        ):
            differ["images"] = tuple(images), of_paper
        known = {
            *protocols.settings_of(config["recipe"], config["arch"], config.get("start")),
            *ENVIRONMENT,
            *IDENTITY,
            "test_examples",
        }
        for name in sorted(set(config) - known):  # nobody knows whether the paper has it
            if config[name] not in (None, False):
                differ[name] = (config[name],)
        return differ

    @property
    def environment(self):
        """What computed it, in words, as `"TensorFlow, mixed_bfloat16, 4 devices"`; float32 and one device unsaid."""
        config = self.config
        backend = config.get("backend", "")
        parts = [{"tensorflow": "TensorFlow", "jax": "JAX"}.get(backend, backend)]
        if config.get("precision", "float32") != "float32":
            parts.append(config["precision"])
        for name in ("devices", "processes"):
            if config.get(name, 1) != 1:
                parts.append(f"{config[name]} {name}")
        if config.get("on_device"):
            parts.append("data on the device")
        if config.get("synchronized") is False:
            parts.append("batch statistics of each device")
        if skipped := max(result.get("skipped", 0) for result in self._results):
            parts.append(f"{skipped} corrupt image{'s' * (skipped > 1)} left out")
        return ", ".join(part for part in parts if part)


@dataclasses.dataclass
class Found:
    """What lies below the folders of a report.

    Args:
        samples: List of `Sample`.
        unfinished: List of `(folder, sentence)`.
        left_out: List of `(folder, sentence)`: damaged, or of another form.
        copies: List of `(folder, sentence)`: runs that another folder holds, too.
    """

    samples: list
    unfinished: list
    left_out: list
    copies: list

    @property
    def asides(self):
        """What is in no table: dict from a word to its list."""
        return {"unfinished": self.unfinished, "left out": self.left_out, "there twice": self.copies}

    def summary(self):
        """How many runs there are, a sentence."""
        finished = sum(len(sample.runs) for sample in self.samples)
        counts = [f"{len(items)} {word}" for word, items in self.asides.items() if items]
        return f"Runs: {', '.join([f'{finished} finished', *counts])}."


def metrics_of(config):
    """The metrics that the runs of a config have, keys of `published.METRICS`; main has the first of them."""
    return OF_RECIPE.get(config["recipe"], OTHERS)


def read(folders):
    """Reads the runs below some folders.

    Args:
        folders: List of paths.

    Returns:
        `Found`.

    Raises:
        ValueError: if a folder does not exist, or there is no run below any.
    """
    found, samples = Found([], [], [], []), {}
    run_folders = {}  # each once, though folders may lie in one another
    for root in folders:
        for folder in _find(pathlib.Path(root), found.left_out):
            run_folders.setdefault(folder.resolve(), folder)
    if not run_folders:
        raise ValueError(f"There is no run below {', '.join(map(str, folders))}: no folder there has a config.json.")
    for folder in run_folders.values():
        _read_run(folder, samples, found)
    found.samples = list(samples.values())
    return found


def _find(root, left_out):
    """The folders at and below `root` that have a config.json, in the order of their names."""
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}.")
    unreadable = lambda error: left_out.append((pathlib.Path(error.filename), f"It cannot be read ({error.strerror})."))
    for path, folders, files in os.walk(root, onerror=unreadable):
        folders.sort(key=_natural)
        if "config.json" in files:
            folders.clear()  # checkpoints and exports are no runs
            yield pathlib.Path(path)


def _read_run(folder, samples, found):
    try:
        run = Run.open(folder)
        config, result = run.config, run.result
    except (ValueError, OSError) as error:
        found.left_out.append((folder, str(error)))
        return
    if why := _foreign(config, result):
        found.left_out.append((folder, why))
        return
    if result is None:
        found.unfinished.append((folder, f"Epoch {_epochs_done(run)} of {config.get('epochs', '?')}."))
        return
    seed = config.pop("seed")
    config.pop("agreement", None)  # measured while it trained, and changes nothing of it
    sample = samples.setdefault(json.dumps(config, sort_keys=True), Sample(config, {}))
    if seed not in sample.runs:
        sample.runs[seed] = folder, result
        return
    first, of_first = sample.runs[seed]
    same = "the same result" if result == of_first else "another result"
    found.copies.append((folder, f"It has the settings and the seed of {first}, and {same}; only that one counts."))


def _foreign(config, result):
    """Why a run cannot be in a report, a sentence; `None` if it can."""
    recipe = config.get("recipe")
    if recipe is None:
        return "Its config names no recipe: it is of an older version of the recipes, or of another program."
    if recipe not in RECIPES:
        return f"It is of the recipe {recipe}, for which the report has no table."
    needed = {"method", "seed", "backend"}
    if recipe in protocols.ARCHS:
        if config.get("arch") not in protocols.ARCHS[recipe]:
            return f"The report knows no network {config.get('arch')} of the recipe {recipe}."
        settings = protocols.settings_of(recipe, config["arch"], config.get("start"))
        needed |= {name for name, (value, _) in settings.items() if value is not None} - {*OF_METHOD, "dropout"}
    lacking = sorted(name for name in needed if config.get(name) is None)
    if lacking:
        return f"Its config has no {', '.join(lacking)}: it is of another version of the recipes."
    if config["method"] not in METHODS:
        return f"The report knows no method {config['method']}."
    name = f"main_{metrics_of(config)[0]}"
    if result is not None and not all(name in (result.get(when) or {}) for when in ("best", "last")):
        return "Its result has another form: it is of another version of the recipes."
    return None


def _epochs_done(run):
    try:
        return len(run.history)
    except (OSError, ValueError):
        return 0


def in_words(name, value, paper=()):
    """A setting in words, as `"10 epochs (164)"`.

    Args:
        name: String.
        value: Its value.
        paper: Tuple, empty or with the paper's value. Defaults to `()`.
    """
    if name == "warmup_epochs" and not value:
        return "no warm-up"
    text = WORDS.get(name, "{} epochs" if name == "epochs" else name.replace("_", " ") + " {}")
    text = text.format(_value(name, value))
    if value == 1:
        text = text.replace("epochs", "epoch").replace("images", "image")
    return f"{text} ({_value(name, paper[0])})" if paper else text


def deviations_in_words(deviations, names=None):
    """Settings that differ from the paper's, with the paper's in parentheses.

    Args:
        deviations: Dict, of `Sample.deviations`.
        names: The settings to tell. Defaults to all.

    Returns:
        String; empty if there are none.
    """
    names = deviations if names is None else [name for name in deviations if name in names]
    return ", ".join(in_words(name, deviations[name][0], deviations[name][1:]) for name in names)


def title(config):
    """Data and network of a config, as `"CIFAR-100, ResNet-32"`."""
    network = ARCHITECTURES.get(config.get("arch")) or BACKBONES.get(config.get("backbone"), config.get("backbone"))
    data = SETS.get(config.get("dataset"), RECIPES[config["recipe"]])
    return ", ".join(part for part in (data, network) if part)


def _value(name, value):
    if value is None:
        return "all"
    if name == "corrupt":
        return f"{100 * value:g} %" if value else "none"
    if name == "warmup_epochs" and not value:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(f"{each:,}" if isinstance(each, int) else str(each) for each in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _depth(head):
    return head != "main", head


def _natural(name):
    """Sorts `dhm-10` behind `dhm-9`."""
    start, _, number = name.rpartition("-")
    return (start, int(number)) if number.isdigit() else (name, -1)
