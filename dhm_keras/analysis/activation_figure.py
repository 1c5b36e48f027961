"""The figure of activation maps: images, and where networks look on them."""

import pathlib

import numpy as np

from dhm_keras import files
from dhm_keras.analysis.drawing import new_figure

SHARE = 0.7  # of the colours in an overlay, torchreid's
COLOURS = "jet"  # from blue to red, as in the papers' figures


def plot_activations(images, maps, path, titles=None):
    """Draws activation maps: a row for each image, beside it for each network the map over the image, and alone.

    As Figure 6 of the OSNet paper and Figure A of its supplement. The maps are written beside the picture,
    `activations.npz` beside `activations.png`, one array a network.

    Example: see `activation_maps`.

    Args:
        images: uint8 `(n, height, width, 3)`, or of one channel.
        maps: Dict from a network's name to its maps, numbers in [0, 1] `(n, height, width)`, as of `activation_maps`.
        path: Path of the picture; its suffix chooses the format.
        titles: Sequence of n strings, what stands beside each image. Defaults to none.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if an argument is none of these.
        OSError: if the picture cannot be written.
    """
    images, maps, titles = _check(images, maps, titles)
    _, height, width, _ = images.shape
    figure = new_figure(1.1 * (1 + 2 * len(maps)) + 1.1, 1.1 * height / width * len(images) + 0.5)
    axes = figure.subplots(len(images), 1 + 2 * len(maps), squeeze=False)
    colours = _colours()
    axes[0, 0].set_title("image", fontsize=9)
    for line, (image, row) in enumerate(zip(images, axes)):
        row[0].imshow(image)
        row[0].set_ylabel(titles[line], fontsize=8, parse_math=False)
        for (name, of_network), over, alone in zip(maps.items(), row[1::2], row[2::2]):
            heat = colours(of_network[line])[..., :3]
            over.imshow((1 - SHARE) * image / 255 + SHARE * heat)
            drawn = alone.imshow(of_network[line], cmap=colours, vmin=0, vmax=1)
            if line == 0:
                over.set_title(name, fontsize=9, parse_math=False)
                alone.set_title("map", fontsize=9)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8 if len(images) == 1 else 0.5, ticks=(0, 1))
    bar.ax.set_yticklabels(("least", "most"), fontsize=8)
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    with files.replacing(pathlib.Path(path).with_suffix(".npz")) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **maps)


def _colours():
    import matplotlib

    return matplotlib.colormaps[COLOURS]


def _check(images, maps, titles):
    """The images with three channels, the maps as float32 arrays, and the titles."""
    images = np.asarray(images)
    if images.dtype != "uint8" or images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            "Invalid value for argument `images`. Expected uint8 (n, height, width, 3), n > 0. Received: "
            f"{images.dtype} {images.shape}."
        )
    if not maps:
        raise ValueError("Invalid value for argument `maps`. Expected those of one network at least. Received: none.")
    maps = {name: np.asarray(of_network, "float32") for name, of_network in maps.items()}
    for name, of_network in maps.items():
        if of_network.shape != images.shape[:3] or not ((of_network >= 0) & (of_network <= 1)).all():
            raise ValueError(
                f"Invalid value for argument `maps`. Expected numbers in [0, 1], {images.shape[:3]}. Received: of "
                f"{name!r} an array {of_network.shape} from {of_network.min():.3g} to {of_network.max():.3g}."
            )
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"Invalid value for argument `titles`. Expected {len(images)}, one for each image. Received: {len(titles)}."
        )
    titles = [""] * len(images) if titles is None else [str(title) for title in titles]
    return np.broadcast_to(images, (*images.shape[:3], 3)), maps, titles
