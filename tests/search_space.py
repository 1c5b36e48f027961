"""A tiny space to be searched, and batches for it, that the tests share."""

import keras
import numpy as np
from keras import layers

import dhm_keras as dhm

OPERATORS = ((3, 5, 1), (3, 7, 1), (5, 7, 2))


def model(name, shape, function):
    x = keras.Input(shape)
    return keras.Model(x, function(x), name=name)


def operator(x):
    x = layers.Conv2D(4, 1, use_bias=False)(x)
    return layers.ReLU()(dhm.layers.BatchNormalization()(x))


def head(x):
    pooled = layers.GlobalAveragePooling2D()(x)
    features = layers.Dropout(0.2)(pooled)
    return {"main": layers.Dense(3)(features), "main_features": features, "embedding": pooled}


def toy(num_layers=6):
    """A supernet of `num_layers` layers of three operators, all 1x1 convolutions."""
    parts = [model("stem", (8, 8, 3), lambda x: layers.Conv2D(4, 3, strides=2)(layers.Rescaling(1 / 255)(x)))]
    for layer in range(1, num_layers + 1):
        parts.append(tuple(model(f"layer{layer}_{i}", (3, 3, 4), operator) for i in range(len(OPERATORS))))
    return dhm.search.Supernet([*parts, model("head", (3, 3, 4), head)], OPERATORS)


class Batches:
    """Endless batches of three persons, each with its colour; functions of the seed and the step."""

    steps_per_epoch = 3

    def __init__(self, seed):
        self.settings = {"seed": seed}

    def __getitem__(self, index):
        rng = np.random.default_rng([self.settings["seed"], index])
        labels = np.repeat(np.arange(3), 4)
        images = 60 + 60 * np.eye(3)[labels][:, None, None] + rng.normal(0, 20, (12, 8, 8, 3))
        return images.clip(0, 255).astype("uint8"), labels
