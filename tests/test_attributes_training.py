"""Attributes from end to end with plain Keras: evaluation while training, exact resume, what is saved."""

import keras
import numpy as np
import pytest
from attribute_files import drawn, network
from networks import Kill, Killed, assert_same, values

import dhm_keras as dhm
from dhm_keras import attributes, checkpoint
from dhm_keras.run import HistoryFile

EAGER = keras.backend.backend() == "tensorflow"  # there a graph takes longer to trace than a few steps


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("drawn") / "people")


def model_of(people, **kwargs):
    keras.utils.set_random_seed(0)
    model = network(len(people.attribute_names), **kwargs)
    rate = dhm.schedules.MultiStep(0.05, 3, (2,))
    loss = attributes.WeightedAttributeLoss(people.train.positive_ratios)
    model.compile(dhm.optimizers.SGD(rate, momentum=0.9, weight_decay=5e-4, name="sgd"), loss, run_eagerly=EAGER)
    return model


def fit(model, people, epochs, callbacks, epoch=0, size=(32, 16), batch_size=8):
    batches = attributes.AttributeTrainBatches(people.train, batch_size, size)
    later, steps = batches.starting_at(epoch).for_backend(), batches.steps_per_epoch
    arguments = {"steps_per_epoch": steps, "initial_epoch": epoch, "shuffle": False, "verbose": 0}
    return model.fit(later, epochs=epochs, callbacks=callbacks, **arguments)


def test_evaluation_while_training_is_that_afterwards_and_changes_nothing(people):
    histories, weights = [], []
    for callbacks in ([], [attributes.EvaluateAttributes(people.val, every=2)]):
        model, seen = model_of(people), []
        see = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, seen=seen: seen.append(dict(logs)))
        fit(model, people, 3, [*callbacks, see])
        weights.append(values(model.variables))
        histories.append(seen)
    assert_same(*weights)
    assert [logs["loss"] for logs in histories[0]] == [logs["loss"] for logs in histories[1]]
    assert ["val_mA" in logs for logs in histories[1]] == [False, True, True]  # every other, and the last
    probabilities = attributes.predict(model, people.val, batch_size=3)
    found = attributes.evaluate(people.val.attributes, probabilities)
    np.testing.assert_allclose([histories[1][2][f"val_{name}"] for name in found.summary], [*found.summary.values()])
    paths = [f"{people.val.folder}/{name}" for name in people.val.names]
    np.testing.assert_allclose(attributes.predict(model, paths), probabilities, atol=1e-6)
    assert probabilities.dtype == "float32" and 0 < probabilities.min() < probabilities.max() < 1


def test_a_training_that_was_killed_ends_as_one_that_ran_through(people, tmp_path):
    def train(name, epochs=3, kill=()):
        model, history = model_of(people), HistoryFile(tmp_path / f"{name}.csv")
        checkpoints = attributes.EpochCheckpoints(tmp_path / name, history)
        callbacks = [attributes.EvaluateAttributes(people.val), *kill, history, checkpoints]
        fit(model, people, epochs, callbacks, checkpoints.epoch)
        return values(model.variables), values(model.optimizer.variables), history.history, history.epoch

    whole = train("whole")
    assert whole[3] == [0, 1, 2] and len(whole[2]["val_mA"]) == 3
    with pytest.raises(Killed):
        train("killed", kill=[Kill(5)])  # within the second epoch
    resumed = train("killed")
    for one, other in zip(whole[:2], resumed[:2], strict=True):
        assert_same(one, other)
    assert whole[2:] == resumed[2:]
    assert (tmp_path / "whole.csv").read_text() == (tmp_path / "killed.csv").read_text()

    newest = checkpoint.paths(tmp_path / "killed")[0]
    newest.write_bytes(newest.read_bytes()[:-100])  # damaged: from the one before it
    again = train("killed")
    for one, other in zip(whole[:2], again[:2], strict=True):
        assert_same(one, other)
    complete = train("killed")  # there is nothing left to train
    assert_same(whole[0], complete[0])
    assert whole[2] == complete[2]


def test_checkpoints_of_another_model_or_a_lost_loss_are_told(people, tmp_path):
    checkpoints = attributes.EpochCheckpoints(tmp_path)
    assert checkpoints.epoch == 0
    fit(model_of(people), people, 1, [checkpoints])
    with pytest.raises(ValueError, match=r"is not of this model: it holds .* of other shapes"):
        fit(model_of(people, width=4), people, 2, [attributes.EpochCheckpoints(tmp_path)], epoch=1)
    model = model_of(people)
    with pytest.raises(FloatingPointError, match="not finite after epoch 2"):
        fit(model, people, 2, [Explode(), attributes.EpochCheckpoints(tmp_path)], epoch=1)
    assert attributes.EpochCheckpoints(tmp_path).epoch == 1


class Explode(keras.callbacks.Callback):
    """Makes a weight infinite."""

    def on_epoch_end(self, epoch, logs=None):
        kernel = self.model.layers[-1].kernel
        kernel.assign(np.full(kernel.shape, np.inf))


def test_the_saved_model_predicts_and_goes_on(people, tmp_path):
    model = model_of(people)
    fit(model, people, 1, [])
    model.save(tmp_path / "last.keras")
    loaded = keras.models.load_model(tmp_path / "last.keras")
    np.testing.assert_array_equal(
        attributes.predict(tmp_path / "last.keras", people.test), attributes.predict(model, people.test)
    )
    for each in (model, loaded):
        fit(each, people, 2, [], epoch=1)
    assert_same(values(model.variables), values(loaded.variables))


def test_another_number_of_attributes_is_told(people):
    model = network(3)
    evaluate = attributes.EvaluateAttributes(people.val)
    evaluate.set_model(model)
    evaluate.set_params({"epochs": 1})
    evaluate.on_train_begin()
    with pytest.raises(ValueError, match=r"`probabilities`. Expected finite floats \(8, 14\)"):
        evaluate.on_epoch_end(0, {})
    with pytest.raises(ValueError, match="`every`"):
        attributes.EvaluateAttributes(people.val, every=0)


@pytest.mark.slow
def test_attributes_are_learnt_far_above_chance(tmp_path):
    people = drawn(tmp_path / "people", train=600, val=200, size=(64, 32), difficulty=0.0)
    keras.utils.set_random_seed(0)
    model = network(len(people.attribute_names), size=(64, 32), width=16)
    model.compile(dhm.optimizers.Adam(1e-3), attributes.WeightedAttributeLoss(people.train.positive_ratios))
    evaluate = attributes.EvaluateAttributes(people.val, every=10)
    history = fit(model, people, 10, [evaluate], size=(64, 32), batch_size=16).history
    assert history["val_mA"][-1] > 0.7
