"""The search: its two steps, the loop and its folder, exact resume, selection, the picture."""

import contextlib
import csv
import json
import math
import types

import keras
import numpy as np
import pytest
from networks import Killed
from search_space import OPERATORS, Batches, toy

import dhm_keras as dhm
from dhm_keras import files
from dhm_keras.search.learning import Learner, alpha_rate, terms, weight_rate

tensorflow = pytest.mark.tensorflow
rows_of = lambda folder: list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
numbers = lambda variables: [keras.ops.convert_to_numpy(variable.value) for variable in variables]


def search(epochs=4, k=2, seed=0, batches=(1, 2), supernet=None, **kwargs):
    keras.utils.set_random_seed(3)
    return dhm.search.TopKSearch(supernet or toy(), *map(Batches, batches), k=k, epochs=epochs, seed=seed, **kwargs)


class KilledBatches(Batches):
    def __getitem__(self, index):
        if index == 2 * self.steps_per_epoch + 1:  # within the third epoch
            raise Killed
        return super().__getitem__(index)


class Scores:
    """Selects as `SelectOnTest` does, by numbers that are given."""

    every, settings = 1, {"query": 1}

    def __init__(self, *scores):
        self.scores = list(scores)

    def __call__(self, network):
        assert network.output_shape == (None, 4)
        return self.scores.pop(0)


@pytest.fixture
def undrawn(monkeypatch):
    """Searches draw no picture."""
    monkeypatch.setattr("dhm_keras.search.searching.plot_alphas", lambda *_: None)


# The steps


def test_learning_rates():
    assert weight_rate(0, 240) == 0.025
    assert weight_rate(120, 240) == pytest.approx((0.025 + 1e-4) / 2)
    assert 1e-4 < weight_rate(239, 240) < 1.02e-4
    assert [alpha_rate(epoch, 240) for epoch in (0, 79, 80, 159, 160, 239)] == pytest.approx(
        [3e-4, 3e-4, 3e-5, 3e-5, 3e-6, 3e-6]
    )


def test_terms_of_the_loss():
    labels = np.array([0, 0, 1, 1, 2, 2])
    features = np.array([(0, 0), (3, 4), (1, 0), (0, 2), (6, 8), (5, 5)], "float32")
    learnt = {name: float(value) for name, value in terms(np.eye(3, dtype="float32")[labels], features, labels).items()}
    assert learnt["triplet"] == pytest.approx(1.777046, abs=1e-6)  # golden, CDNet's own loss
    assert learnt["ce"] == pytest.approx(math.log(math.e + 2) - 1, abs=1e-6)
    assert learnt["loss"] == pytest.approx(learnt["ce"] + learnt["triplet"])
    assert learnt["accuracy"] == 1


@tensorflow
def test_a_step_of_the_weights_is_sgd_and_leaves_the_others_alone():
    supernet = toy()
    learner, (images, labels) = Learner(supernet, 2, seed=0), Batches(1)[0]
    learner.begin(0, 10)
    chosen = learner.chosen()
    computed = {model for models in supernet.chosen_models(chosen) for model in models}
    before = {model: numbers(model.variables) for model in supernet.models}
    slots = {model: numbers(learner.of_weights[model].variables) for model in supernet.models}
    learner.learn_weights(images, labels)
    assert len(computed) == 2 + 6 * 2
    for model in supernet.models:
        moved = [(a != b).any() for a, b in zip(before[model], numbers(model.variables))]
        if model in computed:
            assert all(moved), model.name
        else:
            same = zip(slots[model], numbers(learner.of_weights[model].variables))
            assert not any(moved) and (model.name, all((a == b).all() for a, b in same)) == (model.name, True)
    assert (keras.ops.convert_to_numpy(learner.alphas) == np.float32(1e-3)).all()
    for model in computed:  # the first step of PyTorch's SGD: w - lr (g + wd w), v = g + wd w
        optimizer = learner.of_weights[model]
        of_model = dict(zip((v.path for v in model.variables), before[model]))
        for variable, velocity in zip(model.trainable_variables, optimizer.momentums, strict=True):
            step = numbers([velocity])[0] * np.float32(0.025)
            np.testing.assert_allclose(numbers([variable])[0], of_model[variable.path] - step, atol=1e-7)


@tensorflow
def test_the_chosen_operators_alone_are_computed_and_each_is_compiled_once():
    supernet = toy()
    learner, batches = Learner(supernet, 1, seed=0), Batches(1)
    chosen, seen = learner.chosen(), set()
    for step in range(6):
        seen |= {model for models in supernet.chosen_models(learner.chosen()) for model in models}
        learner.learn_weights(*(part[: 12 - step] for part in batches[step]))  # of other sizes, too
        learner.learn_alphas(*batches[step])
    traced = {model: supernet._compiled[model].experimental_get_tracing_count() for model in supernet.models}
    assert traced == {model: int(model in seen) for model in supernet.models}
    assert (learner.chosen() != chosen).any()  # or nothing would have been shown


@tensorflow
def test_a_step_of_the_alphas_leaves_the_weights_alone():
    supernet = toy()
    learner, (images, labels) = Learner(supernet, 2, seed=0), Batches(1)[0]
    learner.begin(0, 10)
    before = numbers(supernet.trainable_variables)
    alphas = numbers([learner.alphas])[0]
    learner.learn_alphas(images, labels)
    assert all((a == b).all() for a, b in zip(before, numbers(supernet.trainable_variables)))
    moved = numbers([learner.alphas])[0] - alphas
    assert np.abs(moved).max() == pytest.approx(3e-4, rel=1e-3)  # Adam's first step
    assert (np.abs(moved) > 1e-4).all()  # also of the operators that were not computed


# The loop and its folder


@tensorflow
@pytest.mark.usefixtures("undrawn")
def test_a_killed_search_goes_on_to_the_same_bits(tmp_path):
    dhm.distribute.deterministic()
    supernet = toy()
    first = numbers(supernet.variables)

    def anew():  # the same network, not compiled again
        for variable, value in zip(supernet.variables, first):
            variable.assign(value)
        return search(k=1, supernet=supernet)

    whole = anew()
    whole.run(tmp_path / "whole")
    kept = numbers(whole.learner.variables)
    stopped = anew()
    stopped.weight_batches = KilledBatches(1)
    with pytest.raises(Killed):
        stopped.run(tmp_path / "stopped")
    assert [row["epoch"] for row in rows_of(tmp_path / "stopped")] == ["1", "2"]
    again = anew()
    genotype = again.run(tmp_path / "stopped")
    for variable, a, b in zip(again.learner.variables, kept, numbers(again.learner.variables), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=variable.path)
    for name in ("search.json", "history.csv", "genotype.json"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "stopped" / name).read_text()
    assert anew().run(tmp_path / "whole") == genotype  # finished, it tells what it found
    found = json.loads((tmp_path / "whole/genotype.json").read_text())
    alphas = numbers([whole.learner.alphas])[0]
    assert genotype == [OPERATORS[i] for i in alphas.argmax(1)] == list(map(tuple, found["genotype"]))
    assert found["selected_by"] == "last epoch" and found["epoch"] == 4 and found["k"] == 1
    np.testing.assert_array_equal(np.float32(found["alphas"]), alphas)
    assert dhm.models.read_genotype(tmp_path / "whole/genotype.json") == tuple(genotype)
    rows = rows_of(tmp_path / "whole")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert np.float32(rows[-1]["layer6_5-7-2"]) == alphas[5, 2]


@tensorflow
def test_a_folder_belongs_to_one_search(tmp_path):
    supernet = toy()
    files.write_json(tmp_path / "search.json", search(supernet=supernet).settings)
    others = {"k": 1, "epochs": 2, "seed": 5, "batches": (1, 3), "notes": {"space": "cnet"}}
    for (name, value), told in zip(others.items(), ("k", "epochs", "seed", "alpha_batches", "space"), strict=True):
        with pytest.raises(ValueError, match=rf"holds a search with other settings \({told}: "):
            search(**{name: value}, supernet=supernet).run(tmp_path)
    with contextlib.closing(files.lock(tmp_path)), pytest.raises(OSError, match="in use by another"):
        search(supernet=supernet).run(tmp_path)


@tensorflow
def test_the_test_set_selects_where_it_is_asked_to(tmp_path, capsys):
    genotype = search(epochs=3, test=Scores(0.1, 0.3, 0.2)).run(tmp_path)
    found = json.loads((tmp_path / "genotype.json").read_text())
    assert found["selected_by"].startswith("best mAP on the test set")
    assert (found["epoch"], found["test_map"]) == (2, 0.3)
    rows = rows_of(tmp_path)
    of_second = [float(rows[1][f"layer{n}_{'-'.join(map(str, op))}"]) for n in range(1, 7) for op in OPERATORS]
    np.testing.assert_array_equal(np.ravel(found["alphas"]), of_second)
    assert genotype == [OPERATORS[i] for i in np.argmax(found["alphas"], 1)]
    assert [float(row["test_map"]) for row in rows] == [0.1, 0.3, 0.2]
    assert (tmp_path / "alphas.png").stat().st_size > 10_000
    assert "test mAP 30.0 %" in capsys.readouterr().out


@tensorflow
def test_a_loss_that_is_not_finite_ends_the_search(tmp_path):
    broken = search()
    broken.supernet.models[0].set_weights([np.full((3, 3, 3, 4), np.inf), np.zeros(4)])
    with pytest.raises(FloatingPointError, match="The loss on the split of the weights is nan in epoch 1, step 1 of 3"):
        broken.run(tmp_path)


@pytest.mark.jax
def test_jax_is_refused():
    with pytest.raises(ValueError, match="A search needs the TensorFlow backend"):
        dhm.search.TopKSearch(toy(), Batches(1), Batches(2))


@tensorflow
@pytest.mark.parametrize(("name", "value"), [("k", 0), ("k", 4), ("epochs", 0), ("seed", -1)])
def test_numbers_of_a_search(name, value):
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        search(**{name: value}, supernet=types.SimpleNamespace(operators=OPERATORS))


# The picture


def test_the_alphas_are_drawn_with_as_many_operators(tmp_path):
    alphas = np.random.default_rng(0).normal(size=(5, 4, 3))
    dhm.search.plot_alphas(alphas, OPERATORS, tmp_path / "alphas.svg", "drawn")
    text = (tmp_path / "alphas.svg").read_text()
    for layer, of_layer in enumerate(alphas[-1], start=1):
        best = "-".join(map(str, OPERATORS[of_layer.argmax()]))
        assert f"layer {layer}: {best}" in text
    with pytest.raises(ValueError, match=r"Expected numbers \(epochs, layers, 2\). Received: the shape \(5, 4, 3\)"):
        dhm.search.plot_alphas(alphas, OPERATORS[:2], tmp_path / "other.png")
