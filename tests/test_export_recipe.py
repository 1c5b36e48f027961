"""`recipes/export.py`: from files and folders of runs, with the report at its end."""

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from networks import batch, sgd, tiny
from programs import recipe_module

import dhm_keras as dhm
from dhm_keras.run import Run, best_and_last

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def recipe():
    with recipe_module("export") as module:
        yield module


def export(recipe, *arguments):
    with flagsaver.flagsaver():
        recipe.main(flags.FLAGS(["export.py", *map(str, arguments)]))


def logits(path, images):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return loaded.signatures["serving_default"](images=tf.constant(images))["logits"].numpy()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a few steps, and the logits of its last model."""
    keras.utils.set_random_seed(0)
    x, y = batch(24)
    model = dhm.DHM(tiny(), class_names=["a", "b", "c"])
    model.compile(optimizer=sgd(), run_eagerly=True)
    run = Run(tmp_path_factory.mktemp("runs") / "dhm-0", {"recipe": "imagenet", "method": "dhm"})
    data = dhm.data.TrainBatches(x, y, 8)
    history = model.fit(data, epochs=3, validation_data=(x, y), callbacks=run.start(), verbose=0).history
    run.finish(model, {**best_and_last(history, model.heads), "images": [24, 24]})
    return run, model.main.predict(x, verbose=0)


def test_the_best_and_the_last_epoch_of_a_run(recipe, run, tmp_path, capsys):
    run, last = run
    x, _ = batch(24)
    export(recipe, run.folder, tmp_path, "--which", "last")
    assert f"Exported main of {run.folder} to {tmp_path / '1'}" in capsys.readouterr().out
    np.testing.assert_allclose(logits(tmp_path / "1", x), last, atol=1e-6)
    card = dhm.export.read_card(tmp_path / "1")
    assert card["recipe"] == run.config and card["data"] == {"set": "imagenet", "images": [24, 24]}
    assert card["metrics"]["epoch"] == 3
    assert card["metrics"]["val_main_accuracy"] == run.history[2]["val_main_accuracy"]

    export(recipe, run.folder, tmp_path, "--embedding")
    best = keras.models.load_model(run.path("last.keras"))
    best.network.load_weights(run.path("best.weights.h5"))
    np.testing.assert_allclose(logits(tmp_path / "2", x), best.main.predict(x, verbose=0), atol=1e-6)
    card = dhm.export.read_card(tmp_path / "2")
    assert card["metrics"]["epoch"] == run.result["best"]["epoch"]
    assert {"class_names", "embedding"} <= card["signatures"]["serving_default"]["outputs"].keys()
    assert (tmp_path / "2" / "assets" / "class_names.txt").read_text() == "a\nb\nc\n"


@pytest.mark.slow
def test_the_report(recipe, run, tmp_path, capsys):
    """The network has no name of the library's, so that there is none to build it without branches of."""
    run, _ = run
    export(recipe, run.folder, tmp_path, "--onnx", "--litert", "--check")
    printed = capsys.readouterr().out
    assert (tmp_path / "1.onnx").exists() and (tmp_path / "1.tflite").exists()
    rows = [line.split()[0] for line in printed.splitlines() if "256 of 256" in line]
    assert rows == ["TensorFlow", "OpenVINO", "ONNX", "LiteRT"]


def test_a_file_and_other_class_names(recipe, run, tmp_path):
    run, _ = run
    (tmp_path / "names.txt").write_text("ä\nö\nü\n", encoding="utf-8")
    flags_given = "--heads=main,aux2", f"--class_names={tmp_path}/names.txt"
    export(recipe, run.path("last.keras"), tmp_path / "serving", *flags_given)
    x, _ = batch()
    model = keras.models.load_model(run.path("last.keras"))
    expected = dhm.export.float32_logits(model, x, ("main", "aux2"))
    np.testing.assert_allclose(logits(tmp_path / "serving" / "1", x), expected, atol=1e-6)
    names = (tmp_path / "serving" / "1" / "assets" / "class_names.txt").read_text(encoding="utf-8")
    assert names.split() == ["ä", "ö", "ü"]


def test_what_cannot_be_exported(recipe, run, tmp_path):
    run, _ = run
    (tmp_path / "damaged.keras").write_bytes(b"no archive")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "config.json").write_text((run.folder / "config.json").read_text())
    (tmp_path / "names.txt").write_text("a\nb\n")
    for arguments, words in (
        ([tmp_path / "nothing"], "There is no file or folder .*nothing"),
        ([run.folder.parent], r"is a folder of runs\. Name one of them: dhm-0"),
        ([run.path("best.weights.h5")], "do not say of which network"),
        ([tmp_path / "damaged.keras"], r"damaged\.keras cannot be loaded"),
        ([tmp_path / "open"], "is not finished"),
        ([run.path("last.keras"), "--which", "best"], "--which is of the folder of a run"),
        ([run.folder, "--heads", "aux9"], "Invalid value for argument `heads`"),
        ([run.folder, "--crop", "2"], "Invalid value for argument `crop`"),
        ([run.folder, "--crop", "0"], "Invalid value for argument `crop`"),
        ([run.folder, "--crop", "1", "--squash"], "Give one of them"),
        ([run.folder, "--class_names", tmp_path / "names.txt"], "Expected 3 strings"),
        ([run.folder, "--class_names", tmp_path / "missing.txt"], "missing.txt"),
    ):
        checkpoint, *others = arguments
        with pytest.raises(SystemExit, match=f"export.py: .*{words}"):
            export(recipe, checkpoint, tmp_path / "serving", *others)
    assert not (tmp_path / "serving").exists()
