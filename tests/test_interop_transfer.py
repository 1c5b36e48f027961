"""Weights of one network into another by the names of layers: what is loaded, what stays, what does not fit."""

import keras
import numpy as np
import pytest
from networks import RAW, tiny, with_other_weights

import dhm_keras as dhm
from dhm_keras.interop import transfer
from dhm_keras.models import Branch, cdnet

SHORT = ((3, 5),) * 6
NECK = ("main_local_conv", "main_local_dense", "main_local_dense_bn")


def assert_started(network, before, source, kept):
    """Asserts that the layers named kept what they had, and that all others have the source's weights."""
    for name, arrays in weights(network).items():
        other = before[name] if name in kept else source.get_layer(name).get_weights()
        for ours, theirs in zip(arrays, other, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def weights(network):
    """The weights of each layer that is trained."""
    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.Normalization)]
    return {layer.name: layer.get_weights() for layer in layers if layer.weights}


def test_a_network_for_persons_starts_from_one_for_classes(tmp_path):
    """As from ImageNet: other images, another neck, other classes, and a branch."""
    of_classes = {"neck": "blneck", "task": "classification", "input_shape": (32, 32, 3), "branches": ()}
    source = with_other_weights(cdnet(SHORT, 10, width=0.25, **of_classes))
    dhm.DHM(source, method="baseline").save(tmp_path / "imagenet.keras")
    branches = {"aux1": Branch(2, (1,), (64,))}
    network = cdnet(SHORT, 7, branches, (64, 32, 3), width=0.25, normalization=RAW)
    before = weights(network)
    with pytest.raises(ValueError) as error:
        transfer(network, tmp_path / "imagenet.keras", without=("main_local",))
    assert str(error.value).startswith(
        f"{tmp_path / 'imagenet.keras'} does not fit 'cdnet'; nothing was loaded.\n  miss"
    )
    assert "missing (" in str(error.value) and "aux1_stack3_layer1_block1_conv1, " in str(error.value)
    with pytest.raises(ValueError, match=r"missing \(3\): main_local_conv, main_local_dense, main_local_dense_bn\n"):
        transfer(network, source, without=("aux1",))
    assert_started(network, before, source, before)

    kept = transfer(dhm.DHM(network), tmp_path / "imagenet.keras", without=("main_local", "aux1"))
    of_branch = {name for name in before if name.startswith("aux1")}
    assert set(kept) == {*NECK, "main_local", "main", *of_branch}
    assert_started(network, before, source, kept)
    # On from here to a part of it: the balance neck is not in what is shipped.
    model = dhm.DHM(network)
    with pytest.raises(ValueError, match=r"unexpected \(4\): main_dense, main_local_dense, .*\n  Parts that are to be"):
        transfer(model.main, network, without=("aux1",))
    assert transfer(model.main, network, without=("aux1", "main_dense", "main_local_dense")) == ()


def test_classifiers_of_other_classes_are_kept_and_those_of_as_many_are_loaded():
    source = with_other_weights(tiny())
    network = tiny(num_classes=4)
    before = weights(network)
    kept = transfer(network, dhm.DHM(source))
    assert set(kept) == {"main", "aux1", "aux2"}
    assert_started(network, before, source, kept)
    same = tiny()
    assert transfer(same, source) == ()
    assert_started(same, {}, source, ())


def test_the_classifiers_whose_sum_is_mains_are_kept():
    def summed(num_classes):
        image = keras.Input((4,))
        logits = [keras.layers.Dense(num_classes, name=name)(image) for name in ("main", "main_local")]
        return keras.Model(image, {"main": keras.layers.Activation("linear")(keras.layers.Add()(logits))})

    assert set(transfer(summed(3), summed(5))) == {"main", "main_local"}


def test_a_branch_is_left_out_by_its_name():
    source, network = with_other_weights(tiny()), tiny()
    before = weights(network)
    kept = transfer(network, source, without=["aux1"])
    assert set(kept) == {"aux1", "aux1_conv", "aux1_bn"}
    assert_started(network, before, source, kept)
    with pytest.raises(ValueError, match=r"unexpected \(4\): (aux._\w+, ){3}aux._\w+\n"):
        transfer(dhm.DHM(network).main, source)
    assert transfer(dhm.DHM(network).main, source, without=("aux1", "aux2")) == ()


def changed(changes, **config):
    """The tiny network, a layer of it another one."""

    def clone(layer):
        return type(layer).from_config({**layer.get_config(), **(config if layer.name == changes else {})})

    return keras.models.clone_model(tiny(), clone_function=clone)


def diverged():
    network = tiny()
    network.get_layer("stem1_bn").gamma.assign(np.full(4, np.nan))
    return network


@pytest.mark.parametrize(
    "source, words",
    [
        (lambda: changed("stem1", name="stem7"), ("missing (1): stem1\n", "unexpected (1): stem7\n")),
        (
            lambda: changed("stem1", use_bias=True),
            ("misshapen (1): stem1 with kernel (3, 3, 4, 4), bias (4,) instead of kernel (3, 3, 4, 4)\n",),
        ),
        (
            lambda: changed("aux1", use_bias=False),
            ("misshapen (1): aux1 with kernel (4, 3) instead of kernel (4, 3), b",),
        ),
        (diverged, ("not finite (1): stem1_bn\n",)),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(source, words):
    network = tiny()
    before = weights(network)
    with pytest.raises(ValueError) as error:
        transfer(network, source())
    for part in ("'tiny' does not fit 'tiny'; nothing was loaded.\n", *words):
        assert part in str(error.value)
    assert_started(network, before, network, before)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda n, path: transfer(n, n, without=("aux11",)), "`without`. Expected parts that one of both networks has"),
        (lambda n, path: transfer(n, n, without="aux1"), "Received: 'aux1'"),
        (lambda n, path: transfer(n, n, without=("aux", 1)), "Received: ('aux', 1)"),
        (lambda n, path: transfer("tiny.keras", n), "`model`. Expected a functional model, or a `DHM`. Received: 'tin"),
        (lambda n, path: transfer(n, None), "`source`. Expected a functional model, or a `DHM`. Received: None"),
        (lambda n, path: transfer(n, "best.weights.h5"), "Weights alone (.h5) do not say of which network they are"),
        (lambda n, path: transfer(n, path), "damaged.keras cannot be loaded: "),
    ],
)
def test_wrong_arguments_are_refused(call, words, tmp_path):
    (tmp_path / "damaged.keras").write_bytes(b"no archive")
    with pytest.raises(ValueError) as error:
        call(tiny(), tmp_path / "damaged.keras")
    assert words in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.keras"):
        transfer(tiny(), tmp_path / "none.keras")
