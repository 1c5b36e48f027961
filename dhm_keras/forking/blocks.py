"""Where a CNN can be forked, and what it repeats: its stages and blocks, found in the chain of its units."""

import collections
import dataclasses
import itertools

from dhm_keras.forking.units import NORMALIZATIONS, PADDINGS, largest


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a CNN's backbone at one resolution.

    Attributes:
        number: Integer, from 1, the stage of the first convolution.
        tap: String, name of the layer that the stage ends with: where branches are forked after it.
        resolution: `(height, width)` there; of a model for images of any size, for 224x224 pixels.
        channels: Integer, there.
        blocks: Integer. Blocks in it: residual or dense blocks, or equal parts of a plain chain.
        start: Integer. Its units, for what grows branches, are those from here
        end: to before here.
        spare: Tuple of the groups of blocks that can be left out; a block is a range of units.
    """

    number: int
    tap: str
    resolution: tuple[int, int]
    channels: int
    blocks: int
    start: int = dataclasses.field(repr=False)
    end: int = dataclasses.field(repr=False)
    spare: tuple = dataclasses.field(repr=False)


def stages_of(units):
    """The stages of a backbone.

    Args:
        units: Its `Unit`s, from the image to the last tensor that has a resolution.

    Returns:
        List of `Stage`s; what comes before the first convolution belongs to the first.
    """
    first = next((i for i, unit in enumerate(units) if unit.kernels), len(units))
    steps = [i for i, unit in enumerate(units) if unit.is_down_sampling and i > first]
    starts = []
    for start in [0, *(_tap_before(units, step) for step in steps)]:
        if not starts or has_kernels(units[starts[-1] : start]):  # else the stage before goes on: pools in a row
            starts.append(start)
    if len(starts) > 1 and not has_kernels(units[starts[-1] :]):
        starts.pop()  # a pool at the end
    stages = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(units)]), start=1):
        _, height, width, channels = units[end - 1].output.shape
        spare, blocks = blocks_of(units, start, end)
        stages.append(Stage(number, units[end - 1].name, (height, width), channels, blocks, start, end, spare))
    return stages


def _tap_before(units, step):
    """Index of the unit that the next stage begins with, whose down-sampling unit is `units[step]`.

    What belongs to the block that halves the resolution belongs to the next stage: padding, the pointwise convolution
    that widens a bottleneck before a depthwise one, normalization and activation in front of a residual block. A block
    that adds to its pooled input, as ResNetV2's last of a stage, keeps the width and belongs to the stage before.
    """
    if units[step].keeps_width_by_pooling:
        return step + 1
    start = step
    while start > 1 and units[start - 1].last.kind in PADDINGS:
        start -= 1
    if _is_depthwise(units[step].last.operation):
        back = _back_over_pointwise(units, start)
        from_linear = units[back - 1].is_join or units[back - 1].last.kind in NORMALIZATIONS
        if units[back].kernels and from_linear:
            start = back
    back = _back_over_pointwise(units, start)
    is_normalized = any(call.weights for unit in units[back:start] for call in unit.calls)
    if is_normalized and not units[back].kernels and units[back - 1].is_join:
        start = back
    return start


def _is_depthwise(layer):
    """Whether a layer convolves each channel on its own."""
    is_grouped = 1 < getattr(layer, "groups", 1) == getattr(layer, "filters", None)
    return is_grouped or type(layer).__name__ == "DepthwiseConv2D"


def _back_over_pointwise(units, start):
    """Index of the first of the units in front of `start` that work point by point, up to a convolution that widens."""
    while start > 1 and len(units[start - 1].calls) == 1 and not units[start - 1].is_down_sampling:
        start -= 1
        unit = units[start]
        if unit.kernels:
            is_pointwise = largest(getattr(unit.last.operation, "kernel_size", 1)) == 1
            return start if is_pointwise and unit.output.shape[-1] > unit.input.shape[-1] else start + 1
    return start


def blocks_of(units, start, end):
    """Blocks of the stage `units[start:end]`.

    Returns:
        Groups of blocks that can be left out, each a tuple of ranges of unit indices, and the number of all blocks.
    """
    groups = _skip_blocks(units, start, end)
    if groups:
        ends = [group[-1].stop for group in groups]
        gaps = [range(first, group[0].start) for first, group in zip([start, *ends], groups)] + [range(ends[-1], end)]
        fixed = 0
        for gap, group in zip(gaps, (*groups, groups[-1])):  # with the blocks that it stands beside
            is_residual = units[group[0].start].last.kind != "Concatenate"
            fixed += is_residual and _kernels(units, gap) >= _kernels(units, group[0])  # a first one, with a projection
    else:
        repeats = _repeats(units, start, end)
        groups, fixed = ([repeats[1:]] if len(repeats) > 1 else []), 1
    return tuple(groups), fixed + sum(map(len, groups))


def _skip_blocks(units, start, end):
    """Groups of consecutive residual or dense blocks, each block with the normalization and activation behind it."""
    groups, reached = [], start
    for index in range(start, end):
        if units[index].is_skip:
            block = range(index, index + 1 + _tail(units, index, end))
            if groups and index == reached:
                groups[-1].append(block)
            else:
                groups.append([block])
            reached = block.stop
    return groups


def _tail(units, index, end):
    """Number of units behind a residual block that belong to it, as those before it belong to the block before."""

    def pointwise(indices):
        run = itertools.takewhile(lambda i: len(units[i].calls) == 1 and not units[i].kernels, indices)
        return [units[i].structure for i in run]

    before, behind = pointwise(range(index - 1, -1, -1))[::-1], pointwise(range(index + 1, end))
    longest = min(len(before), len(behind))
    return next(size for size in range(longest, -1, -1) if size == 0 or before[-size:] == behind[:size])


def _repeats(units, start, end):
    """The longest stretch of equal parts of a chain, each with a convolution; as ranges of unit indices."""
    chain = [i for i in range(start, end) if units[i].last.kind not in PADDINGS]  # padding: only before a stride
    numbers = {}
    text = [numbers.setdefault(units[i].structure, len(numbers)) for i in chain]  # equal units, equal numbers
    best = []
    for period in range(1, len(chain) // 2 + 1):
        for first in range(len(chain) - 2 * period + 1):
            count = 1
            while text[first + count * period :][:period] == text[first : first + period]:
                count += 1
            if count > 1 and count * period > sum(map(len, best)):
                parts = [chain[first + n * period :][:period] for n in range(count)]
                if _kernels(units, parts[0]):
                    best = [range(part[0], part[-1] + 1) for part in parts]
    return best


def has_kernels(units):
    """Whether any of the units has a convolution, or a layer like one."""
    return any(unit.kernels for unit in units)


def _kernels(units, indices):
    return sum((units[i].kernels for i in indices), collections.Counter())
