"""The documentation: what it names is there, what it shows runs, and every public name is explained."""

import importlib
import inspect
import re

import keras
import numpy as np
import pytest
from jpeg_files import write_images
from networks import resnet8
from programs import ROOT

import dhm_keras as dhm

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]


def public():
    """`(name, object)` of all public functions and classes."""
    for name in dhm.__all__:
        module = getattr(dhm, name)
        if not inspect.ismodule(module):
            yield name, module
            continue
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        for key in getattr(module, "__all__", own):
            if callable(value := getattr(module, key)) and not key.startswith("_"):
                yield f"{name}.{key}", value


def test_every_public_name_is_explained_with_all_its_arguments():
    names = dict(public())
    assert len(names) > 150
    unexplained = []
    for name, value in names.items():
        text = inspect.getdoc(value) or ""
        signature = inspect.signature(value.__init__ if inspect.isclass(value) else value)
        arguments = [argument for argument in signature.parameters if argument not in ("self", "args", "kwargs")]
        explained = re.split(r"^(?:Args|Attributes):$", text, maxsplit=1, flags=re.MULTILINE)[-1]
        if "As of" in text or "As in" in text:
            arguments = []
        unexplained += [f"{name}: {a}" for a in arguments if not re.search(rf"(^|[\s,*]){a}[,:]", explained)]
        unexplained += [] if text else [name]
    assert not unexplained


def anchors(page):
    """What a page's headings are called in links, as GitHub and MyST call them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            path = target.partition("/blob/main/")[2].partition("#")[0]
            assert (ROOT / path).exists(), target
            continue
        name, _, anchor = target.partition("#")
        to = page.parent / name if name else page
        assert to.exists() or name.startswith("api/"), f"{page.name}: {target}"  # made by sphinx, which checks it
        assert not anchor or anchor in anchors(to), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_this_library_and_of_keras_are_there(page):
    names = set(re.findall(r"\b((?:dhm|dhm_keras|keras)(?:\.[A-Za-z_]\w*)+)", page.read_text()))
    for name in names - {"dhm_keras.forking.rst"}:
        first, *rest = name.split(".")
        value = keras if first == "keras" else dhm
        for i, part in enumerate(rest):
            if not hasattr(value, part):
                value = importlib.import_module(".".join([value.__name__, part]))
            else:
                value = getattr(value, part)
            if inspect.isclass(value):
                assert all(hasattr(value, more) for more in rest[i + 1 : i + 2]), name
                break


def blocks(page, marked):
    """The Python of a page: a dict of what stands under `<!-- code: NAME -->`, or a list of the other blocks."""
    found = re.findall(r"(?:<!-- code: (\w+) -->\n)?```python\n(.*?)```", page.read_text(), re.DOTALL)
    return {name: code for name, code in found if name} if marked else [code for name, code in found if not name]


def run(codes, names, **replaced):
    """Runs blocks one after the other in `names`, with smaller networks and other files."""
    for code in codes:
        for printed, ours in replaced.items():
            code = code.replace(printed, ours)
        exec(code, names)


def some_images(side, classes=10, n=16):
    rng = np.random.default_rng(0)
    pairs = {"": n, "test_": 4}
    images = {f"{of}images": rng.integers(0, 256, (m, side, side, 3)).astype("uint8") for of, m in pairs.items()}
    return images | {f"{of}labels": rng.integers(0, classes, m) for of, m in pairs.items()}


small = {"dhm.models.resnet20(": "small("}


@pytest.mark.slow
def test_the_guide_of_the_objective(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"small": resnet8, **some_images(32)}
    run(blocks(ROOT / "docs" / "objective.md", marked=False), names, **small)
    assert names["model"].divergence is names["jensen_shannon"]
    again = keras.models.load_model("model.keras")
    assert again.divergence is names["jensen_shannon"]
    teacher, student = np.log([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))]), np.log([0.5, 0.5])
    mean = np.log((np.exp(teacher) + np.exp(student)) / 2)
    expected = sum((np.exp(p) * (p - mean)).sum() / 2 for p in (teacher, student))
    terms = {pair: float(keras.ops.convert_to_numpy(term)[0]) for pair, term in names["mimicking"].items()}
    assert terms == pytest.approx({("main", "aux1"): expected, ("aux1", "main"): expected}, rel=1e-5)


@pytest.mark.slow
def test_the_guide_of_data(tmp_path, monkeypatch, cifar):
    monkeypatch.chdir(tmp_path)
    page, names = ROOT / "docs" / "data.md", {"small": resnet8, **some_images(24)}
    codes = [code for code in blocks(page, marked=False) if ON_TENSORFLOW or "tensorflow" not in code]
    run(codes, names, **small)
    apart = blocks(page, marked=True)
    run([apart["cifar"]], read := {"dhm": dhm}, **{'"cifar-100-binary.tar.gz"': f'"{cifar}", train_examples=256'})
    assert read["train"].labels.shape == (256,)
    write_images(tmp_path / "flowers", each=2)
    of_folder = {"dhm.models.resnet18(": "small(input_shape=(224, 224, 3), ", "epochs=90": "epochs=1"}
    run([apart["folder"]], seen := {"dhm": dhm, "small": resnet8}, **of_folder)
    assert seen["model"].num_classes == 3


@pytest.mark.slow
def test_the_guide_of_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(blocks(ROOT / "docs" / "networks.md", marked=False), names := {})
    assert names["model"].heads == ("main", "aux1") and (tmp_path / "network.png").exists()
    assert list(names["network"].output) == ["main", "aux1", "aux2"] and "2.35 times" in capsys.readouterr().out
    logits = names["network"](np.zeros((1, 32, 32, 3)), training=False)
    assert {head: tuple(z.shape) for head, z in logits.items()} == dict.fromkeys(logits, (1, 10))
