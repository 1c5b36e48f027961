"""The notebooks: each runs from start to end without a network, and is committed with small, clean outputs."""

import importlib.util
import json
import re

import nbformat
import pytest
from programs import ROOT

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
INSTALL = """try:
    import dhm_keras
except ImportError:
    %pip install -q "dhm_keras[demo] @ git+{repository}"
"""
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"

named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def run():
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "notebooks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_five():
    names = {path.stem for path in NOTEBOOKS}
    assert names == {"quickstart", "fork", "reid", "export", "diagnostics"}


@named
@pytest.mark.slow
@pytest.mark.tensorflow
def test_it_runs_from_start_to_end(path, run, monkeypatch):
    monkeypatch.setenv("DHM_SMOKE", "1")
    monkeypatch.setenv("DHM_OFFLINE", "1")
    cells = run.execute(nbformat.read(path, 4)).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")


@named
def test_it_begins_with_badge_and_installation(path):
    import tomllib

    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    title, install = nbformat.read(path, 4).cells[:2]
    colab = repository.replace("https://github.com", "https://colab.research.google.com/github")
    assert BADGE.format(address=f"{colab}/blob/main/notebooks/{path.name}") in title.source
    assert install.source.rstrip() == INSTALL.format(repository=repository).rstrip()


@named
def test_its_outputs_are_whole_clean_and_small(path, run):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert run.clean(notebook) == notebook, "Execute it with notebooks/run.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert path.stat().st_size < 600_000
    printed = json.dumps([output for cell in code for output in cell.outputs if "data" not in output])
    assert not re.search(r"/(home|root|tmp|work|usr)/|Warning", printed)
