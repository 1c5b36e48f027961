"""CMC, mAP, mINP: the golden case, the definitions written out, what users get wrong."""

import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from dhm_keras import reid

GOLDEN = {
    "distances": [
        [0.10, 0.40, 0.20, 0.30, 0.80, 0.05, 0.90, 0.60],
        [0.50, 0.30, 0.70, 0.20, 0.10, 0.60, 0.40, 0.80],
        [0.10, 0.20, 0.30, 0.40, 0.05, 0.60, 0.70, 0.80],
    ],
    "query_pids": [1, 2, 3],
    "gallery_pids": [1, 1, 2, 0, 3, -1, 2, 1],
    "query_camids": [0, 0, 0],
    "gallery_camids": [0, 1, 1, 2, 0, 3, 2, 2],
}


def by_definition(distances, query_pids, gallery_pids, query_camids=None, gallery_camids=None, max_rank=50):
    """The protocol as the papers say it: order the gallery, strike out, count."""
    curves, rectangular, trapezoid, penalties = [], [], [], []
    for i, row in enumerate(distances):
        kept = []
        for j in np.argsort(row, kind="stable"):
            same_camera = query_camids is not None and query_camids[i] == gallery_camids[j]
            if str(gallery_pids[j]) == "-1" or (gallery_pids[j] == query_pids[i] and same_camera):
                continue
            kept.append(gallery_pids[j] == query_pids[i])
        ranks = [place + 1 for place, true in enumerate(kept) if true]
        if not ranks:
            continue
        curves.append([ranks[0] <= r for r in range(1, max_rank + 1)])
        precisions = [(n + 1) / rank for n, rank in enumerate(ranks)]
        before = [1.0 if rank == 1 else n / (rank - 1) for n, rank in enumerate(ranks)]
        rectangular.append(np.mean(precisions))
        trapezoid.append(np.mean(precisions + before))
        penalties.append(len(ranks) / ranks[-1])
    return np.mean(curves, axis=0), np.mean(rectangular), np.mean(trapezoid), np.mean(penalties)


def problem(seed, queries=40, gallery=200, persons=12, levels=25, cameras=3, strings=False):
    """Distances of few different values, junk, distractors, persons of one side only."""
    rng = np.random.default_rng(seed)
    pids = rng.integers(-1, persons, gallery), rng.integers(1, persons + 2, queries)
    camids = rng.integers(0, cameras, gallery), rng.integers(0, cameras, queries)
    if strings:
        pids, camids = [a.astype("U") for a in pids], [np.char.add("cam", a.astype("U")) for a in camids]
    return {
        "distances": rng.integers(0, levels, (queries, gallery)).astype("float32"),
        "query_pids": pids[1],
        "gallery_pids": pids[0],
        "query_camids": camids[1],
        "gallery_camids": camids[0],
    }


def test_golden_case():
    result = reid.evaluate_distances(**GOLDEN)
    assert result.valid.tolist() == [True, True, False]
    np.testing.assert_allclose(result.cmc, [0, 0, 0.5] + [1] * 47)
    np.testing.assert_allclose([result.mean_ap, result.mean_inp], [0.354167, 0.416667], atol=5e-7)
    assert result.rank(3) == 0.5 and result.rank(50) == 1
    trapezoid = reid.evaluate_distances(**GOLDEN, average_precision="trapezoid")
    assert trapezoid.mean_ap == pytest.approx(0.243750, abs=1e-9)
    np.testing.assert_allclose(result.average_precisions, [5 / 12, (1 / 4 + 1 / 3) / 2, np.nan])


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("levels", [2, 25, 10**6])
@pytest.mark.parametrize("with_cameras", [True, False])
def test_equals_the_definition(levels, with_cameras, strings):
    given = problem(levels, levels=levels, strings=strings)
    if not with_cameras:
        given |= {"query_camids": None, "gallery_camids": None}
    cmc, rectangular, trapezoid, penalty = by_definition(**given, max_rank=300)
    result = reid.evaluate_distances(**given, max_rank=300)
    np.testing.assert_allclose(result.cmc, cmc, rtol=1e-12)
    np.testing.assert_allclose([result.mean_ap, result.mean_inp], [rectangular, penalty], rtol=1e-12)
    other = reid.evaluate_distances(**given, max_rank=300, average_precision="trapezoid")
    assert other.mean_ap == pytest.approx(trapezoid, rel=1e-12)
    assert (other.average_precisions[other.valid] <= result.average_precisions[result.valid]).all()


def test_rectangular_is_scikit_learns():
    given = problem(0, levels=10**7) | {"query_camids": None, "gallery_camids": None}
    given["distances"] = np.argsort(np.random.default_rng(0).random(given["distances"].shape))  # no ties
    result = reid.evaluate_distances(**given)
    kept = given["gallery_pids"] != -1
    for i in np.flatnonzero(result.valid):
        true = (given["gallery_pids"] == given["query_pids"][i])[kept]
        score = average_precision_score(true, -given["distances"][i, kept])
        assert result.average_precisions[i] == pytest.approx(score)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_from_features(monkeypatch, metric):
    rng = np.random.default_rng(0)
    given = problem(1)
    del given["distances"]
    queries, gallery = rng.normal(1, 2, (40, 16)), rng.normal(1, 2, (200, 16))
    if metric == "euclidean":  # of whole numbers the distances are exact, in whatever order they are added
        queries, gallery = np.round(4 * queries), np.round(4 * gallery)
    exact = ((queries[:, None] - gallery) ** 2).sum(2)
    if metric == "cosine":
        unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (queries, gallery)]
        exact = 1 - unit[0] @ unit[1].T
    distances = reid.distances(queries, gallery, metric)
    assert distances.dtype == "float32"
    np.testing.assert_allclose(distances, exact, atol=1e-4)
    result = reid.evaluate(queries, gallery, **given, metric=metric)
    same = reid.evaluate_distances(distances, **given)
    np.testing.assert_equal(result.average_precisions, same.average_precisions)
    module = sys.modules["dhm_keras.reid.distances"]
    for size in (200 * 7, 1):
        monkeypatch.setattr(module, "BLOCK_SIZE", size)
        monkeypatch.setattr(module, "BLOCK_ROWS", 1)
        np.testing.assert_allclose(reid.distances(queries, gallery, metric), distances, atol=1e-6)
        rows_at_a_time = reid.evaluate(queries, gallery, **given, metric=metric)
        np.testing.assert_equal(rows_at_a_time.average_precisions, result.average_precisions)


def test_equal_points_are_at_zero_and_a_zero_vector_at_one():
    points = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_array_equal(reid.distances(points, points), [[0, 25], [25, 0]])
    np.testing.assert_allclose(reid.distances(points, points, "cosine"), [[0, 1], [1, 1]], atol=1e-7)


def test_a_short_gallery_has_a_flat_curve():
    result = reid.evaluate_distances([[2.0, 1.0]], ["a"], ["a", "b"], max_rank=5)
    assert result.cmc.tolist() == [0, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="from 1 to 5"):
        result.rank(6)


def test_a_column_of_strings_is_an_array_of_strings():
    column = np.array(["a", "b"], dtype=object)
    assert reid.evaluate_distances([[2, 1], [1, 2]], column, column[::-1], column, column).mean_ap == 1
    with pytest.raises(ValueError, match=r"`query_pids`.*object"):
        reid.evaluate_distances([[2, 1], [1, 2]], np.array(["a", 1], dtype=object), column)


def test_multi_query():
    features = np.array([[0.0, 2], [2, 4], [9, 9], [1, 1]])
    means = reid.mean_features(features, ["a", "a", "a", "b"], [0, 0, 1, 0], ["b", "a", "a"], [0, 1, 0])
    np.testing.assert_array_equal(means, [[1, 1], [9, 9], [1, 3]])
    junk = reid.mean_features(features, [-1, 1, 1, 2], [0, 0, 0, 0], [2, 1], [0, 0])
    np.testing.assert_array_equal(junk, [[1, 1], [5.5, 6.5]])
    with pytest.raises(ValueError, match=r"none of person c by camera 0 \(query 1\)"):
        reid.mean_features(features, ["a", "a", "a", "b"], [0, 0, 1, 0], ["a", "c"], [0, 0])
    with pytest.raises(ValueError, match="`camids`"):
        reid.mean_features(features, ["a", "a", "a", "b"], None, ["a"], None)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"query_pids": [7, 8, 9]}, r"no query identity is in the gallery.*queries of 7, 8, 9.*of -1, 0, 1, 2, 3"),
        (
            {"query_pids": ["1", "2", "3"]},
            "strings on both sides or integers on both.*such as '1'.*such as -?1,.*never equal",
        ),
        (
            {"query_pids": ["0001", "0002", "0003"], "gallery_pids": list("11203426")},
            "no query identity.*'0001'.*'1'.*without leading zeros",
        ),
        ({"gallery_camids": [0] * 8}, "by the query's own camera.*None for both"),
        ({"gallery_camids": None}, "`gallery_camids`.*camids of both sides.*`query_camids` was given"),
        ({"query_camids": None}, "`query_camids`.*`gallery_camids` was given"),
        ({"gallery_camids": ["a"] * 8}, "`query_camids`.*strings on both sides"),
        ({"query_camids": [0, 0]}, "`query_camids`. Expected 3 "),
        ({"gallery_pids": [1, 2]}, r"`distances`. Expected 3 queries and 2 gallery.*\(3, 8\)"),
        ({"query_pids": [[1, 2, 3]]}, r"`query_pids`. Expected n integers or strings.*\(1, 3\)"),
        ({"query_pids": [1.0, 2.0, 3.0]}, "`query_pids`.*float64"),
        ({"distances": np.full((3, 8), np.nan)}, "Expected no NaN"),
        ({"distances": np.full((3, 8), "x")}, "`distances`. Expected numbers"),
        ({"average_precision": "area"}, "`average_precision`.*rectangular"),
        ({"max_rank": 0}, "`max_rank`"),
    ],
)
def test_what_goes_wrong_says_so(change, message):
    if "gallery_pids" in change and len(change["gallery_pids"]) == 2:
        change = {**change, "gallery_camids": [0, 1]}
    with pytest.raises(ValueError, match=message):
        reid.evaluate_distances(**{**GOLDEN, **change})


def test_wrong_features_say_so():
    labels = {"query_pids": [1], "gallery_pids": [1, 2]}
    good = np.ones((2, 4))
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"`gallery_features`. Expected finite.*1 of 2 rows.*row 1"):
        reid.evaluate(good[:1], bad, **labels)
    with pytest.raises(ValueError, match="as many columns"):
        reid.evaluate(good[:1, :3], good, **labels)
    with pytest.raises(ValueError, match=r"`query_features`. Expected 1 queries and 2"):
        reid.evaluate(good, good, **labels)
    with pytest.raises(ValueError, match=r"`query_features`. Expected numbers \(n, d\)"):
        reid.evaluate(good[0], good, **labels)
    with pytest.raises(ValueError, match=r"`metric`. Expected one of"):
        reid.evaluate(good[:1], good, **labels, metric="l2")


@pytest.mark.parametrize("mean", [100, -3e4])
def test_small_distances_beside_a_large_common_part(mean):
    rng = np.random.default_rng(0)
    queries, gallery = ((mean + 0.01 * rng.normal(size=(n, 512))).astype("float32") for n in (9, 50))
    exact = ((queries[:, None].astype("float64") - gallery) ** 2).sum(2)  # 0.098 or so beside 100
    np.testing.assert_allclose(reid.distances(queries, gallery), exact, rtol=1e-5)
    pids = np.arange(50) % 9
    ranked = [reid.evaluate_distances(d, np.arange(9), pids).mean_ap for d in (exact, reid.distances(queries, gallery))]
    assert ranked[0] == ranked[1] == reid.evaluate(queries, gallery, np.arange(9), pids).mean_ap
    thresholds = [
        reid.calibrate(features.astype("float32"), np.arange(50) % 9 + 1, fprs=[0.1]).thresholds
        for features in (gallery, gallery.astype("float64") - mean)
    ]
    np.testing.assert_allclose(*thresholds, rtol=1e-5)


def test_whole_numbers_with_a_common_part_keep_exact_distances():
    rng = np.random.default_rng(0)
    queries, gallery = rng.integers(1000, 1004, (20, 8)), rng.integers(1000, 1004, (90, 8))
    exact = ((queries[:, None] - gallery) ** 2).sum(2)
    np.testing.assert_array_equal(reid.distances(queries, gallery), exact)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_features_that_are_one_vector_are_told(metric):
    rng = np.random.default_rng(0)
    labels = {"query_pids": np.arange(6), "gallery_pids": np.arange(60) % 6, "metric": metric}
    vector = 3 + rng.random(64)
    for gallery in (np.tile(vector, (60, 1)), vector * (1 + 1e-7 * rng.normal(size=(60, 64))), np.zeros((60, 64))):
        with pytest.warns(
            UserWarning, match=f"one, by the metric '{metric}' within rounding: what is found is the order"
        ):
            reid.evaluate(gallery[:6], gallery, **labels)
    few_others = np.tile(vector, (60, 1))
    few_others[7] = -vector
    with pytest.warns(UserWarning, match="order of the gallery's files"):
        reid.evaluate(few_others[:6], few_others, **labels)
    persons = np.eye(6)[labels["gallery_pids"]]  # all that differ are equally far
    for gallery in (persons, vector + 0.01 * rng.normal(size=(60, 64))):
        reid.evaluate(gallery[:6], gallery, **labels)
    reid.evaluate([[1.0]], [[1.0]], [1], [1], metric=metric)


@pytest.mark.filterwarnings("error")
def test_distances_that_are_all_equal_are_told():
    with pytest.warns(UserWarning, match="Each query is at one distance from all of the gallery: what is found"):
        reid.evaluate_distances([[2.0, 2.0], [1.0, 1.0]], [1, 2], [1, 2])
    reid.evaluate_distances([[2.0, 2.0], [1.0, 1.1]], [1, 2], [1, 2])


def test_numbers_that_are_no_integers_are_told():
    with pytest.raises(ValueError, match=r"`k`. Expected an integer from 1 to 50 \(max_rank\). Received: 1.0"):
        reid.evaluate_distances(**GOLDEN).rank(1.0)
    with pytest.raises(ValueError, match=r"`max_rank`. Expected an integer >= 1. Received: 5.0"):
        reid.evaluate_distances(**GOLDEN, max_rank=5.0)
