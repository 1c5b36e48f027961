"""`fork`: any functional CNN becomes a network with side branches."""

import difflib
import numbers
import re

import keras

from dhm_keras.forking.anatomy import anatomy_of
from dhm_keras.forking.branches import Branch, Grower, Refused, classified, parts_of
from dhm_keras.forking.graph import essence
from dhm_keras.forking.scaling import copy_of
from dhm_keras.network import Network, set_weights


def stages(model):
    """The stages of a CNN: where it can be forked, and how many blocks a branch can have of each.

    Example:

    ```python
    for stage in dhm_keras.forking.stages(keras.applications.ResNet50()):
        print(stage)  # Stage(number=1, tap='conv1_relu', resolution=(112, 112), channels=64, blocks=1), ...
    ```

    Args:
        model: As in `fork`.

    Returns:
        List of `Stage`s from the image to the classifier.

    Raises:
        ValueError: as in `fork`.
    """
    return anatomy_of(model).stages


def fork(model, branches=2, num_classes=None, name=None):
    """Adds side branches to a CNN, made of its own layers (Dynamic Hierarchical Mimicking, supplement A).

    A branch is the rest of the model behind a tap once more: the same blocks, the same down-samplings, the same head,
    in new layers with weights of their own; where the model flattens a map, a branch pools and has one dense layer. By
    default the branches are forked where resolutions end: `aux1` before the last halving of the resolution, with the
    model's blocks at twice the width; `aux2` one halving lower, `aux3` two, with half of the blocks of each stage.
    `stages(model)` tells the taps.

    The network has copies of the model's layers with the same weights, so `main` computes what the model does, to the
    bit, and the model itself stays as it is. Nested models are opened. Frozen layers stay frozen in `main`; a branch's
    own train. Where the model ends in a softmax, `main` gives the logits before it.

    Example:

    ```python
    backbone = keras.applications.ResNet50(include_top=False, input_shape=(224, 224, 3))
    model = dhm_keras.DHM(dhm_keras.fork(backbone, num_classes=37))
    ```

    Args:
        model: Functional model, or `keras.Sequential` with an `Input`, from images `(batch, height, width, channels)`
            to logits or their softmax `(batch, classes)`, or to features.
        branches: Integer, that many branches; `0`: the model as a network with `main` alone. Or list of `Branch`.
            Defaults to `2`.
        num_classes: Integer, for a model that ends in features: every head gets a global average pool and a dense
            layer in float32. Defaults to `None`: the model has a classifier.
        name: String. Name of the network. Defaults to the model's.

    Returns:
        `Network` from images to a dict of logits, `"main"` and `"aux1"`, `"aux2"`, ... from the deepest fork on.

    Raises:
        ValueError: if the model is not as above or has no stages, or a branch cannot be made; names the layer and the
            nearest tap where it can.
    """
    anatomy = anatomy_of(model)
    num_classes = _classes(anatomy, num_classes)
    rows = _rows(anatomy, branches)
    plans = [(head, branch, tap, _parts(head, branch, tap, anatomy)) for head, (branch, tap) in rows.items()]

    tensor = model.inputs[0]
    image = keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)
    mapping = {id(anatomy.graph.image): image}
    logits = {"main": _main(anatomy, mapping, num_classes)}
    for head, branch, tap, parts in plans:
        try:
            x = mapping[id(anatomy.units[tap].output)]
            logits[head] = Grower(anatomy, head, num_classes).grow(x, tap, parts)
        except Refused as refusal:
            nearest = _nearest_tap(anatomy, mapping, branch, tap, refusal, num_classes)
            raise ValueError(f"Invalid branch {head!r}, {branch}: {refusal} {nearest}") from refusal
    return Network(image, logits, name=name or model.name)


def _classes(anatomy, num_classes):
    """Number of classes of all heads."""
    if anatomy.classifier is None:
        if not isinstance(num_classes, numbers.Integral) or num_classes < 2:
            raise ValueError(
                "Invalid value for argument `num_classes`. Expected an integer >= 2: the model ends in features of the "
                f"shape {anatomy.logits.shape} and not in logits or their softmax, so every head gets a classifier. "
                f"Received: {num_classes!r}."
            )
        return num_classes
    classes = anatomy.logits.shape[-1]
    if classes < 2:
        raise ValueError(
            f"Invalid value for argument `model`. Expected logits of at least two classes. Received: {classes} unit in "
            f"{anatomy.classifier.name!r}. A yes-or-no question has two classes."
        )
    if num_classes not in (None, classes):
        raise ValueError(
            f"Invalid value for argument `num_classes`. Expected {classes}, as the model's classifier "
            f"{anatomy.classifier.name!r} has; for others give the model without it (include_top=False). Received: "
            f"{num_classes!r}."
        )
    return classes


def _main(anatomy, mapping, num_classes):
    """The model's layers once more, with the same weights.

    Args:
        mapping: Dict from the id of a tensor of the model's graph to the network's; all are added.

    Returns:
        Logits.
    """
    copies = {}
    for call in anatomy.graph.calls:
        if id(anatomy.logits) in mapping:
            break  # a softmax is left
        config = call.config
        try:
            _copy(anatomy, call, config, mapping, copies)
        except Exception as error:  # another's code: it may raise anything
            raise ValueError(
                f"The layer {call.name!r} ({call.kind}) cannot be copied: {essence(error)} Give its class a "
                "`get_config` with every argument of its constructor, register functions that the config names with "
                "keras.saving.register_keras_serializable, write a Lambda as a layer of its own."
            ) from error
    output = mapping[id(anatomy.logits)]
    return output if anatomy.classifier else classified(output, num_classes, "main")


def _copy(anatomy, call, config, mapping, copies):
    """Adds one call of main, of a layer with that config; `copies` has the layers so far, by the ids of the model's."""
    if id(call.operation) not in copies:
        taken = "main|main_pool" if anatomy.classifier is None else "main_pool"
        is_taken = re.fullmatch(rf"{taken}|aux\d+(_.*)?", call.name)  # by the heads' own layers
        changes = {"name": f"model_{call.name}" if is_taken else call.name}
        if call is anatomy.classifier:
            changes["activation"] = None
        copies[id(call.operation)] = copy_of(call, config, changes)
    copy = copies[id(call.operation)]
    call.replay(copy, mapping)
    if call.weights:
        set_weights(copy, call.operation.get_weights())
        # A private name of Keras: the layers within a layer, parts of which can be frozen.
        for ours, theirs in zip(copy._flatten_layers(), call.operation._flatten_layers()):
            ours.trainable = theirs.trainable


def _rows(anatomy, branches):
    """The branches, the deepest fork first: dict from head to (`Branch`, index of the unit that it is forked after)."""
    known = anatomy.stages
    if isinstance(branches, numbers.Integral) and not isinstance(branches, bool):
        if not 0 <= branches < len(known):
            taps = ", ".join(f"{stage.number} ({stage.tap})" for stage in known[:-1])
            raise ValueError(
                f"Invalid value for argument `branches`. The model has {len(known)} stages, so 0 to {len(known) - 1} "
                f"branches, forked after the stages {taps}. Received: {branches}."
            )
        taps = [stage.number for stage in known[-2::-1][:branches]]
        branches = [Branch(tap, width=2.0) if tap == taps[0] else Branch(tap, depth=0.5) for tap in taps]
    if not isinstance(branches, (list, tuple)) or not all(isinstance(branch, Branch) for branch in branches):
        raise ValueError(
            f"Invalid value for argument `branches`. Expected an integer or a list of "
            f"`dhm_keras.Branch(tap, depth, width)`, not those of `dhm_keras.models`. Received: {branches!r}."
        )
    pairs = sorted(((branch, _index(anatomy, branch)) for branch in branches), key=lambda pair: -pair[1])
    return {f"aux{number}": pair for number, pair in enumerate(pairs, start=1)}


def _index(anatomy, branch):
    """Index of the unit that a branch is forked after."""
    units, known = anatomy.units, anatomy.stages
    if isinstance(branch.tap, str):
        names = [unit.name for unit in units]
        if branch.tap in names:
            return names.index(branch.tap)
        inside = [i for i, unit in enumerate(units) if any(call.name == branch.tap for call in unit.calls)]
        if inside:
            near = [units[i].name for i in (inside[0] - 1, inside[0]) if i >= 0]
            hint = f"It lies within a block; the nearest taps are {' and '.join(map(repr, near))}."
        else:
            near = difflib.get_close_matches(branch.tap, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The stages end with {[stage.tap for stage in known]}."
        raise ValueError(f"Invalid {branch}. Expected the name of a layer that everything passes through. {hint}")
    if not 1 <= branch.tap < len(known):
        raise ValueError(f"Invalid {branch}. Expected a stage from 1 to {len(known) - 1} as tap, or a layer's name.")
    return known[branch.tap - 1].end - 1


def _parts(head, branch, tap, anatomy):
    try:
        return parts_of(branch, tap, anatomy)
    except ValueError as error:
        raise ValueError(f"Invalid branch {head!r}, {branch}. {error}") from None


def _nearest_tap(anatomy, mapping, branch, tap, refusal, num_classes):
    """A sentence: the nearest layer after or before the tap where a branch of that width can be forked."""
    width = float(max(branch.width) if isinstance(branch.width, (tuple, list)) else branch.width)

    def attempt(index):
        """`None` if a branch can be forked after a unit; else the index of the unit that refuses, or of the last."""
        name = units[index].name
        try:
            parts = parts_of(Branch(name, width=width), index, anatomy)
            Grower(anatomy, "trial", num_classes).grow(mapping[id(units[index].output)], index, parts)
        except ValueError as error:
            return last if getattr(error, "unit", None) is None else error.unit
        return None

    units = anatomy.units
    last = len(units) - 1
    behind, refuses = refusal.unit, last if refusal.unit is None else refusal.unit
    while refuses is not None and refuses < last:  # behind the block that cannot be widened, or the next one, ...
        behind = refuses
        while behind < last and units[behind + 1].is_weightless:  # with its activation
            behind += 1
        refuses = attempt(behind)
    possible = [behind] if refuses is None else []
    ends = [stage.end - 1 for stage in anatomy.stages if stage.end - 1 < tap]
    possible += [end for end in ends[::-1] if attempt(end) is None][:1]
    if not possible:
        return "No tap allows this width; width=1.0 keeps the model's."
    nearest = units[min(possible, key=lambda index: abs(index - tap))].name
    return f"The nearest tap where this width is possible is {nearest!r}."
