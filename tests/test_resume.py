"""A training that is stopped and started again ends like one that ran through, to the bit."""

import os
import re
import signal

import keras
import numpy as np
import pytest
from networks import Kill, Killed, batch, sgd, tiny

import dhm_keras as dhm
from dhm_keras import checkpoint, files
from dhm_keras.callbacks import Resume, SampleBranches

EPOCHS, STEPS = 3, 4
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (29, 8, 8, 3)).astype("uint8"), RNG.integers(0, 3, 29)  # a last batch of 5
TEST = IMAGES[:9].astype("float32"), LABELS[:9]


def make(rate=None, compiled=False, **kwargs):
    """A model with everything that has a state: momentum, a schedule, dropout, metrics of `compile`.

    Not `compiled` it runs eagerly on TensorFlow: a graph takes longer to trace than these few steps.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    model = dhm.DHM(tiny(names=("main", "aux1"), dropout=0.3), **kwargs)
    optimizer = sgd(rate or dhm.schedules.Cosine(0.05, STEPS, EPOCHS))
    metrics = ["accuracy", keras.metrics.SparseCategoricalCrossentropy(from_logits=True)]
    is_eager = keras.backend.backend() == "tensorflow" and not compiled
    model.compile(optimizer=optimizer, metrics=metrics, run_eagerly=is_eager)
    return model


def train(folder, every=None, kill=None, model=None, epochs=EPOCHS, data=None, callbacks=(), sampled=False):
    """`(history, variables)`; `None` if it was killed."""
    model = model or make()
    data = data or dhm.data.TrainBatches(IMAGES, LABELS, 8, pad=1, flip=True, seed=1)
    sampling = [SampleBranches("bernoulli", scope="branch", seed=2)] if sampled else []
    callbacks = [Resume(folder, every), *sampling, *callbacks]
    try:
        callbacks += [Kill(kill)] if kill else []
        history = model.fit(data, epochs=epochs, validation_data=TEST, callbacks=callbacks, verbose=0).history
    except Killed:
        return None
    state = [*model.variables, *model.optimizer.variables]
    return history, [keras.ops.convert_to_numpy(variable) for variable in state]


def assert_equal(one, other):
    assert one[0].keys() == other[0].keys()
    for key, column in one[0].items():
        np.testing.assert_array_equal(other[0][key], column, err_msg=key)
    for value, expected in zip(other[1], one[1], strict=True):
        np.testing.assert_array_equal(value, expected)


def positions(folder):
    """`(epoch, step)` of a folder's checkpoints, the newest first."""
    return [tuple(map(int, re.findall(r"\d+", path.name)[:2])) for path in checkpoint.paths(folder)]


@pytest.mark.parametrize(
    "mixed",
    ["float32", *(pytest.param(p, marks=pytest.mark.slow) for p in ("mixed_float16", "mixed_bfloat16"))],
    indirect=True,
)
def test_killed_within_epochs_and_between_them(tmp_path, mixed):
    model = lambda: make(compiled=mixed != "float32")
    start = lambda name, kill=None: train(tmp_path / name, every=2, kill=kill, model=model(), sampled=True)
    whole = start("whole")
    assert np.isnan(whole[0]["aux1_ce"]).any() and len(whole[0]["loss"]) == EPOCHS
    folder = tmp_path / "killed"
    for steps in (3, 5, 1):  # after steps 3, 2 + 5 and 6 + 1: in the first epoch, then within the second twice
        assert start("killed", kill=steps) is None
    assert positions(folder) == [(1, 2), (1, 0)]
    assert_equal(whole, start("killed"))
    assert positions(folder) == [(3, 0), (2, 2)]
    assert_equal(whole, start("killed"))  # what is complete is not trained again


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("steps", [4, 5])
def test_killed_with_a_checkpoint_an_epoch(tmp_path, steps, whole):
    assert train(tmp_path, kill=steps) is None
    assert_equal(whole, train(tmp_path))


@pytest.mark.slow
def test_early_stopping_and_plateau_remember(tmp_path):
    def callbacks():
        stop = keras.callbacks.EarlyStopping("val_loss", patience=2, min_delta=0.5, restore_best_weights=True)
        return [stop, keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.5)]

    def start(folder, kill=None):
        mine = callbacks()
        result = train(folder, kill=kill, model=make(rate=0.3), epochs=8, callbacks=mine)
        return result, mine[0]

    whole, stop = start(tmp_path / "whole")
    epochs = len(whole[0]["loss"])
    assert 2 < epochs < 8 and whole[0]["learning_rate"][-1] < 0.3  # both have acted
    start(tmp_path / "killed", kill=STEPS * (epochs - 1) + 1)
    resumed, again = start(tmp_path / "killed")
    assert_equal(whole, resumed)
    assert (again.best, again.best_epoch, again.stopped_epoch) == (stop.best, stop.best_epoch, stop.stopped_epoch)
    after, _ = start(tmp_path / "killed")  # it had stopped: no epoch is trained
    assert len(after[0]["loss"]) == epochs


@pytest.mark.slow
def test_own_data_go_on_at_the_end_of_an_epoch(tmp_path):
    def start(folder, kill=None, every=None):
        callbacks = [Resume(folder, every)] + ([Kill(kill)] if kill else [])
        model, (x, y) = make(), batch(32)
        return model.fit(x, y, batch_size=8, epochs=3, shuffle=False, callbacks=callbacks, verbose=0).history

    whole = start(tmp_path / "whole")
    with pytest.raises(Killed):
        start(tmp_path / "killed", kill=6)
    assert positions(tmp_path / "killed") == [(1, 0)]
    assert start(tmp_path / "killed") == whole
    with pytest.raises(ValueError, match=r"cannot be entered within an epoch.*Leave it out"):
        start(tmp_path / "every", every=2)


def test_more_epochs_go_on(tmp_path, whole):
    train(tmp_path, epochs=2)
    assert_equal(whole, train(tmp_path))


def test_several_steps_an_execution(tmp_path, whole):
    model = make()
    model.steps_per_execution = 2
    assert train(tmp_path, every=2, kill=3, model=model) is None
    assert positions(tmp_path) == [(1, 0), (0, 2)]
    model = make()
    model.steps_per_execution = 2
    history, _ = train(tmp_path, every=2, model=model)
    for key, column in whole[0].items():
        np.testing.assert_allclose(history[key], column, rtol=1e-5, err_msg=key)


def test_steps_of_an_execution_that_do_not_divide_the_epoch_are_taken_one_by_one(tmp_path, whole):
    model = make()
    model.steps_per_execution = 3
    with pytest.warns(UserWarning, match="4 steps of an epoch .* steps_per_execution=3"):
        assert_equal(whole, train(tmp_path, model=model))


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty"])
def test_a_damaged_checkpoint_is_told_and_passed_over(tmp_path, damage, capsys):
    state = lambda step: checkpoint.Checkpoint(2, step, {"model/0": np.arange(40.0) + step}, {"of": step})
    older, newer = (checkpoint.write(tmp_path, state(step)) for step in (5, 7))
    assert checkpoint.read_newest(tmp_path).notes == {"of": 7} and capsys.readouterr().out == ""
    content = bytearray(newer.read_bytes())
    content[len(content) // 2] ^= 1
    newer.write_bytes({"truncated": content[:-100], "one byte": content, "empty": b""}[damage])
    found = checkpoint.read_newest(tmp_path)
    assert (found.epoch, found.step, found.path) == (2, 5, older)
    np.testing.assert_array_equal(found.arrays["model/0"], np.arange(40.0) + 5)
    said = capsys.readouterr().out
    assert str(newer) in said and "going on from the one before" in said
    older.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read. Remove the folder"):
        checkpoint.read_newest(tmp_path)


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, capsys, whole):
    assert train(tmp_path, every=2, kill=7) is None
    newest = checkpoint.paths(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert_equal(whole, train(tmp_path, every=2))
    assert "is damaged" in capsys.readouterr().out


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a checkpoint."""
    folder = tmp_path_factory.mktemp("written")
    train(folder, epochs=1)
    return folder


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": {"temperature": 2.0}}, "temperature: 1.0 there, 2.0 here"),
        ({"model": {"method": "dsl"}}, "method: 'dhm' there, 'dsl' here"),
        ({"rate": 0.3}, r"optimizer.config.learning_rate.*: None there|optimizer.config.learning_rate: .* 0.3 here"),
        ({"seed": 5}, "data.seed: 1 there, 5 here"),
        ({"labels": (LABELS + 1) % 3}, r"data.labels: \d+ there, \d+ here"),
        ({"sampled": True}, "SampleBranches.p: None there, 0.5 here"),
    ],
)
def test_another_training_in_the_folder_is_refused_with_what_differs(written, change, words):
    before = checkpoint.paths(written)
    model = make(change.get("rate"), **change.get("model", {}))
    data = dhm.data.TrainBatches(IMAGES, change.get("labels", LABELS), 8, pad=1, flip=True, seed=change.get("seed", 1))
    with pytest.raises(ValueError, match=words):
        train(written, model=model, data=data, sampled=change.get("sampled", False))
    assert checkpoint.paths(written) == before


def test_another_network_is_refused(written):
    model = dhm.DHM(tiny(num_classes=4, names=("main", "aux1"), dropout=0.3))
    model.compile(optimizer=sgd(dhm.schedules.Cosine(0.05, STEPS, EPOCHS)))
    with pytest.raises(ValueError, match=r"network: \d+ there, \d+ here"):
        train(written, model=model)
    found = checkpoint.read_newest(written)
    resume = Resume(written)
    resume._found = found
    with pytest.raises(ValueError, match=r"is not of this model.*the first that differs: .*/kernel"):
        resume._restore("model", model.variables)


def test_an_attribute_to_remember_that_is_not_there_is_named(tmp_path):
    class Counts(keras.callbacks.Callback):
        remembers = ("cout",)
        count = 0

    model = dhm.DHM(tiny())
    model.compile(optimizer=sgd())
    with pytest.raises(ValueError, match=r"Counts remembers \['cout'\], and has no such attribute"):
        model.fit(*batch(), callbacks=[Counts(), dhm.callbacks.Resume(tmp_path)], verbose=0)


def test_another_format_is_refused(written, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 9)
    with pytest.raises(ValueError, match="has the format 1; this version of dhm_keras reads format 9"):
        train(written)


def test_a_second_training_in_the_folder_is_refused(written):
    with files.lock(written), pytest.raises(OSError, match=rf"in use by another training \(process {os.getpid()} on"):
        train(written)
    train(written, epochs=1)  # free again


class Signal(Kill):
    number = signal.SIGTERM

    def act(self):
        os.kill(os.getpid(), self.number)


class Interrupt(Signal):
    number = signal.SIGINT


@pytest.mark.parametrize("kind, error", [(Signal, SystemExit), (Interrupt, KeyboardInterrupt)])
def test_a_signal_saves_and_stops(tmp_path, kind, error, capsys, whole):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(error) as stopped:
        train(tmp_path, callbacks=[kind(6)])
    assert stopped.value.args == (143,) or "goes on from" in str(stopped.value)
    assert positions(tmp_path) == [(1, 2), (1, 0)]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert "stops after this step" in capsys.readouterr().out
    assert_equal(whole, train(tmp_path))


class InterruptTwice(Interrupt):
    """As a user who does not wait for the end of the step: what follows the second one is not reached."""

    def act(self):
        super().act()
        super().act()
        raise AssertionError("the second Ctrl-C did not stop")


def test_a_second_interrupt_stops_at_once(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in several processes ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, callbacks=[InterruptTwice(2)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert positions(tmp_path) == []


class Poison(Kill):
    def act(self):
        variable = self.model.trainable_variables[0]
        variable.assign(variable * float("nan"))


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError) as error:
        train(tmp_path, every=2, callbacks=[Poison(6)])  # a checkpoint is due: the weights of it are not finite
    said = str(error.value)
    assert "A weight is not finite in epoch 2, step 2 of 4, learning rate 0.0" in said
    assert positions(tmp_path) == [(1, 0), (0, 2)] and str(checkpoint.paths(tmp_path)[0]) in said
    with pytest.raises(FloatingPointError, match=r"The loss is nan in epoch 2, step 2 of 4.*lower learning rate"):
        train(tmp_path, callbacks=[Poison(1)])
    assert positions(tmp_path) == [(1, 0), (0, 2)]


@pytest.mark.parametrize("every", [0, 1.5, "epoch"])
def test_wrong_arguments(tmp_path, every):
    with pytest.raises(ValueError, match="`every`"):
        Resume(tmp_path, every)


def test_two_of_them_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected one Resume"):
        train(tmp_path, callbacks=[Resume(tmp_path / "other")])


def test_what_callbacks_change_at_the_beginning_of_an_epoch_is_changed_once(tmp_path):
    def start(name, kill=None):
        rates = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
        return train(tmp_path / name, every=2, kill=kill, model=make(rate=0.1), callbacks=[rates])

    whole = start("whole")
    assert whole[0]["learning_rate"] == pytest.approx([0.05, 0.025, 0.0125])
    assert start("killed", kill=7) is None
    assert_equal(whole, start("killed"))


def test_fewer_steps_an_epoch_than_the_data_have(tmp_path):
    def start(name, kill=None):
        callbacks = [Resume(tmp_path / name, every=2), *([Kill(kill)] if kill else [])]
        data, model = dhm.data.TrainBatches(IMAGES, LABELS, 8, seed=1), make()
        history = model.fit(data, epochs=3, steps_per_epoch=3, callbacks=callbacks, verbose=0).history
        return history, [keras.ops.convert_to_numpy(variable) for variable in model.variables]

    whole = start("whole")
    with pytest.raises(Killed):
        start("killed", kill=6)
    assert_equal(whole, start("killed"))


def test_a_shorter_training_is_refused(tmp_path):
    train(tmp_path, epochs=2)
    with pytest.raises(ValueError, match=r"written later: after epoch 2, step 0. Received: epochs=1"):
        train(tmp_path, epochs=1)


def test_a_plain_keras_model_is_refused(tmp_path):
    model = tiny()
    model.compile("sgd", dict.fromkeys(model.output, "mse"))
    with pytest.raises(ValueError, match=r"Resume works with `DHM\.fit`"):
        model.fit(IMAGES, {head: np.zeros((29, 3)) for head in model.output}, callbacks=[Resume(tmp_path)], verbose=0)


def test_a_signal_at_the_end_is_heard(tmp_path):
    class AtTheEnd(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, epochs=1, callbacks=[AtTheEnd()])
    assert stopped.value.args == (143,) and positions(tmp_path)[0] == (1, 0)
