"""A side branch: the rest of a model behind a tap once more, in layers of its own, wider or shorter."""

import dataclasses
import math
import numbers

import keras
from keras import layers

from dhm_keras.forking.blocks import blocks_of, has_kernels
from dhm_keras.forking.graph import essence
from dhm_keras.forking.scaling import has_width, ratio, scaled
from dhm_keras.forking.units import has_kernel
from dhm_keras.initializers import VarianceScaling


def _are(values, kind):
    """Whether these are numbers > 0 of a kind."""
    if not isinstance(values, (tuple, list)) or not values:
        return False
    return all(isinstance(v, kind) and not isinstance(v, bool) and 0 < v < math.inf for v in values)


@dataclasses.dataclass(frozen=True)
class Branch:
    """A side branch of any CNN: the rest of it behind a tap, in new layers.

    Args:
        tap: Integer, a stage as `dhm_keras.forking.stages` numbers them: forked at its end; or string, name of a layer
            whose output everything passes through.
        depth: Float in (0, 1]: that share of the blocks of each stage behind the tap, rounded up; or a tuple of
            integers: as many blocks, for each stage. What is left out are residual or dense blocks, or equal parts of
            a plain chain; the largest group first, from its end. Defaults to `1.0`, all.
        width: Float > 0, of the channels of all layers relative to the model's, or a tuple of them, for each stage.
            Defaults to `1.0`.

    Raises:
        ValueError: on another depth or width.
    """

    tap: int | str
    depth: float | tuple[int, ...] = 1.0
    width: float | tuple[float, ...] = 1.0

    def __post_init__(self):
        if isinstance(self.tap, bool) or not isinstance(self.tap, (str, numbers.Integral)):
            raise ValueError(
                "Invalid value for `tap` of a Branch. Expected a stage's number or a layer's name. Received: "
                f"{self.tap!r}."
            )
        is_share = _are((self.depth,), numbers.Real) and not _are((self.depth,), numbers.Integral) and self.depth <= 1
        if not is_share and not _are(self.depth, numbers.Integral):
            raise ValueError(
                "Invalid value for `depth` of a Branch. Expected a share of the blocks, a float in (0, 1], or a number "
                f"of blocks for each stage, a tuple of integers >= 1. Received: {self.depth!r}."
            )
        if not _are((self.width,), numbers.Real) and not _are(self.width, numbers.Real):
            raise ValueError(
                "Invalid value for `width` of a Branch. Expected a number > 0, or one for each stage. Received: "
                f"{self.width!r}."
            )


class Refused(ValueError):
    """A layer that cannot be part of a branch.

    Args:
        call: Its `Call`.
        reason: String.
    """

    unit = None  # index of the unit that it is in; of the head, `None`

    def __init__(self, call, reason):
        super().__init__(f"the layer {call.name!r} ({call.kind}) cannot be part of it: {reason}.")


@dataclasses.dataclass(frozen=True)
class Part:
    """What a branch has of one stage: `units[start:end]` without the blocks `dropped`, `width` times as wide."""

    start: int
    end: int
    dropped: tuple[range, ...]
    width: float


def parts_of(branch, tap, anatomy):
    """The stages of a branch.

    Args:
        branch: `Branch`.
        tap: Index of the unit that it is forked after.
        anatomy: `Anatomy` of the model.

    Returns:
        List of `Part`s.

    Raises:
        ValueError: if there is no convolution behind the tap, or depth and width do not fit the stages there.
    """
    units = anatomy.units
    ranges = [(max(stage.start, tap + 1), stage.end) for stage in anatomy.stages]
    ranges = [(start, end) for start, end in ranges if start < end and has_kernels(units[start:end])]
    if not ranges:
        raise ValueError(
            f"Expected a tap with a convolution behind it. Nearest: {units[anatomy.stages[-1].start - 1].name!r}."
        )
    ranges[0] = (tap + 1, ranges[0][1])
    for name in ("depth", "width"):
        value = getattr(branch, name)
        if isinstance(value, (tuple, list)) and len(value) != len(ranges):
            raise ValueError(f"Expected {len(ranges)} values of `{name}`, one for each stage behind the tap.")
    widths = branch.width if isinstance(branch.width, (tuple, list)) else [branch.width] * len(ranges)
    parts = []
    for index, ((start, end), width) in enumerate(zip(ranges, widths)):
        groups, count = blocks_of(units, start, end)
        least = max(1, count - sum(map(len, groups)))
        if not isinstance(branch.depth, (tuple, list)):
            wanted = max(least, math.ceil(branch.depth * count))
        else:
            wanted = branch.depth[index]
            if not least <= wanted <= count:
                stage = next(stage.number for stage in anatomy.stages if stage.end == end)
                raise ValueError(
                    f"Expected {least} to {count} blocks in stage {stage}: it has {count}"
                    + (f", {least} of which change the shape and stay." if least > 1 else ".")
                )
        parts.append(Part(start, end, _dropped(groups, count - wanted), width))
    return parts


def _dropped(groups, count):
    """The `count` blocks to leave out, from the end of the group that is the largest by then."""
    groups, dropped = [list(group) for group in groups], []
    for _ in range(count):
        dropped.append(max(groups, key=len).pop())
    return tuple(dropped)


class Grower:
    """Builds one branch.

    Args:
        anatomy: `Anatomy` of the model.
        head: String, the branch's name, which its layers' names begin with.
        num_classes: Integer.
    """

    def __init__(self, anatomy, head, num_classes):
        self.anatomy, self.head, self.num_classes = anatomy, head, num_classes
        self.layers = {}  # from the id of a layer of the model to that of the branch
        self.mapping = {}  # from the id of a tensor of the model to that of the branch

    def grow(self, x, tap, parts):
        """The branch's logits.

        Args:
            x: Symbolic tensor of the network that the branch begins with.
            tap: Index of the unit that gives it in the model.
            parts: `Part`s.

        Raises:
            Refused: if a layer cannot be made in that width.
        """
        units, head, classifier = self.anatomy.units, self.anatomy.head, self.anatomy.classifier
        self.mapping[id(units[tap].output)] = x
        for part in parts:
            left_out = {i for block in part.dropped for i in block}
            for index in range(part.start, part.end):
                if index in left_out:
                    self.mapping[id(units[index].output)] = self.mapping[id(units[index].input)]
                    continue
                try:
                    self.replay(units[index], part.width)
                except Refused as refusal:
                    refusal.unit = index
                    raise
        x = self.mapping[id(units[-1].output)]
        is_behind = not any(call is classifier for unit in units for call in unit.calls)
        if is_behind and parts[-1].width != 1 and x.shape[-1] == units[-1].output.shape[-1]:
            widest = next(call for unit in units[::-1] for call in unit.calls if has_kernel(call))
            raise Refused(widest, f"its output has {x.shape[-1]} channels as before")
        if classifier and is_behind and _flattens(head):
            # The model's classifier sees positions; the branch pools, as the paper's do.
            x = layers.GlobalAveragePooling2D(name=f"{self.head}_pool")(x)
            return self.copy(classifier, 1.0, x)(x)
        for unit in head:
            self.replay(unit, parts[-1].width)
        x = self.mapping[id(self.anatomy.logits)]
        return x if classifier else classified(x, self.num_classes, self.head)

    def replay(self, unit, width):
        """Adds the branch's layers for a unit of the model."""
        for call in unit.calls:
            before = call.inputs
            now = [self.mapping[id(x)] for x in before]
            by_width = {old.shape[-1]: new.shape[-1] for old, new in zip(before, now)}
            if call.kind != "Concatenate" and any(by_width[x.shape[-1]] != y.shape[-1] for x, y in zip(before, now)):
                raise Refused(call, f"its inputs have {' and '.join(str(x.shape[-1]) for x in now)} channels")
            try:
                layer = self.copy(call, width, now[0])
                output = call.replay(layer, self.mapping, **{key: None for key in call.kwargs if key == "training"})
            except Exception as error:  # another's code: it may raise anything
                raise Refused(call, essence(error).rstrip(".")) from error
            self.check(call, width, now[0], output)

    def copy(self, call, width, given):
        """The branch's own layer for a call of the model's; the same one for several calls of one layer."""
        if id(call.operation) not in self.layers:
            changes = {"name": f"{self.head}_{call.name}"}
            if call is self.anatomy.classifier:
                width, changes["activation"] = 1.0, None
            self.layers[id(call.operation)] = scaled(call, width, given, changes)
        return self.layers[id(call.operation)]

    def check(self, call, width, given, output):
        """Raises `Refused` if a layer has not the width that it should have, or another resolution."""
        before, gave = call.inputs[0], call.output
        if len(output.shape) != len(gave.shape):
            raise Refused(call, f"it gives the shape {output.shape}, in the model {gave.shape}")
        if len(gave.shape) == 4 and any(
            now not in (None, then) for now, then in zip(output.shape[1:3], gave.shape[1:3])
        ):
            raise Refused(call, f"it gives the resolution {output.shape[1:3]}, in the model {gave.shape[1:3]}")
        if has_width(call) or call.kind == "Concatenate":
            return
        if ratio(output, gave) != ratio(given, before) and not output.shape[-1] == gave.shape[-1] == 1:  # 1: a mean
            raise Refused(
                call,
                f"with {given.shape[-1]} instead of {before.shape[-1]} channels of input it gives {output.shape[-1]}, "
                f"in the model {gave.shape[-1]}",
            )
        changes = gave.shape[-1] != before.shape[-1] and not hasattr(call.operation, "depth_multiplier")
        if width != 1 and has_kernel(call) and changes:
            raise Refused(call, "nothing in its config is known to be its width")


def _flattens(head):
    """Whether units behind the last resolution flatten it, and do not pool."""
    kinds = (unit.last.kind for unit in head)
    first = next((kind for kind in kinds if kind in ("Flatten", "Reshape", "Mean", "Max") or "Global" in kind), "")
    return first in ("Flatten", "Reshape")


def classified(features, num_classes, name):
    """Logits of features: global average pool where they have a resolution, and a dense layer with the head's name."""
    if len(features.shape) == 4:
        features = layers.GlobalAveragePooling2D(name=f"{name}_pool")(features)
    uniform = VarianceScaling(1 / 3, "fan_in", "uniform")
    dtype = keras.backend.result_type(features.dtype, "float32")
    return layers.Dense(num_classes, kernel_initializer=uniform, dtype=dtype, name=name)(features)
