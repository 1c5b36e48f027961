"""A small network for attributes, and small drawn sets, that the tests share."""

import keras

import dhm_keras as dhm
from dhm_keras import attributes


def drawn(folder, **numbers):
    """The `AttributeSet` of a small drawn set."""
    numbers = {"train": 26, "val": 8, "test": 6, "size": (32, 16), **numbers}
    return attributes.attribute_folder(attributes.synthetic_attributes(folder, **numbers))


def network(count, size=(32, 16), width=8):
    """Four convolutions from raw images to logits."""
    x = image = keras.Input((*size, 3))
    x = keras.layers.Rescaling(1 / 64, -2)(x)
    for number, widths in enumerate((1, 2, 4, 4)):
        arguments = {"strides": 2 if number else 1, "padding": "same", "use_bias": False, "name": f"conv{number}"}
        x = keras.layers.Conv2D(widths * width, 3, **arguments)(x)
        x = keras.layers.ReLU()(dhm.layers.BatchNormalization(name=f"bn{number}")(x))
    return keras.Model(image, keras.layers.Dense(count, name="logits")(keras.layers.Flatten()(x)), name="small")
