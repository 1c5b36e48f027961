"""Whether the weights that were found fit a network, and what to do where they do not."""

import numpy as np

from dhm_keras.interop.names import abbreviated, head_of, in_order, is_of_classifier


def fitting(found, weights, heads, classifier, complaint):
    """The values for a network's variables; all that are asked for, or an error.

    Args:
        found: Dict from name to array, in PyTorch's layout.
        weights: Dict from name to `names.Weight`: all of the network.
        heads: Names of the heads to load, or `None` for all, and the heads found have to be the same.
        classifier: Boolean. Whether the last layer of each head is loaded, too.
        complaint: String. How the error begins.

    Returns:
        Dict from name to array, in the shape and dtype of the variable.

    Raises:
        ValueError: if something is missing, unexpected, misshapen or no finite number, or a variance is negative.
    """
    takes = lambda name: (heads is None or head_of(name) in heads) and (classifier or not is_of_classifier(name))
    wanted = {name: weight for name, weight in weights.items() if takes(name)}
    given = {name: array for name, array in found.items() if takes(name) and not name.endswith("num_batches_tracked")}
    misshapen, values = {}, {}
    for name in (name for name in wanted if name in given):
        shape, expected = given[name].shape, wanted[name].shape
        if shape != expected:
            misshapen[name] = (shape, expected)
        else:
            values[name] = _converted(given[name], wanted[name])
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": [f"{name} {shape} instead of {expected}" for name, (shape, expected) in misshapen.items()],
        "not finite floating-point numbers": [name for name, value in values.items() if value is None],
        "negative variances": [
            name
            for name, value in values.items()
            if name.endswith("running_var") and value is not None and (value < 0).any()
        ],
    }
    if any(problems.values()):
        lists = [f"{kind} ({len(each)}): {abbreviated(each)}" for kind, each in problems.items() if each]
        advice = _advice(found, wanted, [*missing, *unexpected], misshapen)
        raise ValueError("\n  ".join([f"{complaint}; nothing was loaded.", *lists, *advice]))
    return values


def _converted(array, weight):
    """In the layout and dtype of a variable; `None` unless it is of finite floating-point numbers."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return None
    with np.errstate(over="ignore"):
        array = weight.from_torch(array.astype(weight.variable.dtype))
    return array if np.isfinite(array).all() else None


def _advice(found, wanted, differing, misshapen):
    """What to do about the names that differ, and about those whose shapes do; a sentence for each cause."""
    has, heads = (in_order(set(map(head_of, each))) for each in (found, wanted))
    both = tuple(head for head in heads if head in has)
    problems = [*differing, *misshapen]
    rest = [name for name in problems if head_of(name) in both]
    if len(rest) < len(problems):
        only = f": heads={both} loads these alone." if both else "."
        yield f"There are weights of the heads {has}, wanted are {heads}{only}"
    filters = {name: shape[0] for name, (shape, expected) in misshapen.items() if shape[1:] == expected[1:]}
    if "conv1.weight" in filters and any(name.startswith("transition") for name in wanted):
        yield f"Build the DenseNet with stem_filters={filters['conv1.weight']}."
        return
    classifiers = [name for name in rest if is_of_classifier(name) and (name in filters or name not in misshapen)]
    if classifiers:
        classes = [filters[name] for name in classifiers if name in filters]
        build = f"build the network with num_classes={classes[0]}, or " if classes else ""
        yield f"For the classifiers, {build}keep the network's own with classifier=False."
    if len(rest) > len(classifiers):
        yield "Build the network that the weights are of."
