"""The picture of a search: how the operators of each layer were ranked, epoch by epoch."""

import numpy as np

from dhm_keras import files
from dhm_keras.analysis.drawing import new_figure

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")


def name_of(operator):
    """An operator in print: `(3, 5, 2)` is 3-5-2."""
    return "-".join(map(str, operator))


def plot_alphas(alphas, operators, path, title=""):
    """Draws the softmax of the alphas over the epochs: a panel for each layer, a line for each operator.

    Kernel sizes have colours, repeated blocks are dashed. The best operator of the last epoch is named in each panel.

    Args:
        alphas: Numbers `(epochs, layers, operators)`.
        operators: Sequence of tuples `(k1, k2)` or `(k1, k2, r)`.
        path: Path of the picture; its suffix chooses the format.
        title: String. Defaults to none.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the alphas have another shape.
        OSError: if the picture cannot be written.
    """
    alphas = np.asarray(alphas, "float64")
    if alphas.ndim != 3 or not alphas.size or alphas.shape[2] != len(operators):
        raise ValueError(
            f"Invalid value for argument `alphas`. Expected numbers (epochs, layers, {len(operators)}). Received: the "
            f"shape {alphas.shape}."
        )
    exponentials = np.exp(alphas - alphas.max(-1, keepdims=True))
    shares = exponentials / exponentials.sum(-1, keepdims=True)
    columns = min(3, shares.shape[1])
    rows = -(-shares.shape[1] // columns)
    figure = new_figure(4 * columns, 2.6 * rows + 0.6)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for layer in range(shares.shape[1]):
        _draw_layer(panels.flat[layer], shares[:, layer], operators, layer + 1)
    for panel in panels.flat[shares.shape[1] :]:
        panel.set_axis_off()
    for panel in panels[:, 0]:
        panel.set_ylabel("softmax of the alphas")
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    lines = sorted(panels.flat[0].lines, key=lambda line: line.get_label())  # the blocks of a pair below one another
    figure.legend(handles=lines, loc="outside lower center", ncols=min(6, len(lines)), frameon=False)
    figure.suptitle(title)
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def _draw_layer(axes, shares, operators, layer):
    """One panel; `shares` is `(epochs, operators)`."""
    kernels = list(dict.fromkeys(operator[:2] for operator in operators))
    epochs = np.arange(1, len(shares) + 1)
    for operator, share in zip(operators, shares.T, strict=True):
        style = "--" if operator[2:] == (2,) else "-"
        colour = COLOURS[kernels.index(operator[:2]) % len(COLOURS)]
        marker = "o" if len(shares) == 1 else None
        axes.plot(epochs, share, style, color=colour, marker=marker, linewidth=1.2, label=name_of(operator))
    axes.set_title(f"layer {layer}: {name_of(operators[int(shares[-1].argmax())])}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
