"""A functional model as a flat list of calls, nested models opened: made by looking, without a call of any layer."""

import dataclasses
import inspect
import re

import keras
from keras import tree

PROBE = 224  # pixels: the size at which a model that takes images of any size is looked at


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operation in a graph.

    Args:
        operation: `keras.Operation`, which a layer is, too.
        name: Its name, one no other operation of the graph has.
        args, kwargs: What it is called with; symbolic tensors may be nested in lists and dicts.
        outputs: Symbolic tensors that the call gives.
    """

    operation: keras.Operation
    name: str
    args: tuple
    kwargs: dict
    outputs: tuple

    @property
    def inputs(self):
        """The symbolic tensors among the arguments."""
        return tensors((self.args, self.kwargs))

    @property
    def output(self):
        """The first output, of nearly every layer the only one."""
        return self.outputs[0]

    @property
    def kind(self):
        """Name of the operation's class."""
        return type(self.operation).__name__

    @property
    def weights(self):
        return getattr(self.operation, "weights", [])

    @property
    def config(self):
        """Config of the operation.

        Raises:
            ValueError: if its class gives none.
        """
        try:
            return self.operation.get_config()
        except NotImplementedError as error:
            raise ValueError(
                f"The layer {self.name!r} ({self.kind}) has no config. Give its class a `get_config` with every "
                "argument of its constructor."
            ) from error

    def replay(self, operation, mapping, **kwargs):
        """Calls another operation in this one's place.

        Args:
            operation: `keras.Operation` to call.
            mapping: Dict from the id of a symbolic tensor of this graph to the one that stands for it; the outputs
                are added.
            **kwargs: Arguments that the other call has instead.

        Returns:
            The first output.
        """
        args, own = tree.map_structure(lambda x: mapping.get(id(x), x), (self.args, self.kwargs))
        outputs = tensors(operation(*args, **{**own, **kwargs}))
        mapping.update({id(old): new for old, new in zip(self.outputs, outputs)})
        return outputs[0]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A flat model.

    Args:
        image: Symbolic input.
        calls: `Call`s in an order in which they can be computed.
        output: Symbolic output, or a dict of them. Shapes are known but for the batch: of a model for images of any
            size they are those at `PROBE` pixels.
    """

    image: keras.KerasTensor
    calls: tuple
    output: object

    def leading_to(self, outputs, given=()):
        """The calls that some of its tensors are computed from, in order.

        Args:
            outputs: Sequence of symbolic tensors.
            given: Sequence of symbolic tensors that are known: what they are computed from is left out. Defaults to
                none.

        Returns:
            Tuple of `Call`s.
        """
        made_by = {id(x): index for index, call in enumerate(self.calls) for x in call.outputs}
        path, open_ends, known = set(), list(outputs), {id(x) for x in given}
        while open_ends:
            end = open_ends.pop()
            index = None if id(end) in known else made_by.get(id(end))
            if index is not None and index not in path:
                path.add(index)
                open_ends += self.calls[index].inputs
        return tuple(self.calls[index] for index in sorted(path))


def tensors(structure):
    """The symbolic tensors of a nested structure, as a tuple."""
    return tuple(x for x in tree.flatten(structure) if isinstance(x, keras.KerasTensor))


def trace(model):
    """The graph of a model.

    Args:
        model: Functional model or `keras.Sequential` of one input. Its layers are not called and stay as they are.

    Raises:
        ValueError: if Keras cannot tell the shape of what a layer gives.

    Returns:
        `Graph`. A nested model called with `training=False`, as frozen backbones are, hands that to its layers. Of two
        layers with the same name, the second has its model's name in front.
    """
    shape = tuple(PROBE if size is None else size for size in model.inputs[0].shape[1:])
    image = keras.KerasTensor((None, *shape), model.inputs[0].dtype, name=model.inputs[0].name)
    calls, names = [], {None: image.name}  # names: of an operation, by its id

    def call(operation, parent, args, kwargs):
        name = operation.name
        while id(operation) not in names and name in names.values():
            name = f"{parent}_{name}"
        name = names.setdefault(id(operation), name)
        given = tensors((args, kwargs))
        try:
            outputs = operation.compute_output_spec(*args, **kwargs)
        except Exception as error:  # another's code: it may raise anything
            raise ValueError(
                f"The shape that the layer {name!r} ({type(operation).__name__}) gives for {[x.shape for x in given]} "
                f"cannot be told: {essence(error)} Give its class a `compute_output_shape`."
            ) from error
        outputs = tree.map_structure(lambda x: _renewed(x) if any(x is y for y in given) else x, outputs)
        calls.append(Call(operation, name, args, kwargs, tensors(outputs)))
        return outputs

    output = _walk(model, (image,), {}, call)
    return Graph(image, tuple(calls), output)


def essence(error):
    """The line of an error that says what is wrong; Keras puts more around it."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    text = re.split(r"Arguments received by|Full object config", text)[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception encountered when")] or [repr(error)]
    return lines[-1].removeprefix("Exception encountered: ").rstrip(".")[:300] + "."


def is_functional(model):
    """Whether a model's graph says what its call does."""
    return isinstance(model, (keras.Function, keras.Sequential)) and type(model).call.__module__.startswith("keras.")


def _walk(model, args, kwargs, call):
    """Goes through a model as its own call does, and through the models within it; `call` makes each single call."""
    training = kwargs.get("training")

    def call_one(operation, *args, **kwargs):
        kwargs = {key: value for key, value in kwargs.items() if value is not None or key not in ("training", "mask")}
        if training is not None and "training" in inspect.signature(operation.call).parameters:
            kwargs.setdefault("training", training)
        if is_functional(operation):
            return _walk(operation, args, kwargs, call)
        return call(operation, model.name, args, kwargs)

    if isinstance(model, keras.Sequential):
        x = args[0]
        for layer in model.layers:
            x = call_one(layer, x)
        return x
    given = [
        x if x.dtype == to.dtype else call_one(keras.layers.Rescaling(1.0, dtype=to.dtype, name="cast"), x)
        for x, to in zip(tree.flatten(args[0]), model.inputs)  # a functional model casts what it is given
    ]
    # A private name of Keras: its own walk over the nodes of a functional model, which `clone_model` goes, too.
    return model._run_through_graph(given, operation_fn=lambda operation: operation, call_fn=call_one)


def _renewed(tensor):
    return keras.KerasTensor(tensor.shape, tensor.dtype)
