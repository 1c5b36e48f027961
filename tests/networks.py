"""Small networks and data that the tests share."""

import contextlib
import json
import math
import pathlib
import re
import socket

import keras
import numpy as np

import dhm_keras as dhm
from dhm_keras.models import Branch, cifar_resnet, densenet, wide_resnet

RAW = ((0.5,) * 3, (0.25,) * 3)  # a normalization of raw images
RESNET8 = {"aux1": Branch(2, (1,), (128,)), "aux2": Branch(1, (1, 1), (32, 64))}


def resnet8(branches=RESNET8, num_classes=10, input_shape=(32, 32, 3), **kwargs):
    return cifar_resnet(1, num_classes, branches, input_shape, **kwargs)


def densenet10(**kwargs):
    """The golden DenseNet: two layers a stage, growth rate 8."""
    return densenet(2, 8, 10, {"aux1": Branch(2, (2,), (24,)), "aux2": Branch(1, (2, 1), (8, 8))}, **kwargs)


def densenet_bc16():
    return densenet10(bottleneck=True, compression=0.5)


def wrn10(**kwargs):
    """The golden wide ResNet: one block a stage, k = 1."""
    branches = {"aux1": Branch(2, (1,), (128,)), "aux2": Branch(1, (1, 1), (32, 64))}
    return wide_resnet(1, 1, 10, branches, **kwargs)


def counts(network):
    """Trainable parameters of each head, of main all that it is made of."""
    of = dict.fromkeys(network.output, 0)
    for variable in network.trainable_variables:
        of[head_of(variable.path)] += math.prod(variable.shape)
    return of


def multiply_adds(network):
    """Multiplications of each head's convolutions and classifier for one image, of main all that it needs."""
    of = dict.fromkeys(network.output, 0)
    for layer in network.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)):
            of[head_of(layer.name)] += math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    return of


def head_of(name):
    """The head that a layer, or variable, belongs to by its name."""
    found = re.match(r"aux\d+", name)
    return found[0] if found else "main"


def state_dicts_of_the_release():
    """`{network: {name: shape}}` of the authors' release."""
    return json.loads((pathlib.Path(__file__).parent / "golden" / "state_dict_keys.json").read_text())


def assert_names_of_the_release(network, name):
    """Asserts that names, shapes and order in PyTorch are those of a network of the release."""
    state = dhm.interop.to_torch(network)
    shapes = [(name, list(array.shape)) for name, array in state.items()]
    assert shapes == list(state_dicts_of_the_release()[name].items())


def multiply_adds_of_the_release():
    """`{network: {head: multiply-adds}}` of the authors' release."""
    return json.loads((pathlib.Path(__file__).parent / "golden" / "macs.json").read_text())


def tiny(
    num_classes=3,
    names=("main", "aux1", "aux2"),
    regularizer=None,
    synchronized=False,
    dropout=0.0,
    head_dtype="float32",
):
    """Three convolutions with a head after each: builds and traces in a moment."""
    image = x = keras.Input((8, 8, 3))
    logits = {}
    for depth, name in enumerate(reversed(names)):
        x = keras.layers.Conv2D(4, 3, use_bias=False, name=f"stem{depth}")(x)
        x = keras.layers.ReLU()(dhm.layers.BatchNormalization(synchronized=synchronized, name=f"stem{depth}_bn")(x))
        y = x
        if name != "main":
            y = keras.layers.Conv2D(4, 1, name=f"{name}_conv", kernel_regularizer=regularizer)(y)
            y = dhm.layers.BatchNormalization(synchronized=synchronized, name=f"{name}_bn")(y)
        y = keras.layers.GlobalAveragePooling2D(name=f"{name}_pool")(y)
        if dropout:
            y = keras.layers.Dropout(dropout, seed=depth, name=f"{name}_dropout")(y)
        logits[name] = keras.layers.Dense(num_classes, name=name, dtype=head_dtype)(y)
    return dhm.network.Network(image, logits, name="tiny")


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Ends the training after so many steps of this start, as a kill would: nothing more is saved."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= bool(logs)
        if not self.steps:
            self.act()

    def act(self):
        raise Killed


def batch(n=16, num_classes=3, shape=(8, 8, 3), seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *shape)).astype("float32"), rng.integers(0, num_classes, n)


def inferred(network, images):
    """What `predict` gives, an array or a dict; on TensorFlow without a graph, which takes longer to trace."""
    if keras.backend.backend() != "tensorflow":
        return network.predict(images, verbose=0)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, network(images, training=False))


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def sgd(learning_rate=0.1):
    return dhm.optimizers.SGD(learning_rate, momentum=0.9, weight_decay=1e-3)


def values(variables):
    return {variable.path: np.asarray(keras.ops.convert_to_numpy(variable.value)) for variable in variables}


def with_other_weights(network):
    """The network, each of its numbers another one; what its first layer normalises with stays."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if not isinstance(layer, keras.layers.Normalization):
            layer.set_weights([rng.uniform(0.5, 1, weight.shape) for weight in layer.get_weights()])
    return network


def assert_same(arrays, others):
    """Asserts that two dicts of arrays have the same names in the same order, and the same numbers."""
    assert list(arrays) == list(others)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
