"""Files mutated at random: what was written, or an error that names the file; no other traceback, no code that runs."""

import functools
import gzip
import hashlib
import io
import json
import os
import pathlib
import pickle
import signal
import tarfile
import tempfile

import keras
import numpy as np
import pytest
from cifar_files import make_small, pack, write_cifar100
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from networks import sgd, tiny

import dhm_keras as dhm
from dhm_keras import checkpoint
from dhm_keras.callbacks import Resume
from dhm_keras.data import cifar100
from dhm_keras.run import Run

TIMES = int(os.environ.get("DHM_FUZZ", "1"))  # so many times the examples, drawn anew each time


def laws(examples):
    """Settings of a test: so many examples, the same ones each time."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )


# Mutations: strategies of functions from the bytes of a file to other bytes


def edit(content, kind, place, length, value, there):
    """One change at `place` and, for those that need two, `there`: shares of the length."""
    i, j = int(place * len(content)), int(there * len(content))
    part = content[i : i + length]
    match kind:
        case "flip":
            return content[:i] + bytes(b ^ (value[0] or 1) for b in part[:1]) + content[i + 1 :]
        case "replace":
            return content[:i] + value + content[i + len(value) :]
        case "insert":
            return content[:i] + value + content[i:]
        case "delete":
            return content[:i] + content[i + length :]
        case "truncate":
            return content[:i]
        case "repeat":
            return content[:i] + part + part + content[i + length :]
        case "move":
            return content[:j] + part + content[j:]
        case "splice":
            return content[:i] + content[j:]


KINDS = ["flip", "replace", "insert", "delete", "truncate", "repeat", "move", "splice"]
SHARE = st.floats(0, 1, exclude_max=True)
EDIT = st.tuples(st.sampled_from(KINDS), SHARE, st.integers(1, 600), st.binary(min_size=1, max_size=40), SHARE)
WHOLE = [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00", b"\x80\x04.", b"null", b"{}", b"[" * 100_000]
BYTES = st.one_of(
    st.lists(EDIT, min_size=1, max_size=4).map(
        lambda edits: lambda content: functools.reduce(lambda c, e: edit(c, *e), edits, content)
    ),
    st.sampled_from(WHOLE).map(lambda whole: lambda content: whole),
    st.binary(max_size=200).map(lambda whole: lambda content: whole),
)

# Values that a JSON text can have in place of others. Those in bytes are put in as they are.
DEEP = [
    (opening * n + closing * n).encode() for n in (900, 960, 100_000) for opening, closing in ("[]", ('{"a":', "}"))
]
RAW = [b"NaN", b"-Infinity", b"1e999", b"1" * 5000, b'"\xff\xfe"', rb'"\ud800"', b"2.0", b"-0", b"true", *DEEP]
VALUE = st.one_of(
    st.sampled_from(RAW),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode()),
)


def change_json(content, place, what, value):
    """The JSON text with a member, at any depth, that is replaced, left out, renamed, doubled."""
    document = json.loads(content)
    members = [(document, key) for key in document]
    for holder, key in members:  # grows as it goes
        if isinstance(holder[key], (dict, list)):
            inner = holder[key]
            members += [(inner, k) for k in (inner if isinstance(inner, dict) else range(len(inner)))]
    holder, key = members[int(place * len(members))]
    if what == "leave out" or (what != "replace" and isinstance(holder, list)):
        del holder[key]
    elif what == "rename":
        holder["a"] = holder.pop(key)
    else:
        holder[key] = "here"
    new = value if what != "double" else value + b", " + json.dumps(key).encode() + b": " + value
    return json.dumps(document).encode().replace(b'"here"', new)


JSON_CHANGE = st.tuples(SHARE, st.sampled_from(["replace", "leave out", "rename", "double"]), VALUE)
TEXT = BYTES | JSON_CHANGE.map(lambda change: lambda content: change_json(content, *change))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


class Within:
    """A time limit: what hangs fails."""

    def __enter__(self):
        signal.signal(signal.SIGALRM, self._late)
        signal.alarm(20)

    def __exit__(self, *_):
        signal.alarm(0)

    def _late(self, *_):
        raise AssertionError("it hangs")


def outcome(call, *names, errors=ValueError):
    """`(value, None)`, or `(None, error)` of a kind that is allowed, whose message has one of the names."""
    try:
        with Within():
            return call(), None
    except errors as error:
        assert any(str(name) in str(error) for name in names), error
        return None, error


# Run folders

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


class Mutated:
    """Within, a file has other contents, which it yields."""

    def __init__(self, path, mutate):
        self.path, self.before = path, path.read_bytes()
        self.after = mutate(self.before)

    def __enter__(self):
        self.path.write_bytes(self.after)
        return self.after

    def __exit__(self, *_):
        self.path.write_bytes(self.before)


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


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@laws(40)
@given(change=JSON_CHANGE)
def test_json_with_a_digest_that_fits(finished, name, change):
    """As if another program had written the file: what is in it, or an error; never another traceback."""

    def mutate(content):
        value = json.loads(content)
        changed = change_json(json.dumps(value | {"sha256": {}}).encode(), *change)
        try:
            value = json.loads(changed)
            digests = value.get("sha256")
            if isinstance(digests, dict):
                digests[name[:-5]] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
            return json.dumps(value).encode()
        except (ValueError, RecursionError):
            return changed

    with Mutated(finished / name, mutate):
        outcome(lambda: Run(finished, CONFIG).result, finished)
        outcome(lambda: Run.open(finished).checked("last.keras"), finished)


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


# Checkpoints


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


@laws(8)
@given(index=st.integers(0, 1), change=JSON_CHANGE, at=st.sampled_from(["notes", "callbacks", "settings"]))
@example(0, (0, "replace", b'{"arrays": 3}'), "callbacks")
def test_a_training_with_foreign_notes(training, index, change, at):
    training, files, whole = training
    _, content = files[index]
    arrays, notes = parts(content)
    if at == "notes":
        text = change_json(json.dumps(notes).encode(), *change)
    else:
        text = json.dumps(notes | {at: "there"}).encode()
        text = text.replace(b'"there"', change_json(json.dumps(notes[at]).encode(), *change))
    epoch, step = notes["epoch"], notes["step"]
    end, error = resume(training, [files[0], named(npz(arrays, text), epoch, step)])
    assert error or end[0].keys() == whole[0].keys()


REMEMBERED = [
    (callback, name)
    for callback, names in {
        "EarlyStopping-1": ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
        "ReduceLROnPlateau-1": ("wait", "cooldown_counter", "best"),
        "History-1": ("history", "epoch"),
    }.items()
    for name in names
]
NOT_WRITTEN = ["x", {"a": "x"}, {"arrays": 2}, {"arrays": 10**9}, {"arrays": "x"}, {"arrays": None}]


@pytest.mark.parametrize("place, name", REMEMBERED)
def test_what_callbacks_remember_is_of_its_kind(training, place, name):
    """The piece of `Resume` that gives it back; through `fit` see below."""
    training, files, _ = training
    arrays, notes = parts(files[1][1])
    callback = getattr(keras.callbacks, place[:-2])()
    callback.set_model(training.model)
    callback.on_train_begin()
    resume = Resume("nowhere")
    resume._found = checkpoint.Checkpoint(1, 0, arrays, notes, pathlib.Path("the-file.npz"))
    resume._recalled(place, callback, name, notes["callbacks"][place][name])
    for value in [*NOT_WRITTEN, *([] if place == "History-1" else [["x"], [[]]])]:
        with pytest.raises(ValueError, match=rf"the-file\.npz is not what Resume writes: .*`{name}` of {place}"):
            resume._recalled(place, callback, name, value)


@pytest.mark.parametrize("place, name", [REMEMBERED[0], REMEMBERED[4], REMEMBERED[-2]])
def test_a_training_with_memories_of_another_kind(training, place, name):
    training, files, _ = training
    arrays, notes = parts(files[1][1])
    notes["callbacks"][place][name] = {"arrays": 2}
    _, error = resume(training, [named(npz(arrays, json.dumps(notes).encode()), 1, 0)])
    assert f"`{name}` of {place}" in str(error)


@pytest.mark.parametrize("group", ["model", "optimizer", "metrics"])
@laws(3)
@given(
    odd=st.sampled_from([None, np.float64([1]), np.array("text"), np.zeros((2, 0, 3), "float32"), np.zeros(3, "M8[s]")])
    | st.sampled_from(["float64", "int64", "uint8", ">f4", "bool", "complex64"]),
    number=st.integers(0, 3),
)
@example("float64", 0)
def test_a_training_with_foreign_arrays(training, group, odd, number):
    training, files, _ = training
    _, content = files[0]  # within an epoch, with metrics
    arrays, notes = parts(content)
    assert notes["step"] == 1
    key = f"{group}/{number}"
    if odd is None:
        del arrays[key]
    else:
        arrays[key] = arrays[key].astype(odd) if isinstance(odd, str) else odd
    _, error = resume(training, [named(npz(arrays, json.dumps(notes).encode()), notes["epoch"], notes["step"])])
    assert (error and "is not of this model" in str(error)) or (arrays[key] == parts(content)[0][key]).all()


@pytest.mark.parametrize("step", [2, 100])
def test_a_step_that_the_epoch_does_not_have(training, step):
    training, files, _ = training
    arrays, notes = parts(files[0][1])
    _, error = resume(training, [named(npz(arrays, json.dumps(notes | {"step": step}).encode()), 0, step)])
    assert f"step {step} is not within an epoch" in str(error)


# Data files


@pytest.fixture(scope="module")
def release(folder):
    """`(folder, archive, tar without compression, arrays)`."""
    path, *_ = write_cifar100(folder / "data")
    with tarfile.open(folder / "plain.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("train.bin", "test.bin"):
            member = tar.gettarinfo(path / name, f"{'deep/' * 30}{name}")
            member.pax_headers = {"comment": "so that there is a pax header", "mtime": "1.5"}
            with open(path / name, "rb") as file:
                tar.addfile(member, file)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        yield path, pack(path, folder / "data.tar.gz"), folder / "plain.tar", cifar100(path)


def arrays_of(data):
    return [array for part in data for array in part]


def check_arrays(data):
    (images, labels), (test_images, test_labels) = data
    assert images.shape == (30, 32, 32, 3) and test_images.shape == (12, 32, 32, 3)
    for array in (labels, test_labels):
        assert array.dtype == np.int64 and array.min() >= 0 and array.max() < 100
    return data


@pytest.mark.parametrize("name", ["train.bin", "test.bin"])
@laws(60)
@given(mutate=BYTES)
def test_a_data_file(release, name, mutate):
    folder, *_ = release
    with Mutated(folder / name, mutate) as content:
        data, _ = outcome(lambda: cifar100(folder), folder / name, errors=(ValueError, OSError))
        if data:
            images, labels = check_arrays(data)[name == "test.bin"]
            records = np.frombuffer(content, "uint8").reshape(-1, 3074)
            np.testing.assert_array_equal(images.transpose(0, 3, 1, 2).reshape(len(images), -1), records[:, 2:])
            np.testing.assert_array_equal(labels, records[:, 1])


@laws(60)
@given(mutate=BYTES)
def test_a_compressed_archive(release, mutate):
    """It has a checksum: what it gives is what was packed."""
    _, archive, _, wanted = release
    with Mutated(archive, mutate):
        data, _ = outcome(lambda: cifar100(archive), archive, errors=(ValueError, OSError))
        for array, expected in zip(arrays_of(data or ()), arrays_of(wanted)):
            np.testing.assert_array_equal(array, expected)


def with_checksums(content):
    """The tar archive with right checksums in its headers, wherever there is one."""
    content = bytearray(content)
    for start in range(0, len(content) - 511, 512):
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    return bytes(content)


FIELDS = [(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 8), (345, 155)]
NUMBERS = [-1024, -512, -1, 0, 3074 * 30, 1 << 33, 1 << 40, 1 << 62, 1 << 80]
FIELD = st.binary(min_size=1, max_size=12) | st.sampled_from(NUMBERS).map(
    lambda number: tarfile.itn(number, 12, tarfile.GNU_FORMAT)
)


def set_field(content, header, field, value):
    """A tar archive with another field in one of its headers."""
    headers = [i for i in range(0, len(content) - 511, 512) if content[i + 257 : i + 262] == b"ustar"]
    place, length = FIELDS[field]
    start, value = headers[int(header * len(headers))] + place, value[:length]
    return content[:start] + value + content[start + len(value) :]


def set_pax(content, value):
    """A tar archive with another record in its first pax header."""
    record = b"27 %s=" % value
    at = content.index(b"comment=")
    start = content.rindex(b"\0", 0, at) + 1
    return content[:start] + record + content[start + len(record) :]


TAR = st.one_of(
    BYTES,
    st.tuples(SHARE, st.integers(0, len(FIELDS) - 1), FIELD).map(lambda f: lambda content: set_field(content, *f)),
    st.sampled_from([b"size", b"path", b"GNU.sparse.major", b"GNU.sparse.size", b"\xff", b""]).map(
        lambda value: lambda content: set_pax(content, value)
    ),
)


@laws(120)
@given(mutate=TAR, is_fitting=st.booleans(), is_compressed=st.booleans())
@example(lambda content: set_field(content, 0.99, 3, tarfile.itn(-512, 12, tarfile.GNU_FORMAT)), True, False)
def test_headers_of_an_archive(release, mutate, is_fitting, is_compressed):
    """Without compression there is no checksum of the contents: they are those that are in the archive."""
    *_, archive, _ = release

    def whole(content):
        content = mutate(content)
        content = with_checksums(content) if is_fitting else content
        return gzip.compress(content, 1) if is_compressed else content

    with Mutated(archive, whole) as content:
        data, _ = outcome(lambda: cifar100(archive), archive, errors=(ValueError, OSError))
        if data:
            content = gzip.decompress(content) if is_compressed else content
            for images, labels in check_arrays(data):
                pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
                for image, label in zip(pixels, labels):
                    assert not image.any() or bytes([label]) + image.tobytes() in content  # a sparse file has zeros
