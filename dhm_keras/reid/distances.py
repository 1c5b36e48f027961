"""Distances between embeddings, a block of rows at a time."""

import concurrent.futures
import os

import numpy as np

METRICS = ("euclidean", "cosine")

# A block of distances has so many numbers (32 MB), but so many rows at least: with fewer the matrix product is slow.
BLOCK_SIZE, BLOCK_ROWS = 2**23, 64

# NumPy looks for the nearest without Python's lock; what it keeps the lock for would hold up more threads than these.
THREADS = min(4, os.cpu_count() or 1)


def distances(query_features, gallery_features, metric="euclidean"):
    """How far embeddings are from one another.

    `evaluate`, `search`, `rerank` and `calibrate` take the features and need no such matrix; it is for what else one
    wants to do with it.

    Example:

    ```python
    d = dhm_keras.reid.distances(extractor(tracks), extractor(seen), metric="cosine")
    nearest = d.argmin(axis=1)
    ```

    Args:
        query_features: Numbers `(q, d)`.
        gallery_features: Numbers `(g, d)`.
        metric: `"euclidean"`: squared Euclidean, `|x|^2 + |y|^2 - 2 x y`; or `"cosine"`: `1 - x y / (|x| |y|)`, which
            is 1 for a vector of zeros. No other normalisation takes place. Defaults to `"euclidean"`.

    Returns:
        float32 `(q, g)`, none below zero. Beside it the memory is that of float32 copies of features that are of
        another type.

    Raises:
        ValueError: if the features are not two matrices of finite numbers with as many columns, or `metric` is unknown.
    """
    queries, gallery = pair_of_points(query_features, gallery_features, metric)
    result = np.empty((len(queries), len(gallery)), "float32")
    for rows in blocks(*result.shape):
        queries.distances(gallery, rows, out=result[rows])
    return result


class Points:
    """Checked embeddings, with what their distances need of each.

    Args:
        features: Numbers `(n, d)`.
        metric: As of `distances`.
        name: The argument's name, for errors.
    """

    def __init__(self, features, metric, name):
        if metric not in METRICS:
            raise ValueError(f"Invalid value for argument `metric`. Expected one of {METRICS}. Received: {metric!r}.")
        features = np.asarray(features)
        if features.ndim != 2 or not features.size or features.dtype.kind not in "fiu":
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected numbers (n, d), a row an image. Received: "
                f"{features.dtype} {features.shape}."
            )
        self.metric = metric
        self.features = np.ascontiguousarray(features, "float32")
        self.squares = np.einsum("nd,nd->n", self.features, self.features)
        wrong = np.flatnonzero(~np.isfinite(self.squares))
        if len(wrong):
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected finite numbers, whose squares float32 can hold. "
                f"Received: {len(wrong)} of {len(self)} rows with others (NaN after a training that diverged?), the "
                f"first is row {wrong[0]}."
            )
        # A zero vector has no direction; with length 1 it is at cosine distance 1 from all.
        self.lengths = np.sqrt(np.where(self.squares > 0, self.squares, np.float32(1)))

    def __len__(self):
        return len(self.features)

    def distances(self, others, rows=slice(None), columns=slice(None), out=None):
        """Distances of some of these points to some others, float32 `(rows, columns)`, into `out` if it is given."""
        mine, theirs = self.features[rows], others.features[columns]
        if self.metric == "cosine":
            out = np.matmul(mine / -self.lengths[rows, None], theirs.T, out=out)
            out /= others.lengths[columns]
            out += 1
        else:
            out = np.matmul(mine * np.float32(-2), theirs.T, out=out)
            out += self.squares[rows, None]
            out += others.squares[columns]
        return np.maximum(out, 0, out=out)


def pair_of_points(query_features, gallery_features, metric):
    """Queries and gallery as `Points` with as many columns."""
    queries = Points(query_features, metric, "query_features")
    gallery = Points(gallery_features, metric, "gallery_features")
    if queries.features.shape[1] != gallery.features.shape[1]:
        raise ValueError(
            f"Invalid value for argument `query_features`. Expected as many columns as of the gallery's features, "
            f"{gallery.features.shape[1]}. Received: {queries.features.shape[1]}."
        )
    return queries, gallery


def blocks(rows, columns):
    """Slices of so many rows that the block's distances are in bounds; they depend on the sizes alone."""
    step = max(BLOCK_ROWS, BLOCK_SIZE // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def in_threads(function, count):
    """Calls `function(i)` for i in `range(count)`, some in each thread."""

    def some(first):
        for i in range(first, count, THREADS):
            function(i)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(some, range(THREADS)))  # the list raises what a thread raised
