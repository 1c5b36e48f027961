"""The figure of activation maps: images, and where networks look on them."""

import pathlib

import numpy as np

from dhm_keras import files
from dhm_keras.analysis.drawing import new_figure

CELL = 0.8  # width of an image, inches
SHARE = 0.7  # of the colours in an overlay, torchreid's
COLOURS = "jet"  # from blue to red, as in the papers' figures


def plot_activations(images, maps, path, titles=None):
    """Draws activation maps: a row for each image, beside it the map of each network over the image.

    As Figure A of the OSNet paper's supplement; of one network the map is drawn alone, too, as torchreid does. The maps
    are written beside the picture, `activations.npz` beside `activations.png`, one array a network.

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
    columns = 1 + max(len(maps), 2)
    figure = new_figure(CELL * columns + 0.9, CELL * height / width * len(images) + 0.4)
    axes = figure.subplots(len(images), columns, squeeze=False)
    for title, panel in zip(("image", *maps, "map"), axes[0]):
        panel.set_title(title, fontsize=8, parse_math=False)
    colours = _colours()
    for line, (image, row) in enumerate(zip(images, axes)):
        row[0].imshow(image)
        row[0].set_ylabel(titles[line], fontsize=8, parse_math=False)
        for panel, of_network in zip(row[1:], maps.values()):
            panel.imshow((1 - SHARE) * image / 255 + SHARE * colours(of_network[line])[..., :3])
        if len(maps) == 1:
            row[2].imshow(of_network[line], cmap=colours, vmin=0, vmax=1)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    _explain(figure, axes)
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=100)
    with files.replacing(pathlib.Path(path).with_suffix(".npz")) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **maps)


def _explain(figure, axes):
    """What the colours mean, at the right."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=axes, shrink=0.8 / len(axes), ticks=(0, 1), aspect=12)
    bar.ax.set_yticklabels(("least", "most"), fontsize=8)


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
    if "file" in maps:  # a name of NumPy's own
        raise ValueError("Invalid value for argument `maps`. Expected other names of networks than 'file'.")
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
