"""The nearest images of a gallery."""

import numpy as np

from dhm_keras.data.batches import check_integers
from dhm_keras.reid.distances import blocks, in_threads, pair_of_points


def search(query_features, gallery_features, k=10, metric="euclidean"):
    """The k nearest gallery images of each query, without labels: who is it, where was he seen?

    Exact, a block of queries at a time: the memory beside the result is 32 MB, or 64 rows of the gallery's length in
    float32 if that is more, and copies of features, as of `distances`.

    Example:

    ```python
    order, far = dhm_keras.reid.search(extractor(crops), gallery_features, k=5)
    same = far < calibration.thresholds[0]
    names = np.array(gallery.names)[order]
    ```

    Args:
        query_features: Numbers `(q, d)`.
        gallery_features: Numbers `(g, d)`.
        k: Integer, at least 1. Defaults to 10.
        metric: `"euclidean"` or `"cosine"`, as of `distances`. Defaults to `"euclidean"`.

    Returns:
        Tuple: the gallery's rows, int64 `(q, min(k, g))`, nearest first, those equally far in the gallery's order; and
        their distances, float32 of the same shape.

    Raises:
        ValueError: if k is no integer or below 1, or the features or the metric are not as of `distances`.
    """
    check_integers(k=(k, 1))
    queries, gallery = pair_of_points(query_features, gallery_features, metric)
    shape = (len(queries), min(k, len(gallery)))
    order, far = np.empty(shape, "int64"), np.empty(shape, "float32")
    for rows in blocks(len(queries), len(gallery)):
        block = queries.distances(gallery, rows)
        order[rows] = nearest(block, k)
        far[rows] = np.take_along_axis(block, order[rows], axis=1)
    return order, far


def nearest(block, k):
    """Columns of the k smallest of each row, int64 `(rows, min(k, columns))`, smallest first, ties by column."""
    k = min(k, block.shape[1])
    result = np.empty((len(block), k), "int64")

    def of_row(i):
        row = block[i]
        # Not argpartition: of those that are as far as the last it takes any.
        columns = np.flatnonzero(row <= np.partition(row, k - 1)[k - 1])
        result[i] = columns[np.argsort(row[columns], kind="stable")[:k]]

    in_threads(of_row, len(block))
    return result
