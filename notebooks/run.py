"""Executes the notebooks from start to end and keeps their outputs, clean and small.

    python notebooks/run.py                         # all of them, some minutes each
    python notebooks/run.py notebooks/reid.ipynb
    python notebooks/run.py --offline               # without a network: no pretrained weights

Each runs in a folder of its own that is deleted afterwards, and is written back with its outputs. The environment tells
it two things: `DHM_OFFLINE`, that nothing can be downloaded, and, in the tests, `DHM_SMOKE`, that a few steps are
enough. Needs `pip install nbclient ipykernel`.
"""

import argparse
import os
import pathlib
import tempfile

import nbclient
import nbformat

HERE = pathlib.Path(__file__).parent
SECONDS = 1200  # that a cell may take
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=pathlib.Path, help="Default: all that lie beside this file.")
    parser.add_argument("--offline", action="store_true", help="Nothing can be downloaded.")
    given = parser.parse_args()
    if missing := [str(path) for path in given.notebooks if not path.is_file()]:
        parser.error(f"There is no notebook {', '.join(missing)}.")
    if given.offline:
        os.environ["DHM_OFFLINE"] = "1"
    for path in given.notebooks or sorted(HERE.glob("*.ipynb")):
        print(path, flush=True)
        nbformat.write(clean(execute(nbformat.read(path, 4))), path)


def execute(notebook):
    """Runs all cells in a new kernel of this Python, in an empty folder.

    Args:
        notebook: `NotebookNode`. It gets the outputs.

    Returns:
        The notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: at the first cell that fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    return notebook


def clean(notebook):
    """The notebook without what changes from run to run: times, ids, this machine's kernel, warnings, pictures' types.

    Args:
        notebook: `NotebookNode` with outputs.

    Returns:
        Another `NotebookNode`.
    """
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [clean_output(output) for output in joined(cell.outputs)]
    return notebook


def joined(outputs):
    """The outputs without warnings; what was printed before and after one is one output."""
    kept = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1] = nbformat.from_dict({**kept[-1], "text": kept[-1].text + output.text})
        else:
            kept.append(output)
    return kept


def clean_output(output):
    """An output without metadata; of a picture nothing else."""
    if output.output_type == "stream":
        return nbformat.from_dict({key: output[key] for key in ("name", "output_type", "text")})
    pictures = {kind: data for kind, data in output.get("data", {}).items() if kind.startswith("image/")}
    return nbformat.from_dict({**output, "metadata": {}, "data": pictures or output.data})


if __name__ == "__main__":
    main()
