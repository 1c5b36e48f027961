"""Search, re-ranking, thresholds: each against the plain way to do it."""

import sys

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from dhm_keras import reid


@pytest.fixture(params=[None, (300, 3, 1), (1, 7, 3)], ids=["one_block", "one_thread", "three_threads"])
def block_sizes(request, monkeypatch):
    """Everything at once, or a few rows at a time: nothing may depend on it."""
    for name, value in zip(("BLOCK_SIZE", "BLOCK_ROWS", "THREADS"), request.param or ()):
        monkeypatch.setattr(sys.modules["dhm_keras.reid.distances"], name, value)


def clusters(seed, persons=12, images=8, size=16, noise=1.5):
    rng = np.random.default_rng(seed)
    pids = rng.permutation(np.repeat(np.arange(persons), images))
    return (rng.normal(size=(persons, size))[pids] + noise * rng.normal(size=(len(pids), size))), pids


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_search_is_a_stable_sort(block_sizes, metric):
    rng = np.random.default_rng(0)
    queries, gallery = rng.integers(-1, 2, (30, 4)), rng.integers(-1, 2, (90, 4))  # many ties
    distances = reid.distances(queries, gallery, metric)
    order, far = reid.search(queries, gallery, k=7, metric=metric)
    assert order.dtype == "int64" and far.dtype == "float32"
    np.testing.assert_array_equal(order, np.argsort(distances, axis=1, kind="stable")[:, :7])
    np.testing.assert_array_equal(far, np.take_along_axis(distances, order, axis=1))


def test_search_in_a_short_gallery():
    order, far = reid.search([[0.0]], [[3.0], [1.0]])
    assert order.tolist() == [[1, 0]] and far.tolist() == [[1, 9]]
    for k in (0, 2.0):
        with pytest.raises(ValueError, match=f"`k`. Expected an integer >= 1. Received: {k}"):
            reid.search([[0.0]], [[3.0]], k=k)


def rerank_by_description(queries, gallery, k1, k2, weight, metric):
    """k-reciprocal re-ranking with whole matrices, set by set."""
    features = np.concatenate([queries, gallery]).astype("float64")
    if metric == "cosine":
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        distances = 1 - unit @ unit.T
    else:
        distances = ((features[:, None] - features) ** 2).sum(2)
    total = len(features)
    distances = distances / distances.max(axis=1, keepdims=True)
    order = np.argsort(distances + np.diag(np.full(total, -9.0)), axis=1, kind="stable")

    near = {k: [set(row[: k + 1].tolist()) for row in order] for k in (k1, round(k1 / 2))}
    reciprocal = {k: [{j for j in own if i in sets[j]} for i, own in enumerate(sets)] for k, sets in near.items()}
    vectors = np.zeros((total, total))
    for i in range(total):
        core = reciprocal[k1][i]
        whole = set(core)
        for j in core:
            theirs = reciprocal[round(k1 / 2)][j]
            if len(theirs & core) > 2 / 3 * len(theirs):
                whole |= theirs
        for j in whole:
            vectors[i, j] = np.exp(-distances[i, j])
        vectors[i] /= vectors[i].sum()
    vectors = np.stack([vectors[order[i, :k2]].mean(axis=0) for i in range(total)])
    count = len(queries)
    shared = np.minimum(vectors[:count, None], vectors[None, count:]).sum(2)
    return (1 - weight) * (1 - shared / (2 - shared)) + weight * distances[:count, count:]


@pytest.mark.parametrize(
    "k1, k2, weight, metric",
    [(20, 6, 0.3, "euclidean"), (7, 3, 0.1, "cosine"), (5, 1, 0, "cosine"), (200, 9, 0.5, "euclidean")],
)
def test_rerank_is_what_the_paper_describes(block_sizes, k1, k2, weight, metric):
    features, _ = clusters(1, persons=8)
    queries, gallery = features[:20], features[20:]
    result = reid.rerank(queries, gallery, k1, k2, weight, metric)
    assert result.dtype == "float32" and result.shape == (20, 44)
    np.testing.assert_allclose(result, rerank_by_description(queries, gallery, k1, k2, weight, metric), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_rerank_with_many_equal_distances(block_sizes, seed):
    rng = np.random.default_rng(seed)
    features, (k1, k2) = rng.integers(0, 3, (80, 3)), np.sort(rng.integers(1, 20, 2))[::-1]
    result = reid.rerank(features[:30], features[30:], k1, k2)
    expected = rerank_by_description(features[:30], features[30:], k1, k2, 0.3, "euclidean")
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_rerank_helps_and_bears_equal_images():
    features, pids = clusters(2, persons=20, images=10, noise=1)
    queries, gallery = features[:50], features[50:]
    before = reid.evaluate(queries, gallery, pids[:50], pids[50:]).mean_ap
    after = reid.evaluate_distances(reid.rerank(queries, gallery, k1=8, k2=3), pids[:50], pids[50:]).mean_ap
    assert after > before + 0.05
    assert np.isfinite(reid.rerank(np.ones((4, 3)), np.ones((40, 3)))).all()
    with pytest.raises(ValueError, match="`k2`"):
        reid.rerank(queries, gallery, k1=3, k2=4)
    for argument, value in {"k1": 20.0, "k2": 2.5, "weight": 2}.items():
        with pytest.raises(ValueError, match=f"`{argument}`. Expected .* Received: {value}"):
            reid.rerank(queries, gallery, **{argument: value})
    with pytest.raises(ValueError, match=r"`k1`. Expected an integer >= 1. Received: 0"):
        reid.rerank(queries, gallery, k1=0)
    with pytest.raises(ValueError, match=r"`weight`. Expected a number from 0 to 1. Received: 'a'"):
        reid.rerank(queries, gallery, weight="a")


@pytest.mark.parametrize("copies", [2, 5, 9])
def test_doubles_are_at_no_distance_below_zero(copies):
    features = np.repeat(np.random.default_rng(0).normal(size=(12, 4)), copies, axis=0)
    distances = reid.rerank(features[::copies], features, k1=7, k2=3, weight=0)
    assert distances.min() >= 0 and distances.max() <= 1


def test_thresholds_by_hand():
    features = np.array([[0.0], [1.0], [10.0], [12.0], [100.0]])  # squares: 1 and 4 genuine; 81, 100, 121, 144, ...
    calibration = reid.calibrate(features, ["a", "a", "b", "b", "-1"], fprs=[0.25, 0.5, 0.3])
    assert (calibration.num_genuine, calibration.num_impostor) == (2, 4)
    assert calibration.thresholds.tolist() == [100, 121, 100]
    assert calibration.tprs.tolist() == [1, 1, 1]
    # One pair of "a" is by one camera; the other person's two images are far apart.
    calibration = reid.calibrate([[0.0], [1.0], [2.0], [9.0]], [1, 1, 2, 2], [0, 0, 0, 1], fprs=[0.25])
    assert (calibration.num_genuine, calibration.thresholds.tolist(), calibration.tprs.tolist()) == (1, [4], [0])


@pytest.mark.parametrize("with_cameras", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_thresholds_are_scikit_learns(block_sizes, metric, with_cameras):
    features, pids = clusters(3)
    pids = pids + 1
    camids = np.arange(len(pids)) % 3
    fprs = np.array([0.001, 0.01, 0.1, 0.29])
    calibration = reid.calibrate(features, pids, camids if with_cameras else None, metric, fprs)
    rows, columns = np.triu_indices(len(pids), 1)
    same = pids[rows] == pids[columns]
    kept = ~same | (camids[rows] != camids[columns]) if with_cameras else np.ones(len(rows), bool)
    distances = reid.distances(features, features, metric)[rows, columns][kept].astype("float64")
    fpr, tpr, _ = roc_curve(same[kept], -distances, drop_intermediate=False)
    np.testing.assert_allclose(calibration.tprs, [tpr[fpr <= rate].max() for rate in fprs], atol=1e-9)
    assert calibration.num_genuine == same[kept].sum() and calibration.num_impostor == (~same).sum()
    for rate, threshold in zip(fprs, calibration.thresholds):
        assert (distances[~same[kept]] < threshold * (1 - 1e-5)).mean() <= rate


def test_what_calibration_needs():
    features, pids = clusters(4, persons=3, images=4)
    pids = pids + 1
    with pytest.raises(ValueError, match=r"0.001 takes 1000 pairs.*Received: 48 pairs"):
        reid.calibrate(features, pids, fprs=[0.1, 1e-3])
    for fprs in ([1], 1e-2):
        with pytest.raises(ValueError, match=r"`fprs`. Expected a sequence of numbers between 0 and 1"):
            reid.calibrate(features, pids, fprs=fprs)
    with pytest.raises(ValueError, match="different cameras"):
        reid.calibrate(features, pids, np.zeros(12, int), fprs=[0.1])
    with pytest.raises(ValueError, match=r"`camids`. Expected 12"):
        reid.calibrate(features, pids, [1, 2], fprs=[0.1])


@pytest.mark.parametrize("distractor", [0, "0", "0000"])
def test_distractors_are_not_one_person(distractor):
    features, pids = clusters(5)
    pids = pids + 1
    names = pids if distractor == 0 else np.array([f"{pid:04}" for pid in pids])
    others = np.random.default_rng(0).normal(size=(30, 16))
    alone = reid.calibrate(features, names, fprs=[0.01, 0.1])
    among = reid.calibrate(np.concatenate([others, features]), [distractor] * 30 + names.tolist(), fprs=[0.01, 0.1])
    assert (among.num_genuine, among.num_impostor) == (alone.num_genuine, alone.num_impostor)
    np.testing.assert_array_equal(among.tprs, alone.tprs)
    np.testing.assert_allclose(among.thresholds, alone.thresholds, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`pids`. Expected persons"):
        reid.calibrate(others, [distractor] * 30)
