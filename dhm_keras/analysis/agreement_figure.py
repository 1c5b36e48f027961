"""The figure of how far the heads agree, epoch by epoch: what `callbacks.MeasureAgreement` kept."""

import itertools

from dhm_keras.analysis.drawing import SUMMARY, colours, draw, legend, new_figure, over_seeds, summary, write_numbers


def plot_agreement(methods, path, title=""):
    """Draws the agreement of the heads per epoch: a row for each pair of heads, a line for each method.

    Columns: the cosine between the heads' gradients at the stem; the share of images with the same first class; the
    divergence, solid of the first from the second, dashed the reverse. A line is the mean over the seeds, a band goes
    from the lowest to the highest. The numbers are written beside the picture: a row for each method, name and epoch.

    Args:
        methods: Dict from method to a dict from a run's name to its table, as of `Run.agreement`. All have the same
            heads.
        path: Path of the picture; its suffix chooses the format. Not `agreement.*` in the folder of a run, which has
            its own `agreement.csv`.
        title: String. Title of the figure. Defaults to none.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if a table is empty or lacks a number (a cosine may be NaN: a gap in its line), the runs of a method
            have different numbers of epochs, or the CSV file's place is taken.
    """
    some = next((rows for runs in methods.values() for rows in runs.values() if rows), [{}])
    pairs = [name.split("_")[1:] for name in some[0] if name.startswith("cosine_")]
    if not pairs:
        raise ValueError(
            "Invalid value for argument `methods`. Expected tables of `callbacks.MeasureAgreement`, with a column "
            f"cosine_main_... Received: the columns {list(some[0])}."
        )
    figure = new_figure(11, 1 + 2.3 * len(pairs))
    axes = figure.subplots(len(pairs), 3, squeeze=False, sharex=True, sharey="col")
    colour, rows = colours(methods), []
    for row, (one, other) in zip(axes, pairs):
        columns = (
            (f"cosine_{one}_{other}",),
            (f"agree_{one}_{other}",),
            (f"kl_{one}_to_{other}", f"kl_{other}_to_{one}"),
        )
        for (panel, names), (method, runs) in itertools.product(zip(row, columns), methods.items()):
            for name in names:
                values = over_seeds(runs, name, gaps=name.startswith("cosine"))  # NaN where a gradient is zero
                draw(panel, values, colour[method], dashed=name != names[0])
                rows += [(method, name, *of_epoch) for of_epoch in summary(values)]
        row[0].set_ylabel(f"{one}, {other}")
        row[0].axhline(0, color="grey", linewidth=0.8)
    for panel, name in zip(axes[0], ("cosine of the gradients at the stem", "same first class", "KL divergence, nats")):
        panel.set_title(name, fontsize=10)
    axes[0, 2].set_yscale("log")
    for panel in axes[-1]:
        panel.set_xlabel("epoch")
    entries = {method: (colour[method], "-") for method in methods}
    legend(figure, {**entries, "KL(second || first)": ("grey", "--")})
    figure.suptitle(title)
    write_numbers(path, ("method", "name", *SUMMARY), rows)
    figure.savefig(path, dpi=90)
