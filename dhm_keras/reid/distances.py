"""Distances between embeddings, a block of rows at a time."""

import concurrent.futures
import os

import numpy as np

METRICS = ("euclidean", "cosine")

# A block of distances has so many numbers (32 MB), but so many rows at least: with fewer the matrix product is slow.
BLOCK_SIZE, BLOCK_ROWS = 2**23, 64

# Of features of which more than this share of the squared length is in common, that part is taken away.
COMMON_SHARE = 0.8

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
        float32 `(q, g)`, none below zero. Beside it the memory is that of float32 copies of features: of those of
        another type, and, for `"euclidean"`, of those that have most of their length in common. Their common part is
        taken away first; it changes no distance, but float32 would lose small distances beside it.

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

    def common_part(self):
        """What to take away from features before squared Euclidean distances of them; `None` if that is little.

        It is their mean, rounded to an eighth of their spread: so the differences to it are exact, and features of
        whole numbers keep exact distances, equal ones among them.

        Returns:
            float32 `(d,)`, or `None`.
        """
        mean = self.features.mean(axis=0, dtype="float64")
        if self.metric != "euclidean" or mean @ mean <= COMMON_SHARE * self.squares.mean(dtype="float64"):
            return None
        total, center = 0.0, mean.astype("float32")
        for rows in blocks(*self.features.shape):
            apart = self.features[rows] - center
            total += np.einsum("nd,nd->n", apart, apart).sum(dtype="float64")
        if total:
            step = 2.0 ** np.floor(np.log2(np.sqrt(total / self.features.size))) / 8
            center = (np.round(mean / step) * step).astype("float32")
        return center

    def move(self, center):
        """Takes away a common part, if there is one; `lengths` stay."""
        if center is not None:
            self.features = self.features - center
            self.squares = np.einsum("nd,nd->n", self.features, self.features)

    def collapsed(self):
        """Whether nearly all points are one within rounding, or zero, so that their distances rank nothing.

        Some hundred of them are compared with their median; the differences are taken directly, as the product of
        matrices would round more than there is.

        Returns:
            Boolean.
        """
        if len(self) < 2:
            return False
        count = min(len(self), 256)
        some = np.arange(count) * len(self) // count
        points, lengths = self.features[some], self.lengths[some]
        if self.metric == "cosine":
            points = points / lengths[:, None]
        apart = np.quantile(np.square(points - np.median(points, axis=0)).sum(axis=1), 0.95)
        eps = float(np.finfo("float32").eps)
        # Half of it is a cosine distance, 1 - x y, in which roundings are those of 1; else they are the features' own.
        return bool(apart <= (8 * eps if self.metric == "cosine" else (16 * eps * np.median(lengths)) ** 2))

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
    center = gallery.common_part()
    queries.move(center)
    gallery.move(center)
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
