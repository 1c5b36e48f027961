"""Checkpoints mutated at random: the newest, or the one before it with a line that says so; no code that runs."""

import functools
import hashlib
import io
import json
import pathlib
import pickle
import tempfile

import keras
import numpy as np
import pytest
from fuzzing import (
    BYTES,
    JSON_CHANGE,
    SHARE,
    TEXT,
    change_json,
    laws,
    outcome,
)
from hypothesis import assume, example, given
from hypothesis import strategies as st
from networks import sgd, tiny

import dhm_keras as dhm
from dhm_keras import checkpoint
from dhm_keras.callbacks import Resume


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def state(step):
    arrays = {"model/0": np.arange(12.0, dtype="float32").reshape(3, 4) + step, "optimizer/0": np.int32([step])}
    return checkpoint.Checkpoint(2, step, arrays, {"settings": {"rate": 0.1}, "callbacks": {}, "stopped": False})


def same(found, wanted):
    return (found.epoch, found.step, found.notes) == (wanted.epoch, wanted.step, wanted.notes) and (
        found.arrays.keys() == wanted.arrays.keys()
        and all(np.array_equal(found.arrays[name], array) for name, array in wanted.arrays.items())
    )


@pytest.fixture(scope="module")
def two(folder):
    """`(older, newer)`: names and contents of checkpoints."""
    (folder / "two").mkdir()
    paths = [checkpoint.write(folder / "two", state(step)) for step in (5, 7)]
    return [(path.name, path.read_bytes()) for path in paths]


def read(files, capsys):
    """`(found, error, what was printed)` of a folder with these files."""
    with tempfile.TemporaryDirectory() as place:
        for name, content in files:
            (pathlib.Path(place) / name).write_bytes(content)
        capsys.readouterr()
        found, error = outcome(lambda: checkpoint.read_newest(place), place)
        return found, error, capsys.readouterr().out


@laws(150)
@given(mutate=BYTES)
def test_the_newest_checkpoint_mutated(two, capsys, mutate):
    older, (name, content) = two
    changed = mutate(content)
    found, error, said = read([older, (name, changed)], capsys)
    assert error is None and same(found, state(7) if changed == content else state(5))
    assert (name in said and "is damaged" in said) == (changed != content)


@laws(60)
@given(first=BYTES, second=BYTES)
def test_both_checkpoints_mutated(two, capsys, first, second):
    (older, of_older), (newer, of_newer) = two
    changed = first(of_older), second(of_newer)
    found, error, said = read([(older, changed[0]), (newer, changed[1])], capsys)
    if changed[1] == of_newer:
        assert same(found, state(7))
    elif changed[0] == of_older:
        assert same(found, state(5)) and newer in said
    else:
        assert error and older in said and newer in said


NAME = st.one_of(
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)).map(
        lambda position: lambda name: f"epoch{position[0]:04}-step{position[1]:06}-{name[-20:]}"
    ),
    st.lists(st.tuples(SHARE, st.sampled_from("0123456789abcdefx٣-.")), min_size=1, max_size=3).map(
        lambda edits: (
            lambda name: functools.reduce(
                lambda n, e: n[: int(e[0] * len(n))] + e[1] + n[int(e[0] * len(n)) + 1 :], edits, name
            )
        )
    ),
)


@laws(100)
@given(rename=NAME)
def test_the_newest_checkpoint_renamed(two, capsys, rename):
    """It counts under its own name alone; under another that would be newer it is told."""
    (older, of_older), (newer, of_newer) = two
    name = rename(newer)
    assume(name != older)
    found, error, _ = read([(older, of_older), (name, of_newer)], capsys)
    assert error is None and (same(found, state(7)) or same(found, state(5)))
    assert same(found, state(5)) or checkpoint._NAME.fullmatch(name)[3] == newer[-20:-4]


@laws(30)
@given(rename=NAME)
def test_the_older_checkpoint_renamed_is_not_taken_for_the_newest(two, capsys, rename):
    (older, of_older), (newer, of_newer) = two
    name = rename(older)
    assume(name != newer)
    found, error, _ = read([(name, of_older), (newer, of_newer)], capsys)
    assert error is None and same(found, state(7))


@laws(20)
@given(positions=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=4))
def test_what_was_just_written_stays(positions):
    with tempfile.TemporaryDirectory() as place:
        for epoch, step in positions:
            (pathlib.Path(place) / f"epoch{epoch:04}-step{step:06}-0123456789abcdef.npz").write_bytes(b"damaged")
        path = checkpoint.write(place, state(5))
        assert path.exists() and len(checkpoint.paths(place)) <= checkpoint.KEPT
        assert same(checkpoint.read_newest(place), state(5))


# Checkpoints with a digest that fits, which no training wrote


def named(content, epoch, step):
    return f"epoch{epoch:04}-step{step:06}-{hashlib.sha256(content).hexdigest()[:16]}.npz", content


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def npz(members, notes):
    """A `.npz` file of arrays and raw bytes, with the notes as a JSON text."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, value in {"notes": np.frombuffer(notes, "uint8"), **members}.items():
            if not isinstance(value, bytes):
                inner = io.BytesIO()
                np.lib.format.write_array(inner, value, allow_pickle=True)
                value = inner.getvalue()
            file.writestr(f"{name}.npy", value)
    return buffer.getvalue()


HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"


def npy(descr, shape, data=b""):
    header = (HEADER % (descr, shape)).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


ODD_MEMBERS = st.sampled_from(
    [
        b"",
        b"no array",
        npy("'<f4'", (10**15,)),
        npy("'<f4'", (-3,)),
        npy("'|O'", (1,), pickle.dumps([1])),
        npy("[('a', '<f4')]", (1,), bytes(4)),
        npy("'<M8[s]'", (1,), bytes(8)),
        npy("(" * 150 + ")" * 150, (1,)),
        np.float64([1, 2]),
        np.array("text"),
        np.array([b"ab"]),
    ]
)
FOUND = state(7)
NOTES = {"format": 1, "epoch": 2, "step": 7, **FOUND.notes}


@laws(60)
@given(
    content=st.one_of(
        st.tuples(st.dictionaries(st.sampled_from(["model/0", "notes", "other"]), ODD_MEMBERS), JSON_CHANGE).map(
            lambda drawn: npz(FOUND.arrays | drawn[0], change_json(json.dumps(NOTES).encode(), *drawn[1]))
        ),
        TEXT.map(lambda mutate: npz(FOUND.arrays, mutate(json.dumps(NOTES).encode()))),
        BYTES.map(lambda mutate: mutate(npz(FOUND.arrays, json.dumps(NOTES).encode()))),
        st.binary(max_size=100),
    )
)
@example(npz(FOUND.arrays | {"model/0": np.array([{}], object)}, json.dumps(NOTES).encode()))
@example(npz(FOUND.arrays, json.dumps(NOTES | {"format": 2}).encode()))
def test_a_foreign_file_whose_digest_fits(two, capsys, content):
    older, _ = two
    name, content = named(content, 2, 7)
    found, error, said = read([older, (name, content)], capsys)
    if error:
        assert name in str(error) and "has the format" in str(error)
    elif name in said:
        assert same(found, state(5))
    else:
        assert found.path.name == name and (found.epoch, found.step) == (2, 7) and isinstance(found.notes, dict)


@pytest.mark.parametrize("place", ["model/0", "notes", "other"])
def test_a_pickle_in_a_checkpoint_does_not_run(two, capsys, tmp_path, place):
    bomb = np.array([Bomb(tmp_path / "ran")], object)
    members = FOUND.arrays | {place: bomb}
    for content in (
        npz(members, json.dumps(NOTES).encode()),
        npz(members | {place: pickle.dumps(bomb[0])}, json.dumps(NOTES).encode()),
        pickle.dumps(bomb[0]),
        npy("'|O'", (1,), pickle.dumps([bomb[0]])),
    ):
        found, error, said = read([two[0], named(content, 2, 7)], capsys)
        assert error is None and same(found, state(5)) and "is damaged" in said
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(bomb[0])).close()
    assert (tmp_path / "ran").exists()  # it would have


# What Resume does with them

IMAGES, LABELS = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("uint8"), np.arange(16) % 3


class Training:
    """A small training, whose model is made once; each start enters it anew, and runs what the checkpoint leaves."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        self.model = dhm.DHM(tiny(names=("main", "aux1")), name="fuzzed")
        self.model.compile(optimizer=sgd(0.05))
        self.start_from = None

    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def values(self):
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in self.variables()]

    def fit(self, folder, epochs=2):
        if self.start_from is not None:
            for variable, value in zip(self.variables(), self.start_from):
                variable.assign(value)
        callbacks = [keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)]
        callbacks += [keras.callbacks.ReduceLROnPlateau("loss", patience=9), Resume(folder, every=1)]
        data = dhm.data.TrainBatches(IMAGES, LABELS, 8, pad=1, seed=2)
        history = self.model.fit(data, epochs=epochs, callbacks=callbacks, verbose=0).history
        return history, self.values()


@pytest.fixture(scope="module")
def training(folder):
    """`(training, checkpoints of its first epoch, the older first, (history, values) after its second)`."""
    training = Training()
    training.fit(folder / "first", epochs=1)
    for path in checkpoint.paths(folder / "first"):
        path.unlink()
    (folder / "resumed").mkdir()
    training.fit(folder / "resumed", epochs=1)
    files = [(path.name, path.read_bytes()) for path in reversed(checkpoint.paths(folder / "resumed"))]
    rate = training.model.optimizer.learning_rate.path
    training.start_from = [v if of.path == rate else v * 0 for of, v in zip(training.variables(), training.values())]
    return training, files, training.fit(folder / "resumed")


def resume(training, files):
    """The end of a training that goes on from these checkpoints, or the error, which names their folder."""
    with tempfile.TemporaryDirectory() as place:
        for name, content in files:
            (pathlib.Path(place) / name).write_bytes(content)
        return outcome(lambda: training.fit(place), place)


def assert_same_end(one, other):
    assert one[0] == other[0]
    for value, expected in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(value, expected)


def parts(content):
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(arrays.pop("notes").tobytes())


@laws(3)
@given(mutate=BYTES)
def test_a_training_ends_right_with_a_mutated_checkpoint(training, mutate):
    training, (older, (name, content)), whole = training
    end, error = resume(training, [older, (name, mutate(content))])
    assert error is None
    assert_same_end(end, whole)
