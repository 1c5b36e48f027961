"""The two steps of a search: the weights of the chosen operators learn from one batch, the alphas from another."""

import functools
import math

import keras
import numpy as np
from keras import ops

from dhm_keras import distribute, optimizers
from dhm_keras.objective import cross_entropy, log_softmax, targets
from dhm_keras.reid import batch_hard_triplet
from dhm_keras.search.topk import choose, draw_ties

# What the authors' code trains with.
FIRST_ALPHA = 1e-3
WEIGHTS = {"momentum": 0.9, "weight_decay": 3e-4}  # SGD
ALPHAS = {"beta_1": 0.5, "beta_2": 0.999, "weight_decay": 1e-3}  # Adam
WEIGHT_RATES, ALPHA_RATE, DECAY = (0.025, 1e-4), 3e-4, 0.1
MARGIN = 0.3


def weight_rate(epoch, epochs):
    """Learning rate of the weights in an epoch, from 0: half a cosine from 0.025 to 1e-4."""
    first, last = WEIGHT_RATES
    return last + (first - last) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def alpha_rate(epoch, epochs):
    """Learning rate of the alphas in an epoch, from 0: 3e-4, a tenth after each third of the epochs."""
    return ALPHA_RATE * DECAY ** (3 * epoch // epochs)


class Learner:
    """The weights of a supernet, the alphas, and how both learn.

    Args:
        supernet: `Supernet`.
        k: Integer. Operators of each layer that are computed.
        seed: Integer. Of what is computed first, see `draw_ties`.
    """

    def __init__(self, supernet, k, seed):
        shape = len(supernet.layers), len(supernet.operators)
        self.supernet, self.k, self.ties = supernet, k, draw_ties(*shape, seed)
        self.alphas = keras.Variable(np.full(shape, FIRST_ALPHA, "float32"), name="alphas")
        # Each model has an optimizer of its own, so that a step of what it computes is compiled once, as the model is.
        self.of_weights = {model: optimizers.SGD(**WEIGHTS) for model in supernet.models}
        for model, optimizer in self.of_weights.items():
            optimizer.build(model.trainable_variables)
        self.of_alphas = optimizers.Adam(**ALPHAS)
        self.of_alphas.build([self.alphas])

    @property
    def variables(self):
        """All that the search changes, a list."""
        both = [*self.of_weights.values(), self.of_alphas]
        return [self.alphas, *self.supernet.variables, *(v for optimizer in both for v in optimizer.variables)]

    def begin(self, epoch, epochs):
        """Sets the learning rates of an epoch, from 0."""
        for optimizer in self.of_weights.values():
            optimizer.learning_rate = weight_rate(epoch, epochs)
        self.of_alphas.learning_rate = alpha_rate(epoch, epochs)

    def chosen(self):
        """The operators that are computed now: integers `(layers, k)`."""
        return choose(distribute.to_numpy(self.alphas), self.k, self.ties)

    def best(self):
        """The best operator of each layer, a list of tuples: the genotype."""
        places = choose(distribute.to_numpy(self.alphas), 1, self.ties)[:, 0]
        return [self.supernet.operators[place] for place in places]

    def learn_weights(self, images, labels):
        """A step of the weights.

        Args:
            images: Array `(batch, height, width, channels)`.
            labels: Integers `(batch,)`.

        Returns:
            Dict of floats: `loss`, `ce`, `triplet`, `accuracy`.
        """
        chosen = self.chosen()
        computed = [model for models in self.supernet.chosen_models(chosen) for model in models]
        values = [[variable.value for variable in model.trainable_variables] for model in computed]
        learnt, gradients = self._differentiate(images, labels, chosen, values)
        for model, of_model in zip(computed, gradients, strict=True):
            self._updates[model](of_model)
        return learnt

    def learn_alphas(self, images, labels):
        """A step of the alphas, of the first order: the weights are taken as they are; as `learn_weights`."""
        learnt, gradients = self._differentiate(images, labels, self.chosen(), [self.alphas.value])
        self.of_alphas.apply(gradients, [self.alphas])
        return learnt

    def _differentiate(self, images, labels, chosen, values):
        """The terms of the loss as floats, and its gradients by the values, lists of tensors as these."""
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            outputs = self.supernet(images, ops.convert_to_tensor(self.alphas), chosen)
            learnt = self._terms(outputs["main"], outputs["main_features"], ops.convert_to_tensor(labels, "int32"))
        gradients = tape.gradient(learnt["loss"], values)
        return {name: float(term) for name, term in learnt.items()}, gradients

    @functools.cached_property
    def _updates(self):
        """Dict from the models to compiled functions that take a step by gradients."""
        import tensorflow as tf

        # Partials, not closures of one function: TensorFlow would warn that it is traced again and again.
        steps = {model: functools.partial(_step, model, optimizer) for model, optimizer in self.of_weights.items()}
        return {model: tf.function(step, jit_compile=False, autograph=False) for model, step in steps.items()}

    @functools.cached_property
    def _terms(self):
        import tensorflow as tf

        return tf.function(terms, reduce_retracing=True, jit_compile=False, autograph=False)


def _step(model, optimizer, gradients):
    optimizer.apply(gradients, model.trainable_variables)


def terms(logits, features, labels):
    """The loss of a batch, cross-entropy and batch-hard triplet loss added up, and what it is made of.

    Args:
        logits: Tensor `(batch, classes)`.
        features: Tensor `(batch, d)`.
        labels: Integers `(batch,)`.

    Returns:
        Dict of scalar tensors: `loss`, `ce`, `triplet`, `accuracy`.
    """
    ce = ops.mean(cross_entropy(log_softmax(logits), targets(labels, logits.shape[-1])))
    triplet = ops.mean(batch_hard_triplet(labels, features, MARGIN))
    hits = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
    return {"loss": ce + triplet, "ce": ce, "triplet": triplet, "accuracy": ops.mean(ops.cast(hits, "float32"))}
