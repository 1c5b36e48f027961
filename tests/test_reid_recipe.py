"""The recipe of re-identification: its flags, settings and results, and as a user starts it."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from programs import recipe_module, start
from test_recipes import run_main

import dhm_keras as dhm
from dhm_keras import reid
from dhm_keras.run import Run


@pytest.fixture
def recipe():
    with recipe_module("reid") as module:
        yield module


@pytest.fixture(scope="module")
def persons(tmp_path_factory):
    """A small drawn set in Market's layout, and its table."""
    folder = tmp_path_factory.mktemp("drawn") / "persons"
    reid.synthetic_people(folder, train=8, test=6, cameras=2, size=(64, 32), distractors=4, junk=2)
    return folder


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "--dataset market1501 wants --data_dir, where it is: nothing is downloaded"),
        (["--dataset=folder"], "--dataset folder wants --data_dir"),
        (["--dataset=synthetic", "--pattern=x"], "--pattern and --nocameras are of --dataset folder"),
        (["--dataset=synthetic", "--nocameras"], "--pattern and --nocameras are of --dataset folder"),
        (["--data_dir=x", "--start=imagenet"], "--start imagenet is of --arch resnet50"),
        (["--data_dir=x", "--arch=resnet50"], "--weights FILE, torchvision's. Or give --start random."),
        (["--data_dir=x", "--arch=resnet50", "--start=random", "--weights=x"], "--weights is of --start imagenet"),
        (["--data_dir=x", "--new_layers_epochs=3"], "--new_layers_epochs is of --start imagenet"),
        (["--data_dir=x", "--arch=resnet50", "--weights=x", "--last_stride=2"], "--last_stride is of --arch mobilenet"),
        (["--data_dir=x", "--image_size=128"], "--image_size is HEIGHTxWIDTH"),
        (["--data_dir=x", "--image_size=0x8"], "--image_size is HEIGHTxWIDTH"),
    ],
)
def test_wrong_flags_are_told_in_a_sentence(recipe, arguments, words):
    with flagsaver.flagsaver():
        flags.FLAGS(["reid.py", *arguments])
        assert words in recipe.check()


def test_settings_are_the_papers(recipe):
    with flagsaver.flagsaver():
        flags.FLAGS(["reid.py", "--data_dir=x", "--arch=resnet50", "--weights=x", "--dataset=duke"])
        assert recipe.check() is None
        settings = {name: value for name, (value, _) in recipe.experiment.settings_of_flags(recipe.RECIPE).items()}
    assert settings | {"start": "imagenet", "new_layers_epochs": 10, "dataset": "duke"} == settings
    assert (settings["label_smoothing"], settings["image_size"], settings["erasing"]) == (0.1, "256x128", 0.0)
    assert recipe.published("duke", "resnet50") == {"baseline": [59.4, 78.2], "dsl": [60.5, 78.8], "dhm": [65.4, 81.1]}
    assert recipe.published(None, "mobilenet") == recipe.published("market1501", "mobilenet")
    assert recipe.published(None, "mobilenet")["dhm"] == [59.1, 79.0] and recipe.published("folder", "resnet50") == {}


def test_a_smoke_run_takes_few_persons_that_can_be_found(recipe, persons):
    people = reid.person_folder(persons)
    few = recipe.some_of(people, persons=3)
    assert few.statistics() == {"train": (3, 12, 2), "query": (3, 6, 2), "gallery": (3, 6, 2)}
    assert few.query.class_names == few.gallery.class_names == people.query.class_names[:3]


def flagged(*arguments):
    flags.FLAGS(["reid.py", "--dataset=folder", *arguments])


def test_other_data_are_another_run(recipe, persons, tmp_path):
    settings, found = {"dataset": "folder"}, {}
    shutil.copytree(persons, tmp_path / "copy")
    next((tmp_path / "copy" / "query").glob("*.jpg")).unlink()
    for name, arguments in {
        "persons": [f"--data_dir={persons}"],
        "again": [f"--data_dir={persons}"],
        "copy": [f"--data_dir={tmp_path}/copy"],
        "pattern": [f"--data_dir={persons}", r"--pattern=(?P<pid>-?\d+)_c(?P<camid>\ds\d)"],
    }.items():
        with flagsaver.flagsaver():
            flagged(*arguments)
            found[name] = recipe.RECIPE.identify(settings)["data"]
    assert found["persons"] == found["again"] and len(set(found.values())) == 3
    with flagsaver.flagsaver():
        (tmp_path / "weights").write_text("1")
        flagged(f"--data_dir={persons}", f"--weights={tmp_path}/weights")
        assert recipe.RECIPE.identify(settings).keys() == {"data", "start_weights"}


def test_agreement_is_measured_with_the_labels_trained_on(recipe, persons):
    train = reid.person_folder(persons).train
    many = train.take(np.arange(20 * len(train)) % len(train))  # 640 images
    people = type("People", (), {"train": many})
    config = {"image_size": "8x4", "batch_size": 4, "erasing": 0.0, "label_smoothing": 0.1, "seed": 0}
    with flagsaver.flagsaver():
        flagged()
        images, targets = recipe.measured(config, people)
    rows = np.arange(128) * 5
    assert images.shape == (128, 8, 4, 3) and targets.shape == (128, 8)
    assert np.array_equal(targets.argmax(axis=1), many.labels[rows])


def test_test_images_that_cannot_be_decoded_are_named_before_the_training(recipe, persons, tmp_path):
    shutil.copytree(persons, tmp_path / "copy")
    path = next((tmp_path / "copy" / "bounding_box_test").glob("00*.jpg"))
    path.write_bytes(path.read_bytes()[:100])
    people = reid.person_folder(tmp_path / "copy")
    with pytest.raises(ValueError, match=f"1 of {len(people.gallery)} images to test on cannot .*{path.name}"):
        recipe.check_images(people)


def test_the_best_epoch_is_that_of_the_highest_map(recipe):
    nan = float("nan")
    logs = {"val_mAP": [nan, 0.3, nan, 0.5, 0.4], "val_mINP": [nan, 0.1, nan, 0.2, 0.3]}
    logs |= {f"val_rank{k}": [nan, 0.6, nan, 0.7, 0.8] for k in (1, 5, 10)}
    results = recipe.best_and_last(logs)
    assert results["best"]["epoch"] == 4 and results["last"]["epoch"] == 5
    assert results["best"]["main_map"] == 50 and results["last"]["main_rank1"] == pytest.approx(80)


def test_the_table_has_means_over_the_seeds_and_the_papers_numbers(recipe, capsys):
    class Finished:
        def __init__(self, seed):
            names = ("map", "minp", "rank1", "rank5", "rank10")
            numbers = {f"main_{name}": 50.0 + 10 * number + 2 * seed for number, name in enumerate(names)}
            self.result = {"last": numbers, "best": numbers, "multi_query": {"main_map": 70.0, "main_rank1": 80.0}}

    with flagsaver.flagsaver():
        flags.FLAGS(["reid.py", "--arch=resnet50"])
        recipe.RECIPE.print_table({"baseline": [Finished(0), Finished(1)], "dhm": [Finished(0)]})
    lines = capsys.readouterr().out.splitlines()
    (baseline,) = [line for line in lines if line.startswith("baseline")]
    assert baseline.split()[1:] == [
        *("51.00", "(1.41)", "71.00", "(1.41)", "81.00", "(1.41)", "91.00", "(1.41)", "61.00", "(1.41)"),
        *("51.00", "(1.41)", "71.00", "(1.41)", "70.3", "88.5"),
    ]
    assert sum("multi query" in line for line in lines) == 2 and "76.7 90.3" in "\n".join(lines)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_it_trains_evaluates_draws_exports_and_keeps_what_is_done(tmp_path, persons, capsys):
    command = ("recipes/reid.py", "--dataset=folder", f"--data_dir={persons}", "--smoke", "--method=baseline,dhm")
    first = start(*command, f"--run_dir={tmp_path}/runs", "--image_size=32x16", "--agreement")
    assert first.returncode == 0, first.stderr[-3000:]
    assert "--image_size (default 256x128: the paper, section 4.2)" in first.stdout
    run = Run.open(tmp_path / "runs" / "dhm-0")
    last = run.result["last"]
    assert last["epoch"] == 2 and last["main_map"] == pytest.approx(100 * run.history[-1]["val_mAP"])
    assert f"dhm      {last['main_map']:>14.2f}{last['main_rank1']:>14.2f}" in first.stdout
    assert len(run.agreement) == 2 and (tmp_path / "runs" / "agreement.png").exists()
    arrays = np.load(run.path("embeddings.npz"))
    names = ("features", "pids", "camids")
    query, gallery = ([arrays[f"{split}_{name}"] for name in names] for split in ("query", "gallery"))
    found = reid.evaluate(*(part for pair in zip(query, gallery, strict=True) for part in pair))
    assert found.mean_ap == pytest.approx(run.history[-1]["val_mAP"]) and run.result["cmc"] == found.cmc.tolist()
    people = reid.person_folder(persons)
    served = reid.Extractor(tmp_path / "runs/dhm-0/serving/1")
    few = people.gallery.take(np.flatnonzero(np.isin(people.gallery.names, arrays["gallery_names"])))
    np.testing.assert_allclose(served(few), gallery[0], atol=1e-5 * abs(gallery[0]).max())
    for picture in ("runs/cmc.png", "runs/dhm-0/ranking.png"):
        assert (tmp_path / picture).stat().st_size > 5_000

    again = (*command[1:], f"--run_dir={tmp_path}/runs", "--image_size=32x16", "--agreement")
    run_main("reid", *again)
    second, table = capsys.readouterr().out, lambda text: text[text.index("Single query") : text.index("CMC curves")]
    assert "2 runs finished before" in second and table(first.stdout) == table(second)
    with pytest.raises(SystemExit, match=r"^reid\.py: .*erasing: 0\.0 there, 0\.5 here"):
        run_main("reid", *again, "--erasing=0.5")

    run_main("export", f"{tmp_path}/runs/dhm-0", f"{tmp_path}/exported")
    card = json.loads((tmp_path / "exported/1/assets.extra/model_card.json").read_text())
    assert "embedding" in json.dumps(card) and card["recipe"]["recipe"] == "reid"


@pytest.mark.slow
def test_resnet50_begins_with_weights_and_new_layers_alone(tmp_path, persons, capsys):
    keras.utils.set_random_seed(1)
    of_torchvision = dhm.models.resnet50(1000, branches=(), input_shape=(32, 32, 3))
    dhm.interop.save_torch(of_torchvision, tmp_path / "r50.npz")
    command = ("--dataset=folder", f"--data_dir={persons}", "--smoke", "--arch=resnet50")
    words = ("--image_size=32x16", "--new_layers_epochs=1", "--epochs=1", "--branches=aux2", "--train_examples=16")
    run_main("reid", *command, *words, f"--weights={tmp_path}/r50.npz", f"--run_dir={tmp_path}/runs")
    printed = capsys.readouterr().out
    assert "dhm-0: 1 epochs of the new layers alone" in printed and printed.count("dhm-0, epoch 1/1") == 2
    assert not (tmp_path / "runs/dhm-0/checkpoints").exists()
    assert pathlib.Path(Run.open(tmp_path / "runs/dhm-0").path("last.keras")).exists()
    with pytest.raises(SystemExit, match=r"^reid\.py: There is no file nowhere\.npz"):
        run_main("reid", *command, *words, "--weights=nowhere.npz", f"--run_dir={tmp_path}/other")
