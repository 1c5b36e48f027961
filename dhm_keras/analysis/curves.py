"""Training and validation curves of several methods over several seeds."""

import numpy as np

from dhm_keras.analysis.drawing import SUMMARY, colours, draw, legend, new_figure, over_seeds, summary, write_numbers

SETS = {"validation": "val_{}_accuracy", "training": "{}_accuracy"}  # of a head


def plot_curves(panels, path, head="main"):
    """Draws the top-1 accuracy of a head per epoch on the training (solid) and the validation data (dashed).

    As Figures 1 and 2 of the paper's supplement: methods share a panel, panels stand side by side. A line is the mean
    over the seeds, a band goes from the lowest to the highest. The last sixth of the epochs is enlarged beside the
    panel, for each of the two sets. The numbers are written beside the picture, `curves.csv` beside `curves.png`: a row
    for each panel, method, set and epoch.

    Accuracies on training data are the mean over the epoch of training, with its augmentation, as Keras logs them.

    Example:

    ```python
    history = {name: dhm_keras.run.Run.open(f"runs/digits/{name}").history for name in ("dsl-0", "dhm-0", "dhm-1")}
    methods = {"dsl": {"dsl-0": history["dsl-0"]}, "dhm": {name: history[name] for name in ("dhm-0", "dhm-1")}}
    dhm_keras.analysis.plot_curves({"Digits": methods}, "curves.png")
    ```

    Args:
        panels: Dict from a panel's title to a dict from method to a dict from a run's name to its history: a list of
            rows, one an epoch, as of `Run.history`, or the dict from column to numbers that `fit(...).history` is.
        path: Path of the picture; its suffix chooses the format.
        head: String. Whose accuracy. Defaults to `"main"`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the runs of a method have different numbers of epochs, or one lacks the number of an epoch; the
            message names it.
    """
    colour = colours(dict.fromkeys(method for methods in panels.values() for method in methods))
    figure = new_figure(7.5 * len(panels), 4.6)
    places, rows = figure.add_gridspec(1, len(panels)), []
    for place, (title, methods) in zip(places, panels.items()):
        curves = {
            (method, name): 100 * over_seeds(runs, column.format(head))
            for method, runs in methods.items()
            for name, column in SETS.items()
        }
        _draw_panel(figure, place, curves, title, colour, head)
        rows += [(title, *key, *row) for key, values in curves.items() for row in summary(values)]
    entries = {method: (of_method, "-") for method, of_method in colour.items()}
    legend(figure, {**entries, "training": ("grey", "-"), "validation": ("grey", "--")})
    write_numbers(path, ("panel", "method", "set", *SUMMARY), rows)
    figure.savefig(path, dpi=120)


def _draw_panel(figure, place, curves, title, colour, head):
    """Draws `{(method, set): (runs, epochs)}` at a place of a grid, and beside it the last sixth of each set."""

    def draw_all(axes, names):
        for (method, name), values in curves.items():
            if name in names:
                draw(axes, values, colour[method], dashed=name == "validation")

    last = max(values.shape[1] for values in curves.values())
    part = min(max(last // 6, 4), last // 2)  # behind the last milestone of the papers' schedules
    grid = place.subgridspec(2, 2, width_ratios=(2, 1))
    panel = figure.add_subplot(grid[:, 0] if part > 1 else place)
    draw_all(panel, SETS)
    panel.set(xlabel="epoch", ylabel=f"top-1 accuracy of {head}, %", title=title)
    if part < 2:  # too short to be enlarged
        return
    ends = {name: [values[:, -part:] for (_, of), values in curves.items() if of == name] for name in SETS}
    upper_first = sorted(SETS, key=lambda name: -ends[name][0].mean())
    for name, row in zip(upper_first, (0, 1)):
        inset = figure.add_subplot(grid[row, 1])
        draw_all(inset, [name])
        low, high = (bound([bound(values) for values in ends[name]]) for bound in (np.min, np.max))
        margin = 0.05 * (high - low) + 0.05
        inset.set(xlim=(last - part + 1, last), ylim=(low - margin, high + margin))
        inset.set_title(f"{name}, enlarged", fontsize=9)
        inset.tick_params(labelsize=8)
        panel.indicate_inset((last - part + 1, low - margin, part - 1, high - low + 2 * margin), edgecolor="grey")
