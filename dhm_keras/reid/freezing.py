"""The first epochs of a training that starts from a pretrained backbone: new layers alone."""

import contextlib

import keras

from dhm_keras.export.heads import penultimate
from dhm_keras.network import Network


@contextlib.contextmanager
def new_layers_only(network):
    """Within, all that leads to main's classifier is frozen: the classifiers and the branches train alone.

    The layers with pretrained weights keep them, and their batch statistics, until the new ones no longer send them
    random gradients: DHM trains so for 10 epochs before the 60 of its re-identification experiments. BatchNormalization
    of a frozen layer computes as in inference; dropout goes on. The normalization of a `bn_neck` is new, and trains.
    Layers that are not on the way to main's classifier stay as they are. Afterwards all are as before, also after an
    exception.

    Keras looks at what is frozen when a model is compiled: compile within, and again afterwards. That starts the
    optimizer anew, as the authors' did. With `callbacks.Resume` give each of both trainings a folder of its own.

    Example:

    ```python
    network = dhm_keras.models.resnet50(num_classes=751, input_shape=(256, 128, 3), normalization=IMAGENET_MEAN_STD)
    dhm_keras.interop.load_torch(network, "resnet50-11ad3fa6.pth", heads=("main",), classifier=False)
    model = dhm_keras.DHM(network)
    with dhm_keras.reid.new_layers_only(model):
        model.compile(dhm_keras.optimizers.Adam(3e-4, amsgrad=True, weight_decay=5e-4))
        model.fit(train, epochs=10)
    model.compile(dhm_keras.optimizers.Adam(3e-4, amsgrad=True, weight_decay=5e-4))
    model.fit(train, epochs=60)
    ```

    Args:
        network: Network of `dhm_keras.models` or `fork`, or another functional model whose output is logits, or a dict
            with logits `"main"`; or the `DHM` that trains one.

    Yields:
        Nothing.

    Raises:
        ValueError: if the network is not as above, or its main head does not end in a Dense layer.
    """
    network, features = penultimate(network, "main")
    frozen = list(Network(network.input, features).layers)
    if isinstance(frozen[-1], keras.layers.BatchNormalization) and len(frozen[-1].input.shape) == 2:
        frozen.pop()  # a neck
    # A private name of Keras: the layers within a layer, the outer ones first; setting one sets those within it.
    layers = [(each, each.trainable) for layer in frozen for each in layer._flatten_layers()]
    variables = [(variable, variable.trainable) for layer in frozen for variable in layer.variables]
    try:
        for layer in frozen:
            layer.trainable = False
        yield
    finally:
        for each, before in [*layers, *variables]:
            each.trainable = before
