"""The recipe of the search: its flags and settings, and as a user starts it."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver
from programs import recipe_module, start

import dhm_keras as dhm
from dhm_keras import reid


@pytest.fixture
def recipe():
    with recipe_module("search") as module:
        yield module


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "--dataset market1501 wants --data_dir, where it is: nothing is downloaded"),
        (["--dataset=synthetic", "--space=cnet", "--k=7"], "--k is at most 6, the operators of --space cnet"),
        (["--dataset=synthetic", "--image_size=64"], "--image_size is HEIGHTxWIDTH"),
    ],
)
def test_wrong_flags_are_told_in_a_sentence(recipe, arguments, words):
    with flagsaver.flagsaver():
        flags.FLAGS(["search.py", *arguments])
        assert words in recipe.check()


@pytest.mark.jax
def test_jax_is_refused_before_anything_is_read(recipe):
    with flagsaver.flagsaver():
        flags.FLAGS(["search.py", "--dataset=synthetic"])
        assert "A search needs KERAS_BACKEND=tensorflow" in recipe.check()


def test_settings_are_those_of_the_authors_code(recipe, capsys):
    with flagsaver.flagsaver():
        flags.FLAGS(["search.py", "--data_dir=x", "--space=cnet", "--epochs=30"])
        config = recipe.read_settings()
        assert str(recipe.default_folder(config)) == "runs/search/cnet-top2-epochs=30"
        assert "--data_dir x --arch cdnet" in recipe.command(config, "there")
    assert config == {
        **{"space": "cnet", "dataset": "market1501", "k": 2, "seed": 6, "epochs": 30, "persons": 16, "images": 4},
        **{"width": 1.0, "image_size": "256x128", "overlap": False, "select_on_test": False},
    }
    printed = capsys.readouterr().out
    assert "--epochs (default 240: CDNet's authors' code)" in printed and "SGD, 0.9; 0.025 to 1e-4" in printed


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_search_from_the_command_line_finds_a_network(tmp_path):
    people = reid.synthetic_people(tmp_path / "people", train=8, test=4, cameras=2, size=(64, 32), distractors=4)
    smoke = ["--dataset=folder", f"--data_dir={people}", "--smoke", "--space=cnet", f"--run_dir={tmp_path / 'run'}"]
    first = start("recipes/search.py", *smoke, "--select_on_test")
    assert first.returncode == 0, first.stderr[-3000:]
    assert "epoch 2 of 2: loss" in first.stdout and "Selected by the best mAP on the test set" in first.stdout
    found = json.loads((tmp_path / "run/genotype.json").read_text())
    assert (found["space"], found["k"], found["seed"], found["overlap"]) == ("cnet", 2, 6, False)
    network = dhm.models.cdnet(
        dhm.models.read_genotype(tmp_path / "run/genotype.json"), 8, (), (64, 32, 3), 0.25, name="found"
    )
    assert network.output["embedding"].shape == (None, 128 + 256)
    other = start("recipes/search.py", *smoke)
    assert other.returncode == 1 and "holds a search with other settings (select_on_test: True there" in other.stderr
