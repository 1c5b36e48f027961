"""A plan of runs: a text file with a row of a recipe's flags on each line, read into one process for each run."""

import contextlib
import dataclasses
import pathlib
import re
import shlex
import sys

from absl import flags
from absl.testing import flagsaver

import experiment
from dhm_keras.files import differences
from dhm_keras.run import Run

FLAGS = flags.FLAGS
OF_GRID = ("run_dir", "only", "jobs", "minutes")  # no row can have them


@dataclasses.dataclass
class Cell:
    """One run of a plan.

    Attributes:
        run: `Run`.
        row: List of strings, the flags that the row and its network add to those of the command line.
        line: Integer, of the row in the plan.
        command: List of strings: how it is trained.
        needs_tfds: Boolean. Whether its data come from tensorflow-datasets.
        state: String: `"waiting"`, `"running"`, `"finished"`, or `"failed"`.
        error: Float. Main's top-1 error in the last epoch, in per cent, of a run that is finished.
        why: String. How it failed.
    """

    run: Run
    row: list
    line: int
    command: list
    needs_tfds: bool
    state: str = "waiting"
    error: float | None = None
    why: str = ""

    @property
    def log(self):
        """Path of what its processes have printed, beside its folder."""
        return self.run.folder.with_name(f"{self.run.folder.name}.log")

    def look(self):
        """Sets `state` and `error` if the run is finished.

        Raises:
            ValueError: if the result has been damaged.
        """
        result = self.run.result
        if result is not None:
            self.state, self.error = "finished", result["last"]["main_top1_error"]


def read(path, recipe, script):
    """The runs of a plan, in the order in which they are to be trained.

    A row has the flags of the recipe as a command line has them; `#` begins a comment, `--arch` may be a list. The
    flags of grid.py's own command line hold for every row, which may say otherwise. A row's networks come one after the
    other, each seed by seed. A run that an earlier row has is there once.

    Args:
        path: Path of the plan.
        recipe: `experiment.Recipe`. Its flags, and those of `OF_GRID`, are defined and parsed.
        script: Path of the recipe's program.

    Returns:
        List of `Cell`.

    Raises:
        ValueError: if a row is wrong, or a folder has a run with other settings. The message has the line.
        OSError: if the plan cannot be read.
    """
    common = [FLAGS[name].serialize() for name in FLAGS if FLAGS[name].present and name not in OF_GRID]
    cells = {}
    try:
        rows = pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise OSError(
            f"The plan {path} cannot be read ({error.strerror}). Name a text file such as recipes/table1.txt."
        ) from None
    for number, text in enumerate(rows, start=1):
        try:
            archs, words = _split(text)
            for arch in archs:
                for cell in _cells(recipe, [sys.executable, str(script), *common], [f"--arch={arch}", *words], number):
                    before = cells.setdefault(cell.run.folder, cell)
                    if differ := differences(before.run.config, cell.run.config):
                        raise ValueError(
                            f"{cell.run.folder} is also the folder of a run of line {before.line}, with other settings "
                            f"({differ}). Give both the same, or move one to a plan with another --run_dir."
                        )
        except (ValueError, flags.Error) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not cells:
        raise ValueError(
            f"{path} has no rows. A row has the flags of {pathlib.Path(script).name}, as --arch resnet32 --seeds 3."
        )
    return list(cells.values())


@contextlib.contextmanager
def flags_of(row):
    """Within, `FLAGS` are those of a row (`Cell.row`) on top of the command line's.

    Raises:
        ValueError: if a word of the row belongs to no flag.
        absl.flags.Error: if a flag is unknown, or its value is wrong.
    """
    with flagsaver.flagsaver():
        stray = FLAGS(["grid.py", *row])[1:]
        if stray:
            raise ValueError(f"Too many arguments: {' '.join(stray)}. Every option begins with --.")
        yield


def _split(text):
    """`(networks, other words)` of a row; no networks if it is empty."""
    words = shlex.split(re.sub(r"(^|\s)#.*", "", text))
    own = flags.FlagValues()
    flags.DEFINE_list("arch", [FLAGS.arch], "", flag_values=own)
    for name in OF_GRID:
        flags.DEFINE_string(name, None, "", flag_values=own)
    own.set_gnu_getopt(True)
    others = own(["grid.py", *words], known_only=True)[1:]
    given = [name for name in OF_GRID if own[name].present]
    if given:
        raise ValueError(
            f"--{given[0]} is not of a row. Leave it out, or give --run_dir, --jobs, --minutes to grid.py."
        )
    if not own.arch:
        raise ValueError("--arch names no network.")
    return own.arch if words else [], others


def _cells(recipe, command, row, number):
    """The runs of a row and one network, seed by seed."""
    with flags_of(row):
        if wrong := experiment.check_flags() or recipe.check():
            raise ValueError(wrong)
        settings = {name: value for name, (value, _) in experiment.settings_of_flags(recipe).items()}
        folder = experiment.default_folder(recipe, settings)
        if FLAGS.run_dir:
            folder = pathlib.Path(FLAGS.run_dir).expanduser() / folder.name
        runs = experiment.runs_of(recipe, settings, folder)
        command = [*command, *row, f"--run_dir={folder}"]
        cells = [
            Cell(run, row, number, [*command, f"--only={run.folder.name}"], FLAGS.data_dir is None)
            for of_seed in zip(*runs.values())
            for run in of_seed
        ]
    for cell in cells:
        cell.look()
    return cells
