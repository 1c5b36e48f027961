"""What the folders of runs hold, for all that comes after the training: figures, exports."""

from dhm_keras.files import differences
from dhm_keras.run import Run

METHODS = ("baseline", "dsl", "dhm")  # in the order in which they are drawn, before branches alone
# What only some methods heed: the methods of one comparison differ in it.
OF_METHOD = (
    *("branches", "sampling", "p", "scope", "direction"),
    *("temperature", "ce_weight", "mimic_weight", "augmentation"),
)


def find(folder):
    """The finished runs in the subfolders METHOD-SEED; names those that are not finished.

    Args:
        folder: `pathlib.Path`.

    Returns:
        `{method: [run, ...]}`.

    Raises:
        ValueError: if there are none, or they have other settings than their seed, their method and what goes with it.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    runs = [Run.open(path.parent) for path in sorted(folder.glob("*/config.json"))]
    runs = [run for run in runs if {"method", "seed"} <= run.config.keys()]
    if not runs:
        here = " It is the folder of one run: give the one above it." if (folder / "config.json").exists() else ""
        raise ValueError(f"{folder} has no runs in subfolders METHOD-SEED, as a recipe makes them.{here}")
    finished = [run for run in runs if run.result is not None]
    for run in runs:
        if run not in finished:
            print(f"{run.folder} is not finished, and left out.")
    if not finished:
        raise ValueError(f"No run in {folder} is finished. Start its recipe again: it goes on where it was stopped.")
    order = {method: number for number, method in enumerate(METHODS)}
    finished.sort(key=lambda run: (order.get(run.config["method"], len(order)), run.config["seed"]))
    found = {}
    for run in finished:
        of_method = found.setdefault(run.config["method"], [])
        of_method.append(run)
        _check_same(of_method[0], run, ("seed",))
        _check_same(finished[0], run, ("seed", "method", "agreement", *OF_METHOD))
    return found


def card_of(config, images=None):
    """What a run's config says for the model card of its export.

    Args:
        config: Dict, the run's.
        images: Numbers of images that were trained on and held out; of persons to train on, to search for, to search
            in. Defaults to `None`.

    Returns:
        Dict.
    """
    return {
        "data": {"set": config.get("dataset", config["recipe"]), **({"images": images} if images else {})},
        "recipe": config,
    }


def _check_same(first, run, but):
    """Raises `ValueError` if two runs differ in more than the settings named."""
    if differ := differences(*({**each.config, **dict.fromkeys(but)} for each in (first, run))):
        raise ValueError(f"{run.folder} has other settings than {first.folder} ({differ}): they are not compared.")
