"""Pictures of an evaluation: what was found for some queries, and CMC curves."""

import numpy as np

from dhm_keras import files
from dhm_keras.analysis.drawing import colours, new_figure, write_numbers
from dhm_keras.data import jpeg

QUERY, SAME, OTHER = (40, 80, 160), (20, 160, 60), (210, 40, 40)  # frames: the query, its person, another one
CELL, FRAME, GAP, PRINT = (128, 64), 3, 8, 26  # pixels: an image (height, width), its frame, between, small print
DPI = 100
LETTERS = 13  # that find room below an image
RANKED = ("query", "query_pid", "query_camid", "rank", "image", "pid", "camid", "distance", "same_person")


def plot_ranking(query, gallery, order, path, distances=None, k=10):
    """Draws what was found for some queries: in a row the query and the first k of the gallery.

    Frames are green where the image shows the query's person, red where another. What the evaluation leaves out is
    left out here: junk (pid -1), and the images of the query's person by its own camera, where both sides have camids.
    So `order` had better be longer than k. Small print: pid, camera, distance. The same is written beside the picture,
    `ranking.csv` beside `ranking.png`, with the images' names.

    Example:

    ```python
    rows = numpy.argsort(evaluation.average_precisions)[:6]  # the worst
    order, far = dhm_keras.reid.search(query_features[rows], gallery_features, k=100)
    dhm_keras.reid.plot_ranking(people.query.take(rows), people.gallery, order, "ranking.png", far)
    ```

    Args:
        query: `PersonImages`, q of them.
        gallery: `PersonImages`.
        order: Integers `(q, n)`: rows of the gallery, nearest first, as of `search`.
        path: Path of the picture; its suffix chooses the format.
        distances: Numbers `(q, n)`, of the images in `order`. Defaults to `None`: none are printed.
        k: Integer. How many of the gallery are drawn at most. Defaults to `10`.

    Raises:
        ImportError: if matplotlib or Pillow is not installed.
        ValueError: if an argument is none of these, one side alone has camids, or an image cannot be decoded; the
            message names it.
        OSError: if an image cannot be read, or the picture not be written.
    """
    order, distances = _check(query, gallery, order, distances, k)
    jpeg.require_pillow()
    cells, rows = [], []
    for line, places in enumerate(_found(query, gallery, order, k)):
        of_query = _of(query, line)
        cells.append((line, 0, query, line, QUERY, "query"))
        for rank, place in enumerate(places, start=1):
            row, far = order[line, place], "" if distances is None else distances[line, place]
            of_image = _of(gallery, row)
            same = of_image[1] == of_query[1]
            cells.append((line, rank, gallery, row, SAME if same else OTHER, "" if far == "" else f"{far:.3g}"))
            rows.append((*of_query, rank, *of_image, far, int(same)))
    figure = _composed(cells)
    write_numbers(path, RANKED, rows)
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=DPI)


def plot_cmc(curves, path, title=""):
    """Draws CMC curves: the share of the queries with a true match among the first r, over r.

    The legend has each curve's rank-1. The numbers are written beside the picture, `cmc.csv` beside `cmc.png`.

    Example:

    ```python
    dhm_keras.reid.plot_cmc({"baseline": one.cmc, "dhm": other.cmc}, "cmc.png", "Market-1501")
    ```

    Args:
        curves: Dict from name to shares in [0, 1] `(ranks,)`, as `Evaluation.cmc`; baseline, dsl and dhm have the
            colours that they have in all figures.
        path: Path of the picture; its suffix chooses the format.
        title: String. Defaults to none.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no curve, or one is none; the message names it.
        OSError: if the picture cannot be written.
    """
    if not curves:
        raise ValueError("Invalid value for argument `curves`. Expected at least one curve. Received: {}.")
    curves = {name: np.asarray(cmc, "float64") for name, cmc in curves.items()}
    for name, cmc in curves.items():
        if cmc.ndim != 1 or not len(cmc) or not ((cmc >= 0) & (cmc <= 1)).all() or (np.diff(cmc) < 0).any():
            raise ValueError(
                "Invalid value for argument `curves`. Expected shares in [0, 1], growing with the rank. Received: of "
                f"{name!r} an array {cmc.shape} from {cmc.min(initial=np.inf)} to {cmc.max(initial=-np.inf)}."
            )
    figure, colour = new_figure(6, 4.2), colours(curves)
    axes = figure.add_subplot()
    for name, cmc in curves.items():
        label = f"{name}, rank-1 {100 * cmc[0]:.1f} %"
        axes.plot(np.arange(1, len(cmc) + 1), 100 * cmc, ".-", color=colour[name], linewidth=1.4, label=label)
    axes.set(xlabel="rank", ylabel="queries with a match up to the rank, %", title=title)
    longest = max(map(len, curves.values()))
    axes.set_xticks(sorted({1, *range(max(longest // 10, 1), longest + 1, max(longest // 10, 1))}))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    rows = [(name, rank, share) for name, cmc in curves.items() for rank, share in enumerate(map(float, cmc), start=1)]
    write_numbers(path, ("name", "rank", "cmc"), rows)
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def _of(images, i):
    """Name, pid and camid of an image; where cameras are unknown the last is empty."""
    return images.names[i], images.class_names[images.labels[i]], "" if images.camids is None else images.camids[i]


def _found(query, gallery, order, k):
    """For each query the places in its row of `order` that count, at most k."""
    wanted, pids, found = query.pids, gallery.pids, []
    for i, ranked in enumerate(order):
        left_out = pids[ranked] == "-1"
        if query.camids is not None:
            left_out |= (pids[ranked] == wanted[i]) & (gallery.camids[ranked] == query.camids[i])
        found.append(np.flatnonzero(~left_out)[:k])
    return found


def _composed(cells):
    """A figure of images `(line, column, images, row, colour of the frame, small print)`; column 0 stands apart."""
    lines, columns = (1 + max(cell[i] for cell in cells) for i in (0, 1))
    down, across = CELL[0] + 2 * FRAME + PRINT + GAP, CELL[1] + 2 * FRAME + GAP
    height, width = lines * down + GAP, columns * across + (3 if columns > 1 else 1) * GAP
    canvas = np.full((height, width, 3), 255, "uint8")
    figure = new_figure(width / DPI, height / DPI)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))  # a pixel of the canvas is one of the picture
    for line, column, images, row, colour, print_ in cells:
        top, left = GAP + line * down, (3 if column else 1) * GAP + column * across
        _paste(canvas, top, left, _decoded(images, row), colour)
        _, pid, camid = _of(images, row)
        camera = f"c{camid}" if str(camid).isdecimal() else camid
        place = left + FRAME + CELL[1] / 2, top + 2 * FRAME + CELL[0] + 2
        said = (pid, ", ".join(filter(None, (camera, print_))))
        said = "\n".join(text if len(text) <= LETTERS else f"…{text[1 - LETTERS :]}" for text in said)
        axes.text(*place, said, fontsize=6.5, ha="center", va="top", parse_math=False)
    axes.imshow(canvas, interpolation="none", aspect="auto", extent=(0, width, height, 0))
    axes.set_axis_off()
    return figure


def _decoded(images, i):
    try:
        return jpeg.decode(images.read(i))
    except jpeg.CorruptImage as error:
        raise ValueError(f"{images.where(i)} is not an image that can be decoded ({error}).") from None


def _paste(canvas, top, left, image, colour):
    """Puts an image, as large as fits, in its frame on the canvas `(height, width, 3)`."""
    from PIL import Image, ImageOps

    height, width = CELL
    canvas[top : top + height + 2 * FRAME, left : left + width + 2 * FRAME] = colour
    fitted = ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR, color="white")
    canvas[top + FRAME : top + FRAME + height, left + FRAME : left + FRAME + width] = np.asarray(fitted)


def _check(query, gallery, order, distances, k):
    """Arrays `(q, n)` of rows and distances."""
    order = np.asarray(order)
    if order.ndim != 2 or len(order) != len(query) or order.dtype.kind not in "iu" or not order.size:
        raise ValueError(
            f"Invalid value for argument `order`. Expected integers ({len(query)}, n), a row for each query. Received: "
            f"{order.dtype} {order.shape}."
        )
    if order.min() < 0 or order.max() >= len(gallery):
        raise ValueError(
            f"Invalid value for argument `order`. Expected rows of the gallery, from 0 to {len(gallery) - 1}. "
            f"Received: {order.min()} to {order.max()}."
        )
    if distances is not None and np.shape(distances) != order.shape:
        raise ValueError(
            f"Invalid value for argument `distances`. Expected the shape of `order`, {order.shape}. Received: "
            f"{np.shape(distances)}."
        )
    if (query.camids is None) != (gallery.camids is None):
        raise ValueError(
            "Invalid value for arguments `query` and `gallery`. Expected camids of both, or of none (then images by "
            f"the query's own camera count). Received: of the {'query' if gallery.camids is None else 'gallery'} alone."
        )
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"Invalid value for argument `k`. Expected an integer of at least 1. Received: {k!r}.")
    return order, None if distances is None else np.asarray(distances)
