"""The recipes as a user starts them: a process, its output, its files."""

import contextlib
import io
import json
import os
import pathlib
import tempfile

import keras
import numpy as np
import pytest
from jpeg_files import cut, write_images
from networks import batch, inferred, sgd, tiny
from programs import ROOT, run_main, start, without_tensorflow

import dhm_keras as dhm
from dhm_keras.run import Run

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.mark.slow
@pytest.mark.tensorflow
def test_cifar100_trains_compares_draws_exports_and_keeps_what_is_done(tmp_path, cifar, capsys):
    runs = tmp_path / "runs"
    command = (
        "recipes/cifar100.py",
        "--arch=resnet20",
        "--method=baseline,dhm",
        "--smoke",
        "--on_device",
        f"--data_dir={cifar}",
    )
    first = start(*command, f"--run_dir={runs}", "--corrupt=0.5", "--precision=mixed_bfloat16")
    assert first.returncode == 0, first.stderr[-3000:]
    assert "--corrupt (default 0.0: supplement E has 0.2 and 0.5)" in first.stdout
    assert "(81, 122) of 164 epochs, in proportion" in first.stdout
    assert "dhm-0, epoch 2/2: loss" in first.stdout and "left\n" in first.stdout
    for method, heads in (("baseline", ["main"]), ("dhm", ["main", "aux1", "aux2"])):
        folder = runs / f"{method}-0"
        run = Run.open(folder)
        assert run.config["batch_size"] == 128 and run.config["weight_decay"] == 1e-4
        assert run.result["last"]["epoch"] == 2 and len(run.history) == 2
        for head in heads:
            for log, error in (
                (f"val_{head}_accuracy", f"{head}_top1_error"),
                (f"val_{head}_top5", f"{head}_top5_error"),
            ):
                assert run.result["last"][error] == pytest.approx(100 * (1 - run.history[-1][log]))
                best = run.history[run.result["best"]["epoch"] - 1]
                assert run.result["best"][error] == pytest.approx(100 * (1 - best[log]))
            assert f"{method:<9}{head:<6}{run.result['last'][f'{head}_top1_error']:>14.2f}" in first.stdout
        model = keras.models.load_model(run.path("last.keras"))
        assert model.objective.method == method and model.dtype_policy.name == "mixed_bfloat16"
        assert [path.name for path in (folder / "serving").iterdir() if path.is_dir()] == ["1"]
        assert pathlib.Path(run.path("best.weights.h5")).exists()
    assert (runs / "curves.png").stat().st_size > 10_000

    again = lambda *flags: run_main("cifar100", *command[1:], f"--run_dir={runs}", *flags)
    again("--corrupt=0.5", "--precision=mixed_bfloat16")
    second, table = capsys.readouterr().out, lambda text: text[text.index("Test error") :]
    assert "epoch 1/2" not in second and table(first.stdout) == table(second)
    with pytest.raises(SystemExit, match=r"^cifar100\.py: .*corrupt: 0\.5 there, 0\.0 here"):
        again()


@pytest.mark.slow
def test_cifar100_on_jax_without_tensorflow(tmp_path, cifar):
    process = start(
        "recipes/cifar100.py",
        *("--arch=resnet20", "--smoke", "--sampling=bernoulli", "--scope=branch", "--on_device", f"--data_dir={cifar}"),
        f"--run_dir={tmp_path}/runs",
        **without_tensorflow(tmp_path),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "no TensorBoard logs, no export" in process.stdout and "dhm      aux2" in process.stdout
    result = json.loads((tmp_path / "runs" / "dhm-0" / "result.json").read_text())
    assert 0 < result["last"]["main_top5_error"] < result["last"]["main_top1_error"] <= 100
    process = start("recipes/cifar100.py", "--smoke", f"--run_dir={tmp_path}/x", **without_tensorflow(tmp_path / "y"))
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "needs tensorflow-datasets and TensorFlow" in process.stderr and "--data_dir" in process.stderr


@pytest.mark.tensorflow
def test_cifar100_without_a_folder_takes_tfds(tmp_path, capsys):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=300):
        run_main("cifar100", "--arch=resnet20", "--method=baseline", "--smoke", f"--run_dir={tmp_path}/runs")
    printed = capsys.readouterr().out
    assert "Downloading cifar100 with tensorflow-datasets to " in printed
    assert "Data: tensorflow-datasets, 256 training, 256 test images" in printed
    assert (tmp_path / "runs" / "baseline-0" / "result.json").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--method=dhm,foo"], "one or several of baseline,dsl,dhm,aux1,aux2"),
        (["--method=aux3"], "one or several of baseline,dsl,dhm,aux1,aux2, each once"),
        (["--branches=aux3"], "the branches of resnet32"),
        (["--branches=aux1,aux1"], "each once"),
        (["--branches="], "one or several of aux1,aux2"),
        (["--branches=aux1", "--method=baseline,aux2"], "--branches is of training with branches, not of"),
        (["--ce_weight=2", "--method=baseline"], "--ce_weight is of training with branches"),
        (["--temperature=3", "--method=dsl"], "--temperature is of the mimicking"),
        (["--mimic_weight=0.5", "--method=aux1"], "--mimic_weight is of the mimicking"),
        (["--mimic_weight=inf"], "--mimic_weight is a finite number"),
        (["--p=0.3"], "Give that, too"),
        (["--devices=100000"], r"--devices is at most .* the number of CPU cores here\. Received: 100000"),
        (["--agreement", "--method=aux1"], "--agreement is of training with branches"),
        (["--arch=resnet20", "--dropout=0.3"], "resnet20 has none"),
        (["--learning_rate=nan"], "--learning_rate is a finite number"),
        (["--warmup_epochs=inf"], "--warmup_epochs is a finite number"),
        (["--only=dhm-1"], "--only is METHOD-SEED, of dhm and 0 to 0. Received: dhm-1"),
        (["--scope=branch"], "--sampling bernoulli or uniform"),
        (["--direction=top_down", "--method=dsl"], "Give --method dhm"),
        (["--sampling=uniform", "--method=baseline"], "Give --method dhm"),
        (["--sampling=bernoulli", "--method=dsl"], "Give --method dhm"),
        (["--smoke", "--data_dir=nowhere"], "no file or folder nowhere"),
    ],
)
def test_cifar100_says_what_is_wrong_with_a_flag(arguments, words, tmp_path):
    with pytest.raises(SystemExit, match=words):
        run_main("cifar100", *arguments, f"--run_dir={tmp_path}/runs")
    assert not list(tmp_path.iterdir())  # what does not start claims no folder


def test_cifar100_names_a_folder_that_cannot_be_written(tmp_path, cifar):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/runs"):
        with pytest.raises(SystemExit, match=r"cifar100\.py: .*file"):
            run_main("cifar100", "--smoke", "--arch=resnet20", f"--data_dir={cifar}", f"--run_dir={tmp_path}/{folder}")


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """A folder with 24 JPEGs of three classes to train on, as many to validate on."""
    return write_images(tmp_path_factory.mktemp("jpegs"), each=8)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "--data_dir of the recipe"),
        (["--data_dir=nowhere"], "There is no folder nowhere/train"),
        (["--data_dir=JPEGS"], "has 3 classes, expected are 1000 .* Give --num_classes 3"),
        (
            ["--data_dir=JPEGS", "--num_classes=3", "--train_examples=25"],
            "There are 24 training images. Give --train_examples as many, or fewer, not 25",
        ),
        (["--arch=resnet50", "--branches=aux3"], "the branches of resnet50"),
        (["--arch=resnet50", "--method=aux3"], "baseline,dsl,dhm,aux1,aux2, each once"),
    ],
)
@pytest.mark.tensorflow
def test_imagenet_says_what_is_wrong_with_a_flag(arguments, words, tmp_path, jpegs, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    arguments = [argument.replace("JPEGS", str(jpegs)) for argument in arguments]
    with pytest.raises(SystemExit, match=words):
        run_main("imagenet", *arguments, f"--run_dir={tmp_path}/runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.tensorflow
def test_imagenet_names_a_corrupt_image_or_leaves_it_out(tmp_path, capsys):
    folder = write_images(tmp_path / "data", each=2)
    cut(folder / "train" / "cat" / "cat_1.JPEG")
    arguments = ["--method=baseline", "--smoke", "--image_size=32", "--num_classes=3", f"--data_dir={folder}"]
    with pytest.raises(SystemExit, match=r"imagenet\.py: .*cat_1\.JPEG is not an image that can be decoded"):
        run_main("imagenet", *arguments, f"--run_dir={tmp_path}/runs")
    run_main("imagenet", *arguments, f"--run_dir={tmp_path}/again", "--on_corrupt=skip")
    printed = capsys.readouterr().out
    assert f"Left out 1 image that cannot be decoded: {folder}/train/cat/cat_1.JPEG" in printed
    result = Run.open(tmp_path / "again" / "baseline-0").result
    assert result["skipped"] == 1 and result["last"].keys() == {"epoch", "main_top1_error"}  # three classes: no top-5


@pytest.mark.slow
@pytest.mark.tensorflow
def test_tables_4_and_5_their_figures_and_their_report(tmp_path, jpegs):
    runs, out = tmp_path / "runs", tmp_path / "out"
    command = ("recipes/imagenet.py", "--smoke", "--image_size=32", "--num_classes=3", f"--data_dir={jpegs}")
    flags = ("--method=baseline,aux3,dsl,dhm", "--branches=aux1,aux2,aux3", "--agreement")
    process = start(*command, *flags, f"--run_dir={runs}")
    assert process.returncode == 0, process.stderr[-3000:]
    assert "aux3     alone" in process.stdout and "dhm      aux3" in process.stdout
    for method, augmentation in (("baseline", "scale"), ("aux3", "scale"), ("dsl", "scale"), ("dhm", "crop")):
        run = Run.open(runs / f"{method}-0")
        assert run.config["augmentation"] == augmentation
        assert (run.agreement is None) == (method in ("baseline", "aux3"))
    assert len(Run.open(runs / "dhm-0").agreement[0]) == 1 + 6 + 6 + 12  # epoch; of four heads pairs, ordered pairs
    process = start("recipes/figures.py", "curves", str(runs), f"--out={out}")
    assert process.returncode == 0, process.stderr[-3000:]
    for kind in ("heatmaps", "agreement"):
        run_main("figures", kind, str(runs), f"--out={out}")
    for kind in ("curves", "heatmaps", "agreement"):
        assert (out / f"{kind}.png").stat().st_size > 10_000 and (out / f"{kind}.csv").exists()
    process = start("recipes/report.py", str(runs), f"--out={out}/report")
    assert process.returncode == 0 and "Runs: 4 finished." in process.stdout, process.stderr[-3000:]
    text = (out / "report.md").read_text()
    assert "branches aux1, aux2, aux3 (aux1, aux2)" in text and "2 epochs (90)" in text
    assert "| B1 & B2 & B3 | 29.220 / 10.044 | not run |" in " ".join(text.replace("*", "").split())


@pytest.mark.slow
def test_imagenet_on_jax_without_tensorflow(tmp_path, jpegs):
    process = start(
        *("recipes/imagenet.py", "--smoke", "--image_size=32", "--num_classes=3", f"--data_dir={jpegs}"),
        *("--sampling=bernoulli", "--p=0", "--scope=branch", f"--run_dir={tmp_path}/runs"),
        **without_tensorflow(tmp_path),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    history = Run.open(tmp_path / "runs" / "dhm-0").history
    assert all(np.isnan(row["aux1_ce"]) and np.isfinite(row["main_ce"]) for row in history)  # p = 0: main alone


def run_the_readmes_code(name, replacements, names):
    """Runs an example of the README with smaller numbers, in a folder of its own; returns its names and its files."""
    code = (ROOT / "README.md").read_text().split(f"<!-- code: {name} -->")[1].split("```")[1].removeprefix("python\n")
    for printed, small in replacements.items():
        assert printed in code
        code = code.replace(printed, small)
    if not ON_TENSORFLOW:
        code = "\n".join(line for line in code.splitlines() if "export" not in line)
    before = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec(code, names)
        finally:
            os.chdir(before)
        return names, {str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*")}


def test_the_readmes_call():
    rng = np.random.default_rng(0)
    data = {"images": rng.integers(0, 256, (16, 32, 32, 3)).astype("uint8"), "labels": rng.integers(0, 100, 16)}
    names, files = run_the_readmes_code("call", {"epochs=164": "epochs=1"}, data)
    assert names["logits"].shape == (16, 100)
    assert ("serving/resnet32/1/saved_model.pb" in files) == ON_TENSORFLOW


@pytest.mark.slow
def test_the_readmes_fork():
    rng = np.random.default_rng(0)
    data = {"dhm": dhm, "images": rng.uniform(-1, 1, (4, 32, 32, 3)).astype("float32"), "labels": np.arange(4)}
    smaller = {"epochs=20": "epochs=1", "(224, 224, 3))": "(32, 32, 3), weights=None)"}
    names, files = run_the_readmes_code("fork", smaller, data)
    assert list(names["network"].output) == ["main", "aux1", "aux2"]
    assert "network.png" in files
    assert ("serving/pets/1/saved_model.pb" in files) == ON_TENSORFLOW


def test_wrong_flags_are_named():
    process = start("recipes/digits.py", "--corrupt=1.5")
    assert process.returncode == 1 and "corrupt" in process.stderr and "Traceback" not in process.stderr


BATCHES = """
import hashlib, keras, dhm_keras as dhm
(images, labels), _ = dhm.data.digits()
train = dhm.data.TrainBatches(images, dhm.data.corrupt_labels(labels, 0.4, 10), 64, pad=2, flip=True, seed=3)
keras.utils.set_random_seed(1)
weights = dhm.models.resnet20().get_weights()
arrays = [array for i in range(30) for array in train[i]] + weights
print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""


@pytest.mark.tensorflow
def test_both_backends_start_from_the_same_weights_and_see_the_same_batches(tmp_path):
    on_jax = start("-c", BATCHES, **without_tensorflow(tmp_path)).stdout
    with contextlib.redirect_stdout(io.StringIO()) as on_tensorflow:
        exec(BATCHES, {})
    assert on_jax == on_tensorflow.getvalue() and len(on_jax.strip()) == 64


LOAD = """
import sys, numpy, keras, dhm_keras
model = keras.models.load_model(sys.argv[1])
data = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], **model.predict(data["x"], verbose=0))
print(model.evaluate(data["x"], data["y"], verbose=0, return_dict=True)["loss"])
model.fit(data["x"], data["y"], verbose=0)
"""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_model_trained_on_tensorflow_goes_on_on_jax(tmp_path):
    model, (x, y) = dhm.DHM(tiny(), temperature=2.0), batch()
    model.compile(optimizer=sgd())
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    files = [str(tmp_path / name) for name in ("model.keras", "data.npz", "logits.npz")]
    process = start("-c", LOAD, *files, **without_tensorflow(tmp_path))
    assert process.returncode == 0, process.stderr[-3000:]
    expected = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert float(process.stdout.split()[-1]) == pytest.approx(expected, rel=1e-5)
    for head, logits in np.load(tmp_path / "logits.npz").items():
        np.testing.assert_allclose(logits, inferred(model, x)[head], atol=1e-5)
