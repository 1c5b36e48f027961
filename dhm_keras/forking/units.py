"""A CNN as a chain of units, between the tensors that everything passes through, and what each unit is."""

import collections
import dataclasses
import functools

import keras

from dhm_keras.forking.graph import Call

NORMALIZATIONS = ("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization")
PADDINGS = ("ZeroPadding2D", "Pad")
# What two blocks may differ in and still be repeats: a first block has strides, a deeper one a higher drop rate.
NO_STRUCTURE = ("name", "trainable", "dtype", "data_format", "strides", "padding", "seed")


@dataclasses.dataclass(frozen=True)
class Unit:
    """The calls between two consecutive tensors that everything passes through.

    A layer in a chain is a unit of its own, a residual block with its shortcut one unit.

    Args:
        input, output: The two symbolic tensors.
        calls: `Call`s between them.
    """

    input: object
    output: object
    calls: tuple[Call, ...]

    @property
    def last(self):
        """The call that gives the output."""
        return next(call for call in self.calls if any(x is self.output for x in call.outputs))

    @property
    def name(self):
        return self.last.name

    @property
    def is_weightless(self):
        """Whether it is a layer without weights that keeps the shape, such as an activation."""
        return len(self.calls) == 1 and not self.last.weights and self.input.shape == self.output.shape

    @property
    def is_down_sampling(self):
        """Whether it halves the resolution, at least; an unpadded convolution of stride 1 does not."""
        if len(self.output.shape) != 4:
            return False
        halves = any(after <= (before + 1) // 2 < before for before, after in self._sizes())
        strides = [largest(call.operation.strides) for call in self.calls if hasattr(call.operation, "strides")]
        return halves and (not strides or max(strides) > 1)

    @property
    def is_pool(self):
        """Whether the resolution ends here: a global pooling, or a layer that flattens."""
        if len(self.output.shape) != 4:
            return True
        to_one = self._sizes() and all(before > 1 and after == 1 for before, after in self._sizes())
        is_pooling = "Pooling" in self.last.kind or self.last.kind in ("Mean", "Max")
        return len(self.calls) == 1 and ("Global" in self.last.kind or (to_one and is_pooling))

    @property
    def is_join(self):
        """Whether paths meet at its end; at a product, one of them is a gate."""
        return len(self.calls) > 1 and len(self.last.inputs) > 1 and self.last.kind != "Multiply"

    @property
    def is_skip(self):
        """Whether it is a block that could be left out: x + f(x), x with f(x) appended, or a layer made of layers."""
        if len(self.calls) == 1:
            return self.input.shape == self.output.shape and _is_block(self.last.operation)
        same_size = self.input.shape[1:3] == self.output.shape[1:3]
        return self.is_join and same_size and any(x is self.input for x in self.last.inputs)

    @property
    def keeps_width_by_pooling(self):
        """Whether it is a block that halves the resolution and adds to its input, pooled."""
        pooled = [call.output for call in self.calls if "Pooling" in call.kind and call.inputs[0] is self.input]
        adds = self.is_join and self.last.kind != "Concatenate"
        return adds and any(x is y for x in self.last.inputs for y in pooled)

    @functools.cached_property
    def kernels(self):
        """How often it has each kind of convolution, or of layer with weights like one's."""
        kinds = [
            (call.kind, str(getattr(call.operation, "kernel_size", ""))) for call in self.calls if has_kernel(call)
        ]
        return collections.Counter(kinds)

    @functools.cached_property
    def structure(self):
        """What two units have in common that are repeats of one another: layers, widths, wiring."""
        made_by = {id(x): index for index, call in enumerate(self.calls) for x in call.outputs}
        return tuple((call.kind, _numbers(call), tuple(made_by.get(id(x)) for x in call.inputs)) for call in self.calls)

    def _sizes(self):
        if len(self.input.shape) != 4:
            return []
        return [pair for pair in zip(self.input.shape[1:3], self.output.shape[1:3]) if None not in pair]


def units_of(graph):
    """The graph as a chain of `Unit`s, in two parts.

    Args:
        graph: `Graph` of one output.

    Returns:
        Units from the image to the last tensor that has a resolution, each with one at its end, too: what computes on
        another shape in between, as an attention, is a unit with what leads back. And the units behind.
    """
    units = _chain(graph)
    spatial = [i for i, unit in enumerate(units) if len(unit.output.shape) == 4 and unit.output.shape[1:3] != (1, 1)]
    last = spatial[-1] if spatial else -1
    end = next((i for i, unit in enumerate(units) if unit.is_pool and i > last), len(units))
    body, start = [], 0
    for index in range(end):
        if len(units[index].output.shape) == 4:
            parts = units[start : index + 1]
            calls = tuple(call for unit in parts for call in unit.calls)
            body.append(dataclasses.replace(parts[0], output=parts[-1].output, calls=calls))
            start = index + 1
    return body, units[end:]


def _chain(graph):
    """All units of a graph."""
    last_use = {id(graph.output): len(graph.calls)}
    for index, call in enumerate(graph.calls):
        last_use.update({id(x): max(index, last_use.get(id(x), 0)) for x in call.inputs})
    units, calls, before, open_tensors = [], [], graph.image, set()
    for index, call in enumerate(graph.calls):
        calls.append(call)
        open_tensors |= {id(x) for x in call.outputs if id(x) in last_use}
        open_tensors = {key for key in open_tensors if last_use[key] > index}
        if len(open_tensors) == 1 and last_use.get(id(graph.image), -1) <= index:
            after = next((x for x in call.outputs if id(x) in open_tensors), None)
            if after is not None:
                units.append(Unit(before, after, tuple(calls)))
                calls, before = [], after
    return units


def has_kernel(call):
    """Whether a layer mixes channels or positions by its weights, as convolutions and dense layers do."""
    return any(len(weight.shape) > 1 for weight in call.weights) and call.kind != "PReLU"


def _is_block(layer):
    """Whether a layer has convolutions of its own, as the blocks of some libraries' models; a gate's are pointwise."""
    parts = [part for value in vars(layer).values() for part in (value if isinstance(value, list) else [value])]
    return any(isinstance(part, keras.layers.Layer) and largest(getattr(part, "kernel_size", 1)) > 1 for part in parts)


def _numbers(call):
    """The entries of a layer's config that make its structure: whole numbers, tuples of them, names of functions."""
    if not isinstance(call.operation, keras.layers.Layer):
        return ()
    return tuple(
        (key, str(value))
        for key, value in sorted(call.config.items())
        if key not in NO_STRUCTURE and isinstance(value, (int, str, tuple, list))
    )


def largest(strides):
    """The largest number of a tuple of strides or of a kernel's size, or the number that it is for all sides."""
    return max(strides) if isinstance(strides, (tuple, list)) else strides
