"""Every command that README and docs print is run by a test in smoke form: here, or by one that ELSEWHERE names."""

import concurrent.futures
import importlib.util
import json
import pathlib
import re
import sys
import tempfile

import keras
import pytest
from absl import flags
from absl.testing import flagsaver
from attribute_files import drawn
from commands import arguments, printed
from jpeg_files import write_images
from networks import free_ports
from programs import ROOT, recipe_module, run_main, start

import dhm_keras as dhm
from dhm_keras import reid
from dhm_keras.run import Run

pytestmark = pytest.mark.tensorflow  # the search is TensorFlow's alone

# Tests of other files, and the beginnings of the commands that they run, or run the parts of.
ELSEWHERE = {
    "run": {"": [r"python3 -m venv .* -m pytest", r"pip install -e", r"python -m sphinx"]},  # .ci/run
    "test_export_recipe.py": {
        "test_the_best_and_the_last_epoch_of_a_run": [r"python recipes/export\.py \S+ \S+$"],
        "test_the_report": [r"python recipes/export\.py .*--check"],
    },
    "test_figures.py": {
        "test_figures_of_a_folder": [r"python recipes/figures\.py (curves|heatmaps|agreement)"],
        "test_figures_of_persons": [r"python recipes/figures\.py (activations|tsne)"],
        "test_the_picture_of_a_network": [r"python recipes/figures\.py network"],
    },
    "test_grid.py": {"test_a_slice_of_no_minutes_begins_nothing_and_says_to_go_on": [r"until python recipes/grid\.py"]},
    "test_digits.py": {
        "test_digits_killed_at_random_moments_end_the_same_to_the_bit": [r"python tests/kill_digits\.py"],
        "test_digits_on_jax_without_tensorflow": [
            r"pip install keras numpy",
            r"KERAS_BACKEND=jax python recipes/digits",
        ],
        "test_digits_trains_three_methods_draws_exports_and_keeps_what_is_done": [
            *(r"python3 -m venv .*recipes/digits\.py", r"python recipes/digits\.py$")
        ],
        "test_digits_with_a_forked_network": [
            r"python recipes/digits\.py .*(--backbone convnet|--agreement|--learning_rate)"
        ],
    },
    "test_report.py": {"test_the_command": [r"python recipes/report\.py"]},
    "test_search_recipe.py": {
        "test_a_search_from_the_command_line_finds_a_network": [r"python recipes/search\.py --dataset synthetic"]
    },
    "test_server_files.py": {
        "test_compose_fits_the_other_files": [r"cd .* docker compose up"],
        "test_models_config_serves_the_newest_version": [r"docker run|tensorflow_model_server"],
        "test_rest_client": [r"python client_rest\.py"],
        "test_json_of_each_signature": [r"curl"],
    },
}
SMALLER = {  # the constants of a benchmark
    "input_speed": {"EXAMPLES": 256, "WARM_UP": 1, "STEPS": 2},
    "jpeg_speed": {"EXAMPLES": 8, "BATCH_SIZE": 4, "WARM_UP": 1, "STEPS": 1},
    "reid_ranking": {"QUERIES": 20, "GALLERY": 90, "SIZE": 16, "LATENT": 4, "PERSONS": 9, "CAMERAS": 3},
    "reid_inference": {"BATCH_SIZE": 2, "SIZE": (64, 32, 3), "REPEATS": 1},
    "device_speed": {"BATCH_SIZE": 4, "REPEATS": 1, "MATRIX": 64},
    "run": {
        "NETWORKS": {"resnet20": (4, 2)},
        "STARTS": ("resnet20",),
        "START_TURNS": 1,
        "EXPORTED": ("resnet20",),
    },
}
HERE = {  # the tests below that run them
    "test_two_hosts_train_one_run": [r"export TF_CONFIG", r"python recipes/cifar100\.py .*--run_dir SHARED_FOLDER"],
    "test_several_devices": [r"python recipes/cifar100\.py --devices 4$"],
    "test_a_plan_s_rows_are_accepted": [r"python recipes/grid\.py"],
    "test_a_benchmark_in_smoke_form": [rf"python benchmarks/{name}\.py" for name in SMALLER],
    "test_the_picture_that_the_clients_are_asked_with": [r"python -c"],
}
NO_COMMANDS = {"python recipes/", "python recipes/figures.py"}  # they stand in the heads of tables
TRAINING = ("cifar100", "imagenet", "reid", "search", "attributes")
# What makes a training short, over what a command says.
SHORT = {
    "cifar100": ("--smoke", "--seeds=1", "--epochs=1", "--train_examples=8"),
    "imagenet": ("--smoke", "--seeds=1", "--epochs=1", "--train_examples=8", "--num_classes=3"),
    "reid": ("--smoke", "--seeds=1", "--epochs=1", "--evaluate_every=1", "--train_examples=16"),
    "search": ("--smoke", "--epochs=1", "--width=0.25"),
    "attributes": ("--smoke", "--epochs=1"),
}


def recipe_of(command):
    found = re.match(r"python recipes/(\w+)\.py", command)
    return found and found[1]


def shortly(command):
    return command.removeprefix("python recipes/").replace("--", "")[:95]


def is_run_otherwise(command):
    """Whether another test than that of all trainings runs it."""
    tests = [*(of_test for of_file in ELSEWHERE.values() for of_test in of_file.values()), *HERE.values()]
    return any(re.match(beginning, command) for of_test in tests for beginning in of_test)


def trainings():
    """Commands that train, and are run by no other test."""
    return sorted(command for command in printed() if recipe_of(command) in TRAINING and not is_run_otherwise(command))


def once():
    """Of the trainings each once, whatever its data, methods and seeds."""
    found = {}
    for command in trainings():
        found.setdefault(frozenset(re.sub(r" --(data_dir|method|seeds) \S+", "", command).split(" --")), command)
    return sorted(found.values())


def test_every_command_is_run_by_a_test():
    there = {path.name: path.read_text() for path in [*ROOT.glob("tests/test_*.py"), ROOT / ".ci" / "run"]}
    for command, pages in printed().items():
        is_training = recipe_of(command) in TRAINING  # all of them are below
        assert command in NO_COMMANDS or is_training or is_run_otherwise(command), f"{', '.join(pages)}: {command}"
    for file, tests in {**ELSEWHERE, pathlib.Path(__file__).name: HERE}.items():
        assert all(f"def {name}(" in there[file] for name in tests if name), file


@pytest.fixture(scope="module")
def data(tmp_path_factory, cifar):
    """`{recipe: arguments}`: small data in the place of those that a command names."""
    folder = tmp_path_factory.mktemp("small")
    write_images(folder / "images")
    drawn(folder / "attributes")
    reid.synthetic_people(folder / "persons", train=8, test=6, cameras=2, size=(64, 32), distractors=4)
    persons = ("--dataset=folder", f"--data_dir={folder}/persons")
    return {
        "cifar100": (f"--data_dir={cifar}",),
        "imagenet": (f"--data_dir={folder}/images",),
        "reid": persons,
        "search": persons,
        "attributes": ("--dataset=folder", f"--data_dir={folder}/attributes"),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`{what a command prints: path}` of the files that commands begin with, filled with first weights."""
    folder = tmp_path_factory.mktemp("files")
    dhm.models.write_genotype(folder / "genotype.json", dhm.models.GENOTYPES["cdnet_top4"])
    paths = {".../genotype.json ...": f"{folder}/genotype.json --dataset folder"}
    for name, build in {
        "resnet50-11ad3fa6.pth": dhm.models.resnet50,
        "osnet_x1_0_imagenet.pth": dhm.models.osnet_x1_0,
    }.items():
        network = build(num_classes=1000, branches=(), input_shape=(64, 32, 3))
        dhm.interop.save_torch(network, path := folder / name.replace(".pth", ".npz"))
        paths[name] = f"{path} --new_layers_epochs 1"
    return paths


def with_files(command, files):
    for printed_name, path in files.items():
        command = command.replace(printed_name, path)
    return command


@pytest.mark.parametrize("command", trainings(), ids=shortly)
def test_a_command_s_flags_go_together(command, request):
    """As it stands, without --smoke: whatever is refused is refused before anything is read."""
    recipe = recipe_of(command)
    if re.search(r"\.(pth|json)", command):
        command = with_files(command, request.getfixturevalue("files")).replace("--dataset folder", "--data_dir x")
    with recipe_module(recipe) as module, flagsaver.flagsaver():
        flags.FLAGS([recipe, *arguments(command)])
        check = module.RECIPE.check if hasattr(module, "RECIPE") else module.check
        assert check() is None
        assert not hasattr(module, "experiment") or module.experiment.check_flags() is None


@pytest.mark.slow
@pytest.mark.parametrize("command", once(), ids=shortly)
def test_a_command_trains_in_smoke_form(command, data, files, tmp_path, monkeypatch):
    import tensorflow as tf

    recipe, command = recipe_of(command), with_files(command, files)
    given = arguments(re.sub(r"(--method) (\w+,)+", r"\1 ", command))  # of several methods the last
    size = () if "--image_size" in given or recipe == "cifar100" else ("--image_size=32",) * (recipe == "imagenet")
    monkeypatch.chdir(tmp_path)
    tf.config.run_functions_eagerly(True)  # one or two steps: to trace them takes longer
    try:
        run_main(recipe, *given, *data[recipe], *SHORT[recipe], *size, f"--run_dir={tmp_path}/runs")
    finally:
        tf.config.run_functions_eagerly(False)
        keras.utils.clear_session()
    assert list((tmp_path / "runs").rglob("genotype.json" if recipe == "search" else "result.json"))


@pytest.mark.slow
def test_several_devices(data, tmp_path):
    short = [*SHORT["cifar100"], *data["cifar100"], f"--run_dir={tmp_path}/runs"]
    done = start("recipes/cifar100.py", "--devices=2", "--arch=resnet20", *short)
    assert done.returncode == 0, done.stderr[-3000:]
    config = Run.open(tmp_path / "runs" / "dhm-0").config
    assert (config["devices"], config["synchronized"]) == (2, True)


@pytest.mark.slow
def test_two_hosts_train_one_run(data, tmp_path):
    """The commands of docs/hosts.md, each host a process of this machine."""
    (printed_config,) = [command for command in printed() if command.startswith("export TF_CONFIG")]
    task = json.loads(re.search(r"'(.*)'", printed_config)[1])
    task["cluster"]["worker"] = [f"localhost:{port}" for port in free_ports(2)]
    short = [*SHORT["cifar100"], *data["cifar100"], f"--run_dir={tmp_path}/runs"]

    def host(index):
        config = json.dumps({**task, "task": {"type": "worker", "index": index}})
        return start("recipes/cifar100.py", "--arch=resnet20", *short, TF_CONFIG=config, CUDA_VISIBLE_DEVICES="-1")

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(host, range(2))
    assert first.returncode == second.returncode == 0, first.stderr[-3000:] + second.stderr[-3000:]
    assert "Test error, %" in first.stdout and "Test error, %" not in second.stdout
    config = Run.open(tmp_path / "runs" / "dhm-0").config
    assert (config["devices"], config["processes"]) == (1, 2)


@pytest.mark.parametrize("command", sorted(command for command in printed() if recipe_of(command) == "grid"))
def test_a_plan_s_rows_are_accepted(command, tmp_path, monkeypatch, capsys):
    """With no minutes to train in, all is done that comes before the first run."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # the program would set it for its processes
    monkeypatch.chdir(ROOT)
    with recipe_module("grid", "experiment", "cifar100") as module, flagsaver.flagsaver():
        given = [*arguments(command), "--minutes=0", f"--run_dir={tmp_path}/runs"]
        with pytest.raises(SystemExit) as ended:
            module.main(flags.FLAGS(["grid.py", *given]))
    assert ended.value.code == 75 and "0 failed" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_a_benchmark_in_smoke_form(name, monkeypatch, capsys):
    path = ROOT / "benchmarks" / f"{name}.py"
    known = set(flags.FLAGS)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(path.parent)
    spec.loader.exec_module(module)
    try:
        for constant, value in SMALLER[name].items():
            monkeypatch.setattr(module, constant, value)
        small(name, module, capsys)
    finally:
        for flag in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, flag)
        sys.modules.pop("workers", None)  # it has a flag, too


def small(name, module, capsys):
    """Runs a benchmark whose constants are small; those that measure in processes of their own without these."""
    if name in ("input_speed", "reid_ranking"):
        for way in vars(module).get("SOURCES") or module.WAYS:
            assert module.measure(way)
    elif name == "jpeg_speed":
        with tempfile.TemporaryDirectory() as folder:
            module.write_images(folder)
            for source in module.SOURCES:
                assert module.measure(source, folder)
    elif name == "run":
        module.main(flags.FLAGS([name, "--only=steps,start,export"]))
        text = capsys.readouterr().out
        assert re.search(r"^resnet20 +4 +[\d.]+ +[\d.]+ \([\d.]+ - [\d.]+\) +2\.\d\d ", text, re.MULTILINE)
        assert "first step" in text and "Equal to the never-branched network" in text
    else:
        few = ["--images=4"] if name == "reid_inference" else ["--arch=resnet20", "--steps=2"]
        module.main(flags.FLAGS([name, *few]))
        assert "images" in capsys.readouterr().out


def test_the_picture_that_the_clients_are_asked_with(tmp_path, monkeypatch):
    (command,) = [command for command in printed() if command.startswith("python -c")]
    monkeypatch.chdir(tmp_path)
    exec(re.search(r'"(.*)"$', command)[1], {})
    assert (tmp_path / "five.png").stat().st_size > 100
