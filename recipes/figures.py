"""The figures of the paper, from the folders of finished runs.

    python recipes/figures.py curves runs/cifar100/resnet32                        # supplement, Figure 1
    python recipes/figures.py curves runs/cifar100/wrn28_10-corrupt=0.2 runs/cifar100/wrn28_10-corrupt=0.5    # Figure 2
    python recipes/figures.py heatmaps runs/cifar100/resnet32                      # Figure 3: DSL beside DHM
    python recipes/figures.py agreement runs/digits                                # what eq. 11 is about; ours
    python recipes/figures.py activations runs/reid/osnet_x1_0 --data_dir DIR      # OSNet's supplement, Figure A
    python recipes/figures.py tsne runs/reid/cdnet --data_dir DIR                  # CDNet's supplement, Figures 1 and 2
    python recipes/figures.py network resnet32                                     # what is trained, what is shipped

A folder is what a recipe's --run_dir was: its subfolders METHOD-SEED are found by themselves. Of several folders,
`curves` makes panels side by side; the others take one. Each picture has its numbers beside it, in a CSV file of the
same name (matrices and maps in an NPZ file). Runs that are not finished are named and left out. `agreement` needs what
the recipes measure while they train, with their flag `--agreement`. `activations` and `tsne` are of the runs of
reid.py, of the first one of each method, and want the images: `--data_dir`, and with it `--pattern` and `--nocameras`,
as they were given to that recipe. `network` takes the name of a network instead, one of `dhm_keras.models.names()`,
and draws it alone.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
import numpy as np
from absl import app, flags

import dhm_keras as dhm
import persons
from dhm_keras import reid
from run_folders import find

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "figures", "Folder of the pictures.")
flags.DEFINE_list("layers", None, "Convolutions of main for heatmaps. Default: up to four, spread over the depth.")
flags.DEFINE_string("branch", "aux2", "The branch that heatmaps compare with main.")
flags.DEFINE_string("data_dir", None, "Where the images are, for activations and tsne.")
flags.DEFINE_string("pattern", None, "As of reid.py, for activations and tsne.")
flags.DEFINE_boolean("cameras", True, "As of reid.py, for activations and tsne.")

IMAGES, PERSONS = 6, 8  # in activations, in tsne


def main(arguments):
    if arguments[1:2] == ["network"]:
        return draw_network(arguments[2:])
    kinds = {"curves": curves, "heatmaps": heatmaps, "agreement": agreement, "activations": activations, "tsne": tsne}
    kind, folders = arguments[1] if len(arguments) > 1 else None, [pathlib.Path(name) for name in arguments[2:]]
    if kind not in kinds or not folders or (len(folders) > 1 and kind != "curves"):
        raise app.UsageError(
            f"Expected one of {', '.join(kinds)} and the folder of a recipe's runs, for curves one or several; or "
            "network and a network's name. "
            f"Received: {' '.join(arguments[1:]) or 'nothing'}."
        )
    out = pathlib.Path(FLAGS.out)
    try:
        found = {folder: find(folder) for folder in folders}
        out.mkdir(parents=True, exist_ok=True)
        picture = out / f"{kind}.png"
        kinds[kind](found, picture)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"figures.py: {error}") from None
    suffixes = {"heatmaps": (".csv", ".npz"), "activations": (".npz",)}.get(kind, (".csv",))
    print(f"{picture}, the numbers in {' and '.join(str(picture.with_suffix(suffix)) for suffix in suffixes)}")


def draw_network(names):
    picture = pathlib.Path(FLAGS.out, "network.png")
    try:
        if len(names) != 1:
            raise ValueError(f"network takes one name. Received: {' '.join(names) or 'none'}.")
        network = dhm.models.get(names[0])
        picture.parent.mkdir(parents=True, exist_ok=True)
        dhm.analysis.plot_network(network, picture)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"figures.py: {error}") from None
    print(picture)


def curves(found, picture):
    if any(run.config.get("recipe") == "reid" for runs in found.values() for of in runs.values() for run in of):
        raise ValueError("curves are of errors: of person re-identification there is cmc.png in the folder.")
    histories = lambda runs: {method: {run.folder.name: run.history for run in of} for method, of in runs.items()}
    names = [folder.resolve().name for folder in found]
    titles = names if len(set(names)) == len(names) else map(str, found)
    dhm.analysis.plot_curves({title: histories(runs) for title, runs in zip(titles, found.values())}, picture)


def heatmaps(found, picture):
    (folder, runs), *_ = found.items()
    networks = {
        method: {run.folder.name: model_of(run).network for run in of_method}
        for method, of_method in with_branches(folder, runs).items()
    }
    dhm.analysis.plot_correlation(networks, picture, layers=FLAGS.layers, branch=FLAGS.branch)


def agreement(found, picture):
    (folder, runs), *_ = found.items()
    tables = {
        method: {run.folder.name: table_of(run) for run in of_method}
        for method, of_method in with_branches(folder, runs).items()
    }
    dhm.analysis.plot_agreement(tables, picture, title=folder.resolve().name)


def activations(found, picture):
    (folder, runs), *_ = found.items()
    people, _ = tested(folder, runs)
    models = {method: model_of(run) for method, (run, *_) in runs.items()}
    people = people.take(np.unique(np.linspace(0, len(people) - 1, IMAGES).astype(int)))
    height, width, _ = next(iter(models.values())).network.inputs[0].shape[1:]
    images, _ = reid.PersonTestBatches(people, len(people), (height, width))[0]
    maps = {method: dhm.analysis.activation_maps(model, images) for method, model in models.items()}
    dhm.analysis.plot_activations(images, maps, picture, titles=people.pids)


def tsne(found, picture):
    (folder, runs), *_ = found.items()
    splits = tested(folder, runs)
    searched, seen = (split.pids for split in splits)
    pids, counts = np.unique(seen[np.isin(seen, searched)], return_counts=True)
    chosen = pids[np.argsort(-counts, kind="stable")[:PERSONS]]  # of whom there is most to see
    splits = [split.take(np.isin(split.pids, chosen)) for split in splits]
    features = {
        f"{method}, {name}": np.concatenate([*map(reid.Extractor(part, head=None), splits)])
        for method, (run, *_) in runs.items()
        for name, part in reid.loss_features(model_of(run)).items()
    }
    dhm.analysis.plot_embeddings(features, np.concatenate([split.pids for split in splits]), picture)


def model_of(run):
    return keras.models.load_model(run.checked("last.keras"))


def tested(folder, runs):
    """Query and gallery, `PersonImages`, that runs of reid.py were tested on."""
    first, *_ = next(iter(runs.values()))
    if first.config["recipe"] != "reid":
        raise ValueError(f"{folder} has no runs of reid.py: activations and tsne are of persons.")
    dataset = first.config["dataset"]
    if not FLAGS.data_dir and dataset != "synthetic":
        raise ValueError(f"The runs in {folder} are of --dataset {dataset}: give --data_dir, where its images are.")
    people = persons.read(dataset)
    splits = []
    with np.load(first.checked("embeddings.npz")) as arrays:
        for images, names in ((people.query, arrays["query_names"]), (people.gallery, arrays["gallery_names"])):
            splits.append(images.take(np.isin(images.names, names)))
            if len(splits[-1]) != len(names):
                raise ValueError(f"{first.folder} was tested on other images than there are. Give its --data_dir.")
    return splits


def with_branches(folder, runs):
    """The runs of networks that have branches."""
    kept = {method: of_method for method, of_method in runs.items() if method in ("dsl", "dhm")}
    if not kept:
        raise ValueError(f"{folder} has no runs of dsl or dhm: the networks of {', '.join(runs)} have no branches.")
    return kept


def table_of(run):
    """What `callbacks.MeasureAgreement` left in a run's folder; `ValueError` if it was not there."""
    table = run.agreement
    if table is None:
        raise ValueError(
            f"{run.folder} has no agreement.csv: it was trained without measuring. Train with the recipe's flag "
            "--agreement in another --run_dir, or give your own training the callback "
            "dhm_keras.callbacks.MeasureAgreement."
        )
    return table


if __name__ == "__main__":
    app.run(main)
