"""The recipe of attributes: its flags, settings and results, and as a user starts it."""

import contextlib
import math

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from attribute_files import drawn, network
from networks import Killed, assert_same, values
from programs import recipe_module, run_main, start, without_tensorflow

from dhm_keras import attributes
from dhm_keras.run import Run


@pytest.fixture
def recipe():
    with recipe_module("attributes") as module:
        yield module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "people"
    drawn(folder)
    return folder


def small(config, people):
    """A small network in the place of OSNet."""
    return network(len(people.attribute_names))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "--dataset pa100k wants --data_dir, where it is: nothing is downloaded"),
        (["--dataset=folder"], "--dataset folder wants --data_dir"),
        (["--data_dir=x", "--image_size=128"], "--image_size is HEIGHTxWIDTH"),
        (["--data_dir=x", "--image_size=60x32"], "--image_size is of multiples of 16"),
    ],
)
def test_wrong_flags_are_told_in_a_sentence(recipe, arguments, words):
    with flagsaver.flagsaver():
        flags.FLAGS(["attributes.py", *arguments])
        assert words in recipe.check()


def test_settings_are_the_papers(recipe, capsys):
    with flagsaver.flagsaver():
        flags.FLAGS(["attributes.py", "--data_dir=x"])
        assert recipe.check() is None
        settings = recipe.read_settings()
        assert str(recipe.default_folder(settings)) == "runs/attributes/osnet_x1_0"
    assert settings["image_size"] == "256x128" and settings["milestones"] == (30, 40)
    names = ("learning_rate", "momentum", "decay", "weight_decay", "batch_size", "epochs", "weighting")
    assert [settings[name] for name in names] == [0.065, 0.9, 0.1, 5e-4, 32, 50, "attribute"]
    with flagsaver.flagsaver():
        flags.FLAGS(["attributes.py", "--dataset=synthetic", "--smoke", "--epochs=10"])
        settings = recipe.read_settings()
        assert str(recipe.default_folder(settings)) == "runs/smoke/osnet_x1_0-dataset=synthetic-epochs=10"
    assert (settings["epochs"], settings["milestones"], settings["examples"]) == (10, (6.0, 8.0), 32)
    assert "--epochs (default 50: OSNet's paper, supplement B)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_network_is_an_osnet_with_max_pooling(recipe, folder):
    people = attributes.attribute_folder(folder)
    model = recipe.build({"arch": "osnet_x0_25", "image_size": "32x16"}, people)
    assert model.output.shape == (None, 14) and model.input.shape == (None, 32, 16, 3)
    assert any(isinstance(layer, keras.layers.GlobalMaxPooling2D) for layer in model.layers)
    # 201,864 without the classifier, which has a weight for each of 512 features and a bias
    assert sum(math.prod(each.shape) for each in model.trainable_variables) == 201_864 + 14 * 513


@pytest.mark.slow
def test_it_trains_evaluates_resumes_and_keeps_what_is_done(tmp_path, folder, capsys):
    command = ["--dataset=folder", f"--data_dir={folder}", "--image_size=32x16", "--batch_size=8", "--epochs=3"]
    run_main("attributes", *command, f"--run_dir={tmp_path}/whole", build=small)
    first, run = capsys.readouterr().out, Run.open(tmp_path / "whole")
    table = lambda text: text[text.index("After the last epoch") :]
    assert "epoch 3/3: loss" in first and len(run.history) == 3 and len(run.result["attributes"]) == 14
    assert run.result["val"]["mA"] == pytest.approx(run.history[-1]["val_mA"])
    with np.load(run.path("predictions.npz")) as file:
        found = attributes.evaluate(file["test_true"], file["test_probabilities"])
        assert found.summary == {name: run.result["test"][name] for name in found.summary}
        assert file["test_names"].tolist() == [f"{number:06d}.jpg" for number in range(35, 41)]
    assert f"test               6{100 * found.mean_accuracy:>11.2f}{100 * found.accuracy:>11.2f}" in first
    assert f"LongHair{found.positives[-1]:>23}{100 * found.attribute_accuracy[-1]:>9.2f}" in first

    run_main("attributes", *command, f"--run_dir={tmp_path}/whole", build=small)
    second = capsys.readouterr().out
    assert "It was finished before, and is kept as it is." in second and table(first) == table(second)
    with pytest.raises(SystemExit, match=r"^attributes\.py: .*weighting: 'attribute' there, 'label' here"):
        run_main("attributes", *command, f"--run_dir={tmp_path}/whole", "--weighting=label", build=small)

    class Ends(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise Killed

    with contextlib.suppress(Killed):
        run_main("attributes", *command, f"--run_dir={tmp_path}/killed", build=small, Progress=Ends)
    run_main("attributes", *command, f"--run_dir={tmp_path}/killed", build=small)
    assert "small goes on from" in capsys.readouterr().out
    again = Run.open(tmp_path / "killed")
    assert again.result == run.result and again.history == run.history
    load = lambda run: values(keras.models.load_model(run.checked("last.keras"), compile=False).variables)
    assert_same(load(run), load(again))


def test_wrong_data_are_told_in_a_sentence(tmp_path, folder):
    with pytest.raises(SystemExit, match=r"^attributes\.py: There is no .*annotation\.mat"):
        run_main("attributes", f"--data_dir={tmp_path}")
    with pytest.raises(SystemExit, match=r"^attributes\.py: .* is not PA-100K as it was released"):
        run_main("attributes", f"--data_dir={folder}")
    with pytest.raises(SystemExit, match=r"^attributes\.py: There are 26 training images. Give a --batch_size"):
        run_main("attributes", "--dataset=folder", f"--data_dir={folder}")


@pytest.mark.slow
@pytest.mark.tensorflow  # which it does without
def test_a_first_start_as_a_user_does_it_without_tensorflow(tmp_path):
    command = ("recipes/attributes.py", "--dataset=synthetic", "--arch=osnet_x0_25", "--smoke")
    arguments = (f"--data_dir={tmp_path}/drawn", f"--run_dir={tmp_path}/run")
    done = start(*command, *arguments, **without_tensorflow(tmp_path / "none"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The backend is jax, not TensorFlow" in done.stdout
    assert "epoch 2/2: loss" in done.stdout and "After the last epoch, %" in done.stdout
    assert len(Run.open(tmp_path / "run").history) == 2
