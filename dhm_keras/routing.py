"""Which part of a network a training step computes."""

import contextlib
import contextvars
import functools

import keras

from dhm_keras.network import Network, head_of


class Routing:
    """Which part of a network a training step computes, and the train function made for it.

    A plain object, so that Keras tracks neither the sub-networks, which share the network's layers, nor the functions.

    Args:
        network: Functional model with a dict of outputs, see `network.head_of`.
        heads: All its heads, the deepest first.
        pairs: All the objective's (teacher, student) pairs.
    """

    def __init__(self, network, heads, pairs):
        self.network, self.heads, self.pairs = network, heads, pairs  # heads and pairs: the active ones
        self.source = None  # or `data.TrainBatches.source`: the images on the device that a step cuts its batch from
        self.functions = {}  # (heads, pairs, source) -> train function
        self._within_step = contextvars.ContextVar("within_step", default=False)  # a replica's thread has its own
        self._parts = {heads: network}
        self._model = Network if isinstance(network, Network) else keras.Model  # a part is of the network's own kind

    def part(self, heads):
        """The network cut down to `heads`, sharing layers and weights; made once."""
        if heads not in self._parts:
            outputs = self.network.output
            outputs = {name: tensor for name, tensor in outputs.items() if head_of(name, outputs) in heads}
            self._parts[heads] = self._model(self.network.input, outputs, name="_".join((self.network.name, *heads)))
        return self._parts[heads]

    @property
    def key(self):
        """What a train function is made for: it keeps the part, and the images, that it was traced with."""
        return self.heads, self.pairs, self.source

    def take_from(self, source):
        """Sets `source`, and lets go of the functions that hold another one's images."""
        self.source = source
        self.functions = {key: function for key, function in self.functions.items() if key[-1] in (None, source)}

    @functools.cached_property
    def main(self):
        """The backbone with its own classifier, from images to logits; of a network with an embedding to that."""
        outputs = self.network.output
        return self._model(
            self.network.input, outputs.get("embedding", outputs["main"]), name=f"{self.network.name}_main"
        )

    @property
    def current(self):
        """The part that a forward pass goes through now: the active heads within a training step, else all heads."""
        return self.part(self.heads) if self.is_within_step else self.network

    @property
    def is_within_step(self):
        """Whether the caller is inside `step`."""
        return self._within_step.get()

    @contextlib.contextmanager
    def step(self):
        """Within, `current` is the part that leads to the active heads."""
        token = self._within_step.set(True)
        try:
            yield
        finally:
            self._within_step.reset(token)
