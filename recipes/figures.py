"""The figures of the paper, from the folders of finished runs.

    python recipes/figures.py curves runs/cifar100/resnet32                        # supplement, Figure 1
    python recipes/figures.py curves runs/cifar100/wrn28_10-corrupt=0.2 runs/cifar100/wrn28_10-corrupt=0.5    # Figure 2
    python recipes/figures.py heatmaps runs/cifar100/resnet32                      # Figure 3: DSL beside DHM
    python recipes/figures.py agreement runs/digits                                # what eq. 11 is about; ours

A folder is what a recipe's --run_dir was: its subfolders METHOD-SEED are found by themselves. Of several folders,
`curves` makes panels side by side; the others take one. Each picture has its numbers beside it, in a CSV file of the
same name (the matrices of the heatmaps in an NPZ file). Runs that are not finished are named and left out. `agreement`
needs what the recipes measure while they train, with their flag `--agreement`.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import keras
from absl import app, flags

import dhm_keras as dhm
from run_folders import find

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "figures", "Folder of the pictures.")
flags.DEFINE_list("layers", None, "Convolutions of main for heatmaps. Default: up to four, spread over the depth.")
flags.DEFINE_string("branch", "aux2", "The branch that heatmaps compare with main.")


def main(arguments):
    kinds = {"curves": curves, "heatmaps": heatmaps, "agreement": agreement}
    kind, folders = arguments[1] if len(arguments) > 1 else None, [pathlib.Path(name) for name in arguments[2:]]
    if kind not in kinds or not folders or (len(folders) > 1 and kind != "curves"):
        raise app.UsageError(
            f"Expected one of {', '.join(kinds)} and the folder of a recipe's runs, for curves one or several. "
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
    matrices = f" and {picture.with_suffix('.npz')}" if kind == "heatmaps" else ""
    print(f"{picture}, the numbers in {picture.with_suffix('.csv')}{matrices}")


def curves(found, picture):
    if any(run.config.get("recipe") == "reid" for runs in found.values() for of in runs.values() for run in of):
        raise ValueError("curves are of errors: of person re-identification there is cmc.png in the folder.")
    histories = lambda runs: {method: {run.folder.name: run.history for run in of} for method, of in runs.items()}
    names = [folder.resolve().name for folder in found]
    titles = names if len(set(names)) == len(names) else map(str, found)
    dhm.analysis.plot_curves({title: histories(runs) for title, runs in zip(titles, found.values())}, picture)


def heatmaps(found, picture):
    (folder, runs), *_ = found.items()
    network = lambda run: keras.models.load_model(run.checked("last.keras")).network
    networks = {
        method: {run.folder.name: network(run) for run in of_method}
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
