"""Training and validation curves of several methods over several seeds."""

import numpy as np


def plot_curves(histories, path, title=""):
    """Draws the error of main per epoch: a line for the mean over the seeds, a band from the lowest to the highest.

    Args:
        histories: Dict from method to a list of histories, one a seed; a history is a list of rows, one an epoch, each
            a dict from log name to value.
        path: Path of the picture; its suffix chooses the format.
        title: String. Title of the figure. Defaults to none.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Curves are drawn by matplotlib. Install it: pip install 'dhm_keras[demo]'") from error

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for panel, prefix, name in zip(figure.subplots(1, 2), ("", "val_"), ("training labels", "test set")):
        errors = {  # each (seeds, epochs)
            method: 100 * (1 - np.array([[row[f"{prefix}main_accuracy"] for row in run] for run in runs]))
            for method, runs in histories.items()
        }
        _draw(panel, errors)
        panel.set(xlabel="epoch", ylabel="top-1 error of main, %", title=name)
        panel.legend(loc="lower left")
        last = next(iter(errors.values())).shape[1]
        if last > 3:  # the last third, enlarged
            late = np.concatenate([values[:, -(last // 3) :] for values in errors.values()])
            inset = panel.inset_axes((0.45, 0.45, 0.53, 0.52))
            _draw(inset, errors)
            margin = 0.1 * (late.max() - late.min()) + 0.1
            inset.set(xlim=(last - last // 3 + 1, last), ylim=(late.min() - margin, np.percentile(late, 98) + margin))
            panel.indicate_inset_zoom(inset)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _draw(axes, errors):
    """A line for the mean and a band from the lowest to the highest of `{method: (seeds, epochs)}`."""
    for method, values in errors.items():
        epochs = np.arange(1, values.shape[1] + 1)
        axes.plot(epochs, values.mean(0), label=method)
        axes.fill_between(epochs, values.min(0), values.max(0), alpha=0.2, linewidth=0)
    axes.grid(alpha=0.3)
