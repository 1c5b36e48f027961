"""How fast re-identification is evaluated, at Market-1501's size: 3,368 queries, 15,913 in the gallery, 2,048 numbers.

    python benchmarks/reid_ranking.py

Prints medians of interleaved repeats in one run, each measurement in a process of its own, and how far its peak of
memory rises above what it is given: `evaluate_distances` against the loop over queries that most code bases have (with
NumPy's default `argsort`, and with the stable one: ours ranks ties as it does), both on a given matrix of distances;
then `evaluate` and `rerank` from features (`rerank` once). The features are generated: 751 persons, 6 cameras, in
clusters as loose as to be ranked like those of a trained network. Two minutes on two free cores.
"""

import concurrent.futures
import multiprocessing
import os
import resource
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

import numpy as np

from dhm_keras import reid

QUERIES, GALLERY, SIZE, LATENT, PERSONS, CAMERAS, REPEATS = 3368, 15913, 2048, 48, 751, 6, 3


def people():
    """Features, pids and camids of queries and gallery: persons are clusters, and so are their images by a camera."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, "float32")
    pids, camids = rng.integers(0, PERSONS, QUERIES + GALLERY), rng.integers(0, CAMERAS, QUERIES + GALLERY)
    latent = normal(PERSONS, LATENT)[pids] + 0.3 * normal(CAMERAS, LATENT)[camids]
    latent += 0.6 * normal(PERSONS * CAMERAS, LATENT)[pids * CAMERAS + camids]
    latent += 0.5 * rng.lognormal(0, 0.5, (len(pids), 1)).astype("float32") * normal(*latent.shape)
    features = latent @ normal(LATENT, SIZE)
    return [part for values in (features, pids, camids) for part in (values[:QUERIES], values[QUERIES:])]


def query_by_query(distances, query_pids, gallery_pids, query_camids, gallery_camids, kind="quicksort"):
    """What most code bases have: CMC and mAP from the order of the whole gallery, in a loop over the queries."""
    order = np.argsort(distances, axis=1, kind=kind)
    matches = gallery_pids[order] == query_pids[:, None]
    curves, precisions = [], []
    for i in range(len(distances)):
        left_out = matches[i] & (gallery_camids[order[i]] == query_camids[i])
        found = matches[i][~left_out]
        if not found.any():
            continue
        total = found.cumsum()
        curves.append(np.minimum(total[:50], 1))
        precisions.append((total / np.arange(1, len(total) + 1) * found).sum() / found.sum())
    return np.mean(curves, axis=0)[0], np.mean(precisions)


def ours(*given):
    result = reid.evaluate_distances(*given)
    return result.rank(1), result.mean_ap


def from_features(*given):
    result = reid.evaluate(*given)
    return result.rank(1), result.mean_ap


def reranked(queries, gallery, *labels):
    return reid.rerank(queries, gallery)


WAYS = {
    "evaluate_distances": ours,
    "loop, argsort": query_by_query,
    "loop, stable argsort": lambda *given: query_by_query(*given, kind="stable"),
    "evaluate, from features": from_features,
    "rerank, from features": reranked,
}


def peak():
    """The most memory this process has had so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(name):
    """Seconds, MB, rank-1 and mAP of one way."""
    queries, gallery, *labels = people()
    given = (queries, gallery) if name.endswith("features") else (reid.distances(queries, gallery),)
    before, start = peak(), time.perf_counter()
    result = WAYS[name](*given, *labels)
    seconds, memory = time.perf_counter() - start, peak() - before
    if name.startswith("rerank"):
        result = ours(result, *labels)
    return seconds, memory, *result


def main():
    spawn = multiprocessing.get_context("spawn")
    results = {name: [] for name in WAYS}
    with concurrent.futures.ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        for repeat in range(REPEATS):
            for name in WAYS:
                if repeat == 0 or not name.startswith("rerank"):
                    results[name].append(pool.submit(measure, name).result())
    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in results.items()}
    own = medians["evaluate_distances"][0]
    print(f"NumPy {np.__version__}, {os.cpu_count()} cores; {QUERIES:,} queries, {GALLERY:,} in the gallery")
    for name, (seconds, memory, rank1, mean_ap) in medians.items():
        print(f"{name:<26}{seconds:>7.2f} s   x {seconds / own:<5.1f}{memory:>7.0f} MB", end="")
        print(f"   rank-1 {rank1:.4%}  mAP {mean_ap:.4%}")


if __name__ == "__main__":
    main()
