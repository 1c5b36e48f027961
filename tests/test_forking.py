"""`fork`: the tables by hand again, main to the bit, every kind of layer, what is refused and how it is said."""

import functools
import math
import re
from collections import Counter

import cnns
import keras
import numpy as np
import pytest
from keras import layers
from networks import densenet10, sgd, values, wrn10

import dhm_keras as dhm
from dhm_keras import Branch

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype("float32")
LABELS = np.array([0, 1, 2, 0])


def counts(network):
    """Trainable parameters of each head's own, main's trunk among main's."""
    sizes = dict.fromkeys(network.output, 0)
    for variable in network.trainable_variables:
        head = variable.path.split("/")[0].split("_")[0]
        sizes[head if head in sizes else "main"] += math.prod(variable.shape)
    return sizes


def outputs(model, images=IMAGES):
    return keras.ops.convert_to_numpy(model(images, training=False))


def logits(network, images=IMAGES):
    return {head: keras.ops.convert_to_numpy(z) for head, z in network(images, training=False).items()}


def trained(network, steps=1, **compile_arguments):
    model = dhm.DHM(network)
    model.compile(sgd(0.01), run_eagerly=keras.backend.backend() == "tensorflow", **compile_arguments)
    model.fit(np.tile(IMAGES, (steps, 1, 1, 1)), np.tile(LABELS, steps), batch_size=4, shuffle=False, verbose=0)
    return model


def tables():
    """A function that builds a network of the library, with branches and without, and its branches for `fork`."""
    for name, of_aux2, of_aux1 in (
        ("resnet20", {"depth": (3, 2)}, {"width": 2}),
        ("resnet32", {"depth": (5, 3)}, {"depth": (5,), "width": 2}),
        ("resnet110", {"depth": 0.5}, {"width": 2.0}),
        ("densenet40", {"depth": (12, 6)}, {"width": 3}),
        ("wrn16_8", {"depth": (2, 1)}, {"width": 2}),
    ):
        slow = [pytest.mark.slow] if name in ("resnet110", "densenet40", "wrn16_8") else []
        yield pytest.param(
            functools.partial(dhm.models.get, name), [Branch(1, **of_aux2), Branch(2, **of_aux1)], id=name, marks=slow
        )
    yield pytest.param(densenet10, [Branch(1, depth=(2, 1)), Branch(2, width=3)], id="densenet10")
    yield pytest.param(wrn10, [Branch(1), Branch(2, width=2)], id="wrn10")


@pytest.mark.parametrize("build, branches", tables())
def test_the_tables_by_hand_again(build, branches):
    by_hand = build()
    main = dhm.DHM(by_hand).main
    forked = dhm.fork(main, branches)
    assert counts(forked) == counts(by_hand)
    assert list(forked.output) == list(by_hand.output)
    own = {variable.path: variable for variable in by_hand.variables}
    for variable in forked.variables:  # `aux1_main_bn/gamma` is the copy of `main_bn/gamma`, by hand `aux1_bn/gamma`
        layer, name = re.sub(r"(aux\d)_main", r"\1", variable.path).rsplit("/", 1)
        variable.assign(own[f"{layer}/{name}"])
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
    for head, expected in logits(by_hand, images).items():
        np.testing.assert_allclose(logits(forked, images)[head], expected, rtol=1e-5, atol=1e-5)


def test_resnet50_is_forked_as_in_the_paper():
    model = keras.applications.ResNet50(weights=None)
    assert [(stage.resolution[0], stage.channels, stage.blocks) for stage in dhm.forking.stages(model)] == [
        (112, 64, 1),
        (56, 256, 3),
        (28, 512, 4),
        (14, 1024, 6),
        (7, 2048, 3),
    ]
    network = dhm.fork(model)
    blocks = Counter(layer.name.split("_block")[0] for layer in network.layers if layer.name.endswith("_add"))
    assert [blocks[f"aux1_conv{stage}"] for stage in (4, 5)] == [0, 3]
    assert [blocks[f"aux2_conv{stage}"] for stage in (3, 4, 5)] == [0, 3, 2]
    assert network.get_layer("aux1_predictions").kernel.shape == (4096, 1000)


KINDS = {
    "basic blocks": None,
    "squeeze-excitation": cnns.squeeze_excitation,
    "grouped convolution": cnns.grouped,
    "depthwise by groups": cnns.depthwise_by_groups,
    "layer scale": cnns.layer_scale,
    "operations": cnns.swish_by_operations,
    "efficient channel attention": cnns.efficient_channel_attention,
    "channel shuffle": cnns.shuffle,
    "stochastic depth": cnns.stochastic,
    "gates": cnns.gates,
    "others": cnns.others,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer(kind):
    model = cnns.residual(transform=KINDS[kind])
    before = model.get_weights()
    network = dhm.fork(model)
    np.testing.assert_array_equal(logits(network)["main"], outputs(model))
    for here, there in zip(model.get_weights(), before):  # the model is left as it was
        np.testing.assert_array_equal(here, there)
    wide, short = (network.get_layer(f"{head}_{model.layers[-1].name}") for head in ("aux1", "aux2"))
    assert (wide.kernel.shape, short.kernel.shape) == ((24, 3), (12, 3))
    narrow = dhm.fork(model, [Branch(2, width=0.5)])
    assert narrow.get_layer(f"aux1_{model.layers[-1].name}").kernel.shape == (6, 3)


def test_a_softmax_is_passed_over():
    for model in (cnns.plain(activation="softmax"), _with_softmax_layer()):
        network = dhm.fork(model)
        of_main = logits(network)["main"]
        assert abs(of_main.sum(-1) - 1).max() > 0.1
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.ops.softmax(of_main)), outputs(model))
    np.testing.assert_array_equal(logits(dhm.fork(cnns.plain(), 0))["main"].shape, (4, 3))


def _with_softmax_layer():
    model = cnns.plain()
    return keras.Model(model.inputs[0], layers.Softmax()(model.outputs[0]))


def test_a_convolution_as_classifier():
    """As in SqueezeNet: convolution to the classes, ReLU, pool, softmax."""
    body = cnns.body(cnns.residual())
    x = layers.ReLU()(layers.Conv2D(3, 1, name="classes")(body.outputs[0]))
    model = keras.Model(body.inputs[0], layers.Softmax()(layers.GlobalAveragePooling2D()(x)))
    network = dhm.fork(model)
    probabilities = keras.ops.softmax(logits(network)["main"])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(probabilities), outputs(model))
    assert network.get_layer("aux1_classes").kernel.shape == (1, 1, 24, 3)


def test_features_get_a_classifier_for_each_head():
    for model in (cnns.body(cnns.residual()), keras.Model(*_pooled_features())):
        network = dhm.fork(model, num_classes=7)
        assert {head: z.shape for head, z in network.output.items()} == dict.fromkeys(
            ["main", "aux1", "aux2"], (None, 7)
        )
        features = keras.Model(network.inputs[0], network.get_layer("main").input)
        pooled = outputs(model)
        pooled = pooled.mean((1, 2)) if pooled.ndim == 4 else pooled
        np.testing.assert_allclose(outputs(features), pooled, rtol=1e-6)
        assert network.get_layer("aux1").kernel.shape == (24, 7)


def _pooled_features():
    model = cnns.residual()
    return model.inputs[0], model.layers[-1].input


@pytest.mark.parametrize("size", [8, 16])
def test_a_flattening_classifier_is_mains_alone(size):
    image = x = keras.Input((size, size, 3))  # 1x1 or 2x2 at the end
    for width in (4, 8, 12):
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, padding="same")(x))
    x = layers.Dense(20, activation="relu")(layers.Flatten()(x))
    network = dhm.fork(keras.Model(image, layers.Dense(3, name="classes")(x)))
    assert network.get_layer("aux1_classes").kernel.shape == (24, 3)
    assert isinstance(network.get_layer("aux1_pool"), layers.GlobalAveragePooling2D)


def test_a_nested_frozen_backbone():
    backbone = cnns.body(cnns.residual())
    model = cnns.transfer(backbone)
    for variable in backbone.non_trainable_variables:  # statistics as of a pretrained model
        if "moving" in variable.path:
            variable.assign(0.9 * variable + keras.random.uniform(variable.shape, 0, 0.1, seed=0))
    network = dhm.fork(model)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(keras.ops.softmax(logits(network)["main"])), outputs(model)
    )
    assert not any(isinstance(layer, keras.Model) for layer in network.layers)  # its taps are within
    before = values(network.variables)
    trained(network)
    moved = {path for path, value in values(network.variables).items() if (value != before[path]).any()}
    of_main = {path for path in moved if not path.startswith("aux") and "seed" not in path}
    assert of_main == {"classes/kernel", "classes/bias"}  # frozen weights, statistics of inference
    of_branches = {path for path in before if path.startswith("aux") and "seed" not in path}
    assert of_branches - moved == set()  # all their own train, statistics too


def test_nested_models_with_the_same_names():
    def part(width):
        x = image = keras.Input((None, None, 3 if width == 4 else 4))
        x = layers.Conv2D(width, 3, padding="same", name="conv")(x)
        return keras.Model(image, layers.MaxPooling2D(name="pool")(x), name=f"part{width}")

    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, name="conv_last")(part(8)(part(4)(image)))
    model = cnns.pooled(image, x)
    network = dhm.fork(model)
    np.testing.assert_array_equal(logits(network)["main"], outputs(model))
    assert {"conv", "part8_conv", "pool", "part8_pool", "aux1_conv_last", "aux2_part8_conv"} <= {
        layer.name for layer in network.layers
    }


def test_names_that_the_heads_take():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, name="aux1_conv")(layers.Conv2D(4, 3, name="main")(image))
    x = layers.Conv2D(4, 3, name="conv")(layers.MaxPooling2D()(x))
    network = dhm.fork(keras.Model(image, x), 1, num_classes=3)
    assert {"model_main", "model_aux1_conv", "main", "aux1_conv", "aux1"} <= {layer.name for layer in network.layers}


def test_another_shape_in_between_is_part_of_a_stage():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(cnns.conv_bn(image, 4))
    x = layers.Reshape((64, 4))(x)
    x = layers.Reshape((8, 8, 4))(layers.MultiHeadAttention(2, 4)(x, x))
    model = cnns.pooled(image, cnns.conv_bn(cnns.shuffle(x), 8, strides=2))
    assert [(stage.resolution[0], stage.channels) for stage in dhm.forking.stages(model)] == [(16, 4), (8, 4), (4, 8)]
    network = dhm.fork(model, [Branch(1)])
    np.testing.assert_array_equal(logits(network)["main"], outputs(model))
    kinds = [type(layer).__name__ for layer in network.layers if layer.name.startswith("aux1")]
    assert "MultiHeadAttention" in kinds and kinds.count("Conv2D") == 2


def test_blocks_that_are_layers():
    stages = dhm.forking.stages(cnns.of_blocks())
    assert [stage.blocks for stage in stages] == [1, 2, 2, 2]
    network = dhm.fork(cnns.of_blocks(), [Branch(2, depth=0.5)])
    assert sum(type(layer).__name__ == "Block" for layer in network.layers) == 8  # six of main's, one a stage


def test_parts_of_a_layer_stay_frozen():
    model = cnns.of_blocks()
    block = next(layer for layer in model.layers if isinstance(layer, cnns.Block))
    block.conv1.trainable = False
    network = dhm.fork(model, 0)
    assert len(network.trainable_variables) == len(model.trainable_variables) == len(model.variables) - 2


def test_an_activation_with_the_name_of_anothers():
    def gelu(x):
        return x * keras.ops.sigmoid(1.702 * x)

    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, activation=gelu)(layers.MaxPooling2D()(layers.Conv2D(4, 3, activation=gelu)(image)))
    model = cnns.pooled(image, x)
    np.testing.assert_array_equal(logits(dhm.fork(model, 1))["main"], outputs(model))


def test_a_shared_layer_stays_shared():
    image = x = keras.Input((16, 16, 3))
    x = layers.MaxPooling2D()(layers.Conv2D(4, 3, padding="same")(x))
    twice = layers.Conv2D(4, 3, padding="same", name="twice")
    x = layers.Conv2D(6, 3, padding="same")(layers.MaxPooling2D()(twice(twice(x))))
    model = cnns.pooled(image, x)
    network = dhm.fork(model)
    np.testing.assert_array_equal(logits(network)["main"], outputs(model))
    assert len(network.get_layer("aux2_twice")._inbound_nodes) == 1  # half of its two calls
    network = dhm.fork(model, [Branch(1, depth=(2, 1))])
    assert len(network.get_layer("aux1_twice")._inbound_nodes) == 2


def test_images_of_any_size():
    model = cnns.body(cnns.plain(size=None))
    assert [stage.resolution for stage in dhm.forking.stages(model)] == [(224, 224), (112, 112), (56, 56)]
    network = dhm.fork(model, num_classes=3)
    for images in (IMAGES, IMAGES.repeat(2, 1)):
        assert {head: z.shape for head, z in logits(network, images).items()} == dict.fromkeys(network.output, (4, 3))


def test_regularizers_go_with_their_layers():
    model = cnns.residual(kernel_regularizer=keras.regularizers.L2(0.1))
    network = dhm.fork(model)
    of_copies = [layer for layer in network.layers if getattr(layer, "kernel_regularizer", None)]
    assert len(network.losses) == len(of_copies) > len(model.losses)
    expected = sum(0.1 * float(keras.ops.sum(keras.ops.square(layer.kernel))) for layer in of_copies)
    np.testing.assert_allclose(float(sum(network.losses)), expected, rtol=1e-5)


def test_branches_draw_their_own_weights():
    model = cnns.residual((4, 6), 1, kernel_initializer=keras.initializers.HeNormal(seed=3))
    keras.utils.set_random_seed(0)
    network = dhm.fork(model, [Branch(1), Branch(1)])
    names = [layer.name.removeprefix("aux1_") for layer in network.layers if layer.name.startswith("aux1_conv")]
    assert len(names) == 3
    for name in names:
        kernels = [network.get_layer(prefix + name).kernel for prefix in ("", "aux1_", "aux2_")]
        assert len({keras.ops.convert_to_numpy(kernel).tobytes() for kernel in kernels}) == 3
    keras.utils.set_random_seed(0)
    again = dhm.fork(model, [Branch(1), Branch(1)])
    for one, other in zip(network.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mixed", ["mixed_bfloat16"], indirect=True)
def test_mixed_precision(mixed):
    image, output = _pooled_features()
    model = keras.Model(image, layers.Dense(3, activation="softmax", dtype="float32")(output))
    network = dhm.fork(model)
    assert {z.dtype for z in network.output.values()} == {"float32"}
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(keras.ops.softmax(logits(network)["main"])), outputs(model)
    )
    assert network.get_layer("aux1_stage3_block1_add").compute_dtype == "bfloat16"


def test_trains_samples_saves_and_loads(tmp_path):
    network = dhm.fork(cnns.residual())
    model = dhm.DHM(network)
    model.compile(sgd(0.01), run_eagerly=keras.backend.backend() == "tensorflow")
    sampling = dhm.callbacks.SampleBranches("uniform", k=1, scope="branch")
    history = model.fit(IMAGES, LABELS, batch_size=4, epochs=2, verbose=0, callbacks=[sampling]).history
    assert np.isfinite(history["loss"]).all() and np.isnan(history["aux1_ce"] + history["aux2_ce"]).sum() == 2
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for head, z in logits(model.network).items():
        np.testing.assert_array_equal(logits(loaded.network)[head], z)
    assert {variable.path.split("/")[0].split("_")[0] for variable in loaded.main.variables}.isdisjoint(
        {"aux1", "aux2"}
    )


@pytest.mark.tensorflow
def test_exports_take_raw_images_where_the_network_rescales_them(tmp_path):
    import tensorflow as tf

    for rescaling, dtype, expected in (
        (1 / 255, "float32", "uint8"),
        (2.0, "float32", "float32"),
        (1.0, "uint8", "uint8"),
    ):
        image = keras.Input((16, 16, 3), dtype=dtype)
        model = keras.Model(image, cnns.plain()(layers.Rescaling(rescaling)(image)))
        path = dhm.export.export_main(dhm.DHM(dhm.fork(model)), tmp_path / str(rescaling))
        serve = tf.saved_model.load(path).signatures["serving_default"]
        assert serve.structured_input_signature[1]["images"].dtype.name == expected
        served = serve(images=tf.constant(IMAGES.astype(expected)))["logits"].numpy()
        np.testing.assert_allclose(served, outputs(model), rtol=1e-4, atol=1e-4)


@pytest.mark.tensorflow
def test_tensorflows_softmax_is_passed_over():
    import tensorflow as tf

    model = cnns.plain(activation=tf.nn.softmax)
    np.testing.assert_array_equal(keras.ops.softmax(logits(dhm.fork(model))["main"]), outputs(model))


@pytest.mark.tensorflow
def test_exports_what_a_pretrained_normalization_knows(tmp_path):
    import tensorflow as tf

    normalization = layers.Normalization()
    normalization.adapt(IMAGES)
    image = keras.Input((16, 16, 3))
    model = cnns.plain(activation="softmax")
    model = keras.Model(image, model(normalization(image)))
    network = dhm.fork(model)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(keras.ops.softmax(logits(network)["main"])), outputs(model)
    )
    serve = tf.saved_model.load(dhm.export.export_main(dhm.DHM(network), tmp_path)).signatures["serving_default"]
    served = serve(images=tf.constant(IMAGES.astype("uint8")))["logits"].numpy()
    np.testing.assert_allclose(served, logits(network)["main"], rtol=1e-5, atol=1e-5)
