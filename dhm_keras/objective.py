"""The objective of Dynamic Hierarchical Mimicking (Li & Chen, CVPR 2020, eq. 7-9): pure functions of logits.

    L = sum_h lambda_h CE(z_h) + sum_{(t, s)} mu_ts T^2 D(p_t || p_s),    p_h = softmax(z_h / T)

over the active heads h and the ordered pairs (teacher, student) of active heads. Networks for re-identification have
more terms, which their necks ask for. Every function here returns one value per example; the mean over the batch is
taken once, by the trainer.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import ops

from dhm_keras.network import head_of
from dhm_keras.triplet import batch_hard_triplet

METHODS = ("dhm", "dsl", "baseline")
DIRECTIONS = ("both", "top_down", "bottom_up")

Pair = tuple[str, str]  # (teacher, student)


def log_softmax(logits, temperature=1.0):
    """Log-probabilities of `logits / temperature`, in float32 at least.

    Args:
        logits: Float tensor `(batch, classes)` of any precision.
        temperature: Float > 0. Defaults to `1.0`.

    Returns:
        Tensor `(batch, classes)`; float32, or float64 if the logits are.
    """
    dtype = keras.backend.result_type(logits.dtype, "float32")
    return ops.log_softmax(ops.cast(logits, dtype) / temperature, axis=-1)


def targets(labels, num_classes, dtype="float32"):
    """The distribution over the classes that each label stands for.

    Args:
        labels: Integers `(batch,)` or `(batch, 1)` in `[0, num_classes)`, or soft labels `(batch, num_classes)`.
        num_classes: Integer.
        dtype: Float dtype of the result. Defaults to `"float32"`.

    Returns:
        Tensor `(batch, num_classes)`. The row of an integer label out of range is NaN, so that it cannot train
        anything unseen.

    Raises:
        ValueError: if the labels have another shape, or are floats without a column for each class.
    """
    labels = ops.convert_to_tensor(labels)
    _check_label_shape(labels.shape, keras.backend.standardize_dtype(labels.dtype), num_classes)
    if tuple(labels.shape[1:]) == (num_classes,):
        return ops.cast(labels, dtype)
    labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
    in_range = ops.logical_and(labels >= 0, labels < num_classes)
    one_hot = ops.one_hot(labels, num_classes, dtype=dtype)
    return ops.where(in_range[:, None], one_hot, ops.full_like(one_hot, np.nan))


def check_labels(labels, num_classes):
    """Raises `ValueError` if an array of labels cannot train a network of `num_classes` classes.

    Args:
        labels: Array of all labels, of NumPy or the backend; or anything else, which passes: it is seen batch by batch
            only.
        num_classes: Integer.
    """
    if not isinstance(labels, np.ndarray) and not ops.is_tensor(labels):
        return
    labels = ops.convert_to_numpy(labels)
    _check_label_shape(labels.shape, labels.dtype.name, num_classes)
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        good = np.isfinite(labels).all(-1) & (labels >= 0).all(-1) & (np.abs(labels.sum(-1) - 1) < 1e-3)
        expected = "soft labels that are >= 0 and sum to 1"
    else:
        labels = labels.ravel()
        good = (labels >= 0) & (labels < num_classes)
        expected = f"integers in [0, {num_classes}), one of the network's {num_classes} classes"
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise ValueError(f"Invalid labels. Expected {expected}. Received: {labels[first]} at position {first}.")


def _check_label_shape(shape, dtype, num_classes):
    """Raises `ValueError` unless labels of this shape and dtype are integers or soft labels."""
    soft = len(shape) == 2 and shape[1] == num_classes
    integers = "int" in dtype and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))
    if not soft and not integers:
        raise ValueError(
            f"Invalid labels. Expected integers of shape (batch,) or soft labels of shape (batch, {num_classes}), one "
            f"column for each of the {num_classes} classes. Received: shape={tuple(shape)}, dtype={dtype}."
        )


def cross_entropy(log_probs, targets):
    """Cross-entropy with the label, one value per example (eq. 2).

    Args:
        log_probs: Tensor `(batch, classes)` of untempered log-probabilities.
        targets: Tensor `(batch, classes)`, each row a distribution.

    Returns:
        Tensor `(batch,)`.
    """
    return -ops.sum(targets * log_probs, axis=-1)


def kl_divergence(teacher_log_probs, student_log_probs):
    """KL(teacher || student), summed over the classes, one value per example.

    Args:
        teacher_log_probs: Tensor `(batch, classes)`.
        student_log_probs: Tensor `(batch, classes)`.

    Returns:
        Tensor `(batch,)`, non-negative up to rounding.
    """
    return ops.sum(ops.exp(teacher_log_probs) * (teacher_log_probs - student_log_probs), axis=-1)


def soft_cross_entropy(teacher_log_probs, student_log_probs):
    """-sum_k p_t log p_s, the form of eq. 9: KL plus the teacher's entropy, with the same gradient for the student.

    Args:
        teacher_log_probs: Tensor `(batch, classes)`.
        student_log_probs: Tensor `(batch, classes)`.

    Returns:
        Tensor `(batch,)`.
    """
    return -ops.sum(ops.exp(teacher_log_probs) * student_log_probs, axis=-1)


DIVERGENCES = {"kl": kl_divergence, "cross_entropy": soft_cross_entropy}


def sort_heads(names):
    """Heads in the order of their depth: `main`, then `aux1` (the deepest fork), `aux2`, ...

    Args:
        names: Iterable of head names.

    Returns:
        Tuple of names: `main` first, then the others in natural order (`aux2` before `aux10`).
    """
    natural = lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return tuple(sorted(names, key=lambda name: (name != "main", natural(name))))


def ordered_pairs(heads, direction="both"):
    """The (teacher, student) pairs among `heads` (eq. 9; direction: section 4.3.1).

    Args:
        heads: Names of the heads, the deepest first.
        direction: `"both"`, `"top_down"` (only shallower heads learn from deeper ones) or `"bottom_up"` (the reverse).
            Defaults to `"both"`.

    Returns:
        Tuple of `(teacher, student)`: L (L - 1) pairs of L heads for `"both"`, half of them otherwise.
    """
    down = tuple(itertools.combinations(heads, 2))
    if direction == "top_down":
        return down
    if direction == "bottom_up":
        return tuple((student, teacher) for teacher, student in down)
    return tuple(itertools.permutations(heads, 2))


@dataclasses.dataclass(frozen=True)
class Objective:
    """The objective over the heads of one network: settings, validated once, and the terms they give.

    `baseline`, `dsl` (deep supervision) and `dhm` are points of this one objective: no branches, cross-entropy terms
    only, cross-entropy and mimicking terms.

    Example:

    ```python
    objective = Objective(("main", "aux1", "aux2"), temperature=3.0)
    total, cross_entropies, mimicking = objective(logits, labels, objective.pairs)
    ```

    Args:
        heads: Names of the network's heads, the deepest first.
        method: `"dhm"`, `"dsl"` or `"baseline"`. Defaults to `"dhm"`.
        ce_weights: Number, or dict from head to number; heads left out weigh 1. lambda of eq. 8. Defaults to `1.0`.
        mimic_weights: Number, or dict from `(teacher, student)` to number; pairs left out weigh 1. mu of eq. 9.
            Defaults to `1.0`.
        temperature: Float > 0. T of the mimicking terms, which are multiplied by T^2. Defaults to `1.0`.
        direction: `"both"`, `"top_down"` or `"bottom_up"`. Defaults to `"both"`.
        divergence: `"kl"`, `"cross_entropy"`, or a callable from the log-probabilities of teacher and student, both
            `(batch, classes)`, to one value per example. Defaults to `"kl"`.
        triplet_weight: Float >= 0. Weight of the batch-hard triplet loss on the features of each head. Defaults to
            `0.0`: none.
        triplet_margin: Float >= 0. Defaults to `0.3`.

    Raises:
        ValueError: on an unknown method, direction, divergence, head or pair, a weight that is negative or not finite,
            a temperature that is not positive, or a method that does not fit the number of heads.
    """

    heads: tuple[str, ...]
    method: str = "dhm"
    ce_weights: float | Mapping[str, float] = 1.0
    mimic_weights: float | Mapping[Pair, float] = 1.0
    temperature: float = 1.0
    direction: str = "both"
    divergence: str | Callable = "kl"
    triplet_weight: float = 0.0
    triplet_margin: float = 0.3

    def __post_init__(self):
        _expect_one_of("method", self.method, METHODS)
        _expect_one_of("direction", self.direction, DIRECTIONS)
        if not callable(self.divergence):
            _expect_one_of("divergence", self.divergence, tuple(DIVERGENCES), "or a callable")
        if not _is_number(self.temperature) or self.temperature <= 0:
            raise ValueError(
                f"Invalid value for argument `temperature`. Expected a number > 0. Received: {self.temperature!r}."
            )
        if self.method == "baseline" and len(self.heads) > 1:
            raise ValueError(
                "Invalid value for argument `method`. 'baseline' trains a network without branches, and this one has "
                f"the branches {self.heads[1:]}. Build it with `branches=()`, or use method='dsl' or 'dhm'."
            )
        if self.method != "baseline" and len(self.heads) == 1:
            raise ValueError(
                f"Invalid value for argument `method`. {self.method!r} needs a network with branches, and this one has "
                "the head 'main' alone. Build it with branches, for instance `branches=('aux1', 'aux2')`, or use "
                "method='baseline'."
            )
        for name in ("triplet_weight", "triplet_margin"):
            _check_weights(name, getattr(self, name), (), "no key")
        _check_weights("ce_weights", self.ce_weights, self.heads, "a head")
        _check_weights("mimic_weights", self.mimic_weights, self.pairs, "a (teacher, student) pair")

    @property
    def pairs(self):
        """All `(teacher, student)` pairs of this objective; none unless the method is `"dhm"`."""
        return ordered_pairs(self.heads, self.direction) if self.method == "dhm" else ()

    def __call__(self, logits, labels, pairs):
        """The terms of the objective for one batch.

        Args:
            logits: Dict from head to tensor `(batch, classes)`: the active heads.
            labels: Integers `(batch,)` or soft labels `(batch, classes)`; one label for all heads.
            pairs: The active `(teacher, student)` pairs, a subset of `self.pairs` among the heads of `logits`.

        Returns:
            `(total, ce, mimic)`: the weighted sum, `(batch,)`; the unweighted cross-entropy per head and the unweighted
            mimicking term (T^2 included) per pair, dicts of `(batch,)` tensors.
        """
        log_probs = {head: log_softmax(z) for head, z in logits.items()}
        some = next(iter(log_probs.values()))
        distribution = targets(labels, some.shape[-1], some.dtype)
        ce = {head: cross_entropy(log_p, distribution) for head, log_p in log_probs.items()}

        t = self.temperature
        tempered = log_probs if t == 1 else {head: log_softmax(z, t) for head, z in logits.items()}
        divergence = DIVERGENCES.get(self.divergence, self.divergence)
        mimic = {
            (teacher, student): t**2 * divergence(ops.stop_gradient(tempered[teacher]), tempered[student])
            for teacher, student in pairs
        }
        for pair, term in mimic.items():
            if len(term.shape) != 1 or term.shape[0] != some.shape[0]:
                raise ValueError(
                    "Invalid value for argument `divergence`. Expected a function that gives one value per example, "
                    f"shape {tuple(some.shape[:1])}. Received: shape {tuple(term.shape)} for {pair}. Sum over the "
                    "classes (axis -1), not over the batch."
                )
        total = sum(_weight(self.ce_weights, head) * term for head, term in ce.items())
        total += sum(_weight(self.mimic_weights, pair) * term for pair, term in mimic.items())
        return total, ce, mimic

    def names_of_necks(self, outputs):
        """The names of the terms of `of_necks`, a list.

        Args:
            outputs: Names of a network's outputs.
        """
        kinds = {"_local": "ce", **({"_features": "triplet"} if self.triplet_weight else {})}
        named = ((name, kinds.get(name[name.rfind("_") :])) for name in outputs if head_of(name, outputs) in self.heads)
        return [f"{name.removesuffix('_features')}_{kind}" for name, kind in named if kind and name not in self.heads]

    def of_necks(self, outputs, labels):
        """The terms of second classifiers, cross-entropy, and of features, batch-hard triplets.

        What they are is told by the names of the outputs, see `network.head_of`. A second classifier weighs as its
        head does, and takes no part in the mimicking.

        Args:
            outputs: Dict from name to tensor `(batch, n)`: what a network gives, of active heads alone or of all.
            labels: As of `__call__`. Of soft labels, the triplets take the most probable class.

        Returns:
            `(total, terms)`: the weighted sum, `(batch,)`, or 0.0 without any; the unweighted terms by name, as
            `main_local_ce`, `main_triplet`, dict of `(batch,)` tensors.
        """
        total, terms = 0.0, {}
        for term in self.names_of_necks(outputs):
            name, _, kind = term.rpartition("_")
            if kind == "ce":
                log_probs = log_softmax(outputs[name])
                distribution = targets(labels, log_probs.shape[-1], log_probs.dtype)
                terms[term] = cross_entropy(log_probs, distribution)
                total += _weight(self.ce_weights, head_of(name, outputs)) * terms[term]
            else:
                classes = outputs[head_of(name, outputs)].shape[-1]
                persons = ops.argmax(targets(labels, classes), axis=-1)
                terms[term] = batch_hard_triplet(persons, outputs[f"{name}_features"], self.triplet_margin)
                total += self.triplet_weight * terms[term]
        return total, terms

    def get_config(self):
        """The settings (all fields but `heads`) as JSON-able values; `from_config` of the trainer reads them back."""
        if callable(self.divergence):
            name = getattr(self.divergence, "__name__", "") and keras.saving.get_registered_name(self.divergence)
            if not name or keras.saving.get_registered_object(name) is not self.divergence:
                raise ValueError(
                    f"A model with divergence={self.divergence!r} could not be loaded again, so it is not saved. "
                    "Define it as a function under `@keras.saving.register_keras_serializable()`, not as a lambda."
                )
        pairs = self.mimic_weights
        return {
            "method": self.method,
            "ce_weights": dict(self.ce_weights) if isinstance(self.ce_weights, Mapping) else self.ce_weights,
            "mimic_weights": [[*pair, w] for pair, w in pairs.items()] if isinstance(pairs, Mapping) else pairs,
            "temperature": self.temperature,
            "direction": self.direction,
            "divergence": keras.saving.serialize_keras_object(self.divergence),
            "triplet_weight": self.triplet_weight,
            "triplet_margin": self.triplet_margin,
        }


def read_config(config):
    """Objective settings as constructor arguments, from what `Objective.get_config` wrote.

    Args:
        config: Dict; entries that are not settings of the objective pass through.

    Returns:
        A new dict.
    """
    config = dict(config)
    if isinstance(config["mimic_weights"], list):
        config["mimic_weights"] = {(teacher, student): w for teacher, student, w in config["mimic_weights"]}
    config["divergence"] = keras.saving.deserialize_keras_object(config["divergence"])
    return config


def _weight(weights, key):
    return weights.get(key, 1.0) if isinstance(weights, Mapping) else weights


def _is_number(value):
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and np.isfinite(value)


def _expect_one_of(argument, value, allowed, extra=""):
    if value not in allowed:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected one of {allowed}{' ' + extra if extra else ''}. "
            f"Received: {value!r}."
        )


def _check_weights(argument, weights, keys, kind):
    items = weights.items() if isinstance(weights, Mapping) else [(None, weights)]
    for key, weight in items:
        if key is not None and key not in keys:
            raise ValueError(
                f"Invalid key in argument `{argument}`. Expected {kind} of this objective: {list(keys)}. "
                f"Received: {key!r}."
            )
        if not _is_number(weight) or weight < 0:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected a finite number >= 0"
                f"{'' if key is None else f' for {key!r}'}. Received: {weight!r}."
            )
