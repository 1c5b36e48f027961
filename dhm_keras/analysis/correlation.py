"""Whether a branch and main weigh the same channels: correlation heatmaps of matching convolutions."""

import pathlib

import keras
import numpy as np

from dhm_keras import files
from dhm_keras.analysis.drawing import new_figure, write_numbers


def correlation(kernel_a, kernel_b):
    """The correlation map of two convolutions, as in the paper's supplement, H and Figure 3.

    The maximum over the positions of each kernel gives a matrix (input channels, output channels) for either
    convolution. Both are standardised over all their entries, and multiplied entry by entry. So the map's axes are the
    figure's, input channel and output channel, for convolutions of any width, and its mean is Pearson's coefficient of
    correlation of the two: an entry is what a pair of channels contributes to it.

    The paper leaves open how its matrix is made: "normalize them across channels and filters. Then the correlation
    matrices are calculated". This reading is ours. Products of matrices would have other axes: filters of one by
    filters of the other, or, of square convolutions, a sum that pairs a filter with a channel. Channels within a branch
    have no order of their own; by chance the coefficient is 0 with a deviation of 1 / sqrt(entries).

    Example:

    ```python
    kernels = [network.get_layer(name).kernel for name in ("stack3_block1_conv2", "aux2_stack3_block1_conv2")]
    dhm_keras.analysis.correlation(*kernels).mean()
    ```

    Args:
        kernel_a, kernel_b: Arrays `(height, width, input channels, output channels)` of one shape.

    Returns:
        Float64 array `(input channels, output channels)`; NaN if the maxima of a kernel are all the same.

    Raises:
        ValueError: if the shapes differ or are not those of a convolution.
    """
    kernels = [np.asarray(keras.ops.convert_to_numpy(kernel), "float64") for kernel in (kernel_a, kernel_b)]
    shapes = [kernel.shape for kernel in kernels]
    if shapes[0] != shapes[1] or len(shapes[0]) != 4:
        raise ValueError(
            "Invalid values for arguments `kernel_a` and `kernel_b`. Expected two of one shape (height, width, input "
            f"channels, output channels). Received: {shapes[0]} and {shapes[1]}."
        )
    one, other = (_standardised(kernel.max((0, 1))) for kernel in kernels)
    return one * other


def matching_convolutions(network, branch="aux2"):
    """The convolutions of main that a branch has, too: `stack3_block1_conv2` and `aux2_stack3_block1_conv2`.

    Args:
        network: Functional model with branches, of `dhm_keras.models` or `dhm_keras.fork`.
        branch: String. Name of the branch. Defaults to `"aux2"`.

    Returns:
        List of names of main's layers, in the network's order: convolutions larger than 1x1 for which the branch has
        one of the same name, after its own, and the same kernel shape.

    Raises:
        ValueError: if there is none.
    """
    layers = {layer.name: layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)}
    names = [
        name
        for name, layer in layers.items()
        if f"{branch}_{name}" in layers
        and max(layer.kernel_size) > 1
        and tuple(layer.kernel.shape) == tuple(layers[f"{branch}_{name}"].kernel.shape)
    ]
    if not names:
        raise ValueError(
            f"The branch {branch!r} of the network {network.name!r} has no convolution as main has: larger than 1x1, "
            f"called {branch}_NAME where main's is called NAME, with a kernel of the same shape. Choose another branch."
        )
    return names


def plot_correlation(networks, path, layers=None, branch="aux2"):
    """Draws correlation heatmaps: a row for each convolution, a column for each method, one colour scale.

    The picture is of the first run of each method. A panel's title has r, the mean of the map (see `correlation`), of
    that run and, with several runs, the mean over them. Colours are cut off at the 99th percentile of what is drawn.
    Beside the picture are written a CSV file with a row for each method, run and convolution: r and its deviation by
    chance; and an NPZ file with the maps drawn, `METHOD/LAYER`.

    Example: Figure 3 of the supplement

    ```python
    layers = ["stack3_block1_conv2", "stack3_block10_conv2", "stack3_block17_conv2", "stack4_block2_conv2"]
    plot_correlation({"dsl": {"dsl-0": one}, "dhm": {"dhm-0": other}}, "heatmaps.png", layers)
    ```

    Args:
        networks: Dict from method to a dict from a run's name to its network.
        path: Path of the picture; its suffix chooses the format.
        layers: Names of main's convolutions in the first network; in the others those in the same places. Defaults to
            up to four of `matching_convolutions`, spread over the depth.
        branch: String. Name of the branch. Defaults to `"aux2"`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if a network has no such convolution in the branch, or others than the first network.
    """
    matching = {
        (method, run): (network, matching_convolutions(network, branch))
        for method, runs in networks.items()
        for run, network in runs.items()
    }
    first, (_, known) = next(iter(matching.items()))
    layers = layers or [known[i] for i in _spread(len(known))]
    unknown = [layer for layer in layers if layer not in known]
    if unknown:
        raise ValueError(
            f"Invalid value for argument `layers`. Expected some of {known}, the convolutions that {branch!r} of "
            f"{first[1]!r} has as main has. Received: {unknown}."
        )
    maps = {}
    for (method, run), (network, names) in matching.items():
        if len(names) != len(known):
            raise ValueError(f"The network of {run!r} has other convolutions than that of {first[1]!r}.")
        for layer in layers:
            name = names[known.index(layer)]  # Keras numbers layers without a name, each network's anew
            maps[method, run, layer] = correlation(*(network.get_layer(n).kernel for n in (name, f"{branch}_{name}")))
    drawn, r = {}, {}
    for method, runs in networks.items():
        for layer in layers:
            drawn[method, layer] = maps[method, next(iter(runs)), layer]
            r[method, layer] = [maps[method, run, layer].mean() for run in runs]
    _draw(list(networks), layers, drawn, r, path)
    rows = [(*key, float(of_key.mean()), of_key.size**-0.5) for key, of_key in maps.items()]
    write_numbers(path, ("method", "run", "layer", "r", "deviation by chance"), rows)
    with files.replacing(pathlib.Path(path).with_suffix(".npz")) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **{"/".join(key): of_key.astype("float32") for key, of_key in drawn.items()})


def _draw(methods, layers, drawn, r, path):
    """Draws the maps `{(method, layer): map}` with the means of the runs' maps in the titles."""
    figure = new_figure(3.6 * len(methods) + 0.8, 3.2 * len(layers))
    axes = figure.subplots(len(layers), len(methods), squeeze=False)
    limit = np.nanpercentile(np.abs(np.concatenate([of_key.ravel() for of_key in drawn.values()])), 99)
    for row, layer in zip(axes, layers):
        for panel, method in zip(row, methods):
            image = panel.imshow(  # x: input channel, y: output channel
                drawn[method, layer].T, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
            )
            values = r[method, layer]
            over_runs = f", of {len(values)} runs {np.mean(values):+.3f}" if len(values) > 1 else ""
            by_chance = f"(by chance 0 ± {drawn[method, layer].size ** -0.5:.3f})"
            panel.set_title(f"{method}, {layer}\nr = {values[0]:+.3f} {by_chance}{over_runs}", fontsize=8)
            panel.tick_params(labelsize=8)
        row[0].set_ylabel("output channel", fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("input channel", fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.6)
    bar.set_label("contribution to the correlation of main and the branch", fontsize=9)
    figure.savefig(path, dpi=110)


def _standardised(matrix):
    """A matrix with mean 0 and standard deviation 1; NaN where all entries are the same."""
    deviation = matrix.std()
    return (matrix - matrix.mean()) / (deviation if deviation > 0 else np.nan)


def _spread(count):
    """Up to four of `count` indices, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, 4))})
