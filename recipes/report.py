"""The paper's tables with our numbers beside its own, from the folders of runs.

    python recipes/report.py runs                                # writes report.md, report.csv and report.html
    python recipes/report.py runs /disk/runs --out docs/results  # writes docs/results.md, ...

Finds every run of `cifar100.py`, `imagenet.py`, `reid.py` and `digits.py` below the folders and puts its results into
the tables of the paper: the published number, ours after the best epoch and after the last, as mean and standard
deviation over the seeds, or "not run". A run stands in a table of the paper only if it was trained as the paper says,
but for what the table varies. Then follow all runs with all their heads, those with other settings too, with what
differs; and by name the runs that are unfinished, damaged, or copies of others. Under each table are the commands that
make its missing rows.

The Markdown names the pictures that lie beside the runs (curves.png, ...); the HTML page contains them and needs no
other file. The CSV file has the same numbers, not rounded. A few seconds; trains nothing.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on this machine's CPU

from absl import app, flags

import report_runs
import report_tables
from dhm_keras import files
from report_html import html_page
from report_text import csv_text, markdown

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "report", "Path of the report; .md, .csv and .html are appended.")


def main(arguments):
    folders = arguments[1:]
    if not folders:
        raise app.UsageError("Name the folders of the runs, as in: python recipes/report.py runs")
    try:
        found = report_runs.read(folders)
        paths = write(found, pathlib.Path(FLAGS.out).expanduser())
    except (ValueError, OSError) as error:
        raise SystemExit(f"report.py: {error}") from None
    print(found.summary())
    for word, items in found.asides.items():
        for folder, why in items:
            print(f"  {word}: {folder}. {why}")
    print(f"Wrote {', '.join(map(str, paths))}")


def write(found, out):
    """Writes the report; each file is there whole or not at all.

    Args:
        found: `Found`, of `report_runs.read`.
        out: Path without the suffix.

    Returns:
        List of the files' paths.
    """
    sections = report_tables.build(found)
    texts = {
        ".md": markdown(sections, out.parent),
        ".csv": csv_text(sections),
        ".html": html_page(sections),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, text in texts.items():
        paths.append(out.with_name(out.name + suffix))
        with files.replacing(paths[-1]) as partial:
            partial.write_text(text, encoding="utf-8")
    return paths


if __name__ == "__main__":
    app.run(main)
