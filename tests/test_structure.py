"""The arrows between the modules, and what an import brings with it."""

import ast
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import dhm_keras

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = pathlib.Path(dhm_keras.__file__).parent  # of the sources, or of an installed wheel

# What each module may import of this package. A new module needs a line here.
MAY_IMPORT = {
    "analysis": {"files", "forking", "network", "objective"},
    "attributes": {"checkpoint", "data", "distribute", "files", "reid"},
    "callbacks": {
        *("analysis", "distribute", "export", "files", "network", "objective", "resume", "run", "sampling", "trainer"),
    },
    "checkpoint": {"files"},
    "data": {"distribute"},
    "distribute": set(),
    "export": {"analysis", "files", "forking", "network"},
    "files": set(),
    "forking": {"initializers", "network"},
    "initializers": set(),
    "interop": {"files", "network"},
    "kernels_tensorflow": set(),
    "layers": {"distribute", "kernels_tensorflow"},
    "logs": set(),
    "models": {"files", "initializers", "layers", "necks", "network"},
    "necks": {"initializers", "layers"},
    "network": set(),
    "objective": {"network", "triplet"},
    "optimizers": {"kernels_tensorflow"},
    "reid": {"analysis", "data", "export", "files", "forking", "necks", "network", "objective", "triplet"},
    "remembering": set(),
    "resume": {"checkpoint", "distribute", "files", "logs", "remembering"},
    "routing": {"network"},
    "run": {"distribute", "files", "resume"},
    "sampling": set(),
    "schedules": set(),
    "search": {
        *("analysis", "checkpoint", "data", "distribute", "files", "models", "necks", "network", "objective"),
        *("optimizers", "reid"),
    },
    "triplet": set(),
    "trainer": {"distribute", "logs", "network", "objective", "resume", "routing"},
}


def module_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    """Names of this package's modules that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dhm_keras":
            names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dhm_keras."))


def test_arrows():
    seen = {}
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "__init__.py":
            seen.setdefault(module_of(path), set()).update(imported(ast.parse(path.read_text())))
    assert {module: names - {module} for module, names in seen.items()} == {
        module: seen[module] & allowed for module, allowed in MAY_IMPORT.items()
    }


def test_flags_are_read_in_recipes_alone():
    for path in PACKAGE.rglob("*.py"):
        assert "absl" not in path.read_text(), path


def test_import_brings_no_tensorflow_on_jax():
    code = "import sys, dhm_keras; print('tensorflow' in sys.modules)"
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.stdout == "False\n", process.stderr


def test_the_version_and_what_is_needed_are_the_same_everywhere():
    version = dhm_keras.__version__
    assert importlib.metadata.version("dhm_keras") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}, " in (ROOT / "CHANGELOG.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for_recipes = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    listed = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in listed if not line.startswith("#")] == for_recipes
    assert (PACKAGE / "py.typed").exists()


def test_the_tests_that_the_docs_name_are_there():
    named = [test for page in ROOT.glob("docs/*.md") for test in re.findall(r"(test_\w+\.py)::(\w+)", page.read_text())]
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), (file, name)
