"""Where a network puts persons, or classes: t-SNE pictures of features."""

import numpy as np

from dhm_keras import files
from dhm_keras.analysis.drawing import new_figure, write_numbers

FEWEST, PERPLEXITY = 7, 30  # examples; sklearn's, which takes about three times as many neighbours into account
MARKERS = "os^vDP*X"
MOST = 20  # persons that have colours of their own
COLUMNS = ("panel", "pid", "x", "y", "silhouette")


def project(features, seed=0):
    """Features in two dimensions, by t-SNE (van der Maaten and Hinton, 2008): neighbours stay neighbours.

    It begins with the first two principal components. The perplexity is 30, or a third of the other examples where
    those are fewer. Distances between groups far apart, and the groups' sizes, mean nothing.

    Args:
        features: Numbers `(n, d)`, at least 7 examples of 2 features.
        seed: Integer, not negative. The same gives the same, with one version of scikit-learn. Defaults to `0`.

    Returns:
        float32 `(n, 2)`.

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: if the features are none of these, or all examples are the same.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # scikit-learn needs it, too
    except ImportError as error:
        raise ImportError("t-SNE is scikit-learn's. Install it: pip install 'dhm_keras[demo]'") from error
    features = _check_features(features, "")
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    # Threads gain little on so few examples, and waste a hundred times as long waiting where other processes compute.
    with threadpool_limits(1, user_api="openmp"):
        points = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(features)
    return points.astype("float32")


def plot_embeddings(features, pids, path, seed=0):
    """Draws features in two dimensions: a panel for each kind, a colour for each person.

    As Figures 1 and 2 of CDNet's supplement: what the triplet loss acts on at the left, what the classifier takes at
    the right. A panel's title has the mean silhouette (Rousseeuw, 1987) of the features themselves, by the cosine: 1
    where each image is far nearer to its person's others than to any other person, 0 where it is between two, below 0
    where others are nearer. The numbers are written beside the picture, `tsne.csv` beside `tsne.png`: a row for each
    panel and image.

    Example:

    ```python
    parts = dhm_keras.reid.loss_features(model)
    features = {name: dhm_keras.reid.Extractor(part, head=None)(images) for name, part in parts.items()}
    dhm_keras.analysis.plot_embeddings(features, images.pids, "tsne.png")
    ```

    Args:
        features: Dict from a panel's title to numbers `(n, d)`, as `project` takes them.
        pids: Integers or strings `(n,)`: who, or what, is on each image; 2 to 20, one of them several times.
        path: Path of the picture; its suffix chooses the format.
        seed: As of `project`. Defaults to `0`.

    Raises:
        ImportError: if matplotlib or scikit-learn is not installed.
        ValueError: if an argument is none of these.
        OSError: if the picture cannot be written.
    """
    features, pids = _check(features, pids)
    columns = len(features) if len(features) < 4 else 2
    lines = -(-len(features) // columns)
    figure = new_figure(4.2 * columns + 1.2, 4.2 * lines)
    panels, rows = figure.subplots(lines, columns, squeeze=False), []
    for panel in panels.flat[len(features) :]:
        panel.set_axis_off()
    for panel, (title, of_panel) in zip(panels.flat, features.items()):
        points, silhouettes = project(of_panel, seed), _silhouettes(of_panel, pids)
        for pid, colour, marker in _looks(pids):
            panel.scatter(*points[pids == pid].T, s=32, color=colour, marker=marker, linewidths=0, alpha=0.85)
        panel.set(xticks=[], yticks=[])
        panel.set_title(f"{title}\nsilhouette {silhouettes.mean():.2f}", fontsize=10, parse_math=False)
        rows += [
            (title, pid, *map(float, point), float(silhouette))
            for pid, point, silhouette in zip(pids.tolist(), points, silhouettes)
        ]
    _legend(figure, pids)
    write_numbers(path, COLUMNS, rows)
    with files.replacing(path) as partial:
        figure.savefig(partial, dpi=110)


def _silhouettes(features, pids):
    """The silhouette of each example, `(n,)`."""
    from sklearn.metrics import silhouette_samples

    return silhouette_samples(features, pids, metric="cosine")


def _looks(pids):
    """(pid, colour, marker) of each person."""
    import matplotlib

    persons = np.unique(pids)
    palette = matplotlib.colormaps["tab10" if len(persons) <= 10 else "tab20"]
    return [(pid, palette(i), MARKERS[i % len(MARKERS)]) for i, pid in enumerate(persons)]


def _legend(figure, pids):
    """The persons, at the right."""
    from matplotlib.lines import Line2D

    looks = _looks(pids)
    lines = [Line2D([], [], color=colour, marker=marker, linestyle="") for _, colour, marker in looks]
    legend = figure.legend(lines, [str(pid) for pid, *_ in looks], loc="outside right upper", title="person")
    for text in legend.get_texts():
        text.set_parse_math(False)


def _check_features(features, of):
    """The features as an array."""
    features = np.asarray(features)
    numbers = features.ndim == 2 and features.dtype.kind in "fiu"
    if not numbers or len(features) < FEWEST or features.shape[1] < 2 or not np.isfinite(features).all():
        raise ValueError(
            f"Invalid value for argument `features`. Expected finite numbers (n, d), n >= {FEWEST}, d >= 2. Received: "
            f"{of}an array {features.dtype} {features.shape}."
        )
    if (features == features[0]).all():
        raise ValueError(f"Invalid value for argument `features`. Received: {of}{len(features)} times the same.")
    return features


def _check(features, pids):
    """Dict of arrays, and an array of pids."""
    if not features:
        raise ValueError("Invalid value for argument `features`. Expected one panel at least. Received: none.")
    features = {title: _check_features(of_panel, f"of {title!r} ") for title, of_panel in features.items()}
    pids = np.asarray(pids)
    if pids.ndim != 1 or pids.dtype.kind not in "iuU" or any(len(each) != len(pids) for each in features.values()):
        raise ValueError(
            "Invalid value for argument `pids`. Expected integers or strings (n,), one for each row of the features, "
            f"{ {title: each.shape for title, each in features.items()} }. Received: {pids.dtype} {pids.shape}."
        )
    if not 2 <= len(np.unique(pids)) <= min(MOST, len(pids) - 1):
        raise ValueError(
            f"Invalid value for argument `pids`. Expected 2 to {MOST} persons, one of them several times. Received: "
            f"{len(np.unique(pids))} in {len(pids)}."
        )
    return features, pids
