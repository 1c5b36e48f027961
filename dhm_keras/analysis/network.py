"""A picture of a network with branches: what is trained, and what is shipped."""

import dataclasses
import math

from dhm_keras.forking.blocks import stages_of
from dhm_keras.forking.graph import is_functional, trace
from dhm_keras.forking.units import has_kernel, units_of
from dhm_keras.network import Network, heads_of

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


@dataclasses.dataclass(frozen=True)
class Box:
    """What one head has of its own in one stage.

    Attributes:
        size: `(height, width)` at its end; of a network for images of any size, for 224x224 pixels.
        channels: Integer, at its end.
        layers: Integer. Convolutions and dense layers.
        parameters: Integer, trainable or not.
        begins_shared: Boolean. Whether the head is forked within the stage.
    """

    size: tuple[int, int]
    channels: int
    layers: int
    parameters: int
    begins_shared: bool


def boxes(network):
    """What a network consists of, by head and stage.

    Args:
        network: Functional model with a dict of heads as output, one of them `"main"`.

    Returns:
        Dict from head, or second classifier of one, to a dict from the stage's number to `Box`: all of main, and of
        every other head what it does not share with those before it. Each layer counts once; what is behind the last
        stage counts there.
    """
    graph = trace(network)
    rows, counted = {}, set()
    heads = heads_of(graph.output)
    second = [name for name in graph.output if name.endswith("_local") and name not in heads]
    for head in ("main", *(head for head in heads if head != "main"), *second):
        calls = graph.leading_to([graph.output[head]])
        units, behind = units_of(dataclasses.replace(graph, calls=calls, output=graph.output[head]))
        stages, rows[head] = stages_of(units), {}
        for stage in stages:
            of_stage = units[stage.start : stage.end] + (behind if stage is stages[-1] else [])
            weighted = {id(call.operation): call for unit in of_stage for call in unit.calls if call.weights}
            own = [call for key, call in weighted.items() if key not in counted]
            counted |= weighted.keys()
            if own:
                parameters = sum(math.prod(weight.shape) for call in own for weight in call.weights)
                layers = sum(has_kernel(call) for call in own)
                rows[head][stage.number] = Box(
                    stage.resolution, stage.channels, layers, parameters, len(own) < len(weighted)
                )
    return rows


def plot_network(network, path, title=""):
    """Draws the training graph of a network, and below it the graph that is shipped.

    A row for each head, a column for each stage. A box tells resolution, channels, number of convolutions and
    dense layers, and parameters; its height grows with the channels. Dashed lines: the heads teach one another.

    Args:
        network: Functional model with a dict of heads as output, one of them `"main"`, as `DHM` takes.
        path: Path of the picture; its suffix chooses the format.
        title: String. Title of the figure. Defaults to the network's name.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the network's output is not such a dict.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Networks are drawn by matplotlib. Install it: pip install 'dhm_keras[demo]'") from error
    if not is_functional(network) or not isinstance(network.output, dict) or "main" not in network.output:
        raise ValueError(
            "Invalid value for argument `network`. Expected a functional model with a dict of heads as output, one of "
            f"them 'main'. Received: {network!r}."
        )
    rows = boxes(network)
    columns = sorted({number for row in rows.values() for number in row})
    widest = max(box.channels for row in rows.values() for box in row.values())

    shipped, heads = _shipped(network, rows), len(heads_of(network.output))
    lines = len(rows) + len(shipped)
    figure = Figure(figsize=(2 + 1.9 * (len(columns) + 1), 1.5 * lines + 1.2), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(len(rows), len(shipped)))
    _draw(above, rows, columns, widest, f"Trained: {_count(rows)} parameters, {heads} heads", heads)
    _draw(below, shipped, columns, widest, f"Shipped: {_count(shipped)} parameters", 1)
    figure.suptitle(title or network.name)
    figure.savefig(path, dpi=120)


def _shipped(network, rows):
    """The rows of what is shipped: main's, or, of a network with an embedding, those of what that is made of."""
    outputs = network.output
    if "embedding" not in outputs:
        return {"main": rows["main"]}
    parts = {name: outputs.get(f"{name}_features") for name in ("main", "main_local")}
    parts = {name: features for name, features in parts.items() if features is not None}
    return boxes(Network(network.input, parts or {"main": outputs["embedding"]}))


def _draw(axes, rows, columns, widest, title, heads):
    """Draws the rows into a panel: boxes 0.84 wide around the column's number, row y at -y; the first are heads."""
    from matplotlib.patches import Rectangle

    end = len(columns) - 0.2
    for y, (head, row) in enumerate(rows.items()):
        colour = COLOURS[y % len(COLOURS)]
        arrow = {"arrowstyle": "->", "color": colour}
        xs = [columns.index(number) for number in sorted(row)]
        if head != "main" and xs:  # from within main's box of the stage, or from the end of the one before
            fork = xs[0] - 0.25 if row[columns[xs[0]]].begins_shared else xs[0] - 0.7
            bent = {**arrow, "connectionstyle": "arc3,rad=0.15"}
            axes.annotate("", (xs[0] - 0.42, -y), (fork, -0.25), arrowprops=bent)
        for x, after in zip(xs, [*(x - 0.42 for x in xs[1:]), end - 0.15]):
            box = row[columns[x]]
            height = 0.42 + 0.38 * math.log(max(box.channels, 1)) / math.log(max(widest, 2))
            corner = (x - 0.42, -y - height / 2)
            axes.add_patch(Rectangle(corner, 0.84, height, facecolor=colour, alpha=0.25, edgecolor=colour))
            unit = "layer" if box.layers == 1 else "layers"
            text = f"{box.size[0]}x{box.size[1]}, {box.channels} ch\n{box.layers} {unit}\n{_human(box.parameters)}"
            axes.text(x, -y, text, ha="center", va="center", fontsize=9)
            axes.annotate("", (after, -y), (x + 0.42, -y), arrowprops=arrow)
        axes.text(end, -y, head, ha="center", va="center", bbox={"boxstyle": "round", "fc": "white", "ec": colour})
    for y in range(heads - 1):
        axes.plot([end, end], [-y - 0.2, -y - 0.8], color="grey", linestyle="--", linewidth=1)
    axes.set(xlim=(-0.6, end + 0.35), ylim=(-len(rows) + 0.4, 0.55))
    axes.set_title(title, loc="left", fontsize=10)
    axes.axis("off")


def _count(rows):
    return _human(sum(box.parameters for row in rows.values() for box in row.values()))


def _human(number):
    """A number of parameters in three digits."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
