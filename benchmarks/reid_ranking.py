"""How fast re-identification is evaluated, at Market-1501's size: 3,368 queries, a gallery of 15,913, 2,048 numbers each.

    python benchmarks/reid_ranking.py

Prints ratios measured in one run, the repeats interleaved: `evaluate_distances` against the loop over queries that most
code bases have (its `argsort` made stable, as in ours, and as NumPy's default is), both on the same matrix; `evaluate`
from features; re-ranking; each one's memory beside what it is given. The features are generated: 751 persons, 6 cameras,
clusters as loose as to give ranks like those of a trained network. Two minutes.
"""

import resource
import statistics
import time

import numpy as np

from dhm_keras import reid

QUERIES, GALLERY, SIZE, PERSONS, CAMERAS, REPEATS = 3368, 15913, 2048, 751, 6, 3


def people():
    """Features, pids and camids of queries and gallery: persons are clusters, so are their images by one camera."""
    rng = np.random.default_rng(0)
    pids = rng.integers(0, PERSONS, QUERIES + GALLERY)
    camids = rng.integers(0, CAMERAS, len(pids))
    features = rng.standard_normal((PERSONS, SIZE), "float32")[pids]
    features += 1.4 * rng.standard_normal((PERSONS * CAMERAS, SIZE), "float32")[pids * CAMERAS + camids]
    features += rng.exponential(3.2, (len(pids), 1)).astype("float32") * rng.standard_normal(features.shape, "float32")
    features += 2 * rng.standard_normal((CAMERAS, SIZE), "float32")[camids]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return [part for values in (features, pids, camids) for part in (values[:QUERIES], values[QUERIES:])]


def query_by_query(distances, query_pids, gallery_pids, query_camids, gallery_camids, kind):
    """What most code bases have: CMC and mAP from the order of the whole gallery, in a loop over the queries."""
    order = np.argsort(distances, axis=1, kind=kind)
    matches = gallery_pids[order] == query_pids[:, None]
    curves, precisions = [], []
    for i in range(len(distances)):
        left_out = (gallery_pids[order[i]] == query_pids[i]) & (gallery_camids[order[i]] == query_camids[i])
        found = matches[i][~left_out].astype("int64")
        if not found.any():
            continue
        total = found.cumsum()
        curves.append((total > 0)[:50])
        precisions.append((total / np.arange(1, len(found) + 1) * found).sum() / found.sum())
    return np.mean(curves, axis=0), np.mean(precisions)


def measure(function):
    """Seconds, result, and how far the process's peak of memory rose, MB."""
    before = peak()
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result, peak() - before


def peak():
    """The most memory this process has had so far, MB (on macOS the unit is bytes, not KB: divide by 1,024)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    queries, gallery, *labels = people()
    reid.evaluate(queries[:64], gallery[:64], [1] * 64, [1] * 64)  # the first call starts the threads of BLAS
    print(f"{QUERIES:,} queries, gallery of {GALLERY:,}, {SIZE:,} float32 each; NumPy {np.__version__}")
    seconds, result, memory = measure(lambda: reid.evaluate(queries, gallery, *labels))
    print(f"evaluate (from features)           {seconds:6.2f} s    {memory:6.0f} MB")
    print(f"    rank-1 {result.rank(1):.1%}, rank-5 {result.rank(5):.1%}, mAP {result.mean_ap:.1%}")
    seconds, reranked, memory = measure(lambda: reid.rerank(queries, gallery))
    print(f"rerank (from features)             {seconds:6.2f} s    {memory:6.0f} MB, the result among them")
    after = reid.evaluate_distances(reranked, *labels)
    print(f"    rank-1 {after.rank(1):.1%}, rank-5 {after.rank(5):.1%}, mAP {after.mean_ap:.1%}")
    distances = reid.distances(queries, gallery)
    ways = {
        "evaluate_distances": lambda: reid.evaluate_distances(distances, *labels),
        "loop, argsort": lambda: query_by_query(distances, *labels, "quicksort"),
        "loop, stable argsort": lambda: query_by_query(distances, *labels, "stable"),
    }
    times, results, memories = {name: [] for name in ways}, {}, {}
    for _ in range(REPEATS):
        for name, way in ways.items():
            seconds, results[name], memory = measure(way)
            times[name].append(seconds)
            memories.setdefault(name, memory)
    ours = results["evaluate_distances"]
    for name, values in times.items():
        ratio = statistics.median(values) / statistics.median(times["evaluate_distances"])
        print(f"{name:<34} {statistics.median(values):6.2f} s    {memories[name]:6.0f} MB    x {ratio:.1f}")
        if name != "evaluate_distances":
            np.testing.assert_allclose(results[name][0], ours.cmc)
            np.testing.assert_allclose(results[name][1], ours.mean_ap, rtol=1e-9 if "stable" in name else 1e-6)


if __name__ == "__main__":
    main()
