"""What the figures of several runs share: colours, a line with a band over the seeds, the numbers beside a picture."""

import csv
import pathlib

import numpy as np

from dhm_keras import files

COLOURS = {"baseline": "tab:blue", "dsl": "tab:orange", "dhm": "tab:green"}  # the same in every figure
OTHERS = ("tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")


def new_figure(width, height):
    """A matplotlib figure that no window shows; `ImportError` if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures are drawn by matplotlib. Install it: pip install 'dhm_keras[demo]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def colours(names):
    """A colour for each of the names: the methods have their own."""
    others = [name for name in names if name not in COLOURS]
    return {name: COLOURS.get(name) or OTHERS[others.index(name) % len(OTHERS)] for name in names}


def rows_of(name, table):
    """The table of a run as a list of rows, see `over_seeds`; `ValueError` if its columns have different lengths."""
    if not isinstance(table, dict):
        return table
    if len({len(numbers) for numbers in table.values()}) > 1:  # as with `validation_freq=2`
        raise ValueError(f"The run {name!r} has columns of different lengths: of which epochs they are is not known.")
    return [{"epoch": epoch, **dict(zip(table, row))} for epoch, row in enumerate(zip(*table.values()))]


def over_seeds(runs, column, gaps=False):
    """One column of the tables of several runs.

    Args:
        runs: Dict from a run's name to its table: a list of rows, one an epoch, each a dict from column to number,
            with the column `epoch` (from 0); or a dict from column to numbers, one an epoch, from epoch 0 on.
        column: String.
        gaps: Boolean. Whether NaN is a number like others. Defaults to `False`.

    Returns:
        Array `(runs, epochs)`.

    Raises:
        ValueError: if there is no run, or one has other epochs than the first, or lacks the number of an epoch; the
            message names it.
    """
    runs = {name: rows_of(name, table) for name, table in runs.items()}
    if not runs or not all(runs.values()):
        empty = next((name for name, rows in runs.items() if not rows), None)
        raise ValueError(f"The run {empty!r} has no epoch." if runs else f"No runs to draw {column!r} of.")
    first, values = None, []
    for name, rows in runs.items():
        epochs = [row.get("epoch") for row in rows]
        if epochs != list(range(len(rows))):
            missing = next(i for i, epoch in enumerate(epochs) if epoch != i)
            raise ValueError(f"The table of the run {name!r} has no row of epoch {missing} in its place.")
        first = first or (name, len(rows))
        if len(rows) != first[1]:
            raise ValueError(
                f"The run {name!r} has {len(rows)} epochs, and {first[0]!r} has {first[1]}: no mean over the seeds."
            )
        values.append([row.get(column, np.nan) for row in rows])
        if gaps:
            continue
        if not np.isfinite(values[-1]).all():
            missing = int(np.flatnonzero(~np.isfinite(values[-1]))[0])
            raise ValueError(f"The run {name!r} has no number for {column!r} in epoch {missing}.")
    return np.array(values)


def draw(axes, values, colour, dashed=False):
    """A line for the mean of `values` `(runs, epochs)` and a band from the lowest to the highest; epochs from 1."""
    epochs = np.arange(1, values.shape[1] + 1)
    axes.plot(epochs, values.mean(0), color=colour, linestyle="--" if dashed else "-", linewidth=1.4)
    if len(values) > 1:
        axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)


def legend(figure, entries):
    """A legend below the panels; `entries` is a dict from text to `(colour, linestyle)`."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour, linestyle=style) for colour, style in entries.values()]
    figure.legend(lines, list(entries), loc="outside lower center", ncols=len(entries), frameon=False)


def summary(values):
    """A row `(epoch, mean, lowest, highest, runs)` for each epoch of `values` `(runs, epochs)`; epochs from 1."""
    columns = zip(values.mean(0), values.min(0), values.max(0))
    return [(epoch, *map(float, numbers), len(values)) for epoch, numbers in enumerate(columns, start=1)]


SUMMARY = ("epoch", "mean", "lowest", "highest", "runs")


def write_numbers(picture, columns, rows):
    """Writes the numbers behind a picture into the CSV file beside it, of the same name.

    Args:
        picture: Path of the picture.
        columns: Sequence of names.
        rows: List of rows.

    Raises:
        ValueError: if the file holds something else than such numbers, as the table of a run.
        OSError: if it cannot be written.
    """
    path = pathlib.Path(picture).with_suffix(".csv")
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            found = next(csv.reader(file), [])
        if found != list(columns):
            raise ValueError(
                f"{path}, where the numbers behind {picture} belong, holds another table, of the columns {found[:5]}. "
                "Choose another path."
            )
    files.write_table(path, columns, rows)
