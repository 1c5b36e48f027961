"""A grid of small runs on one device: networks x methods x seeds x options, several runs at a time.

    python recipes/grid.py recipes/table1.txt                  # the runs of a plan, one a CPU core at a time
    python recipes/grid.py recipes/table1.txt --jobs 6         # on a large GPU: six that share it
    python recipes/grid.py recipes/table1.txt --minutes 9      # a slice of nine minutes; start again for the next
    python recipes/grid.py plan.txt --smoke --data_dir DIR     # flags of cifar100.py hold for every row

A plan is a text file; each row has flags of `cifar100.py` as one gives them to it, `--arch` may be a list. All rows
are checked before anything starts. Each run is a process of its own, in the folder where `cifar100.py` would put it, or
in ROOT/NAME/METHOD-SEED with `--run_dir ROOT`; METHOD-SEED.log beside it is what it printed. A run that fails does not
stop the others. A second start keeps the runs that are finished, goes on with those that were stopped, and tries again
those that failed. See docs/grid.md.

Exit status: 0 all are finished; 1 some failed; 75 stopped by `--minutes`, start again; 129, 130 and 143 stopped by the
end of the terminal, Ctrl-C and SIGTERM. Runs with KERAS_BACKEND=jax too, also where TensorFlow is not installed.
"""

import os
import time

BEGIN = time.monotonic()  # TensorFlow's import counts for --minutes
# Several processes share a GPU's memory: each takes what it needs, not all there is.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import contextlib
import io
import logging as python_logging
import pathlib
import shutil
import sys

from absl import app, flags, logging

import cifar100
import plan
import processes
from dhm_keras.run import left_out
from live_table import LiveTable

FLAGS = flags.FLAGS
flags.DEFINE_integer("jobs", None, "Runs at a time. Default: one a CPU core; 1 with a GPU.", lower_bound=1)
flags.DEFINE_float("minutes", None, "After so many minutes stop all runs, which save where they are.", lower_bound=0.0)

TO_BE_CONTINUED = 75  # EX_TEMPFAIL of sysexits.h: not done, try again
DOWNLOAD = "import dhm_keras; dhm_keras.data.from_tfds('cifar100', 1, download=True)"


def main(arguments):
    if len(arguments) != 2:
        raise app.UsageError("Name one plan, as in: python recipes/grid.py recipes/table1.txt")
    logging.set_verbosity(logging.ERROR)
    python_logging.getLogger("tensorflow").setLevel("ERROR")
    try:
        if FLAGS.only:
            raise ValueError("--only is what grid.py itself gives to each run. Leave it out.")
        cells = plan.read(arguments[1], cifar100.RECIPE, cifar100.__file__)
    except (ValueError, OSError) as error:
        raise SystemExit(f"grid.py: {error}") from None
    unfinished = [cell for cell in cells if cell.state != "finished"]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    has_gpu = shutil.which("nvidia-smi") is not None
    devices = max((cell.run.config["devices"] for cell in unfinished), default=1)
    jobs = FLAGS.jobs or (1 if has_gpu else max(1, min(len(cores) // devices, len(unfinished))))
    until = BEGIN + 60 * FLAGS.minutes if FLAGS.minutes is not None else float("inf")
    root = pathlib.Path(FLAGS.run_dir or "runs").expanduser()
    if has_gpu:  # the seeds of a network are the same program, and so is a run that goes on
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root.resolve() / ".jax-cache"))
    print(f"{len(cells)} runs, {len(cells) - len(unfinished)} finished before, {jobs} at a time")
    for sentence in left_out():
        print(sentence)

    stopped = get_data(root) if any(cell.needs_tfds for cell in unfinished) else None
    table = LiveTable(cells, draw_figures)
    for folder in dict.fromkeys(cell.run.folder.parent for cell in cells):
        of_folder = [cell for cell in cells if cell.run.folder.parent == folder]
        if all(cell.state == "finished" for cell in of_folder):
            table.say(draw_figures(of_folder))
    if stopped is None:
        share = cores if not has_gpu and len(cores) >= jobs else None
        stopped = processes.work(unfinished, jobs, table, until, share)
    table.show()
    tell_end(cells, stopped)


def get_data(root):
    """Has tensorflow-datasets prepare CIFAR-100 once, before several processes ask for it; returns as `work` does.

    However long it takes: what is half downloaded would be lost.
    """
    download = Download(root / "tensorflow-datasets.log")
    print(f"No --data_dir: tensorflow-datasets downloads 169 MB if it has not yet, see {download.log}", flush=True)
    stopped = processes.work([download], 1, download)
    if download.why is not None:
        raise SystemExit(f"grid.py: {download.why}")
    return stopped


class Download:
    """The process that downloads, and the watch of it."""

    why = None

    def __init__(self, log):
        self.log, self.command = log, [sys.executable, "-c", DOWNLOAD]

    def ended(self, job, code, why):
        self.why = why if code else None

    def started(self, job):
        pass

    stopped = started

    def look(self):
        pass


def draw_figures(cells):
    """Draws the figures of a folder, if one of its runs was finished after they were drawn; what there is to say."""
    folder = cells[0].run.folder.parent
    finished = [cell.run.folder / "result.json" for cell in cells if cell.state == "finished"]
    picture = folder / "curves.png"
    if picture.exists() and picture.stat().st_mtime > max(path.stat().st_mtime for path in finished):
        return None
    rows = [cell.row for cell in cells if cell.run.config.get("agreement")] or [cells[0].row]
    with plan.flags_of(rows[0]), contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            cifar100.RECIPE.draw_figures(folder)
        except OSError as error:
            print(f"No figures: {error}")
    return said.getvalue()


def tell_end(cells, stopped):
    """Prints how many runs are finished, and ends the program with its exit status."""
    number = {state: sum(cell.state == state for cell in cells) for state in ("finished", "failed", "waiting")}
    print(f"\n{number['finished']} of {len(cells)} runs are finished, {number['failed']} failed", end="")
    print(f", {number['waiting']} are to do: the same command goes on from there." if number["waiting"] else ".")
    if number["finished"]:
        folders = sorted({str(cell.run.folder.parent.parent) for cell in cells})
        print(f"The paper's tables: python recipes/report.py {' '.join(folders)}")
    if number["waiting"]:
        sys.exit(TO_BE_CONTINUED if stopped == "time" else 128 + stopped)
    sys.exit(1 if number["failed"] else 0)


if __name__ == "__main__":
    app.run(main)
