"""Small CNNs as users write them, for the tests of `fork`."""

import keras
from keras import layers


def conv_bn(x, filters, size=3, strides=1, activation="relu", **kwargs):
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False, **kwargs)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def pooled(image, x, classes=3, activation=None, name=None):
    return keras.Model(
        image, layers.Dense(classes, activation=activation)(layers.GlobalAveragePooling2D()(x)), name=name
    )


def plain(classes=3, activation=None, size=16):
    """Three stages of two convolutions, pools between them."""
    image = x = keras.Input((size, size, 3), name="photo")
    for width in (4, 8, 12):
        if width > 4:
            x = layers.MaxPooling2D(name=f"pool{width}")(x)
        for index in (1, 2):
            x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{width}_{index}")(x)
    return pooled(image, x, classes, activation)


def residual(widths=(4, 8, 12), blocks=2, transform=None, **kwargs):
    """Basic blocks with projections; `transform` comes last on a block's path."""
    image = x = keras.Input((16, 16, 3))
    for stage, width in enumerate(widths, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            shortcut = conv_bn(x, width, 1, strides, None) if x.shape[-1] != width else x
            y = conv_bn(conv_bn(x, width, 3, strides, **kwargs), width, activation=None, **kwargs)
            y = transform(y) if transform else y
            x = layers.Add(name=f"stage{stage}_block{block}_add")([y, shortcut])
            x = layers.ReLU(name=f"stage{stage}_block{block}_out")(x)
    return pooled(image, x)


def squeeze_excitation(x):
    """Dense layers on the pooled channels, as in the paper of SENet."""
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(max(1, channels // 4), activation="relu")(gate)
    gate = layers.Reshape((1, 1, channels))(layers.Dense(channels, activation="sigmoid")(gate))
    return layers.Multiply()([x, gate])


def grouped(x):
    return layers.Conv2D(x.shape[-1], 3, padding="same", groups=2)(x)


def depthwise_by_groups(x):
    return layers.Conv2D(x.shape[-1], 3, padding="same", groups=x.shape[-1])(x)


@keras.saving.register_keras_serializable(package="tests")
class LayerScale(layers.Layer):
    """ConvNeXt's: a factor for each channel, whose number its config has."""

    def __init__(self, projection_dim, **kwargs):
        super().__init__(**kwargs)
        self.projection_dim = projection_dim

    def build(self, input_shape):
        self.gamma = self.add_weight(shape=(self.projection_dim,), initializer="ones", name="gamma")

    def call(self, inputs):
        return inputs * self.gamma

    def get_config(self):
        return {**super().get_config(), "projection_dim": self.projection_dim}


def layer_scale(x):
    return LayerScale(x.shape[-1])(x)


def swish_by_operations(x):
    return x * keras.ops.sigmoid(x)


def gates(x):
    """Attention to positions: from the mean over the channels, and from a convolution to one channel."""
    x = x * keras.ops.sigmoid(keras.ops.mean(x, axis=-1, keepdims=True))
    return layers.Multiply()([x, layers.Conv2D(1, 1, activation="sigmoid")(x)])


def others(x):
    """Layers whose configs and weights are unlike a convolution's."""
    x = layers.PReLU(shared_axes=(1, 2))(layers.GroupNormalization(2)(x))
    return layers.SpatialDropout2D(0.1)(layers.SpectralNormalization(layers.Conv2D(x.shape[-1], 1))(x))


def efficient_channel_attention(x):
    """A convolution over the channels."""
    channels = x.shape[-1]
    gate = layers.Reshape((channels, 1))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv1D(1, 3, padding="same", activation="sigmoid")(gate)
    return layers.Multiply()([x, keras.ops.reshape(gate, (-1, 1, 1, channels))])


def shuffle(x):
    """ShuffleNet's: another shape than an image's between two reshapes."""
    height, width, channels = x.shape[1:]
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((height, width, 2, channels // 2))(x))
    return layers.Reshape((height, width, channels))(x)


def stochastic(x):
    return layers.Dropout(0.1, noise_shape=(None, 1, 1, 1))(x)


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """A residual block as one layer, with a name of its own for its width."""

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.conv1 = layers.Conv2D(dim, 3, padding="same", activation="relu")
        self.conv2 = layers.Conv2D(dim, 3, padding="same")

    def build(self, input_shape):
        self.conv1.build(input_shape)
        self.conv2.build((*input_shape[:-1], self.dim))

    def call(self, inputs):
        return self.conv2(self.conv1(inputs)) + inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "dim": self.dim}


def of_blocks(widths=(4, 4, 4), first=lambda width: layers.MaxPooling2D()):
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(widths[0], 3, padding="same")(image)
    for width in widths:
        x = Block(width)(Block(width)(first(width)(x)))
    return pooled(image, x)


def transfer(backbone, trainable=False, classes=3):
    """The usual model for transfer learning: a backbone within, its statistics frozen."""
    backbone.trainable = trainable
    image = keras.Input(backbone.inputs[0].shape[1:])
    x = keras.Sequential([layers.RandomFlip(seed=1), layers.Rescaling(1 / 255)], name="preprocessing")(image)
    x = layers.GlobalAveragePooling2D()(backbone(x, training=False))
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="classes")(layers.Dropout(0.2)(x)))


def body(model):
    """A model without its pool and classifier."""
    pool = next(layer for layer in model.layers if isinstance(layer, layers.GlobalAveragePooling2D))
    return keras.Model(model.inputs[0], pool.input, name="backbone")
