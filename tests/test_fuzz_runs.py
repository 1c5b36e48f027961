"""Run folders mutated at random: what was written, or an error that names the file."""

import json

import pytest
from fuzzing import (
    BYTES,
    TEXT,
    Mutated,
    laws,
    outcome,
)
from hypothesis import example, given
from hypothesis import strategies as st
from networks import tiny

import dhm_keras as dhm
from dhm_keras.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


CONFIG = {"seed": 3, "rate": 0.1, "milestones": [81, 122], "precision": None, "flip": True, "nested": {"arch": "dense"}}
HISTORY = [
    {"epoch": 0.0, "loss": 1.5, "val_main_accuracy": 0.25},
    {"epoch": 1.0, "loss": 0.1, "val_main_accuracy": 1.0},
]
RESULT = {"last": {"epoch": 2, "main_top1_error": 12.5}, "best_error": 1e-3}


def write_run(folder, is_finished):
    """A run folder with all its files, without the training."""
    run = Run(folder, CONFIG)
    *_, history, _ = run.start()
    model = dhm.DHM(tiny())
    history.set_model(model)
    history.on_train_begin()
    for row in HISTORY:
        history.on_epoch_end(int(row["epoch"]), {name: value for name, value in row.items() if name != "epoch"})
    (folder / "timings.csv").write_text("epoch,seconds\n0,12.500\n1,11.250\n")
    model.save_weights(folder / "best.weights.h5")
    if is_finished:
        run.finish(model, RESULT)
    run._lock.close()


@pytest.fixture(scope="module")
def finished(folder):
    write_run(folder / "finished", True)
    return folder / "finished"


@pytest.fixture(scope="module")
def unfinished(folder):
    write_run(folder / "unfinished", False)
    return folder / "unfinished"


def same_json(one, other):
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@laws(100)
@given(mutate=TEXT)
def test_config(unfinished, mutate):
    with Mutated(unfinished / "config.json", mutate):
        run, _ = outcome(lambda: Run.open(unfinished), unfinished)
        assert run is None or same_json(run.config, CONFIG)
        again, _ = outcome(lambda: Run(unfinished, CONFIG), unfinished)
        assert (again is None) == (run is None)
        outcome(lambda: Run(unfinished, {**CONFIG, "seed": 4}), unfinished)


@laws(60)
@given(mutate=TEXT)
def test_result(finished, mutate):
    run = Run(finished, CONFIG)
    with Mutated(finished / "result.json", mutate):
        result, error = outcome(lambda: run.result, finished / "result.json")
        assert error or same_json(result, RESULT)
        for name in ("history.csv", "last.keras"):
            path, other = outcome(lambda name=name: run.checked(name), finished / "result.json")
            assert (path is None) == (result is None) and (other is None) == (error is None)
        if error:  # a file that is damaged, too, is not taken because of it
            with Mutated(finished / "history.csv", lambda content: content.replace(b"0.1", b"0.2")):
                assert outcome(lambda: run.history, finished)[0] is None


@laws(100)
@given(mutate=BYTES)
def test_history_of_a_finished_run(finished, mutate):
    with Mutated(finished / "history.csv", mutate):
        rows, error = outcome(lambda: Run.open(finished).history, finished / "history.csv")
        assert error or rows == HISTORY


TABLE = BYTES | st.lists(st.lists(st.text(max_size=4) | st.floats().map(str), max_size=4), max_size=4).map(
    lambda rows: lambda content: "\r\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")
)


@laws(100)
@given(mutate=TABLE)
@example(lambda content: b"epoch,loss\r\n0," + b"1" * 200_000 + b"\r\n")  # a field longer than csv takes
@example(lambda content: b"epoch,loss\r\n0,1\r\n\r\n1\x00,2\r\n")
def test_history_of_an_unfinished_run(unfinished, mutate):
    with Mutated(unfinished / "history.csv", mutate):
        rows, error = outcome(lambda: Run.open(unfinished).history, unfinished / "history.csv")
        assert error or all(isinstance(value, float) for row in rows for value in row.values())


@laws(60)
@given(mutate=TABLE)
@example(lambda content: content[:-8])  # "1," of a line that was cut
def test_timings(unfinished, mutate):
    with Mutated(unfinished / "timings.csv", mutate):
        seconds, error = outcome(lambda: Run.open(unfinished).seconds, unfinished / "timings.csv")
        assert error or isinstance(seconds + 0.0, float)


@pytest.mark.parametrize("name", ["best.weights.h5", "last.keras"])
@laws(30)
@given(mutate=BYTES)
def test_weights_of_a_finished_run(finished, name, mutate):
    before = (finished / name).read_bytes()
    with Mutated(finished / name, mutate) as content:
        path, _ = outcome(lambda: Run.open(finished).checked(name), finished / name)
        assert (path is not None) == (content == before)
