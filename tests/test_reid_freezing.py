"""New layers alone for the first epochs: what moves, what stays to the bit, and what is as before afterwards."""

import contextlib

import keras
import numpy as np
import pytest
from networks import Kill, Killed, batch, sgd, tiny, values

import dhm_keras as dhm
from dhm_keras.reid import bn_neck, new_layers_only

EAGER = keras.backend.backend() == "tensorflow"  # there a graph takes longer to trace than a few steps
X, Y = batch(16)


def fit(model, optimizer=None, graph=False, **kwargs):
    model.compile(optimizer or sgd(), run_eagerly=EAGER and not graph)
    model.fit(X, Y, **{"batch_size": 8, "epochs": 1, "shuffle": False, "verbose": 0, **kwargs})


def moved(model, before):
    """Paths of the variables of a model's network that have other numbers than before."""
    after = values(model.network.variables)
    return {path for path in after if not np.array_equal(after[path], before[path])}


def is_new(path):
    return path.startswith(("aux", "main/"))


def trainable(network):
    return [(each.path, each.trainable) for layer in network.layers for each in (layer, *layer.variables)]


@pytest.mark.parametrize("graph", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_backbone_and_its_statistics_stay_and_the_new_layers_move(graph):
    model = dhm.DHM(tiny())
    whole, before = trainable(model.network), values(model.network.variables)
    new = {path for path in before if is_new(path)}
    assert {"main/kernel", "aux2_conv/kernel", "aux1_bn/moving_mean"} <= new < set(before)
    adam = lambda: dhm.optimizers.Adam(0.01, amsgrad=True, weight_decay=1e-2)
    with new_layers_only(model):
        fit(model, adam(), graph)
    assert moved(model, before) == new
    assert trainable(model.network) == whole
    before = values(model.network.variables)
    fit(model, adam(), graph)
    assert moved(model, before) == set(before)


def test_frozen_statistics_are_used_as_in_inference():
    """The first step's loss of main is that of an evaluation before it."""
    model = dhm.DHM(tiny(names=("main",)), method="baseline")
    model.compile(sgd(), run_eagerly=EAGER)
    x = 5 * X + 1  # which are far from the statistics that a network begins with
    expected = model.evaluate(x, Y, verbose=0, return_dict=True)["loss"]
    with new_layers_only(model.network):
        model.compile(sgd(), run_eagerly=EAGER)
        assert model.train_on_batch(x, Y, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)
    model.compile(sgd(), run_eagerly=EAGER)
    assert abs(model.train_on_batch(x, Y, return_dict=True)["loss"] - expected) > 1e-3


def test_all_is_as_before_after_an_exception_too():
    network = tiny()
    network.get_layer("stem1").trainable = False  # somebody's own choice
    network.get_layer("aux1_conv").trainable = False
    network.get_layer("stem2_bn").beta.trainable = False
    before = trainable(network)
    with pytest.raises(Killed), new_layers_only(network):
        assert not any(v.trainable for v in network.variables if v.path.startswith("stem"))
        assert not network.get_layer("aux1_conv").trainable and network.get_layer("aux2_conv").trainable
        raise Killed
    assert trainable(network) == before


def test_parts_of_a_model_within_come_back_as_they_were():
    inner = keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.Conv2D(2, 3)], name="inner")
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(image))
    network = keras.Model(image, keras.layers.Dense(3, name="classes")(x))
    inner.layers[0].trainable = False
    with new_layers_only(network):
        assert [v.path for v in network.trainable_variables] == ["classes/kernel", "classes/bias"]
    assert [layer.trainable for layer in inner.layers] == [False, True] and inner.trainable
    assert len(network.trainable_variables) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: dhm.models.cifar_resnet(1, 3, {"aux1": dhm.models.Branch(2, (1,), (64,))}, (8, 8, 3)),
        lambda: dhm.models.mobilenet(3, input_shape=(32, 16, 3)),
        lambda: dhm.fork(dhm.models.resnet20(3, branches=(), input_shape=(16, 16, 3)), branches=1),
    ],
)
def test_what_trains_of_the_networks_of_this_package(make):
    network = make()
    heads = set(network.output)
    with new_layers_only(network):
        paths = [variable.path for variable in network.trainable_variables]
    of = {path.split("/")[0].split("_")[0] for path in paths}
    assert of == heads and "main/kernel" in paths
    assert len(paths) < len(network.trainable_variables)


def test_a_neck_is_new():
    image = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="conv")(image))
    logits, _ = bn_neck(features, 3)
    with new_layers_only(network := keras.Model(image, {"main": logits, "features": features})):
        assert {v.path for v in network.trainable_variables} == {"main_neck/gamma", "main/kernel"}


def test_both_trainings_resume_in_folders_of_their_own(tmp_path):
    data = dhm.data.TrainBatches(IMAGES, Y, 8, pad=1, flip=True, seed=1)

    def both(name, killed=None):
        """The weights after both trainings; `None` if one was killed."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        model = dhm.DHM(tiny(names=("main", "aux1")))
        try:
            for part, context in (("new", new_layers_only(model)), ("all", contextlib.nullcontext())):
                with context:
                    model.compile(sgd(), run_eagerly=EAGER)
                    callbacks = [dhm.callbacks.Resume(tmp_path / name / part), *([Kill(3)] if part == killed else [])]
                    model.fit(data, epochs=2, callbacks=callbacks, verbose=0)
        except Killed:
            return None
        return [*values(model.variables).values(), *values(model.optimizer.variables).values()]

    through = both("through")
    assert both("killed", "new") is None and both("killed", "all") is None  # each within its second epoch
    for one, other in zip(through, both("killed"), strict=True):  # the first is complete, the second goes on
        np.testing.assert_array_equal(one, other)


IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("uint8")


def test_wrong_arguments_are_refused():
    image = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(image)
    for network, words in (
        (None, "Expected a `DHM`"),
        (keras.Model(image, {"other": keras.layers.Dense(3)(pooled)}), "Expected one of ['other']. Received: 'main'"),
        (keras.Model(image, pooled), "ends in 'pool', a GlobalAveragePooling2D"),
    ):
        with pytest.raises(ValueError) as error, new_layers_only(network):
            pass
        assert words in str(error.value)
