"""What goes wrong around a training costs nothing that was saved, and is told in a sentence. See the README's table."""

import contextlib
import os
import pathlib
import resource
import signal
import stat

import keras
import numpy as np
import pytest
from networks import batch, sgd, tiny

import dhm_keras as dhm
from dhm_keras import checkpoint, files
from dhm_keras.run import KeepBest, Run


@contextlib.contextmanager
def full_disk(room=20_000):
    """Within, no file grows beyond so many bytes, which to a program is what a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def nobody():
    """Within, this process has no rights on others' files, also where root runs the tests."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


def content(folder):
    """`{path: digest}` of all files in a folder."""
    every = pathlib.Path(folder).rglob("*")
    return {str(path): files.sha256(path) for path in every if path.is_file() and path.name != ".lock"}


def train(run, epochs=3, callbacks=()):
    """A run of a few steps, in its folder, to its end."""
    keras.utils.set_random_seed(0)
    images, labels = batch(24)
    model = dhm.DHM(tiny(num_classes=6))
    model.compile(optimizer=sgd(), run_eagerly=True)
    data = dhm.data.TrainBatches(images, labels, 8)
    callbacks = [*callbacks, *run.start()]
    model.fit(data, epochs=epochs, validation_data=(images, labels), callbacks=callbacks, verbose=0)
    run.finish(model, {"epochs": epochs})
    return run


class At(keras.callbacks.Callback):
    """Enters a context at the start of an epoch; whoever uses it leaves."""

    def __init__(self, epoch, context):
        super().__init__()
        self.epoch, self.context, self.stack = epoch, context, contextlib.ExitStack()

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.before = content(self.folder)
            self.stack.enter_context(self.context)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(Run(tmp_path_factory.mktemp("whole"), {"seed": 0}))


def test_a_disk_that_gets_full_in_a_training_costs_nothing_that_was_saved(tmp_path, whole):
    fault = At(1, full_disk())
    fault.folder = tmp_path
    with (
        pytest.raises(OSError, match=r"cannot be written \(File too large\). What was saved before is kept. Make room"),
        fault.stack,
    ):
        train(Run(tmp_path, {"seed": 0}), callbacks=[fault])
    after = content(tmp_path)
    assert len(fault.before) >= 5 and not [path for path in after if "partial" in path]
    for path, digest in fault.before.items():
        assert after[path] == digest or path.endswith(".csv") or "tfevents" in path, path
    assert [path.name[:18] for path in checkpoint.paths(tmp_path / "checkpoints")] == ["epoch0001-step0000"]
    resumed = train(Run(tmp_path, {"seed": 0}))
    assert resumed.history == whole.history
    assert content(tmp_path)[str(tmp_path / "history.csv")] == content(whole.folder)[str(whole.folder / "history.csv")]


def test_a_disk_that_is_full_for_a_checkpoint_keeps_the_others(tmp_path):
    state = lambda step: checkpoint.Checkpoint(0, step, {"model/0": np.ones(10_000)}, {})
    for step in (1, 2):
        checkpoint.write(tmp_path, state(step))
    before = content(tmp_path)
    with full_disk(), pytest.raises(OSError, match=r"cannot be written \(File too large\)"):
        checkpoint.write(tmp_path, state(3))
    assert content(tmp_path) == before and checkpoint.read_newest(tmp_path).step == 2


def test_a_disk_that_is_full_for_the_best_weights_keeps_the_old_ones(tmp_path):
    keras.utils.set_random_seed(0)
    model = dhm.DHM(tiny())
    path = tmp_path / "best.weights.h5"
    keep = KeepBest(path)
    keep.set_model(model)
    keep.on_epoch_end(0, {"val_main_accuracy": 0.5})
    before = content(tmp_path)
    with full_disk(), pytest.raises(OSError, match=r"best\.weights\.h5 cannot be written"):
        keep.on_epoch_end(1, {"val_main_accuracy": 0.75})
    assert content(tmp_path) == before and keep.best == 0.5


@pytest.mark.tensorflow
def test_a_disk_that_is_full_for_an_export_keeps_the_versions(tmp_path):
    model = dhm.DHM(tiny())
    dhm.export.export_main(model, tmp_path)
    before = content(tmp_path)
    with (
        full_disk(1000),
        pytest.raises(OSError, match=r"/2 cannot be written .* The versions there are kept. Make room"),
    ):
        dhm.export.export_main(model, tmp_path)
    assert content(tmp_path) == before and [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["1"]
    assert dhm.export.export_main(model, tmp_path) == str(tmp_path / "2")


def test_a_folder_that_cannot_be_written_is_told_before_the_training(tmp_path):
    folder = tmp_path / "read_only"
    folder.mkdir()
    os.chmod(tmp_path, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    run = Run(folder / "run", {"seed": 0})
    with (
        nobody(),
        pytest.raises(OSError, match=r"cannot be written \(Permission denied\). Make it writable, or choose"),
    ):
        run.start()
    assert not list(folder.iterdir())


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    first = Run(tmp_path, {"seed": 0})
    first.start()
    with pytest.raises(OSError, match=r"in use by another training \(process \d+ on .*\). Wait until it ends"):
        Run(tmp_path, {"seed": 0}).start()


def test_a_folder_of_another_version_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 0}')  # as the first version wrote it
    for make in (lambda: Run(tmp_path, {"seed": 0}), lambda: Run.open(tmp_path)):
        with pytest.raises(
            ValueError, match=r"in format 1, of another version of dhm_keras; this one has format 2. Go on"
        ):
            make()


def test_a_finished_run_notices_what_was_changed(tmp_path, whole):
    run = train(Run(tmp_path, {"seed": 0}))
    again = Run.open(tmp_path)
    assert again.result == {"epochs": 3} and again.history == whole.history
    assert not (tmp_path / "checkpoints").exists() and run.seconds > 0
    keras.models.load_model(again.checked("last.keras")).network.load_weights(again.checked("best.weights.h5"))
    for name in ("history.csv", "best.weights.h5", "last.keras"):
        path = tmp_path / name
        right = path.read_bytes()
        path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        with pytest.raises(ValueError, match=rf"{name} is not what the run wrote"):
            again.checked(name)
        path.write_bytes(right)
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text.replace('"epochs": 3', '"epochs": 4'))
    with pytest.raises(ValueError, match=r"result\.json is not what the run wrote"):
        _ = again.result


def test_what_replaces_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with files.replacing(path) as partial:
        partial.write_text("after")
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_a_best_epoch_is_the_first_of_equals(tmp_path):
    model = dhm.DHM(tiny())
    keep = KeepBest(tmp_path / "best.weights.h5")
    keep.set_model(model)
    variable = model.trainable_variables[0]
    for epoch, accuracy in enumerate((0.5, 0.75, 0.75, 0.25)):
        variable.assign(np.full(variable.shape, epoch))
        keep.on_epoch_end(epoch, {"val_main_accuracy": accuracy})
    model.network.load_weights(tmp_path / "best.weights.h5")
    assert keras.ops.convert_to_numpy(variable).ravel()[0] == 1
