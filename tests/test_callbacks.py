"""Branch sampling in a training, the warning of consensus collapse, export at the end."""

import math
import re

import keras
import numpy as np
import pytest
from networks import batch, sgd, tiny, values

import dhm_keras as dhm
from dhm_keras.callbacks import ExportMain, Progress, SampleBranches, WarnOfCollapse, _duration
from dhm_keras.models import Branch, cifar_resnet
from dhm_keras.sampling import sample


def fit(callback, epochs=6, initial_epoch=0, model=None):
    if model is None:
        model = dhm.DHM(tiny())
        model.compile(optimizer=sgd(0.05))
    history = model.fit(*batch(16), epochs=epochs, initial_epoch=initial_epoch, callbacks=[callback], verbose=0).history
    return model, history


@pytest.mark.parametrize("sampler, kwargs", [("fixed", {}), ("bernoulli", {"p": 0.4}), ("uniform", {"k": 1})])
@pytest.mark.parametrize("scope", ["mimic", "branch"])
def test_each_epoch_trains_what_its_draw_says(sampler, kwargs, scope):
    _, history = fit(SampleBranches(sampler, scope=scope, seed=3, **kwargs))
    for epoch in range(6):
        active = ("main", *sample(sampler, ("aux1", "aux2"), 3, epoch, **kwargs))
        for key, column in history.items():
            heads = [head for head in ("main", "aux1", "aux2") if head in key]
            masked = not set(heads) <= set(active) and (scope == "branch" or key.startswith("mimic"))
            assert np.isnan(column[epoch]) == masked, (epoch, key, active)


def test_a_later_start_draws_the_same_branches():
    _, whole = fit(SampleBranches("bernoulli", scope="branch"), epochs=6)
    _, later = fit(SampleBranches("bernoulli", scope="branch"), epochs=6, initial_epoch=3)
    assert np.isnan(whole["aux1_ce"][3:]).tolist() == np.isnan(later["aux1_ce"]).tolist()


class Interrupt(SampleBranches):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [SampleBranches, Interrupt])
def test_after_the_training_the_branches_of_before_are_active_again(kind):
    model = dhm.DHM(tiny())
    model.compile(optimizer=sgd(0.05))
    try:
        fit(kind("uniform", k=0, scope="branch"), epochs=2, model=model)
    except KeyboardInterrupt:
        assert kind is Interrupt
    before = values(model.trainable_variables)
    _, history = fit(keras.callbacks.Callback(), epochs=1, model=model)
    assert not np.isnan([column[0] for column in history.values()]).any()
    assert not np.array_equal(before["aux1_conv/kernel"], values(model.trainable_variables)["aux1_conv/kernel"])

    model.activate(("aux2",), scope="branch")
    fit(SampleBranches("fixed"), epochs=1, model=model)
    _, history = fit(keras.callbacks.Callback(), epochs=1, model=model)
    assert np.isnan(history["aux1_ce"]).all() and not np.isnan(history["aux2_ce"]).any()


@pytest.mark.parametrize("make", [SampleBranches, WarnOfCollapse])
def test_a_plain_keras_model_is_refused(make):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="works with a `DHM`"):
        fit(make(), model=model)


@pytest.mark.parametrize(
    "kwargs, words",
    [({"sampler": "gumbel"}, "`sampler`"), ({"scope": "loss"}, "`scope`"), ({"p": -1}, "`p`"), ({"k": 1.5}, "`k`")],
)
def test_wrong_arguments_are_refused_at_once(kwargs, words):
    with pytest.raises(ValueError, match=words):
        SampleBranches(**kwargs)


def epoch_logs(ce, mimic, model):
    logs = {f"{head}_ce": ce for head in model.heads}
    return {**logs, **{f"mimic_{t}_to_{s}": mimic for t, s in model.objective.pairs}}


@pytest.fixture
def watched():
    model = dhm.DHM(tiny(num_classes=10), name="mine")
    model.compile(optimizer=sgd(0.1))
    callback = WarnOfCollapse()
    callback.set_model(model)
    callback.on_train_begin()
    return callback


def test_collapse_is_told_once_with_what_to_change(watched, capsys):
    # Cross-entropies and mimicking terms as measured on the digits at a learning rate of 0.1: chance is 2.30.
    for epoch, (ce, mimic) in enumerate([(2.79, 1.0), (2.32, 0.18), (2.23, 0.019), (2.22, 0.005)]):
        watched.on_epoch_end(epoch, epoch_logs(ce, mimic, watched.model))
    said = capsys.readouterr().out
    assert said.count("consensus collapse") == 1 and "mine" in said and "epoch 3" in said
    assert "lower learning rate (now 0.1)" in said and "warm-up" in said
    assert watched.collapsed_epoch == 2


def test_a_healthy_run_is_silent(watched, capsys):
    # As measured at 0.05: the terms fall, too, but the cross-entropies fall with them.
    for epoch, (ce, mimic) in enumerate([(2.36, 0.113), (2.20, 0.079), (1.97, 0.065), (1.5, 0.03), (1.2, 0.01)]):
        watched.on_epoch_end(epoch, epoch_logs(ce, mimic, watched.model))
    assert capsys.readouterr().out == ""


def test_collapse_is_seen_through_the_teachers_entropy(capsys):
    model = dhm.DHM(tiny(num_classes=10), divergence="cross_entropy", temperature=2.0)
    model.compile(optimizer=sgd(0.1))
    callback = WarnOfCollapse()
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0, epoch_logs(2.2, 4 * 2.0, model))
    assert capsys.readouterr().out == ""
    callback.on_epoch_end(1, epoch_logs(2.29, 4 * math.log(10) - 0.01, model))
    assert "consensus collapse" in capsys.readouterr().out


def test_without_mimicking_there_is_no_collapse(watched, capsys):
    watched.on_epoch_end(0, epoch_logs(2.3, float("nan"), watched.model))
    dsl = dhm.DHM(tiny(num_classes=10), method="dsl")
    watched.set_model(dsl)
    watched.on_epoch_end(1, epoch_logs(2.3, 0.0, dsl))
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("rate, warmup, collapses", [(0.1, 0, True), (0.1, 2, False), (0.05, 0, False)])
def test_collapse_on_real_digits(rate, warmup, collapses, capsys):
    (images, labels), _ = dhm.data.digits()
    batches = dhm.data.TrainBatches(images, dhm.data.corrupt_labels(labels, 0.4, 10), 64, pad=2, crop="batch")
    branches = {"aux1": Branch(2, (2,), (128,)), "aux2": Branch(1, (2, 1), (32, 64))}
    network = cifar_resnet(2, 10, branches, (16, 16, 3), dhm.data.DIGITS_MEAN_STD)
    model = dhm.DHM(network)
    schedule = dhm.schedules.Cosine(rate, batches.steps_per_epoch, epochs=20, warmup_epochs=warmup)
    model.compile(optimizer=sgd(schedule))
    model.fit(batches, epochs=8, callbacks=[WarnOfCollapse()], verbose=0)
    assert ("consensus collapse" in capsys.readouterr().out) == collapses


@pytest.mark.tensorflow
def test_export_at_the_end_of_the_training(tmp_path):
    with pytest.raises(ValueError, match="local path"):
        fit(ExportMain("gs://bucket/serving"))
    with pytest.raises(ValueError, match=r"Expected 'last' or 'best'\. Received: 'first'"):
        ExportMain(tmp_path, "first")
    with pytest.raises(ValueError, match="Invalid value for argument `heads`"):  # before the training, not after it
        fit(ExportMain(tmp_path, heads="aux7"))
    (tmp_path / "a_file").touch()
    with pytest.raises(OSError, match="a_file cannot be made"):
        fit(ExportMain(tmp_path / "a_file"))
    model, _ = fit(ExportMain(tmp_path, card={"data": "noise"}), epochs=1)
    x, _ = batch()
    np.testing.assert_allclose(served(tmp_path / "1", x), model.main.predict(x, verbose=0), atol=1e-6)
    card = dhm.export.read_card(tmp_path / "1")
    assert card["data"] == "noise" and card["metrics"]["epoch"] == 1 and 0 <= card["metrics"]["main_accuracy"] <= 1


@pytest.mark.tensorflow
def test_export_of_the_best_epoch_also_of_a_resumed_training(tmp_path):
    x, y = batch()

    class Accuracies(keras.callbacks.Callback):
        """Says in the place of the validation how good each epoch was, and keeps its answers."""

        answers = ()

        def on_epoch_end(self, epoch, logs):
            logs["val_main_accuracy"] = (0.3, 0.7, 0.7, 0.5)[epoch]
            Accuracies.answers = (*Accuracies.answers, self.model.main.predict(x, verbose=0))

    def train(epochs):
        keras.utils.set_random_seed(0)
        model = dhm.DHM(tiny())
        model.compile(optimizer=sgd(), run_eagerly=True)
        callbacks = [Accuracies(), ExportMain(tmp_path / "serving", "best"), dhm.callbacks.Resume(tmp_path / "state")]
        model.fit(x, y, batch_size=8, epochs=epochs, callbacks=callbacks, verbose=0)
        np.testing.assert_array_equal(model.main.predict(x, verbose=0), Accuracies.answers[-1])  # it has the last

    train(epochs=2)
    train(epochs=4)  # of which the process sees no better one than the best before
    for version in ("1", "2"):
        np.testing.assert_allclose(served(tmp_path / "serving" / version, x), Accuracies.answers[1], atol=1e-6)
        metrics = dhm.export.read_card(tmp_path / "serving" / version)["metrics"]
        assert (metrics["epoch"], metrics["val_main_accuracy"]) == (2, 0.7)
    with pytest.raises(ValueError, match=r"which='best'\) needs validation data"):
        fit(ExportMain(tmp_path, "best"))
    model = dhm.DHM(tiny())
    model.compile(optimizer=sgd())
    with pytest.raises(ValueError, match="no epoch had a validation accuracy"):  # and not another training's best
        model.fit(x, y, epochs=3, initial_epoch=3, callbacks=[ExportMain(tmp_path / "serving", "best")], verbose=0)


def served(path, images):
    """The logits of an exported version."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return loaded.signatures["serving_default"](images=tf.constant(images))["logits"].numpy()


def test_progress_tells_errors_and_the_time_left(capsys, monkeypatch):
    """Two epochs of three steps: 100 s to compile, then 80 s a step; validation takes no time."""
    now = [0.0]
    monkeypatch.setattr("dhm_keras.callbacks.time.perf_counter", lambda: now[0])
    progress = Progress(epochs_after=10)
    progress.set_model(dhm.DHM(tiny(), name="mine"))
    progress.set_params({"epochs": 2, "steps": 3})
    progress.on_train_begin()
    for epoch in range(2):
        progress.on_epoch_begin(epoch)
        for step in range(3):
            now[0] += 180 if epoch == step == 0 else 80
            progress.on_train_batch_end(step, {"loss": 1.0})
        logs = {f"val_{head}_accuracy": 0.25 + 0.5 * epoch for head in ("main", "aux1")}
        progress.on_epoch_end(epoch, {"loss": 1.23456, **logs})
    assert capsys.readouterr().out.splitlines() == [
        "mine, epoch 1/2: step 2/3, 45 min left",  # 11 epochs and a third, 240 s each
        "mine, epoch 1/2: step 3/3, 44 min left",
        "mine, epoch 1/2: loss 1.2346, error main 75.00 %, aux1 75.00 %, 44 min left",
        "mine, epoch 2/2: step 1/3, 43 min left",
        "mine, epoch 2/2: step 2/3, 41 min left",
        "mine, epoch 2/2: step 3/3, 40 min left",
        "mine, epoch 2/2: loss 1.2346, error main 25.00 %, aux1 25.00 %, 40 min left",
    ]


def test_progress_in_a_training(capsys):
    fit(Progress(), epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("test error" not in line for line in lines)  # no validation data
    assert re.fullmatch(r"dhm\w*, epoch 2/2: loss \d+\.\d{4}, 0 s left", lines[1])


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (99, "99 s"), (130, "2 min"), (5940, "99 min"), (11100, "3 h 05 min")]
)
def test_durations(seconds, text):
    assert _duration(seconds) == text
