"""The recipe of re-identification: its flags, settings and results, and as a user starts it."""

import contextlib
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from networks import Killed, assert_same, values
from programs import recipe_module, run_main, start
from test_reid_training import network

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
        (["--data_dir=x", "--start=imagenet"], "--start imagenet is of --arch resnet50, OSNet and CDNet"),
        (["--data_dir=x", "--start=imagenet", "--arch=osnet_x0_5"], "--weights FILE, torchreid's"),
        (["--data_dir=x", "--start=imagenet", "--arch=cdnet"], "--weights FILE, last.keras of recipes/imagenet.py"),
        (
            ["--data_dir=x", "--start=imagenet", "--arch=cdnet", "--weights=x.keras", "--new_layers_epochs=3"],
            "--new_layers_epochs is of resnet50 and OSNet",
        ),
        (["--data_dir=x", "--genotype=x"], "--genotype is of --arch cdnet. Received: --arch mobilenet"),
        (["--data_dir=x", "--arch=osnet_x0_5", "--width=0.5"], "--width is of CDNet and CNet"),
        (["--data_dir=x", "--triplet_weight=1"], "--triplet_weight is of OSNet and CDNet"),
        (["--data_dir=x", "--arch=osnet_x0_5", "--triplet_weight=1"], "give --images_of_each 4, too"),
        (["--data_dir=x", "--arch=osnet_x0_5", "--neck=blneck"], "--neck of OSNet is dense or fblneck"),
        (["--data_dir=x", "--arch=cdnet", "--image_size=48x32"], "a multiple of 32 times one of 16. Received: 48x32"),
        (["--data_dir=x", "--arch=osnet_x0_5", "--image_size=50x32"], "a multiple of 16 times one of 16"),
        (["--data_dir=x", "--start=imagenet", "--arch=cdnet", "--weights=x.pth"], "is last.keras of recipes/imagenet"),
        (["--data_dir=x", "--arch=cdnet", "--neck=dense"], "of CDNet blneck or fblneck"),
        (["--data_dir=x", "--arch=cdnet", "--batch_size=30"], "--batch_size is a multiple of --images_of_each, 4"),
        (["--data_dir=x", "--arch=resnet50"], "--weights FILE, torchvision's. Or give --start random."),
        (["--data_dir=x", "--arch=resnet50", "--start=random", "--weights=x"], "--weights is of --start imagenet"),
        (["--data_dir=x", "--arch=resnet50", "--weights=nowhere.pth"], "--weights nowhere.pth is no file"),
        (["--data_dir=x", "--arch=resnet50", "--weights=x", "--method=dhm,aux1"], "--method aux1 is a branch alone"),
        (["--dataset=folder", "--data_dir=x.csv", "--pattern=x"], "--pattern is for a folder's names"),
        (["--data_dir=x", "--new_layers_epochs=3"], "--new_layers_epochs is of --start imagenet"),
        (
            ["--data_dir=x", "--arch=resnet50", "--start=random", "--last_stride=2"],
            "--last_stride is of --arch mobilenet",
        ),
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
        flags.FLAGS(["reid.py", "--data_dir=x", "--arch=resnet50", f"--weights={__file__}", "--dataset=duke"])
        assert recipe.check() is None
        settings = {name: value for name, (value, _) in recipe.experiment.settings_of_flags(recipe.RECIPE).items()}
    assert settings | {"start": "imagenet", "new_layers_epochs": 10, "dataset": "duke"} == settings
    assert (settings["label_smoothing"], settings["image_size"], settings["erasing"]) == (0.1, "256x128", 0.0)
    of_duke = {"baseline": [59.4, 78.2], "dsl": [60.5, 78.8], "dhm": [65.4, 81.1]}
    assert recipe.published({"arch": "resnet50", **settings}) == of_duke
    mobilenet = {"arch": "mobilenet", **settings, "dataset": "market1501", "start": "random"}
    assert recipe.published(mobilenet)["dhm"] == [59.1, 79.0]
    assert recipe.published({**mobilenet, "dataset": "folder"}) == {}
    cdnet = {**mobilenet, "arch": "cdnet", "width": 1.0}
    assert recipe.published(cdnet) == {"baseline": [83.7, 93.7]}
    small = {**cdnet, "start": "imagenet", "width": 0.5, "image_size": "128x64"}
    assert recipe.published(small) == {"baseline": [80.3, 92.5]}


def test_a_smoke_run_takes_few_persons_that_can_be_found(recipe, persons):
    people = reid.person_folder(persons)
    few = recipe.persons.some_of(people, persons=3)
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
        recipe.persons.check_images(people)


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
            self.config = {"arch": "resnet50", "dataset": "market1501", "start": "imagenet", "image_size": "256x128"}
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


def test_osnet_and_cdnet_have_settings_of_their_own(recipe, persons, tmp_path):
    people = reid.person_folder(persons)
    dhm.models.write_genotype(tmp_path / "genotype.json", "cnet_top4")
    small = ["--image_size=64x32", "--batch_size=8"]
    found = {}
    for name, arguments in {
        "osnet": ["--arch=osnet_x0_25"],
        "cdnet": ["--arch=cdnet", "--width=0.25", f"--genotype={tmp_path}/genotype.json"],
    }.items():
        with flagsaver.flagsaver():
            flagged(f"--data_dir={persons}", *arguments, *small)
            assert recipe.check() is None
            settings = {key: value for key, (value, _) in recipe.experiment.settings_of_flags(recipe.RECIPE).items()}
            settings |= recipe.RECIPE.identify(settings)
            config = recipe.experiment.config_of(recipe.RECIPE, settings, "baseline", seed=0)
            assert recipe.experiment.protocols.deviations(config) == {
                key: (config[key], paper)
                for key, paper in {
                    **{"dataset": "market1501", "image_size": "256x128", "batch_size": 64},
                    **({"width": 1.0} if name == "cdnet" else {}),
                }.items()
            }
            network = recipe.build(config, people)
            model = dhm.DHM(network, "baseline", **recipe.experiment.triplets_of(config))
            found[name] = network, model, recipe.train_batches(config, people, 0), recipe.optimizer_of(config, 0.1)
    network, model, batches, optimizer = found["osnet"]
    assert (network.name, list(network.output), model.triplet_weight) == ("osnet_x0_25", ["main"], 0)
    assert batches.settings | {"patch": 0.5, "label_smoothing": 0.1} == batches.settings
    network, model, batches, optimizer = found["cdnet"]
    assert model.triplet_weight == 1 and model.main.output.shape == (None, 128 + 256)
    assert "stack1_layer2_block1_stream2_lite2_conv2" in {layer.name for layer in network.layers}  # (3, 5) of cnet_top4
    assert (batches.persons, batches.images) == (2, 4) and batches.settings["crop"] == "pad"
    assert isinstance(optimizer, dhm.optimizers.SGD) and optimizer.weight_decay == 5e-4


@pytest.mark.slow
@pytest.mark.tensorflow
def test_cdnet_trains_with_and_without_branches(tmp_path, persons, capsys):
    """What is searched with, and shipped, is the embedding of 384 numbers."""
    command = ["--dataset=folder", f"--data_dir={persons}", "--arch=cdnet", "--width=0.25", "--image_size=64x32"]
    command += ["--method=baseline,dhm", "--batch_size=8", "--epochs=2", "--evaluate_every=1", "--learning_rate=0.02"]
    run_main("reid", *command, f"--run_dir={tmp_path}/runs")
    assert "Single query, %" in capsys.readouterr().out
    for method in ("baseline", "dhm"):
        run = Run.open(tmp_path / "runs" / f"{method}-0")
        terms = {"main_triplet", "main_local_ce", "main_local_triplet"}
        assert terms <= run.history[-1].keys() and ("mimic_main_to_aux1" in run.history[-1]) == (method == "dhm")
        with np.load(run.checked("embeddings.npz")) as file:
            features = file["query_features"]
        assert features.shape[1] == 128 + 256
        served = reid.Extractor(tmp_path / f"runs/{method}-0/serving/1")(reid.person_folder(persons).query)
        np.testing.assert_allclose(served, features, atol=1e-5 * abs(features).max())


def small(config, people):
    """A small network in the place of a recipe's; after a few steps its features differ, as MobileNet's do not yet."""
    return network(people.train.num_classes, config["method"] != "baseline")


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_first_start_as_a_user_does_it(tmp_path):
    command = (
        "recipes/reid.py",
        "--dataset=synthetic",
        f"--data_dir={tmp_path}/drawn",
        "--smoke",
        "--image_size=32x16",
    )
    done = start(*command, f"--run_dir={tmp_path}/runs")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--image_size (default 256x128: the paper, section 4.2)" in done.stdout
    assert "dhm-0, epoch 2/2: loss" in done.stdout and "Single query, %" in done.stdout
    assert (tmp_path / "runs/dhm-0/serving/1/saved_model.pb").exists() and (tmp_path / "runs/cmc.png").exists()


@pytest.mark.slow
@pytest.mark.tensorflow
def test_it_trains_evaluates_draws_exports_and_keeps_what_is_done(tmp_path, persons, capsys):
    command = (
        "--dataset=folder",
        f"--data_dir={persons}",
        "--method=baseline,dhm",
        "--image_size=64x32",
        "--agreement",
    )
    command = (*command, "--batch_size=8", "--epochs=4", "--evaluate_every=2", f"--run_dir={tmp_path}/runs")
    people = reid.person_folder(persons)
    several = dataclasses.replace(people, multi_query=people.query)  # one image of each person by each camera
    run_main("reid", *command, build=small, read=lambda dataset, smoke: several)
    first = capsys.readouterr().out
    run = Run.open(tmp_path / "runs" / "dhm-0")
    last = run.result["last"]
    assert last["epoch"] == 4 and last["main_map"] == pytest.approx(100 * run.history[-1]["val_mAP"])
    assert f"dhm      {last['main_map']:>14.2f}{last['main_rank1']:>14.2f}" in first
    assert run.result["multi_query"] == {name: pytest.approx(last[name]) for name in ("main_map", "main_rank1")}
    assert len(run.agreement) == 4 and (tmp_path / "runs" / "agreement.png").exists()
    for picture in ("runs/cmc.png", "runs/dhm-0/ranking.png"):
        assert (tmp_path / picture).stat().st_size > 5_000

    with np.load(run.checked("embeddings.npz")) as file:
        arrays = dict(file)
    assert arrays["gallery_features"].std(axis=0).max() > 0.1 * abs(arrays["gallery_features"]).max()
    both = [arrays[f"{split}_{name}"] for name in ("features", "pids", "camids") for split in ("query", "gallery")]
    found = reid.evaluate(*both)
    assert found.mean_ap == pytest.approx(run.history[-1]["val_mAP"]) and run.result["cmc"] == found.cmc.tolist()
    served = reid.Extractor(tmp_path / "runs/dhm-0/serving/1")(people.gallery)
    np.testing.assert_allclose(served, both[1], atol=1e-5 * abs(both[1]).max())

    run_main("reid", *command, build=small)
    second, table = capsys.readouterr().out, lambda text: text[text.index("Single query") : text.index("CMC curves")]
    assert "2 runs finished before" in second and table(first) == table(second)
    with pytest.raises(SystemExit, match=r"^reid\.py: .*erasing: 0\.0 there, 0\.5 here"):
        run_main("reid", *command, "--erasing=0.5")

    run_main("export", f"{tmp_path}/runs/dhm-0", f"{tmp_path}/exported", "--which=last")
    again = reid.Extractor(tmp_path / "exported/1")(people.gallery)
    np.testing.assert_allclose(again, served, atol=1e-6 * abs(served).max())
    card = json.loads((tmp_path / "exported/1/assets.extra/model_card.json").read_text())
    assert card["recipe"]["recipe"] == "reid" and card["data"]["set"] == "folder"


@pytest.mark.slow
def test_resnet50_begins_with_the_weights_of_a_file(tmp_path, persons, recipe):
    keras.utils.set_random_seed(1)
    source = dhm.models.resnet50(1000, branches=(), input_shape=(32, 32, 3))
    dhm.interop.save_torch(source, tmp_path / "weights.npz")
    config = {"arch": "resnet50", "method": "dhm", "branches": ["aux2"], "image_size": "64x32", "start": "imagenet"}
    with flagsaver.flagsaver():
        flagged(f"--weights={tmp_path}/weights.npz")
        built = recipe.build(config, reid.person_folder(persons))
    for name in ("conv", "bn", "stack4_block3_conv3"):
        for ours, theirs in zip(built.get_layer(name).get_weights(), source.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert built.output["main"].shape == (None, 8) and set(built.output) == {"main", "aux2"}


@pytest.mark.slow
def test_cdnet_begins_with_the_weights_of_a_training_on_imagenet(tmp_path, persons, recipe):
    keras.utils.set_random_seed(1)
    build = {"num_classes": 20, "width": 0.25, "neck": "blneck", "task": "classification", "input_shape": (64, 64, 3)}
    source = dhm.DHM(dhm.models.cdnet(**build))
    source.save(tmp_path / "last.keras")
    config = {"arch": "cdnet", "method": "dhm", "branches": ["aux2"], "image_size": "64x32", "start": "imagenet"}
    config |= {"width": 0.25, "neck": "fblneck"}
    with flagsaver.flagsaver():
        flagged(f"--weights={tmp_path}/last.keras")
        built = recipe.build(config, reid.person_folder(persons))
    for name in ("conv", "stack3_layer2_block1_gate_conv2", "main_dense", "main_dense_bn"):
        for ours, theirs in zip(
            built.get_layer(name).get_weights(), source.network.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert built.output["main"].shape == (None, 8) and {"main_local", "aux2"} < set(built.output)
    aux = [each.get_layer("aux2_dense").get_weights()[0] for each in (built, source.network)]
    assert not np.array_equal(*aux)


@pytest.mark.slow
def test_a_run_that_was_killed_in_either_phase_ends_as_one_that_ran_through(persons, tmp_path, monkeypatch):
    """With a small network in the place of ResNet-50, whose weights are taken for ImageNet's."""
    (tmp_path / "weights.npz").write_bytes(b"")
    epochs = []

    class Counted(dhm.callbacks.Progress):
        """Ends the process, as it were, after the epochs told; nothing more is saved."""

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            epochs.append(epoch)
            if len(epochs) in ends:
                raise Killed

    monkeypatch.setattr(dhm.callbacks, "Progress", Counted)
    monkeypatch.setattr(dhm.callbacks, "ExportMain", lambda *arguments, **others: keras.callbacks.Callback())
    command = ["--dataset=folder", f"--data_dir={persons}", "--arch=resnet50", f"--weights={tmp_path}/weights.npz"]
    command += ["--image_size=64x32", "--new_layers_epochs=2", "--epochs=2", "--batch_size=8", "--evaluate_every=1"]
    runs = {}
    for name, ends in {"whole": (), "killed": (2, 4)}.items():
        epochs.clear()
        for _ in range(len(ends) + 1):
            with contextlib.suppress(Killed):
                run_main("reid", *command, f"--run_dir={tmp_path}/{name}", build=small)
        runs[name] = Run.open(tmp_path / name / "dhm-0")
    assert epochs == [0, 1, 1, 0, 0, 1]  # twice: the second of the new layers, the first of all
    assert runs["whole"].result == runs["killed"].result and runs["whole"].history == runs["killed"].history
    load = lambda run: keras.models.load_model(run.path("last.keras"), compile=False)
    assert_same(*(values(load(run).variables) for run in runs.values()))
