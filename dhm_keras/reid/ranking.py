"""CMC, mAP and mINP of a ranking of the gallery for each query."""

import dataclasses
import warnings

import numpy as np

from dhm_keras.data.batches import check_integers
from dhm_keras.reid.distances import blocks, pair_of_points
from dhm_keras.reid.matching import Matching

AVERAGE_PRECISIONS = ("rectangular", "trapezoid")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a gallery is ranked. All values are shares, not per cent.

    Args:
        cmc: float64 `(max_rank,)`: at r - 1 the share of the valid queries with a true match among the first r.
        mean_ap: Float, mAP: the mean of the valid queries' average precisions.
        mean_inp: Float, mINP: the mean of the valid queries' n / (rank of the last of n true matches).
        valid: Booleans `(q,)`: which queries have a true match at all. The others do not count.
        average_precisions: float64 `(q,)`, NaN where not valid: the lowest are the queries to look at.
        inverse_negative_penalties: float64 `(q,)`, NaN where not valid.
    """

    cmc: np.ndarray
    mean_ap: float
    mean_inp: float
    valid: np.ndarray
    average_precisions: np.ndarray
    inverse_negative_penalties: np.ndarray

    def rank(self, k):
        """Share of the valid queries with a true match among the first k.

        Args:
            k: Integer from 1 to `len(cmc)`.

        Returns:
            Float.

        Raises:
            ValueError: if k is another.
        """
        if not isinstance(k, (int, np.integer)) or not 1 <= k <= len(self.cmc):
            raise ValueError(
                f"Invalid value for argument `k`. Expected an integer from 1 to {len(self.cmc)} (max_rank). "
                f"Received: {k!r}."
            )
        return float(self.cmc[k - 1])


def evaluate(
    query_features,
    gallery_features,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    metric="euclidean",
    average_precision="rectangular",
    max_rank=50,
):
    """CMC, mAP and mINP of embeddings, by the protocol of Market-1501.

    The gallery is ranked by its distance to each query, equal distances by its own order. Left out are what the
    query's own camera took of the query's person (with camids), and junk: images in the gallery whose pid is -1.
    Distractors stay: their pid is no query's. A query without a true match does not count.

    The distances are made a block of queries at a time: the memory is 32 MB, or 64 rows of the gallery's length in
    float32 if that is more, whatever the number of queries; and copies of features, as of `distances`. The numbers
    are those of `evaluate_distances(distances(...), ...)`. Where nearly all features of the gallery are one vector, a
    warning tells that they rank nothing.

    Example:

    ```python
    result = dhm_keras.reid.evaluate(
        extractor(people.query), extractor(people.gallery), people.query.pids, people.gallery.pids,
        people.query.camids, people.gallery.camids,
    )
    print(f"rank-1 {result.rank(1):.1%}, mAP {result.mean_ap:.1%}")
    ```

    Args:
        query_features: Numbers `(q, d)`.
        gallery_features: Numbers `(g, d)`.
        query_pids: Integers or strings `(q,)`, who is on the images; they are compared for equality only.
        gallery_pids: The same of the gallery `(g,)`; -1 or `"-1"` is junk.
        query_camids: Integers or strings `(q,)`, or `None`: a true match may be by the same camera (one camera only,
            or cameras not known). Defaults to `None`.
        gallery_camids: The same of the gallery `(g,)`; both or neither. Defaults to `None`.
        metric: `"euclidean"` or `"cosine"`, as of `distances`. Defaults to `"euclidean"`.
        average_precision: `"rectangular"`: the mean of i / r_i, r_i being the rank of the i-th true match, as in
            torchreid, fast-reid and scikit-learn; or `"trapezoid"`: of the mean of that and (i - 1) / (r_i - 1), 1
            where r_i is 1, as in Market-1501's Matlab code; it is a little lower. Defaults to `"rectangular"`.
        max_rank: Integer, the length of the CMC curve; it may pass the gallery's. Defaults to 50.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: if no query has a true match, saying why; if shapes or types do not go together; if a feature is
            not finite; if an option is unknown.
    """
    matching = Matching(query_pids, gallery_pids, query_camids, gallery_camids)
    ranking = _Ranking(matching, average_precision, max_rank)
    queries, gallery = pair_of_points(query_features, gallery_features, metric)
    matching.check_shape((len(queries), len(gallery)), "query_features")
    if gallery.collapsed():
        _warn_of_order(f"Nearly all features of the gallery are one, by the metric {metric!r} within rounding")
    for rows in blocks(len(queries), len(gallery)):
        ranking.add(rows.start, queries.distances(gallery, rows))
    return ranking.evaluation()


def evaluate_distances(
    distances,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    average_precision="rectangular",
    max_rank=50,
):
    """CMC, mAP and mINP of given distances: of `rerank`, or of any other measure.

    Example:

    ```python
    d = dhm_keras.reid.rerank(query_features, gallery_features)
    result = dhm_keras.reid.evaluate_distances(d, query_pids, gallery_pids, query_camids, gallery_camids)
    ```

    Args:
        distances: Numbers `(q, g)`, small is near (a similarity: its negative). They are read a row at a time and may
            be a memory map. If those of each query are all equal, a warning tells that they rank nothing.
        query_pids, gallery_pids, query_camids, gallery_camids: As of `evaluate`.
        average_precision, max_rank: As of `evaluate`.

    Returns:
        `Evaluation`.

    Raises:
        ValueError: as of `evaluate`; if a distance is NaN.
    """
    distances = np.asarray(distances)
    matching = Matching(query_pids, gallery_pids, query_camids, gallery_camids)
    ranking = _Ranking(matching, average_precision, max_rank)
    matching.check_shape(distances.shape, "distances")
    if distances.dtype.kind not in "fiu":
        raise ValueError(f"Invalid value for argument `distances`. Expected numbers. Received: {distances.dtype}.")
    ranking.add(0, distances)
    if distances.shape[1] > 1 and all((row == row[0]).all() for row in distances):
        _warn_of_order("Each query is at one distance from all of the gallery")
    return ranking.evaluation()


def mean_features(features, pids, camids, query_pids, query_camids):
    """Multi-query: for each query the mean of all embeddings of its person by its camera.

    Example:

    ```python
    more = people.multi_query  # Market-1501's gt_bbox
    means = dhm_keras.reid.mean_features(
        extractor(more), more.pids, more.camids, people.query.pids, people.query.camids
    )
    ```

    Args:
        features: Numbers `(n, d)`.
        pids, camids: Integers or strings `(n,)`, who and by which camera.
        query_pids, query_camids: The same of the queries `(q,)`.

    Returns:
        float32 `(q, d)`, to be the `query_features` of `evaluate`. A mean of normalised embeddings is not normalised.

    Raises:
        ValueError: if there is no embedding of a query's person by its camera, naming it; if shapes or types do not go
            together.
    """
    if camids is None:
        raise ValueError("Invalid value for argument `camids`. Expected integers or strings. Received: None.")
    matching = Matching(query_pids, pids, query_camids, camids, names=("query_", ""), demand=False)
    features = np.asarray(features)
    if features.ndim != 2 or len(features) != len(matching.gallery_codes):
        raise ValueError(
            f"Invalid value for argument `features`. Expected a row for each of {len(matching.gallery_codes)} pids. "
            f"Received: {features.dtype} {features.shape}."
        )
    features = matching.without_junk(features)
    result = np.empty((len(matching.query_codes), features.shape[1]), "float32")
    for i in range(len(result)):
        _, same_camera = matching.of(i)
        if not len(same_camera):
            raise ValueError(
                f"Invalid value for argument `pids`. Expected an image of each query's person by the query's camera. "
                f"Received: none of person {query_pids[i]} by camera {query_camids[i]} (query {i})."
            )
        result[i] = features[same_camera].mean(axis=0, dtype="float64")
    return result


class _Ranking:
    """The queries' ranks, as their distances come in."""

    def __init__(self, matching, average_precision, max_rank):
        if average_precision not in AVERAGE_PRECISIONS:
            raise ValueError(
                f"Invalid value for argument `average_precision`. Expected one of {AVERAGE_PRECISIONS}. Received: "
                f"{average_precision!r}."
            )
        check_integers(max_rank=(max_rank, 1))
        self.matching = matching
        self.trapezoid = average_precision == "trapezoid"
        self.max_rank = max_rank
        count = len(matching.query_codes)
        self.first = np.zeros(count, "int64")
        self.average_precisions, self.inverse_penalties = np.full((2, count), np.nan)

    def add(self, start, block):
        """Takes the distances of the queries from `start` on."""
        for query, row in enumerate(block, start):
            if np.isnan(row).any():
                raise ValueError(
                    f"Invalid value for argument `distances`. Expected no NaN. Received: one in row {query}."
                )
            if self.matching.valid[query]:
                ranks = _ranks(self.matching.without_junk(row), *self.matching.of(query))
                self.first[query] = ranks[0]
                self.inverse_penalties[query] = len(ranks) / ranks[-1]
                self.average_precisions[query] = _average_precision(ranks, self.trapezoid)

    def evaluation(self):
        valid = self.matching.valid
        counts = np.bincount(np.minimum(self.first[valid], self.max_rank + 1), minlength=self.max_rank + 2)
        return Evaluation(
            cmc=np.cumsum(counts[1:-1]) / valid.sum(),
            mean_ap=float(self.average_precisions[valid].mean()),
            mean_inp=float(self.inverse_penalties[valid].mean()),
            valid=valid,
            average_precisions=self.average_precisions,
            inverse_negative_penalties=self.inverse_penalties,
        )


def _warn_of_order(why):
    warnings.warn(
        f"{why}: what is found is the order of the gallery's files, so check the images, the weights and whether the "
        "training diverged.",
        stacklevel=3,
    )


def _ranks(row, matches, left_out):
    """Ranks from 1, ascending, of the matches in a row of distances without what is left out.

    No order of the gallery is made, which would take several times as long: the values that are not farther than the
    farthest match are sorted as they are, and a binary search counts how many are nearer than each match.
    """
    farthest = row[matches].max()
    near = np.sort(np.compress(row <= farthest, row))
    asked = np.concatenate([matches, left_out[row[left_out] <= farthest]])
    values = row[asked]
    places = np.searchsorted(near, values)
    tied = np.searchsorted(near, values, side="right") - places > 1
    for i in np.flatnonzero(tied):
        places[i] += np.count_nonzero(row[: asked[i]] == values[i])
    ranks, gone = np.sort(places[: len(matches)]), np.sort(places[len(matches) :])
    return ranks + 1 - np.searchsorted(gone, ranks)


def _average_precision(ranks, trapezoid):
    """Average precision of the true matches' ranks, ascending `(n,)`."""
    found = np.arange(1, len(ranks) + 1)
    precisions = found / ranks
    if trapezoid:
        before = np.where(ranks == 1, 1.0, (found - 1) / np.maximum(ranks - 1, 1))
        precisions = (precisions + before) / 2
    return precisions.mean()
