"""Which distance tells two persons apart."""

import dataclasses

import numpy as np

from dhm_keras.reid.distances import Points, blocks
from dhm_keras.reid.matching import labels


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Thresholds of a metric: nearer than it, two images are taken for the same person.

    Args:
        thresholds: float32 `(t,)`, one for each of `fprs`.
        fprs: float64 `(t,)`: the shares of pairs of different persons that may be taken for the same, as asked for.
        tprs: float64 `(t,)`: the shares of pairs of the same person that are taken for the same.
        num_genuine: Integer, how many pairs of the same person there were.
        num_impostor: Integer, how many pairs of different persons.
        metric: String, the metric that the thresholds are of.
    """

    thresholds: np.ndarray
    fprs: np.ndarray
    tprs: np.ndarray
    num_genuine: int
    num_impostor: int
    metric: str


def calibrate(features, pids, camids=None, metric="euclidean", fprs=(1e-4, 1e-3, 1e-2)):
    """Below which distance two images show the same person: points of the ROC curve over all pairs of images.

    Ranking needs no threshold, the use does: is this person known, is this the same track? Calibrate on persons that
    were not trained on, as many images of each as the use has. Each pair counts once. With camids, pairs of a person by
    the same camera are left out: they are near for their background, too. Images with the pid -1 (junk) are left out,
    and those with 0 (0, `"0"`, `"0000"`): Market-1501's distractors, many persons that share one pid. A person of yours
    who is numbered 0 is left out of the calibration, too.

    Each threshold is the largest one at which no more than that share of impostor pairs is nearer, so the true positive
    rate is the best one possible, as in scikit-learn's `roc_curve`.

    The memory is that of a few blocks of distances and their comparisons (each 32 MB, or 64 rows of n numbers), of the
    genuine pairs' distances, and of twice as many distances as impostor pairs may pass at the largest of `fprs`; for
    Market-1501's gallery, 127 million pairs, it was measured as 124 MB. Images far more than that: take a part.

    Example:

    ```python
    calibration = dhm_keras.reid.calibrate(extractor(people), people.pids, people.camids, metric="cosine")
    order, far = dhm_keras.reid.search(query_features, gallery_features, metric="cosine")
    known = far[:, 0] < calibration.thresholds[1]  # one stranger in a thousand pairs passes
    ```

    Args:
        features: Numbers `(n, d)`.
        pids: Integers or strings `(n,)`, who is on the images.
        camids: Integers or strings `(n,)`, or `None`: the cameras are unknown. Defaults to `None`.
        metric: `"euclidean"` or `"cosine"`, as of `distances`. Defaults to `"euclidean"`.
        fprs: Sequence of floats, each between 0 and 1. Defaults to `(1e-4, 1e-3, 1e-2)`.

    Returns:
        `Calibration`.

    Raises:
        ValueError: if there is no pair of the same person, or there are too few of different ones for the smallest of
            `fprs`, saying how many it takes; if the arguments are not as described.
    """
    fprs = np.array(fprs, "float64")
    if fprs.ndim != 1 or not fprs.size or not ((fprs > 0) & (fprs < 1)).all():
        raise ValueError(
            f"Invalid value for argument `fprs`. Expected a sequence of numbers between 0 and 1. Received: {fprs}."
        )
    features = np.asarray(features)
    pids = labels(pids, "pids", len(features))
    cameras = np.zeros(len(pids), "int64") if camids is None else labels(camids, "camids", len(pids))
    used = _of_one_person(pids)
    if not used.any():
        raise ValueError("Invalid value for argument `pids`. Expected persons. Received: -1 (junk) and 0 (many) alone.")
    if not used.all():
        features, pids, cameras = features[used], pids[used], cameras[used]
    points = Points(features, metric, "features")
    points.move(points.common_part())
    persons = np.unique(pids, return_inverse=True)[1]
    impostors = (len(persons) ** 2 - int((np.bincount(persons).astype("int64") ** 2).sum())) // 2
    allowed = _allowed(impostors, fprs)
    genuine, nearest = _pairs(points, persons, None if camids is None else cameras, allowed.max() + 1)
    if not len(genuine):
        raise ValueError(
            "Invalid value for argument `pids`. Expected two images of a person at least, by different cameras where "
            "camids are given. Received: none."
        )
    thresholds = nearest[allowed]
    tprs = np.searchsorted(genuine, thresholds) / len(genuine)
    return Calibration(thresholds, fprs, tprs, len(genuine), impostors, metric)


def _of_one_person(pids):
    """Which pids are those of one person: not -1, nor 0 however it is written."""
    if pids.dtype.kind == "U":
        return (pids != "-1") & ((np.char.strip(pids, "0") != "") | (pids == ""))
    return (pids != -1) & (pids != 0)


def _allowed(impostors, fprs):
    """How many impostor pairs may pass at each rate."""
    needed = int(np.ceil(1 / fprs.min()))
    if impostors < needed:
        raise ValueError(
            f"Invalid value for argument `fprs`. Expected rates that the pairs can tell: {fprs.min():g} takes {needed} "
            f"pairs of different persons. Received: {impostors} pairs; give more images or a larger rate."
        )
    allowed = np.floor(fprs * impostors).astype("int64")
    return allowed + ((allowed + 1) / impostors <= fprs)  # a product a little too small


def _pairs(points, persons, cameras, count):
    """Distances, ascending: of all genuine pairs, and of the `count` nearest impostor pairs."""
    genuine, nearest, waiting, bound = [], np.empty(0, "float32"), [], np.inf
    for rows in blocks(len(points), len(points)):
        block = points.distances(points, rows, slice(rows.start, None))
        new = np.arange(block.shape[1]) > np.arange(len(block))[:, None]  # each pair once
        same = persons[rows, None] == persons[rows.start :]
        waiting.append(block[new & ~same & (block <= bound)])
        if cameras is not None:
            new &= cameras[rows, None] != cameras[rows.start :]
        genuine.append(block[new & same])
        if sum(map(len, waiting)) >= count or rows.stop == len(points):
            nearest = np.concatenate([nearest, *waiting])
            waiting = []
            if len(nearest) > count:
                nearest = np.partition(nearest, count - 1)[:count]
                bound = nearest.max()
    return np.sort(np.concatenate(genuine)), np.sort(nearest)
