"""`recipes/figures.py` on folders of runs, as a user starts it."""

import importlib.util
import pathlib
import shutil
import sys

import keras
import numpy as np
import pytest
from networks import batch, sgd

import dhm_keras as dhm
from dhm_keras.network import Network
from dhm_keras.run import Run

RECIPE = pathlib.Path(__file__).parent.parent / "recipes" / "figures.py"


@pytest.fixture(scope="module")
def figures():
    """Starts the recipe in this process."""
    from absl import flags

    known = set(flags.FLAGS)
    spec = importlib.util.spec_from_file_location("figures", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(RECIPE.parent))  # as Python does for a script
    spec.loader.exec_module(module)
    sys.path.remove(str(RECIPE.parent))

    def start(*arguments):
        flags.FLAGS.unparse_flags()
        module.main(flags.FLAGS(["figures.py", *map(str, arguments)]))

    yield start
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


def small(with_branch):
    """Main and a branch of two convolutions each, named as in `dhm_keras.models`."""
    image = keras.Input((8, 8, 3))
    stem = keras.layers.Conv2D(4, 3, name="conv")(image)
    logits = {}
    for head in ("main", "aux2") if with_branch else ("main",):
        of_head, x = "" if head == "main" else f"{head}_", stem
        for number in (1, 2):
            x = keras.layers.Conv2D(4, 2, activation="relu", name=f"{of_head}stack2_block{number}_conv1")(x)
        logits[head] = keras.layers.Dense(10, name=head)(keras.layers.GlobalAveragePooling2D()(x))
    return Network(image, logits)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with runs of three methods, dhm with two seeds; dhm-1 is not finished."""
    folder = tmp_path_factory.mktemp("trained") / "small"
    images, labels = batch(8, 10, (8, 8, 3))
    for name in ("baseline-0", "dsl-0", "dhm-0", "dhm-1"):
        method, seed = name.split("-")
        run = Run(folder / name, {"recipe": "small", "method": method, "seed": int(seed)})
        model = dhm.DHM(small(with_branch=method != "baseline"), method=method)
        model.compile(optimizer=sgd(), run_eagerly=True)
        callbacks = run.start()
        if method != "baseline":
            callbacks.append(dhm.callbacks.MeasureAgreement(images, labels, run.path("agreement.csv")))
        if name == "dhm-1":
            continue
        model.fit(images, labels, validation_data=(images, labels), callbacks=callbacks, verbose=0)
        run.finish(model, {})
    keras.utils.clear_session()
    return folder


def test_figures_of_a_folder(trained, tmp_path, figures, capsys):
    figures("curves", trained, trained, f"--out={tmp_path}")
    figures("heatmaps", trained, f"--out={tmp_path}", "--layers=stack2_block2_conv1")
    figures("agreement", trained, f"--out={tmp_path}")
    said = capsys.readouterr().out
    assert said.count("dhm-1 is not finished, and left out") == 4 and f"{tmp_path}/heatmaps.png" in said
    for name in ("curves", "heatmaps", "agreement"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) > 2
    assert sorted(np.load(tmp_path / "heatmaps.npz").files) == [
        f"{method}/stack2_block2_conv1" for method in ("dhm", "dsl")
    ]
    row = Run.open(trained / "dhm-0").agreement[0]
    assert f"dhm,cosine_main_aux2,1,{row['cosine_main_aux2']}" in (tmp_path / "agreement.csv").read_text()


def test_the_picture_of_a_network(tmp_path, figures, capsys):
    from PIL import Image

    figures("network", "resnet20", f"--out={tmp_path}")
    assert capsys.readouterr().out == f"{tmp_path}/network.png\n"
    with Image.open(tmp_path / "network.png") as picture:
        assert picture.size[0] > 1000
    for wrong, words in ((["resnet21"], "Did you mean 'resnet"), ([], "takes one name. Received: none")):
        with pytest.raises(SystemExit, match=words):
            figures("network", *wrong)


def test_what_cannot_be_drawn_is_one_sentence(trained, tmp_path, figures):
    from absl import app

    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    refused = lambda *arguments: pytest.raises(SystemExit, match=arguments[-1])
    for arguments in ((), ("curves",), ("pies", runs), ("heatmaps", runs, runs)):
        with pytest.raises(app.UsageError, match="Expected one of curves, heatmaps, agreement"):
            figures(*arguments)
    with refused("There is no folder"):
        figures("curves", tmp_path / "nowhere")
    with refused("no runs in subfolders METHOD-SEED.*the folder of one run: give the one above"):
        figures("curves", runs / "dhm-0")
    with refused("'aux1' .* has no convolution as main has"):
        figures("heatmaps", runs, "--branch=aux1", f"--out={tmp_path}/out")
    (runs / "dhm-0" / "agreement.csv").write_text("epoch,cosine_main_aux1\n0,1.0\n")
    with refused("is not what the run wrote"):
        figures("agreement", runs, f"--out={tmp_path}/out")
    for name in ("dhm-0", "dsl-0"):
        shutil.rmtree(runs / name)
    with refused("no runs of dsl or dhm"):
        figures("heatmaps", runs, f"--out={tmp_path}/out")
    shutil.rmtree(runs / "baseline-0")
    with refused("No run in .* is finished"):
        figures("curves", runs, f"--out={tmp_path}/out")


def test_runs_without_a_table_and_runs_of_other_settings(trained, tmp_path, figures):
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    run = Run(runs / "dsl-1", {"recipe": "small", "method": "dsl", "seed": 1})
    run.start()
    (runs / "dsl-1" / "history.csv").write_text((runs / "dsl-0" / "history.csv").read_text())
    run.finish(keras.models.load_model(runs / "dsl-0" / "last.keras"), {})
    with pytest.raises(SystemExit, match=r"dsl-1 has no agreement\.csv.*--agreement"):
        figures("agreement", runs, f"--out={tmp_path}/out")
    figures("curves", runs, f"--out={tmp_path}/out")
    other = Run(runs / "dsl-2", {"recipe": "large", "method": "dsl", "seed": 2})
    other.start()
    other.finish(keras.models.load_model(runs / "dsl-0" / "last.keras"), {})
    with pytest.raises(SystemExit, match=r"dsl-2 has other settings than .*recipe: 'small' there, 'large' here"):
        figures("curves", runs, f"--out={tmp_path}/out")


@pytest.fixture(scope="module")
def of_persons(tmp_path_factory):
    """A folder with runs as of reid.py, a plain network and one with a neck, and the folder of the images."""
    pytest.importorskip("PIL")
    folder = tmp_path_factory.mktemp("of_persons")
    images = dhm.reid.synthetic_people(folder / "images", train=2, test=9, cameras=2, size=(32, 16), distractors=2)
    people = dhm.reid.person_folder(images)
    for name in ("baseline-0", "dsl-0"):
        image = keras.Input((32, 16, 3))
        x = keras.layers.Rescaling(1 / 255)(image)
        x = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(x)
        if name == "baseline-0":
            outputs = {"main": keras.layers.Dense(2, name="main")(keras.layers.GlobalAveragePooling2D()(x))}
        else:
            outputs = dhm.reid.bl_neck(x, 2)
        run = Run(folder / "runs" / name, {"recipe": "reid", "method": name[:-2], "seed": 0, "dataset": "folder"})
        model = dhm.DHM(Network(image, outputs), method="baseline")
        run.start()
        arrays = {f"{split}_names": np.array(getattr(people, split).names) for split in ("query", "gallery")}
        np.savez(run.folder / "embeddings.npz", **arrays)
        pathlib.Path(run.path("history.csv")).write_text("epoch\n0\n")
        run.finish(model, {})
    keras.utils.clear_session()
    return folder / "runs", images


def test_figures_of_persons(of_persons, tmp_path, figures, capsys):
    runs, images = of_persons
    figures("activations", runs, f"--data_dir={images}", f"--out={tmp_path}")
    figures("tsne", runs, f"--data_dir={images}", f"--out={tmp_path}")
    said = capsys.readouterr().out
    assert f"activations.png, the numbers in {tmp_path}/activations.npz\n" in said
    assert f"tsne.png, the numbers in {tmp_path}/tsne.csv\n" in said
    maps = np.load(tmp_path / "activations.npz")
    assert {name: maps[name].shape for name in maps.files} == dict.fromkeys(("baseline", "dsl"), (6, 32, 16))
    rows = [line.split(",") for line in (tmp_path / "tsne.csv").read_text().splitlines()[1:]]
    panels = ['"baseline', '"dsl']  # a comma is within
    assert len(rows) == 3 * 8 * 4 and sorted({row[0] for row in rows}) == panels
    assert {row[1] for row in rows} == {' features"', ' triplet features"', ' softmax features"'}
    assert len({row[2] for row in rows}) == 8


def test_figures_of_persons_that_cannot_be_drawn(of_persons, trained, tmp_path, figures):
    runs, _ = of_persons
    refused = lambda words: pytest.raises(SystemExit, match=words)
    with refused("activations and tsne are of persons"):
        figures("tsne", trained, f"--out={tmp_path}")
    with refused("are of --dataset folder: give --data_dir"):
        figures("tsne", runs, f"--out={tmp_path}")
    other = dhm.reid.synthetic_people(tmp_path / "other", train=2, test=3, cameras=2, size=(32, 16))
    with refused("was tested on other images than there are"):
        figures("activations", runs, f"--data_dir={other}", f"--out={tmp_path}")
