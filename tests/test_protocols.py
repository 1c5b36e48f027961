"""The paper's settings, and what a run's config says of how it differs from them."""

import contextlib
import io
import pathlib

import pytest
from absl import flags

import dhm_keras as dhm

RECIPES = str(pathlib.Path(__file__).parent.parent / "recipes")

# spec: section 3 of the experiments; batch, epochs, milestones, decay of the rate, weight decay
PAPER = {
    ("cifar100", "resnet32"): (128, 164, (81, 122), 0.1, 1e-4),
    ("cifar100", "resnet1202"): (128, 164, (81, 122), 0.1, 1e-4),
    ("cifar100", "densenet100"): (64, 300, (150, 225), 0.1, 1e-4),
    ("cifar100", "wrn28_10"): (128, 200, (60, 120, 160), 0.2, 5e-4),
    ("imagenet", "resnet18"): (256, 90, (30, 60), 0.1, 1e-4),
    ("imagenet", "resnet152"): (256, 90, (30, 60), 0.1, 1e-4),
    ("reid", "resnet50"): (32, 60, (20, 40), 0.1, 5e-4),
    ("reid", "mobilenet"): (32, 90, (30, 60), 0.1, 5e-4),
    ("reid", "osnet_x0_25"): (64, 350, (150, 225, 300), 0.1, 5e-4),
    ("reid", "cnet_top1"): (64, 350, (150, 225, 300), 0.1, 5e-4),
    ("cifar100", "cdnet"): (256, 350, (150, 225, 300), 0.1, 5e-4),
    ("imagenet", "osnet_x1_0"): (1024, 120, None, None, 4e-5),
    ("imagenet", "cdnet"): (128, 240, None, 0.97, 3e-5),
}
RATES = {  # of others 0.1
    ("reid", "resnet50"): 3e-4,
    ("reid", "mobilenet"): 1e-3,
    ("reid", "osnet_x0_25"): 0.065,
    ("reid", "cnet_top1"): 0.065,
    ("cifar100", "cdnet"): 0.065,
    ("imagenet", "osnet_x1_0"): 0.4,
}


@pytest.fixture
def modules(monkeypatch):
    """`protocols` and `experiment`, as a recipe imports them."""
    monkeypatch.syspath_prepend(RECIPES)
    import experiment
    import protocols

    return protocols, experiment


@pytest.fixture
def config_of(modules):
    """Function of recipe, method and flags to the config of the run that these make, as read from its file."""
    protocols, experiment = modules
    known = set(flags.FLAGS)

    def config_of(recipe, method, *arguments):
        smoke = {"epochs": 2, "train_examples": 256}
        described = experiment.Recipe(recipe, recipe, smoke, (), {}, load=None)
        forget(known)
        experiment.define_flags(recipe, protocols.ARCHS[recipe][0])
        flags.DEFINE_float("dropout", None, "")
        flags.FLAGS(["recipe", f"--method={method}", *arguments])
        with contextlib.redirect_stdout(io.StringIO()):
            settings = experiment.read_settings(described)
        return experiment.config_of(described, settings, method, seed=0)

    yield config_of
    forget(known)


def forget(known):
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize("recipe, arch", PAPER)
def test_the_papers_numbers(modules, recipe, arch):
    settings = {name: value for name, (value, _) in modules[0].settings_of(recipe, arch).items()}
    names = ("batch_size", "epochs", "milestones", "decay", "weight_decay")
    assert tuple(settings.get(name) for name in names) == PAPER[recipe, arch]
    assert settings["learning_rate"] == RATES.get((recipe, arch), 0.1)
    assert settings.get("momentum") == (None if arch in ("resnet50", "mobilenet") else 0.9)


def test_every_network_has_a_recipe(modules):
    protocols, _ = modules
    archs = {arch for of_recipe in protocols.ARCHS.values() for arch in of_recipe}
    assert sorted(archs) == dhm.models.names()
    for recipe, of_recipe in protocols.ARCHS.items():
        for arch in of_recipe:
            assert all(source for _, source in protocols.settings_of(recipe, arch).values())


@pytest.mark.parametrize("method", ["baseline", "dsl", "dhm", "aux1"])
@pytest.mark.parametrize("recipe", ["cifar100", "imagenet"])
def test_the_defaults_are_the_papers(modules, config_of, recipe, method):
    protocols, _ = modules
    for arch in protocols.ARCHS[recipe]:
        assert protocols.deviations(config_of(recipe, method, f"--arch={arch}", "--seeds=5")) == {}


@pytest.mark.parametrize(
    "recipe, method, arguments, expected",
    [
        ("cifar100", "dhm", ["--direction=top_down"], {"direction": ("top_down", "both")}),
        ("cifar100", "dsl", ["--direction=top_down"], {}),  # has no mimicking to direct
        ("cifar100", "dhm", ["--temperature=3"], {"temperature": (3.0, 1.0)}),
        ("cifar100", "baseline", ["--ce_weight=3"], {}),
        ("cifar100", "dsl", ["--ce_weight=0.5"], {"ce_weight": (0.5, 1.0)}),
        ("imagenet", "dhm", ["--branches=aux3,aux1,aux2"], {"branches": (("aux1", "aux2", "aux3"), ("aux1", "aux2"))}),
        ("cifar100", "dhm", ["--sampling=bernoulli"], {"sampling": ("bernoulli", "fixed")}),
        ("cifar100", "dsl", ["--sampling=bernoulli"], {}),  # of scope mimic
        (
            *("cifar100", "dsl", ["--sampling=uniform", "--scope=branch"]),
            {"sampling": ("uniform", "fixed"), "scope": ("branch", "mimic")},
        ),
        ("cifar100", "dhm", ["--sampling=bernoulli", "--p=0.2"], {"sampling": ("bernoulli", "fixed"), "p": (0.2, 0.5)}),
        ("cifar100", "baseline", ["--corrupt=0.2", "--devices=2"], {"corrupt": (0.2, 0.0)}),
        ("cifar100", "baseline", ["--epochs=10"], {"epochs": (10, 164)}),
        ("cifar100", "aux2", ["--smoke"], {"epochs": (2, 164), "train_examples": (256, None)}),
        ("cifar100", "dhm", ["--arch=wrn28_10", "--dropout=0.3"], {"dropout": (0.3, 0.0)}),
    ],
)
def test_what_differs_from_the_paper_is_named(modules, config_of, recipe, method, arguments, expected):
    assert modules[0].deviations(config_of(recipe, method, *arguments)) == expected


def test_a_shallow_network_drops_the_scale_augmentation_under_dhm_alone(modules, config_of):
    augmentations = {
        (arch, method): config_of("imagenet", method, f"--arch={arch}")["augmentation"]
        for arch in modules[0].ARCHS["imagenet"]
        for method in ("baseline", "dsl", "dhm", "aux1")
        if arch.startswith("resnet")
    }
    cropped = {("resnet18", "dhm"), ("resnet34", "dhm"), ("resnet50", "dhm")}
    assert {key for key, value in augmentations.items() if value == "crop"} == cropped
    assert set(augmentations.values()) == {"crop", "scale"}


def test_osnet_from_imagenet_is_another_protocol(modules):
    settings = {name: value for name, (value, _) in modules[0].settings_of("reid", "osnet_x1_0", "imagenet").items()}
    assert (settings["optimizer"], settings["learning_rate"]) == ("amsgrad", 0.0015)
    assert (settings["epochs"] + settings["new_layers_epochs"], settings["milestones"]) == (150, (50, 110))
    assert modules[0].settings_of("reid", "cdnet", "imagenet")["start"][0] == "imagenet"


@pytest.mark.parametrize(
    "recipe, arch, kind", [("imagenet", "osnet_x0_5", "Cosine"), ("imagenet", "cdnet", "Exponential")]
)
def test_schedules_without_steps(modules, config_of, recipe, arch, kind):
    _, experiment = modules
    schedule = experiment.schedule_of(config_of(recipe, "baseline", f"--arch={arch}"), 10)
    assert type(schedule).__name__ == kind
    rate = {"Cosine": 0.2, "Exponential": 0.1 * 0.97**60}[kind]
    assert float(schedule(600)) == pytest.approx(rate, rel=1e-5)


def test_a_config_becomes_its_objective(modules, config_of):
    _, experiment = modules
    flagged = ("--branches=aux2", "--ce_weight=0.5", "--mimic_weight=2", "--temperature=3", "--direction=bottom_up")
    assert experiment.objective_of(config_of("cifar100", "dhm", *flagged)) == {
        "method": "dhm",
        "ce_weights": {"aux2": 0.5},
        "mimic_weights": 2.0,
        "temperature": 3.0,
        "direction": "bottom_up",
    }
    assert experiment.objective_of(config_of("cifar100", "dsl", *flagged)) == {
        "method": "dsl",
        "ce_weights": {"aux2": 0.5},
    }
    assert experiment.objective_of(config_of("cifar100", "aux2", *flagged)) == {"method": "baseline"}
