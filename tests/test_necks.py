"""Balance necks, and what `DHM` trains a network with them by: second classifiers and triplets."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from networks import tiny

import dhm_keras as dhm
from dhm_keras.objective import Objective

PEOPLE = np.repeat(np.arange(4), 3)


def necked(neck="fblneck", branches=("aux1",), num_classes=4, dropout=0.0):
    """Two convolutions, the neck, and branches with a balance neck."""
    image = keras.Input((8, 4, 3), name="image")
    middle = layers.Conv2D(6, 3, padding="same", activation="relu", name="middle")(image)
    deep = layers.Conv2D(5, 3, padding="same", activation="relu", name="deep")(middle)
    outputs = (
        dhm.reid.fbl_neck(middle, deep, num_classes, dropout=dropout)
        if neck == "fblneck"
        else dhm.reid.bl_neck(deep, num_classes, dropout=dropout)
    )
    for head in branches:
        x = layers.Conv2D(7, 3, padding="same", activation="relu", name=f"{head}_conv")(middle)
        outputs |= dhm.reid.bl_neck(x, num_classes, head, dropout=dropout)
    return dhm.network.Network(image, outputs, name="necked")


def images(n=12):
    return np.random.default_rng(0).standard_normal((n, 8, 4, 3)).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def test_features_are_those_of_the_whole_and_of_both_halves():
    network = necked()
    found = {name: numpy(tensor) for name, tensor in network(images()).items()}
    middle, deep = (
        numpy(keras.Model(network.input, network.get_layer(name).output)(images())) for name in ("middle", "deep")
    )
    local = middle @ network.get_layer("main_local_conv").get_weights()[0][0, 0]
    halves = np.concatenate([local[:, :4].mean((1, 2)), local[:, 4:].mean((1, 2))], axis=1)
    np.testing.assert_allclose(found["main_local_features"], halves, atol=1e-5)
    np.testing.assert_allclose(found["main_features"], deep.mean((1, 2)), atol=1e-5)
    np.testing.assert_array_equal(
        found["embedding"], np.concatenate([found["main_features"], found["main_local_features"]], axis=1)
    )
    assert network.get_layer("main_local_conv").bias is None and found["embedding"].shape == (12, 5 + 256)


def test_what_is_compared_has_no_dropout_and_what_is_learnt_has():
    network = necked(dropout=0.5)
    at_rest, in_training = network(images()), network(images(), training=True)
    np.testing.assert_array_equal(numpy(at_rest["embedding"]), numpy(in_training["embedding"]))
    dropped = numpy(in_training["main_features"])
    assert 0.2 < (dropped == 0).mean() < 0.8
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], 2 * numpy(at_rest["main_features"])[kept], rtol=1e-5)


def test_main_is_the_embedding_alone():
    model = dhm.DHM(necked())
    of_necks = ("dense", "main_local_dense", "aux1")
    names = [layer.name for layer in model.main.layers]
    assert names[0] == "image" and not any(part in name for name in names for part in of_necks)
    assert len(model.main.trainable_variables) == 5  # of three convolutions, one without bias
    np.testing.assert_allclose(numpy(model.main(images())), numpy(model(images())["embedding"]), rtol=1e-6)
    np.testing.assert_allclose(
        numpy(dhm.reid.embedding(model)(images())), numpy(model(images())["embedding"]), rtol=1e-6
    )
    assert dhm.DHM(necked("blneck")).main.output.shape == (None, 5)


@pytest.mark.parametrize("method", ["baseline", "dsl", "dhm"])
def test_the_objective_is_that_of_the_losses_of_plain_keras(method):
    """Both cross-entropies and both triplet losses, unit weights; the mimicking is of heads alone."""
    network = necked(branches=() if method == "baseline" else ("aux1",))
    model = dhm.DHM(network, method, triplet_weight=1.0)
    model.compile("sgd")
    logs = model.evaluate(images(), PEOPLE, batch_size=12, verbose=0, return_dict=True)
    given = network(images())
    heads = [name for name in given if name in ("main", "main_local", "aux1")]
    smoothed, triplet = dhm.reid.SmoothedCrossEntropy(0.0), dhm.reid.BatchHardTriplet(0.3)
    terms = {f"{head}_ce": float(smoothed(PEOPLE, given[head])) for head in heads}
    terms |= {f"{head}_triplet": float(triplet(PEOPLE, given[f"{head}_features"])) for head in heads}
    if method == "dhm":
        one, other = (ops.log_softmax(given[head]) for head in ("main", "aux1"))
        divergence = dhm.objective.kl_divergence
        terms |= {
            "mimic_main_to_aux1": float(ops.mean(divergence(one, other))),
            "mimic_aux1_to_main": float(ops.mean(divergence(other, one))),
        }
    for name, value in terms.items():
        assert logs[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert logs["loss"] == pytest.approx(sum(terms.values()), rel=1e-5)
    assert not any("main_local" in name for name in logs if name.startswith("mimic"))


def test_triplets_of_any_network_are_of_what_its_classifiers_take():
    network = tiny(num_classes=4)
    model = dhm.DHM(network, triplet_weight=0.5, triplet_margin=0.1)
    model.compile("sgd")
    x = np.random.default_rng(0).standard_normal((12, 8, 8, 3)).astype("float32")
    logs = model.evaluate(x, PEOPLE, batch_size=12, verbose=0, return_dict=True)
    without = dhm.DHM(network)
    without.compile("sgd")
    plain = without.evaluate(x, PEOPLE, batch_size=12, verbose=0, return_dict=True)
    triplet = dhm.reid.BatchHardTriplet(0.1)
    pooled = {head: dhm.reid.embedding(network, head)(x) for head in model.heads}
    of_heads = {head: float(triplet(PEOPLE, features)) for head, features in pooled.items()}
    assert {head: pytest.approx(logs[f"{head}_triplet"], rel=1e-5) for head in model.heads} == of_heads
    assert logs["loss"] == pytest.approx(plain["loss"] + 0.5 * sum(of_heads.values()), rel=1e-5)
    soft = np.eye(4)[PEOPLE] * 0.9 + 0.025  # smoothed labels say who it is, too
    of_soft = model.evaluate(x, soft.astype("float32"), batch_size=12, verbose=0, return_dict=True)
    assert of_soft["main_triplet"] == pytest.approx(logs["main_triplet"], rel=1e-6)
    assert model.main.output.shape == (None, 4)  # logits, as without


def test_triplets_are_of_what_a_bn_neck_normalises():
    image = keras.Input((8, 4, 3))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, activation="relu")(image))
    logits, _ = dhm.reid.bn_neck(features, num_classes=4)
    model = dhm.DHM(keras.Model(image, {"main": logits}), "baseline", triplet_weight=1.0)
    model.compile("sgd")
    logs = model.evaluate(images(), PEOPLE, batch_size=12, verbose=0, return_dict=True)
    of_features = keras.Model(image, features)(images())
    assert logs["main_triplet"] == pytest.approx(float(dhm.reid.BatchHardTriplet()(PEOPLE, of_features)), rel=1e-5)


def test_an_inactive_branch_has_no_triplets_and_stays():
    model = dhm.DHM(necked(branches=("aux1", "aux2")), triplet_weight=1.0)
    model.compile(dhm.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1))
    model.activate(("aux1",), scope="branch")
    before = [numpy(variable) for variable in model.variables]
    history = model.fit(images(), PEOPLE, batch_size=12, epochs=1, verbose=0).history
    after = [numpy(variable) for variable in model.variables]
    moved = {
        variable.path.split("/")[-2]
        for variable, one, other in zip(model.variables, before, after, strict=True)
        if not np.array_equal(one, other)
    }
    assert not any(name.startswith("aux2") for name in moved)
    assert {"main_local_dense", "main_local", "aux1_dense", "deep", "main_local_conv"} <= moved
    assert np.isnan(history["aux2_triplet"]) and np.isfinite(history["aux1_triplet"])


def test_settings_are_saved_with_the_model(tmp_path):
    model = dhm.DHM(necked(), triplet_weight=0.5, triplet_margin=0.2)
    model.compile("sgd")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.triplet_weight, loaded.triplet_margin) == (0.5, 0.2)
    for name, tensor in model(images()).items():
        np.testing.assert_array_equal(numpy(tensor), numpy(loaded(images())[name]))
    config = model.get_config()
    del config["triplet_weight"], config["triplet_margin"]  # as of a model that was saved before there were any
    assert dhm.DHM.from_config(config).triplet_weight == 0.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Objective(("main",), "baseline", triplet_weight=-1.0), "argument `triplet_weight`"),
        (lambda: Objective(("main",), "baseline", triplet_margin=float("nan")), "argument `triplet_margin`"),
        (lambda: dhm.reid.bl_neck(keras.Input((4,)), 3), "argument `x`.*map"),
        (lambda: dhm.reid.fbl_neck(keras.Input((5, 4, 3)), keras.Input((5, 4, 3)), 3), "argument `middle`.*even"),
        (lambda: dhm.reid.fbl_neck(keras.Input((None, 4, 3)), keras.Input((4, 4, 3)), 3), "even height"),
        (lambda: dhm.reid.bl_neck(keras.Input((4, 4, 3)), 3, dropout=-0.1), "argument `dropout`"),
    ],
)
def test_arguments_out_of_range(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_head_without_features_is_told():
    image = keras.Input((8, 8, 3))
    logits = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(image))
    with pytest.raises(ValueError, match="Dense layer"):
        dhm.DHM(keras.Model(image, {"main": logits}), "baseline", triplet_weight=1.0)


@pytest.mark.tensorflow
def test_two_replicas_take_the_hardest_of_their_share(mirrored):
    """With the persons of a batch divided between them, and the same as each half by itself."""
    with mirrored.scope():
        network = necked(branches=())
        model = dhm.DHM(network, "baseline", triplet_weight=1.0)
        model.compile(dhm.optimizers.SGD(0.0))
    logs = model.fit(images(), PEOPLE, batch_size=12, shuffle=False, verbose=0).history
    triplet = dhm.reid.BatchHardTriplet(0.3)
    halves = [
        float(triplet(PEOPLE[rows], network(images()[rows], training=True)["main_features"]))
        for rows in (slice(0, 6), slice(6, 12))
    ]
    assert logs["main_triplet"][0] == pytest.approx(np.mean(halves), rel=1e-4)


@pytest.mark.tensorflow
def test_a_replica_without_images_has_no_triplets(mirrored):
    """Of 13 images in batches of 12 the last batch has one: one replica trains on it, the other on nothing."""
    with mirrored.scope():
        model = dhm.DHM(necked(branches=()), "baseline", triplet_weight=1.0)
        model.compile(dhm.optimizers.SGD(0.0))
    history = model.fit(images(13), np.append(PEOPLE, 0), batch_size=12, shuffle=False, verbose=0).history
    assert np.isfinite(history["main_triplet"][0]) and np.isfinite(history["loss"][0])


def test_statistics_of_necks_are_synchronized_with_the_others():
    for build in (
        lambda **more: dhm.models.cdnet(width=0.25, **more),
        lambda **more: dhm.models.osnet(0.25, neck="fblneck", **more),
    ):
        network = build(num_classes=5, input_shape=(64, 32, 3), synchronized=True)
        normalizations = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
        assert {"main_local_dense_bn", "aux1_dense_bn"} <= {layer.name for layer in normalizations}
        assert all(layer.synchronized for layer in normalizations)


def test_a_branch_alone_keeps_its_features():
    network = necked()
    alone = dhm.models.alone(network, "aux1")
    both, one = network(images()), alone(images())
    np.testing.assert_array_equal(numpy(both["aux1_features"]), numpy(one["main_features"]))
    np.testing.assert_array_equal(numpy(dhm.DHM(alone, "baseline").main(images())), numpy(both["aux1_features"]))
    np.testing.assert_array_equal(numpy(dhm.reid.embedding(network, "aux1")(images())), numpy(both["aux1_features"]))


def test_the_picture_of_a_network_counts_what_is_trained_and_what_is_shipped(tmp_path):
    from dhm_keras.analysis.network import _shipped, boxes

    network = necked()
    count = lambda rows: sum(box.parameters for row in rows.values() for box in row.values())
    whole = sum(int(np.prod(variable.shape)) for variable in network.variables)
    assert count(boxes(network)) == whole and set(boxes(network)) == {"main", "main_local", "aux1"}
    of_shipped = _shipped(network, boxes(network))
    assert count(of_shipped) == sum(int(np.prod(variable.shape)) for variable in dhm.DHM(network).main.variables)
    assert set(of_shipped) == {"main", "main_local"}
    dhm.analysis.plot_network(network, tmp_path / "network.png")
    assert (tmp_path / "network.png").stat().st_size > 5_000
