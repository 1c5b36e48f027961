"""The architectures of CNet and CDNet: what is chosen in each of the six layers (CDNet's supplement, Table 1)."""

import itertools
import operator

from dhm_keras.files import read_json, write_json

Layer = tuple[int, int, int]  # kernel sizes of both streams, and how many blocks in a row

_PAIRS = ((3, 5), (3, 7), (5, 7)), ((3, 9), (5, 9), (7, 9))
# What a layer is chosen from, in the order of the authors' release.
SPACES = {
    "cnet": tuple((*pair, 1) for pairs in _PAIRS for pair in pairs),
    "cdnet": tuple((*pair, r) for pairs, r in itertools.product(_PAIRS, (1, 2)) for pair in pairs),
}
LAYERS = 6

# Found by search with the best 1, 2, 3 and 4 of a layer. "CDNet" without more is cdnet_top2.
GENOTYPES = {
    "cnet_top1": ((3, 5, 1), (7, 9, 1), (3, 7, 1), (3, 9, 1), (5, 9, 1), (7, 9, 1)),
    "cnet_top2": ((5, 7, 1), (7, 9, 1), (7, 9, 1), (7, 9, 1), (7, 9, 1), (3, 5, 1)),
    "cnet_top3": ((5, 7, 1), (3, 9, 1), (3, 5, 1), (3, 5, 1), (3, 5, 1), (5, 7, 1)),
    "cnet_top4": ((5, 7, 1), (3, 5, 1), (5, 7, 1), (3, 7, 1), (3, 9, 1), (3, 7, 1)),
    "cdnet_top1": ((3, 7, 2), (3, 9, 1), (5, 9, 2), (3, 7, 1), (3, 9, 2), (7, 9, 2)),
    "cdnet_top2": ((3, 5, 1), (3, 7, 2), (5, 7, 2), (5, 9, 1), (5, 7, 2), (5, 7, 1)),
    "cdnet_top3": ((5, 7, 2), (5, 7, 2), (3, 5, 2), (5, 7, 1), (7, 9, 2), (3, 7, 1)),
    "cdnet_top4": ((3, 9, 2), (5, 9, 1), (5, 7, 2), (3, 7, 1), (5, 7, 1), (5, 7, 1)),
}


def check_genotype(genotype):
    """A genotype as six tuples `(k1, k2, r)`.

    Args:
        genotype: A key of `GENOTYPES`, or a sequence of six layers, each `(k1, k2)` or `(k1, k2, r)`: streams of kernel
            sizes k1 < k2 out of 3, 5, 7 and 9, in r blocks, 1 or 2. A layer of two numbers has one block.

    Returns:
        Tuple of six `(k1, k2, r)`.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(genotype, str) and genotype in GENOTYPES:
        return GENOTYPES[genotype]
    try:
        layers = [tuple(map(operator.index, layer)) for layer in genotype]
        layers = tuple((*layer, 1) if len(layer) == 2 else layer for layer in layers)
    except TypeError:  # no sequence of sequences of integers
        layers = ()
    if len(layers) != LAYERS or not set(layers) <= set(SPACES["cdnet"]):
        raise ValueError(
            f"Invalid value for argument `genotype`. Expected one of {sorted(GENOTYPES)}, or six layers (k1, k2) or "
            f"(k1, k2, r) with k1 < k2 out of 3, 5, 7, 9 and r 1 or 2. Received: {genotype!r}."
        )
    return layers


def write_genotype(path, genotype, **notes):
    """Writes a JSON file of a genotype that is there whole or not at all.

    Args:
        path: Path.
        genotype: As of `check_genotype`.
        **notes: JSON values that are kept beside it, such as how it was found.

    Raises:
        OSError: if it cannot be written.
        ValueError: if it is no genotype.
    """
    write_json(path, {"genotype": [list(layer) for layer in check_genotype(genotype)], **notes})


def read_genotype(path):
    """The genotype in a file, for `cdnet(genotype=...)`.

    Example:

    ```python
    network = dhm_keras.models.cdnet(dhm_keras.models.read_genotype("genotype.json"))
    ```

    Args:
        path: Path of a JSON file, as `write_genotype` writes.

    Returns:
        Tuple of six `(k1, k2, r)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no genotype.
    """
    value = read_json(path)
    if value is None:
        raise FileNotFoundError(f"There is no file {path}. Expected a genotype, as recipes/search.py writes one.")
    try:
        return check_genotype(value.get("genotype"))
    except ValueError as error:
        raise ValueError(f"{path} holds no genotype. {error}") from None
