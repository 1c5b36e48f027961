"""Searches a CDNet: Top-k Sample Search on Market-1501, DukeMTMC-reID, your own images, or drawn ones.

    python recipes/search.py --data_dir Market-1501-v15.09.15                        # the paper's: CDNet's space, top 2
    python recipes/search.py --data_dir DIR --space cnet --k 1
    python recipes/search.py --data_dir DIR --overlap --select_on_test               # as in the authors' code
    python recipes/search.py --dataset synthetic --image_size 64x32 --width 0.25 --epochs 12      # no data needed
    python recipes/search.py --dataset synthetic --smoke

The recipe prints what it searches with and where each number is from. It leaves `genotype.json`, `alphas.png` and
`history.csv` in its folder, see `dhm_keras.search.TopKSearch`; prints the genotype, and the command that trains it.

The weights learn from some images of each person, the alphas, which rank the operators, from others; the test set takes
no part unless --select_on_test asks for it. A search that was stopped, killed or not, goes on behind its last finished
epoch to the same result.

Nothing is downloaded. Meant for a GPU: on Market-1501 an epoch has more than a hundred pairs of steps of 64 images
each, of two operators a layer. TensorFlow alone: each step computes other operators.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import pathlib
import shlex

import keras
import numpy as np
from absl import app, flags

import dhm_keras as dhm
import persons
from dhm_keras import files, reid
from own_protocols import CDNET, CDNET_SUPPLEMENT

FLAGS = flags.FLAGS
persons.define_flags()
flags.DEFINE_enum("space", "cdnet", tuple(dhm.models.SPACES), "What is chosen from: 12 operators a layer, or 6.")
flags.DEFINE_integer("k", None, "Operators of each layer that a step computes.", 1)
flags.DEFINE_integer("seed", None, "Of the weights, the split, the batches, and of what is computed first.", 0)
flags.DEFINE_integer("epochs", None, "Epochs; the learning rates follow.", 1)
flags.DEFINE_integer("persons", None, "Persons in a batch, on both splits.", 2)
flags.DEFINE_integer("images", None, "Images of each.", 2)
flags.DEFINE_float("width", None, "Multiplier of the channels.", 0.25, 4.0)
flags.DEFINE_boolean("overlap", False, "The published split, whose halves share images.")
flags.DEFINE_boolean("select_on_test", False, "The epoch of the best mAP on query and gallery decides, as published.")
flags.DEFINE_string("run_dir", None, "Folder of the search. Default: runs/search/SPACE-topK and the flags given.")
flags.DEFINE_boolean("smoke", False, "Two short epochs of eight persons; flags can say otherwise.")

SETTINGS = {
    "dataset": ("market1501", CDNET),
    "k": (2, CDNET),
    "seed": ({"cdnet": 4, "cnet": 6}, CDNET),
    "epochs": (240, CDNET),
    "persons": (16, CDNET_SUPPLEMENT),
    "images": (4, CDNET_SUPPLEMENT),
    "width": (1.0, "the supplement multiplies what was found"),
    "image_size": ("256x128", CDNET_SUPPLEMENT),
    "overlap": (False, f"ours, disjoint; {CDNET} has true"),
    "select_on_test": (False, f"ours, the last epoch; {CDNET} has true"),
}
SMOKE = {"epochs": 2, "persons": 4, "images": 4, "width": 0.25, "image_size": "64x32"}
NOTES = {
    "weights": ("SGD, 0.9; 0.025 to 1e-4", f"{CDNET}; decay 3e-4, cosine"),
    "alphas": ("Adam, 0.5, 0.999; 3e-4", f"{CDNET}; decay 1e-3, a tenth after each third"),
    "loss": ("CE + triplet, 0.3", CDNET),
    "dropout": (0.2, CDNET),
}
OF_ALPHAS = 2**20  # added to the seed: their batches have an order of their own


def main(arguments):
    """Searches what the flags ask for, and prints what was found."""
    if len(arguments) > 1:
        raise app.UsageError(f"Too many arguments: {arguments[1:]}. Every option begins with --.")
    if wrong := check():
        raise SystemExit(f"search.py: {wrong}")
    dhm.distribute.deterministic()
    config = read_settings()
    folder = pathlib.Path(FLAGS.run_dir or default_folder(config)).expanduser()
    print(f"The search goes to {folder}")
    try:
        people = persons.read(config["dataset"], FLAGS.smoke)
        print(people)
        search = prepare(config, people)
        print(f"{search.supernet.count_params():,} parameters in the network of all operators", flush=True)
        genotype = search.run(folder)
    except KeyboardInterrupt:
        raise SystemExit("\nsearch.py: stopped. The same command goes on behind the last finished epoch.") from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:  # of the data, the folder, or the loss
        raise SystemExit(f"search.py: {error}") from None
    print_table(folder, genotype)
    print(f"Train it: {command(config, folder)}")


def prepare(config, people):
    """The `TopKSearch` of a config."""
    keras.utils.set_random_seed(config["seed"])
    parts = dhm.search.split(people.train, config["seed"], config["overlap"])
    print(f"{' and '.join(str(len(part)) for part in parts)} images for the weights and for the alphas")
    seeds = config["seed"], config["seed"] + OF_ALPHAS
    size = persons.size_of(config)
    batches = [
        reid.IdentityBatches(part, config["persons"], config["images"], image_size=size, crop="pad", seed=seed)
        for part, seed in zip(parts, seeds, strict=True)
    ]
    test = None
    if config["select_on_test"]:
        persons.check_images(people)
        test = dhm.search.SelectOnTest(people.query, people.gallery)
    network = dhm.search.supernet(
        config["space"],
        people.train.num_classes,
        (*size, 3),
        config["width"],
        normalization=dhm.data.IMAGENET_MEAN_STD,
    )
    numbers = {name: config[name] for name in ("k", "epochs", "seed")}
    notes = {name: value for name, value in config.items() if name not in numbers}
    return dhm.search.TopKSearch(network, *batches, **numbers, test=test, notes=notes)


def check():
    """A sentence about the first wrong flag, or `None`."""
    if (backend := keras.backend.backend()) != "tensorflow":
        return f"A search needs KERAS_BACKEND=tensorflow: each step computes other operators. Received: {backend}."
    operators = len(dhm.models.SPACES[FLAGS.space])
    if FLAGS.k is not None and FLAGS.k > operators:
        return f"--k is at most {operators}, the operators of --space {FLAGS.space}. Received: {FLAGS.k}."
    if wrong := persons.check_flags():
        return wrong
    if FLAGS.image_size and any(side % 16 for side in persons.size_of({"image_size": FLAGS.image_size})):
        return f"--image_size is a multiple of 16 times another. Received: {FLAGS.image_size}."
    return None


def read_settings():
    """The settings, a dict; printed with their sources."""
    settings = {"space": (FLAGS.space, "--space (or cnet)" if FLAGS.space == "cdnet" else "--space (default cdnet)")}
    for name, (value, source) in SETTINGS.items():
        value = value[FLAGS.space] if isinstance(value, dict) else value
        settings[name] = value, source
        if FLAGS[name].present:
            settings[name] = FLAGS[name].value, f"--{name} (default {value}: {source})"
        elif FLAGS.smoke and name in SMOKE:
            settings[name] = SMOKE[name], "--smoke"
    print("Top-k Sample Search")
    for name, (value, source) in {**settings, **NOTES}.items():
        print(f"  {name:<15} {value!s:<23} {source}")
    return {name: value for name, (value, _) in settings.items()}


def default_folder(config):
    """`runs/search/SPACE-topK`, with what the flags change in its name."""
    changed = [f"{name}={config[name]}" for name in SETTINGS if name != "k" and FLAGS[name].present]
    name = "-".join([f"{config['space']}-top{config['k']}", *changed])
    return pathlib.Path("runs", "smoke" if FLAGS.smoke else "search", name)


def print_table(folder, genotype):
    """The genotype with the share of each operator, softmax of its alpha."""
    found = files.read_json(folder / "genotype.json")
    shares = np.exp(found["alphas"]) / np.exp(found["alphas"]).sum(-1, keepdims=True)
    print(f"\nSelected by the {found['selected_by']}, {found['epoch']} of {found['epochs']}:")
    print(f"{'layer':<7}{'kernels':<10}{'blocks':<9}softmax of the alpha, {1 / shares.shape[1]:.4f} at the start")
    for layer, (first, second, blocks) in enumerate(genotype, start=1):
        share = shares[layer - 1, found["operators"].index([first, second, blocks])]
        print(f"{layer:<7}{f'{first}, {second}':<10}{blocks:<9}{share:.4f}")
    print(f"\n{folder}/genotype.json; how it came about: {folder}/alphas.png and history.csv")


def command(config, folder):
    """How to train what was found."""
    given = {name: config[name] for name in ("width", "image_size") if config[name] != SETTINGS[name][0]}
    given = {"dataset": config["dataset"], "data_dir": FLAGS.data_dir, "pattern": FLAGS.pattern, **given}
    shown = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)
    shown += "" if FLAGS.cameras else " --nocameras"
    genotype = shlex.quote(f"{folder}/genotype.json")
    return f"python recipes/reid.py {shown} --arch cdnet --method baseline --genotype {genotype}"


if __name__ == "__main__":
    app.run(main)
