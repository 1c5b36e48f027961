"""How far the heads of a network agree: in their gradients at the stem that they share, and in their answers."""

import functools
import itertools

import keras
from keras import ops, tree

from dhm_keras.forking.graph import trace
from dhm_keras.objective import check_labels, cross_entropy, kl_divergence, log_softmax, targets

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    import jax

SCALE = 128.0  # of the cross-entropies, so that float16 gradients stay above what float16 can tell; exact, as 2^7 is


def agreement(model, images, labels):
    """Measures on one batch whether the heads of a model want the same.

    The paper argues (eq. 11) that mimicking penalises branches whose gradients at their common stem disagree, and plots
    nothing of it. What can be measured, for every pair of heads, ours:

    - `cosine_main_aux1`: the cosine between the gradients of the two heads' cross-entropies with respect to the stem's
      output h, the tensors of the whole batch flattened. Batch statistics and dropout as in a training step. NaN where
      a gradient is zero.
    - `agree_main_aux1`: the share of the images for which both heads have the same class first.
    - `kl_main_to_aux1`, `kl_aux1_to_main`: the mean of KL(first || second) of their probabilities, at a temperature of
      1; as a `mimic_main_to_aux1` of the logs, but of models without mimicking, too.

    The last two are of the answers that `predict` gives, with running statistics. h is the last tensor of the network
    that all heads pass through: the tap of the lowest branch. Nothing of the model changes, its random seeds included.
    To measure again and again, use `measuring(model)`, which compiles once.

    Example:

    ```python
    numbers = dhm_keras.analysis.agreement(model, images[:256], labels[:256])
    numbers["cosine_main_aux2"]
    ```

    Args:
        model: `DHM` with two heads or more.
        images: Array `(batch, height, width, channels)`, as the model takes them.
        labels: Integers `(batch,)` or soft labels `(batch, classes)`.

    Returns:
        Dict from name to float: cosines, then agreements, then divergences.

    Raises:
        ValueError: if the model has one head alone, its network is none that Keras knows the graph of, or the labels do
            not fit it.
    """
    return measuring(model)(images, labels)


def measuring(model):
    """`agreement` of a model as a function that is compiled once; later calls see the model's weights of then.

    Args:
        model: As of `agreement`.

    Returns:
        Function from `(images, labels)` to what `agreement` returns. It is traced anew for other shapes alone.

    Raises:
        ValueError: as of `agreement`.
    """
    if not hasattr(model, "heads") or len(model.heads) < 2:
        raise ValueError(
            "Invalid value for argument `model`. Expected a DHM with two heads or more: one alone agrees with itself. "
            f"Received: {model!r} with the heads {getattr(model, 'heads', None)}."
        )
    network = model.network
    graph = trace(network)
    at = stem(network, graph)
    to_stem = graph.leading_to([at])
    to_heads = graph.leading_to(graph.output.values(), given=[at])
    compute = compiled(network, functools.partial(_measured, network, model.heads, graph, at, to_stem, to_heads))

    def measure(images, labels):
        check_labels(labels, model.num_classes)
        numbers = ops.convert_to_numpy(compute(ops.convert_to_tensor(images), labels))
        return dict(zip(names(model.heads), numbers.tolist(), strict=True))

    return measure


def names(heads):
    """The names of what `agreement` measures, in its order.

    Args:
        heads: Names of a model's heads, the deepest first.

    Returns:
        List of strings.
    """
    pairs = list(itertools.combinations(heads, 2))
    cosines, agreements = ([f"{kind}_{one}_{other}" for one, other in pairs] for kind in ("cosine", "agree"))
    return [*cosines, *agreements, *(f"kl_{one}_to_{other}" for one, other in itertools.permutations(heads, 2))]


def stem(network, graph=None):
    """The last tensor of a network that every way from the image to a head passes through.

    Args:
        network: Functional model with a dict of heads as output.
        graph: Its `dhm_keras.forking.graph.Graph`, in which the tensor is looked for. Defaults to one made here.

    Returns:
        Symbolic tensor of the graph, its image if they share nothing else.
    """
    graph = graph or trace(network)
    before, order = {}, {id(graph.image): 0}  # before: of a tensor, the last one that every way to it passes through
    tensors = {id(graph.image): graph.image}

    def common(one, other):
        """The last tensor that every way to both passes through; what comes first in `order` is nearer to the image."""
        while one != other:
            one, other = (before[one], other) if order[one] > order[other] else (one, before[other])
        return one

    for call in graph.calls:
        inputs = [id(x) for x in call.inputs]
        for x in call.outputs:
            tensors[id(x)], order[id(x)] = x, len(order)
            before[id(x)] = functools.reduce(common, inputs)
    return tensors[functools.reduce(common, [id(x) for x in graph.output.values()])]


def replay(calls, values, training=True):
    """Computes calls of a graph as a training step does, or a prediction.

    Keras hands `training` to every layer that takes it, whatever the layer was called with when the model was made.

    Args:
        calls: Sequence of `dhm_keras.forking.graph.Call`s, in order.
        values: Dict from a symbolic tensor's id to what it stands for.
        training: Boolean. Defaults to `True`.

    Returns:
        Such a dict, with the outputs of the calls, too.
    """
    values = dict(values)
    for call in calls:
        args, kwargs = tree.map_structure(lambda x: values.get(id(x), x), (call.args, call.kwargs))
        if getattr(call.operation, "_call_has_training_arg", False):
            kwargs = {**kwargs, "training": training}
        outputs = [x for x in tree.flatten(call.operation(*args, **kwargs)) if x is not None]
        values.update(zip(map(id, call.outputs), outputs, strict=True))
    return values


def _measured(network, heads, graph, at, to_stem, to_heads, images, labels):
    """The numbers, a tensor in the order of `names`; called within a `StatelessScope`."""
    images = ops.cast(images, graph.image.dtype)
    predicted = network(images, training=False)
    before = replay(to_stem, {id(graph.image): images})

    def losses(h):
        after = replay(to_heads, {id(at): h})
        log_probs = [log_softmax(after[id(graph.output[head])]) for head in heads]
        distribution = targets(labels, log_probs[0].shape[-1], log_probs[0].dtype)
        return tuple(SCALE * ops.sum(cross_entropy(log_p, distribution)) for log_p in log_probs)

    gradients = [_unit(gradient) for gradient in _gradients(losses, before[id(at)])]
    cosines = [ops.sum(one * other) for one, other in itertools.combinations(gradients, 2)]
    log_probs = [log_softmax(predicted[head]) for head in heads]
    first = [ops.argmax(log_p, axis=-1) for log_p in log_probs]
    agreements = [ops.mean(ops.equal(one, other)) for one, other in itertools.combinations(first, 2)]
    divergences = [ops.mean(kl_divergence(one, other)) for one, other in itertools.permutations(log_probs, 2)]
    return ops.stack([ops.cast(number, log_probs[0].dtype) for number in (*cosines, *agreements, *divergences)])


def _unit(gradient):
    """A gradient flattened, in float32 at least, of length 1; NaN if it is zero."""
    gradient = ops.reshape(ops.cast(gradient, keras.backend.result_type(gradient.dtype, "float32")), (-1,))
    return gradient / ops.sqrt(ops.sum(ops.square(gradient)))


def _gradients(function, at):
    """The gradients of each of the numbers that a function gives, with respect to its argument."""
    if keras.backend.backend() == "tensorflow":
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(at)
            values = function(at)
        return [tape.gradient(value, at, unconnected_gradients="zero") for value in values]
    values, pull_back = jax.vjp(function, at)
    one, zero = ops.ones_like(values[0]), ops.zeros_like(values[0])
    return [pull_back(tuple(one if i == j else zero for j in range(len(values))))[0] for i in range(len(values))]


def compiled(network, function):
    """Compiles a function that reads a network's variables, each time as they are, and changes none of them.

    Args:
        network: Model whose variables the function reads.
        function: Function of tensors. It is traced anew for other shapes alone.

    Returns:
        Function of tensors or arrays.
    """
    if keras.backend.backend() == "tensorflow":

        @tf.function
        def on_tensorflow(*given):
            with keras.StatelessScope():
                return function(*given)

        return lambda *given: on_tensorflow(*map(tf.convert_to_tensor, given))

    @jax.jit
    def on_jax(state, *given):
        with keras.StatelessScope(zip(network.variables, state)):
            return function(*given)

    return lambda *given: on_jax([variable.value for variable in network.variables], *given)
