"""Re-identification from end to end on drawn persons: training, evaluation while training, resume, export."""

import keras
import numpy as np
import pytest
from networks import Kill, Killed, assert_same, values

import dhm_keras as dhm
from dhm_keras import reid


def network(num_classes, branches=True):
    """Four convolutions with two branches, from raw images of 64x32."""
    x = image = keras.Input((64, 32, 3))
    x = keras.layers.Rescaling(1 / 64, -2)(x)
    taps = []
    for number, width in enumerate((16, 32, 64, 64)):
        x = block(x, width, 2 if number else 1, f"stage{number}")
        taps.append(x)
    features = {"main": x}
    if branches:
        features |= {head: block(taps[tap], 96, 2, head) for head, tap in (("aux1", 2), ("aux2", 1))}
    pool = lambda x: keras.layers.GlobalAveragePooling2D()(x)
    heads = {head: keras.layers.Dense(num_classes, name=head)(pool(x)) for head, x in features.items()}
    return dhm.network.Network(image, heads, name="small")


def block(x, width, stride, name):
    x = keras.layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return keras.layers.ReLU()(dhm.layers.BatchNormalization(name=f"{name}_bn")(x))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return drawn(tmp_path_factory, train=8, test=6, images=2)


def drawn(tmp_path_factory, **numbers):
    folder = tmp_path_factory.mktemp("drawn") / "persons"
    return reid.person_folder(reid.synthetic_people(folder, size=(64, 32), **numbers))


def model_of(people, method="dhm", steps=1, seed=0):
    keras.utils.set_random_seed(seed)
    model = dhm.DHM(network(people.train.num_classes, method != "baseline"), method=method)
    rate = dhm.schedules.MultiStep(3e-3, steps, (8,))
    model.compile(optimizer=dhm.optimizers.Adam(rate, amsgrad=True, weight_decay=5e-4))
    return model


def batches_of(people, size=16):
    return reid.PersonTrainBatches(people.train, size, (64, 32), label_smoothing=0.1)


def scores(query_features, gallery_features, people):
    of_both = people.query.pids, people.gallery.pids, people.query.camids, people.gallery.camids
    return reid.evaluate(query_features, gallery_features, *of_both)


def test_evaluation_while_training_is_that_afterwards_and_changes_nothing(few):
    history, weights = {}, {}
    for every in (None, 2):
        model = model_of(few)
        callbacks = [reid.EvaluateReID(few.query, few.gallery, every)] if every else []
        seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: history.update({epoch: dict(logs)}))
        model.fit(batches_of(few), epochs=3, callbacks=[*callbacks, seen], verbose=0)
        weights[every] = values(model.variables)
    assert_same(*weights.values())
    assert ["val_mAP" in history[epoch] for epoch in range(3)] == [False, True, True]  # every other, and the last
    found = scores(*map(reid.Extractor(model), (few.query, few.gallery)), few)
    assert history[2]["val_mAP"] == found.mean_ap and history[2]["val_mINP"] == found.mean_inp
    assert [history[2][f"val_rank{k}"] for k in (1, 5, 10)] == [found.rank(k) for k in (1, 5, 10)]


def test_a_training_that_was_killed_ends_as_one_that_ran_through(few, tmp_path):
    def train(folder, *callbacks):
        model = model_of(few)
        batches = reid.IdentityBatches(few.train, 4, 2, image_size=(64, 32), label_smoothing=0.1, erasing=0.5)
        resume = dhm.callbacks.Resume(folder, every=2)
        model.fit(batches, epochs=2, callbacks=[*callbacks, resume], verbose=0)
        return values(model.variables)

    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", Kill(8))
    assert_same(whole, train(tmp_path / "killed"))


@pytest.mark.parametrize(
    "arguments, words",
    [({"every": 0}, "`every`"), ({"every": 1.5}, "`every`")],
)
def test_what_is_wrong_is_told(few, arguments, words):
    with pytest.raises(ValueError, match=words):
        reid.EvaluateReID(few.query, few.gallery, **arguments)


def test_evaluation_outside_of_fit(few):
    evaluate = reid.EvaluateReID(few.query, few.gallery, every=np.int64(2))
    with pytest.raises(ValueError, match="no model to evaluate yet"):
        evaluate.evaluate()
    model = model_of(few)
    evaluate.set_model(model)
    found = scores(*map(reid.Extractor(model), (few.query, few.gallery)), few)
    assert evaluate.evaluate()["mAP"] == found.mean_ap
    evaluate.on_epoch_end(1)  # no logs: nothing to put it in
    evaluate.on_epoch_end(1, logs := {})
    assert logs["val_mAP"] == found.mean_ap


@pytest.mark.slow
@pytest.mark.parametrize("method", ["baseline", "dsl", "dhm"])
def test_persons_are_found_far_above_chance(method, tmp_path_factory, tmp_path):
    people = drawn(tmp_path_factory, train=40, test=30, images=3)
    rng = np.random.default_rng(0)
    random = lambda images: rng.standard_normal((len(images), 8)).astype("float32")
    pixels = lambda images: reid.PersonTestBatches(images, 10**4, (16, 8))[0][0].reshape(len(images), -1) / 255.0
    chance, raw = (scores(features(people.query), features(people.gallery), people) for features in (random, pixels))

    batches = batches_of(people)
    model = model_of(people, method, batches.steps_per_epoch)
    evaluate = reid.EvaluateReID(people.query, people.gallery, every=6)
    history = model.fit(batches, epochs=12, callbacks=[evaluate], verbose=0).history
    assert history["val_mAP"][-1] > 0.5 > 8 * chance.mean_ap and history["val_mAP"][-1] > 1.5 * raw.mean_ap
    assert history["val_rank1"][-1] > 0.6
    if keras.backend.backend() != "tensorflow":
        return
    version = dhm.export.export_main(model, tmp_path / "serving", embedding=True, crop=None)
    live, served = (reid.Extractor(each)(people.gallery) for each in (model, version))
    np.testing.assert_allclose(live, served, atol=1e-5 * abs(live).max())
    exported = scores(reid.Extractor(version)(people.query), served, people)
    assert exported.mean_ap == pytest.approx(history["val_mAP"][-1], abs=1e-3)
