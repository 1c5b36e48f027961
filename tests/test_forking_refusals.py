"""What `fork` refuses, and how it says so."""

import cnns
import keras
import pytest
from keras import layers

import dhm_keras as dhm
from dhm_keras import Branch


def refused(message, model, *args, **kwargs):
    with pytest.raises(ValueError, match=message):
        dhm.fork(model, *args, **kwargs)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def test_models_that_cannot_be_forked_are_told_why():
    refused("functional Keras model", Subclassed())
    refused("functional Keras model", keras.Sequential([layers.Dense(3)]))
    refused("functional Keras model", "resnet50")
    images = [keras.Input((16, 16, 3)) for _ in range(2)]
    refused("one input", cnns.pooled(images, layers.Add()(images)))
    refused("one input", keras.Model(image := keras.Input((16,)), layers.Dense(3)(image)))
    refused(r"one output.*\['main', 'aux1', 'aux2'\]", dhm.fork(cnns.plain()))
    refused("no stages", keras.Model(image := keras.Input((4, 4, 3)), {"features": layers.Conv2D(3, 3)(image)}))
    refused("one output", keras.Model(image := keras.Input((4, 4, 3)), [layers.ReLU()(image), layers.Flatten()(image)]))
    image = keras.Input((3, 16, 16))
    x = layers.Conv2D(4, 3, data_format="channels_first", name="turned")(image)
    refused("channels last.*'turned'", keras.Model(image, x))
    image = keras.Input((16, 16, 3))
    refused("no stages", cnns.pooled(image, cnns.conv_bn(cnns.conv_bn(image, 4), 4)))
    refused("num_classes`. Expected an integer >= 2", cnns.body(cnns.plain()))
    refused("num_classes`. Expected an integer >= 2", cnns.plain(1, "sigmoid"))
    refused("at least two classes", cnns.plain(1))
    refused("num_classes`. Expected 3", cnns.plain(), num_classes=5)


def test_branches_that_cannot_be_made_are_told_why():
    model = cnns.residual(blocks=3)
    refused("has 3 stages, so 0 to 2 branches", model, 3)
    refused(r"integer or a list of `dhm_keras\.Branch", model, ["aux1"])
    refused("stage from 1 to 2", model, [Branch(3)])
    refused("Did you mean 'stage1_block3_out'", model, [Branch("stage1_block3_ou")])
    refused("everything passes through. It lies within", model, [Branch(model.layers[5].name)])
    refused("convolution behind it. Nearest: 'stage2_block3_out'", model, [Branch("stage3_block3_out")])
    refused("2 values of `depth`", model, [Branch(1, depth=(2,))])
    refused("1 to 3 blocks in stage 2", model, [Branch(1, depth=(4, 1))])
    for wrong in ({"tap": 1.0}, {"depth": 0.0}, {"depth": 1}, {"depth": (1.5,)}, {"width": 0}, {"width": "wide"}):
        with pytest.raises(ValueError, match="of a Branch"):
            Branch(**{"tap": 1, **wrong})


def test_what_cannot_be_widened_is_named_with_the_nearest_tap():
    # Behind its first block a stage adds to its input, so its width is given.
    message = (
        "'stage2_block3_add' .Add.*16 and 8 channels.*nearest tap where this width is possible is 'stage2_block3_out'"
    )
    refused(message, cnns.residual(blocks=3), [Branch("stage2_block2_out", width=2)])
    dhm.fork(cnns.residual(blocks=3), [Branch("stage2_block3_out", width=2), Branch("stage2_block2_out")])

    def fixed(x):
        return keras.ops.concatenate([x[..., 1:], x[..., :1]], axis=-1)

    refused("GetItem.*No tap allows this width; width=1.0", cnns.residual(transform=fixed))
    dhm.fork(cnns.residual(transform=fixed), [Branch(2), Branch(1, depth=0.5)])
    refused("Block.*4 channels as before", cnns.of_blocks())  # its width has a name that nobody knows
    refused(
        "2 groups do not divide 3 channels", cnns.residual((4, 8, 6), transform=cnns.grouped), [Branch(2, width=0.5)]
    )


class NoConfig(layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs

    def get_config(self):
        raise NotImplementedError


class HalfAConfig(NoConfig):
    def get_config(self):
        return layers.Layer.get_config(self)


def test_layers_that_cannot_be_copied_are_named():
    refused("'no_config.*has no config", cnns.residual(transform=lambda x: NoConfig(2.0)(x)))
    refused("'half_a_config.*factor", cnns.residual(transform=lambda x: HalfAConfig(2.0)(x)))
