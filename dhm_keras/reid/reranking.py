"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), in bounded memory."""

import dataclasses
import numbers

import numpy as np

from dhm_keras.data.batches import check_integers
from dhm_keras.reid.distances import Points, blocks, in_threads, pair_of_points
from dhm_keras.reid.search import nearest


def rerank(query_features, gallery_features, k1=20, k2=6, weight=0.3, metric="euclidean"):
    """Distances that know the neighbourhood: two images are near if they have near images in common.

    No label is used: it is a gain at test time, of some per cent of mAP, paid with time, and with the gallery being
    known as a whole. With N queries and gallery images together, each image i of them:

    1. N(i, k): i and its k nearest others. R(i, k): those j of N(i, k) that have i in N(j, k).
    2. R*(i): R(i, k1), and R(j, k1 / 2) of each j of it of which more than two thirds lie in R(i, k1).
    3. V_i: exp(-d(i, j)) for j in R*(i), else 0, its sum 1; d is the metric's distance over the row's largest.
    4. V_i becomes the mean of V over the first k2 of N(i, k1).
    5. Jaccard distance: 1 - s / (2 - s), s being the sum of min(V_q, V_g).

    The result is (1 - weight) times the Jaccard distance plus weight times d. The metric's distance is taken as it is,
    the squared Euclidean one as in the paper; torchreid squares it once more, and so weighs neighbours otherwise.

    V is kept sparse and no N x N matrix is made (Market-1501: N = 19,281, 1.5 GB each). Beside the features and the
    result the memory is one copy of all features, a block of distances (32 MB, or 64 rows of N numbers), and V: 8 bytes
    for each number that is not zero, some hundred a row, (k1 + 1) (k1 / 2 + 1) k2 at most, and as much again to turn
    it. At Market-1501's size with 2,048 numbers a feature it was measured as 210 MB, 158 MB of them the copy.

    Example:

    ```python
    d = dhm_keras.reid.rerank(query_features, gallery_features)
    result = dhm_keras.reid.evaluate_distances(d, query_pids, gallery_pids, query_camids, gallery_camids)
    ```

    Args:
        query_features: Numbers `(q, d)`.
        gallery_features: Numbers `(g, d)`. Leave out junk: it would be among the neighbours.
        k1: Integer, how many neighbours. Defaults to 20.
        k2: Integer from 1 to k1, over how many neighbours V is averaged. Defaults to 6.
        weight: Float from 0 to 1, of the distance itself. Defaults to 0.3.
        metric: `"euclidean"` or `"cosine"`, as of `distances`. Defaults to `"euclidean"`.

    Returns:
        float32 `(q, g)`, in [0, 1].

    Raises:
        ValueError: if `k1`, `k2`, `weight`, the features or the metric are not as described.
    """
    check_integers(k1=(k1, 1), k2=(k2, 1))
    if k2 > k1:
        raise ValueError(
            f"Invalid value for argument `k2`. Expected an integer from 1 to k1. Received: k2={k2}, k1={k1}."
        )
    if not isinstance(weight, numbers.Real) or not 0 <= weight <= 1:
        raise ValueError(f"Invalid value for argument `weight`. Expected a number from 0 to 1. Received: {weight!r}.")
    queries, gallery = pair_of_points(query_features, gallery_features, metric)
    points = Points(np.concatenate([queries.features, gallery.features]), metric, "query_features")
    count, reach = len(queries), round(k1 / 2)
    result = np.empty((count, len(gallery)), "float32")
    neighbours, largest = _neighbours(points, k1 + 1, result)
    reciprocal, half = _reciprocal(neighbours, k1), _reciprocal(neighbours, reach)
    vectors = [None] * len(points)

    def fill_row(i):
        columns = _expanded(i, neighbours, reciprocal, half)
        apart = points.distances(points, slice(i, i + 1), columns)[0]
        apart[columns == i] = 0
        weights = np.exp(-apart / largest[i])
        vectors[i] = columns, weights / weights.sum()

    in_threads(fill_row, len(points))
    vectors = _Sparse.of(vectors).mean_of(neighbours[:, :k2])
    by_column = vectors.columns_of(count)

    def finish_row(i):
        columns, values = vectors.row(i)
        places, lengths = by_column.places(columns)
        least = np.minimum(by_column.values[places], np.repeat(values, lengths))
        shared = np.bincount(by_column.columns[places], least, minlength=len(gallery))
        jaccard = np.maximum(1 - shared / (2 - shared), 0)  # of doubles the sum may pass 1 by a rounding
        result[i] = weight * result[i] + (1 - weight) * jaccard

    in_threads(finish_row, count)
    return result


def _neighbours(points, k, result):
    """Each point and its nearest, int32 `(N, k)`, and its largest distance; fills in queries to gallery over that."""
    count, total = len(result), len(points)
    neighbours, largest = np.empty((total, min(k, total)), "int32"), np.empty(total, "float32")
    for rows in blocks(total, total):
        block = points.distances(points, rows)
        top = block.max(axis=1)
        largest[rows] = np.where(top > 0, top, 1)  # all points are one: their distances stay 0
        scaled = block[: max(count - rows.start, 0), count:]
        result[rows.start : rows.start + len(scaled)] = scaled / largest[rows][: len(scaled), None]
        own = np.arange(rows.start, rows.stop)
        block[own - rows.start, own] = -1  # a point itself comes first, before its doubles, whatever the rounding
        neighbours[rows] = nearest(block, k)
    return neighbours, largest


def _reciprocal(neighbours, k):
    """Which of N(i, k) have i in theirs, booleans `(N, k + 1)`."""
    near = neighbours[:, : k + 1]
    result = np.empty(near.shape, bool)
    for rows in blocks(len(near), near.shape[1] ** 2):
        own = np.arange(rows.start, rows.stop)[:, None, None]
        result[rows] = (near[near[rows]] == own).any(axis=2)
    return result


def _expanded(i, neighbours, reciprocal, half):
    """R*(i), ascending."""
    core = neighbours[i][reciprocal[i]]
    candidates, theirs = neighbours[core, : half.shape[1]], half[core]
    inside = (candidates[:, :, None] == core).any(axis=2) & theirs
    theirs &= (3 * inside.sum(axis=1) > 2 * theirs.sum(axis=1))[:, None]
    return np.unique(np.concatenate([core, candidates[theirs]]))


@dataclasses.dataclass
class _Sparse:
    """A matrix's numbers that are not zero: row i's are those from `starts[i]` to `starts[i + 1]`."""

    starts: np.ndarray  # int64 (rows + 1,)
    columns: np.ndarray  # int32
    values: np.ndarray  # float32

    @classmethod
    def of(cls, rows):
        """From pairs of columns and values."""
        starts = np.cumsum([0] + [len(columns) for columns, _ in rows])
        columns, values = zip(*rows)
        return cls(starts, np.concatenate(columns).astype("int32"), np.concatenate(values).astype("float32"))

    def row(self, i):
        span = slice(self.starts[i], self.starts[i + 1])
        return self.columns[span], self.values[span]

    def places(self, rows):
        """Where the numbers of some rows are, one row after the other, and how many each has."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(lengths)
        return np.repeat(self.starts[rows] - ends + lengths, lengths) + np.arange(ends[-1]), lengths

    def mean_of(self, groups):
        """Its row i is the mean of the rows `groups[i]`."""
        total, rows = len(groups), []
        for span in blocks(total, 8192):  # some thousand rows at a time, a hundred numbers each
            group = groups[span]
            places, lengths = self.places(group.ravel())
            owner = np.repeat(np.arange(len(group)), lengths.reshape(group.shape).sum(axis=1))
            keys, which = np.unique(owner * total + self.columns[places], return_inverse=True)
            values = (np.bincount(which, self.values[places]) / group.shape[1]).astype("float32")
            ends = np.searchsorted(keys, np.arange(1, len(group)) * total)
            rows += zip(np.split((keys % total).astype("int32"), ends), np.split(values, ends))
        return self.of(rows)

    def columns_of(self, first):
        """The rows from `first` on, column by column."""
        begin = self.starts[first]
        owner = np.repeat(np.arange(len(self.starts) - 1 - first, dtype="int32"), np.diff(self.starts[first:]))
        order = np.argsort(self.columns[begin:], kind="stable")
        starts = np.searchsorted(self.columns[begin:][order], np.arange(len(self.starts)))
        return _Sparse(starts, owner[order], self.values[begin:][order])
