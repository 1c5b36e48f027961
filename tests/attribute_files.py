"""A small network for attributes, and small drawn sets, that the tests share."""

import keras

import dhm_keras as dhm
from dhm_keras import attributes


def drawn(folder, **numbers):
    """The `AttributeSet` of a small drawn set."""
    numbers = {"train": 26, "val": 8, "test": 6, "size": (32, 16), **numbers}
    return attributes.attribute_folder(attributes.synthetic_attributes(folder, **numbers))


def network(count, size=(32, 16), width=8):
    """Three convolutions from raw images to logits."""
    x = image = keras.Input((*size, 3))
    x = keras.layers.Rescaling(1 / 64, -2)(x)
    for number in range(3):
        stride = 2 if number else 1
        x = keras.layers.Conv2D(
            width << number, 3, strides=stride, padding="same", use_bias=False, name=f"conv{number}"
        )(x)
        x = keras.layers.ReLU()(dhm.layers.BatchNormalization(name=f"bn{number}")(x))
    x = keras.layers.GlobalMaxPooling2D()(x)
    return keras.Model(image, keras.layers.Dense(count, name="logits")(x), name="small")
