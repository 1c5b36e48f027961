"""What an exported version is made of, and whether two versions are the same network."""

import dataclasses
from collections import Counter


def size(path):
    """Bytes of a file, or of the files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a SavedModel is made of.

    Attributes:
        takes: What `serving_default` takes: dict from name to `(dtype, shape)`.
        variables: Counter of `(name, dtype, shape)`.
        operations: Counter of the kinds of operations in all of its functions.
        weights: Integer, bytes of the variables' file.
        graph: Integer, bytes of saved_model.pb.
    """

    takes: dict
    variables: Counter
    operations: Counter
    weights: int
    graph: int


def contents(version):
    """Reads what the SavedModel in a folder is made of.

    Args:
        version: `pathlib.Path` of the folder.

    Returns:
        `Contents`.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    data = (version / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(data).meta_graphs[0]
    nodes = [*graph.graph_def.node, *(node for each in graph.graph_def.library.function for node in each.node_def)]
    variables = [node.variable for node in graph.object_graph_def.nodes if node.WhichOneof("kind") == "variable"]
    inputs = graph.signature_def["serving_default"].inputs
    return Contents(
        takes={name: (each.dtype, _shape(each.tensor_shape)) for name, each in inputs.items()},
        variables=Counter((each.name, each.dtype, _shape(each.shape)) for each in variables),
        operations=Counter(node.op for node in nodes),
        weights=sum(file.stat().st_size for file in (version / "variables").glob("variables.data-*")),
        graph=len(data),
    )


def compare(here, there):
    """Whether a version is made of what the never-branched network is made of.

    Args:
        here: `Contents` of the version.
        there: `Contents` of the never-branched network.

    Returns:
        Boolean, and a sentence.
    """
    operations = [sum(each.operations.values()) for each in (here, there)]
    same = ("takes", "variables", "operations", "weights")
    if any(getattr(here, name) != getattr(there, name) for name in same):
        different = ["images of another shape or type there"] if here.takes != there.takes else []
        different += [f"{name} {shape} only here" for name, _, shape in here.variables - there.variables]
        different += [f"{name} {shape} only there" for name, _, shape in there.variables - here.variables]
        different += [f"{count} {name} only here" for name, count in (here.operations - there.operations).items()]
        different += [f"{count} {name} only there" for name, count in (there.operations - here.operations).items()]
        some = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
        return False, (
            f"Not equal to the never-branched network: {here.variables.total()} variables here, "
            f"{there.variables.total()} there{some and f' ({some})'}; {here.weights:,} bytes here, {there.weights:,} "
            f"there; a graph of {operations[0]:,} operations here, {operations[1]:,} there."
        )
    # The counters that TensorFlow and Keras put behind names can be longer in one of them.
    graph = "" if here.graph == there.graph else f" ({there.graph:,} there, by the counters in names)"
    return True, (
        f"Equal to the never-branched network: {here.variables.total()} variables of the same names and shapes, "
        f"{here.weights:,} bytes; a graph of {operations[0]:,} operations, {here.graph:,} bytes{graph}."
    )


def _shape(proto):
    return tuple(each.size for each in proto.dim)
