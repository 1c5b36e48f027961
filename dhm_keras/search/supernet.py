"""The network of a search: all operators of every layer, of which a step computes few."""

import functools
import math

import keras
from keras import layers, ops

from dhm_keras.models.builder import _validate
from dhm_keras.models.cdnet import CDNet
from dhm_keras.models.genotypes import SPACES
from dhm_keras.models.omniscale import check_choice, scaled
from dhm_keras.necks import bl_neck
from dhm_keras.network import Network
from dhm_keras.search.topk import mix, straight_through


class Supernet:
    """A chain of parts, some of which are layers that are searched: several operators, of which some are computed.

    Every part and every operator is a functional model of its own, and is compiled by itself when it is first needed.
    So the cost of a step is that of the operators it computes, any choice of them is made without compiling anew, and
    those that are left out keep weights and statistics to the bit.

    Args:
        parts: Sequence, in the order of the computation. A functional model, or a tuple of models from the same input
            to the same output: a layer that is searched. The last gives a dict with `main`, logits, `main_features`,
            which the triplet loss acts on, and `embedding`, by which persons are compared.
        operators: Sequence of tuples of integers: what is chosen from in each searched layer, in this order.

    Raises:
        ValueError: if no part is searched, or one has another number of operators.
    """

    def __init__(self, parts, operators):
        self.parts, self.operators = list(parts), tuple(map(tuple, operators))
        self.layers = [part for part in self.parts if isinstance(part, tuple)]
        if not self.layers or {len(layer) for layer in self.layers} != {len(self.operators)}:
            raise ValueError(
                f"Invalid value for argument `parts`. Expected tuples of {len(self.operators)} models, one for each "
                f"operator, among them. Received: tuples of {[len(layer) for layer in self.layers]}."
            )

    @functools.cached_property
    def models(self):
        """All the models, a list: parts and operators in order."""
        return [model for part in self.parts for model in (part if isinstance(part, tuple) else (part,))]

    @property
    def variables(self):
        """All variables, a list: weights, statistics and random seeds."""
        return [variable for model in self.models for variable in model.variables]

    @property
    def trainable_variables(self):
        return [variable for model in self.models for variable in model.trainable_variables]

    def count_params(self):
        """Number of parameters that are trained: of all operators, without the alphas."""
        return sum(math.prod(variable.shape) for variable in self.trainable_variables)

    def chosen_models(self, chosen):
        """What a step computes: for each part a list of models.

        Args:
            chosen: Integers `(layers, k)`, as of `choose`.

        Returns:
            List of lists.
        """
        of_layers = iter(chosen)
        return [[part[i] for i in next(of_layers)] if isinstance(part, tuple) else [part] for part in self.parts]

    def __call__(self, images, alphas, chosen):
        """Computes a training step's outputs; on TensorFlow, eagerly.

        Args:
            images: Array `(batch, height, width, channels)`.
            alphas: Tensor `(layers, operators)`.
            chosen: Integers `(layers, k)`, as of `choose`.

        Returns:
            Dict of tensors, the last part's.
        """
        weights = straight_through(alphas, chosen)
        add = lambda outputs, layer: mix(outputs, weights[layer], chosen[layer])
        return self._chain(ops.cast(images, "float32"), chosen, self._compiled.get, add)

    def network(self, chosen):
        """The network of the chosen operators alone, as it is evaluated.

        Args:
            chosen: Integers `(layers, k)`.

        Returns:
            Functional model from images to the embedding; shares the weights.
        """
        image = keras.Input(self.parts[0].input.shape[1:], name="image")
        add = lambda outputs, _: layers.Add()(outputs) if len(outputs) > 1 else outputs[0]
        outputs = self._chain(image, chosen, lambda model: model, add)
        return Network(image, outputs["embedding"], name="chosen")

    def _chain(self, x, chosen, compute, add):
        """The last part's outputs; `compute` is from a model to a function, `add` from outputs and layer to one map."""
        layer = 0
        for part, models in zip(self.parts, self.chosen_models(chosen), strict=True):
            outputs = [compute(model)(x) for model in models]
            x = add(outputs, layer) if isinstance(part, tuple) else outputs[0]
            layer += isinstance(part, tuple)
        return x

    @functools.cached_property
    def _compiled(self):
        """Dict from the models to functions that are traced once, at their first use, for batches of any size."""
        import tensorflow as tf

        def compiled(model):
            signature = [tf.TensorSpec(model.input.shape, "float32")]
            return tf.function(functools.partial(model, training=True), signature, jit_compile=False, autograph=False)

        return {model: compiled(model) for model in self.models}


def supernet(
    space="cdnet",
    num_classes=751,
    input_shape=(256, 128, 3),
    width=1.0,
    stem=7,
    dropout=0.2,
    normalization=None,
):
    """The network that CDNet and CNet are searched in: stem, six layers of all operators, one head with a balance neck.

    Each operator is a CDBlock with weights of its own, as in the authors' code; unlike the networks that are found it
    has a 1x1 convolution behind the last layer, and no local features.

    Example:

    ```python
    network = dhm_keras.search.supernet("cdnet", normalization=dhm_keras.data.IMAGENET_MEAN_STD)
    network.count_params()  # 19,526,735; of "cnet" 7,811,471
    ```

    Args:
        space: `"cdnet"`, 12 operators a layer, or `"cnet"`, 6: see `models.genotypes.SPACES`. Defaults to `"cdnet"`.
        num_classes: Integer, the number of persons to train on. Defaults to `751`, Market-1501's.
        input_shape, width, stem, dropout, normalization: As in `models.cdnet`.

    Returns:
        `Supernet`.

    Raises:
        ValueError: if an argument is out of range, or Keras's dtype policy is not float32.
    """
    check_choice(space=(space, tuple(SPACES)), stem=(stem, (7, 3)))
    if keras.config.dtype_policy().name != "float32":
        raise ValueError(
            "A search computes in float32. Set keras.config.set_dtype_policy('float32'). Received: the policy "
            f"{keras.config.dtype_policy().name!r}."
        )
    stem_width, *widths = scaled(width)
    build = CDNet(None, "blneck", "reid", dropout, stem_width, stem, False)
    _validate(num_classes, input_shape, normalization, build.divisor)
    parts, shape = [], tuple(input_shape)
    for functions in _functions(build, widths, SPACES[space], num_classes, normalization):
        models = tuple(_model(name, shape, function) for name, function in functions.items())
        parts.append(models if len(models) > 1 else models[0])
        shape = getattr(models[0].output, "shape", (None,))[1:]
    return Supernet(parts, SPACES[space])


def _functions(build, widths, operators, num_classes, normalization):
    """For each part a dict from a model's name to a function of symbolic tensors; of a searched layer several."""
    yield {"stem": lambda x: build.stem(build.normalize(x, normalization))}
    for stage, width in enumerate(widths, start=1):
        for name in (f"stage{stage}_layer1", f"stage{stage}_layer2"):
            names = {f"{name}_{'_'.join(map(str, operator))}": operator for operator in operators}
            yield {
                name: functools.partial(build.cd_block, width=width, layer=operator, name=name)
                for name, operator in names.items()
            }
        if stage < len(widths):
            yield {f"transition{stage}": functools.partial(build.transition, name=f"transition{stage}")}
    deepest = lambda x: build.bn_relu(build.conv(x, widths[-1], "conv5", size=1), "bn5")
    yield {"head": lambda x: bl_neck(deepest(x), num_classes, dropout=build.dropout)}


def _model(name, shape, function):
    x = keras.Input(shape)
    return Network(x, function(x), name=name)
