"""The grid: a plan becomes the runs that the recipe itself would make; stopped, it ends as one that ran through."""

import io
import os
import pathlib
import re
import signal
import subprocess
import sys

import kill_digits
import pytest
from absl import flags
from fake_runs import put
from programs import ROOT, recipe_module, start, wait_for, without_tensorflow

from dhm_keras.run import Run


@pytest.fixture(scope="module")
def grid():
    """`recipes/grid.py` and what it imports, as Python imports them for a script."""
    with recipe_module("grid", "cifar100") as module:
        yield module


@pytest.fixture
def read(grid, tmp_path):
    """Function of a plan's text and grid.py's flags to its runs, and the folder of these."""
    from absl.testing import flagsaver

    def read(text, *arguments):
        path = tmp_path / "plan.txt"
        path.write_text(text)
        with flagsaver.flagsaver():
            flags.FLAGS(["grid.py", *arguments])
            return grid.plan.read(path, grid.cifar100.RECIPE, grid.cifar100.__file__)

    return read


# The plan


def test_the_order_of_a_plan(read, tmp_path):
    cells = read(
        """
        # A comment; then networks outermost, seed by seed, all methods of a seed

        --arch resnet20,wrn16_8 --method baseline,dhm --seeds 2   # a comment
        --method baseline,dhm --arch=resnet20 --seeds 3
        --arch 'densenet40' --method dsl --corrupt 0.2
        """,
        f"--run_dir={tmp_path}/runs",
    )
    of_seeds = [f"{method}-{seed}" for seed in (0, 1) for method in ("baseline", "dhm")]
    assert [str(cell.run.folder.relative_to(tmp_path / "runs")) for cell in cells] == [
        *(f"{arch}/{name}" for arch in ("resnet20", "wrn16_8") for name in of_seeds),
        *("resnet20/baseline-2", "resnet20/dhm-2", "densenet40-corrupt=0.2/dsl-0"),
    ]
    assert [cell.line for cell in cells] == [4] * 8 + [5] * 2 + [6]
    assert {cell.state for cell in cells} == {"waiting"}
    assert cells[-1].log == tmp_path / "runs" / "densenet40-corrupt=0.2" / "dsl-0.log"
    assert not (tmp_path / "runs").exists()


def test_each_process_trains_the_run_of_its_cell_alone(grid, read, tmp_path):
    """Also where a flag of the row is not for each of its methods, and where the command line has flags."""
    plan = "--method baseline,dhm --seeds 2 --temperature 3 --agreement\n--epochs 7 --noagreement --method aux1,dsl\n"
    for more in ([], [f"--run_dir={tmp_path}/runs"]):
        cells = read(plan, "--agreement", "--method=dhm", "--epochs=5", "--arch=resnet20", "--data_dir=/d", *more)
        assert [cell.run.config["epochs"] for cell in cells] == [5, 5, 5, 5, 7, 7]
        assert [cell.run.config.get("agreement") for cell in cells] == [None, True, None, True, None, None]
        for cell in cells:
            program, *arguments = cell.command[1:]
            assert program == str(ROOT / "recipes" / "cifar100.py") and not cell.needs_tfds
            with grid.plan.flags_of(arguments):  # as the process will read them
                experiment, recipe = grid.plan.experiment, grid.cifar100.RECIPE
                assert experiment.check_flags() is None
                settings = {name: value for name, (value, _) in experiment.settings_of_flags(recipe).items()}
                folder = pathlib.Path(flags.FLAGS.run_dir)
                ((run,),) = experiment.runs_of(recipe, settings, folder).values()
                assert (run.folder, run.config) == (cell.run.folder, cell.run.config)
                if not more:
                    assert folder == experiment.default_folder(recipe, settings)  # where cifar100.py would put it
    assert read("--method dsl")[0].needs_tfds


def test_the_plan_of_table_1_differs_from_the_paper_in_what_it_says(grid, read):
    cells = read((ROOT / "recipes" / "table1.txt").read_text())
    assert len(cells) == 22 and [cell.run.folder.name for cell in cells[:4]] == [
        "baseline-0",
        "dsl-0",
        "dhm-0",
        "baseline-1",
    ]
    differ = {cell.run.folder.parent.name: grid.plan.experiment.protocols.deviations(cell.run.config) for cell in cells}
    assert differ == {
        "resnet32": {},
        "resnet32-sampling=bernoulli": {"sampling": ("bernoulli", "fixed")},
        "wrn16_8-corrupt=0.2": {"corrupt": (0.2, 0.0)},
        "wrn16_8-corrupt=0.5": {"corrupt": (0.5, 0.0)},
        "densenet40": {},
        "wrn16_8": {},
    }
    assert all(cell.run.config.get("agreement") == (cell.run.config["method"] != "baseline" or None) for cell in cells)


@pytest.mark.parametrize(
    "row, words",
    [
        ("--foo", "Unknown command line flag 'foo'"),
        ("--arch resnet20,foo", "--arch=foo: value should be one of"),
        ("--arch ,", "--arch=: value should be one of"),
        ("--arch", "Missing value for flag --arch"),
        ("--seeds 0", "--seeds=0"),
        ("--seeds 'x", "No closing quotation"),
        ("resnet20", "Too many arguments: resnet20"),
        ("--method dhm,foo", "one or several of baseline,dsl,dhm,aux1,aux2"),
        ("--method baseline --agreement", "--agreement is of training with branches"),
        ("--arch resnet20 --dropout 0.3", "resnet20 has none"),
        ("--run_dir x", "--run_dir is not of a row"),
        ("--only dhm-0", "--only is not of a row"),
        ("--jobs 2", "--jobs is not of a row"),
        ("--minutes=2", "--minutes is not of a row"),
        ("--agreement", "also the folder of a run of line 1, with other settings .agreement: None there, True here"),
    ],
)
def test_a_wrong_row_is_told_with_its_line(read, row, words):
    with pytest.raises(ValueError, match=rf"plan\.txt, line 3: .*{words}"):
        read(f"--method dhm\n\n{row}\n")


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_a_plan_without_rows_is_refused(read, text):
    with pytest.raises(ValueError, match="has no rows"):
        read(text)


def test_runs_that_are_there(read, tmp_path):
    plan, of_root = "--arch resnet20 --method dhm --seeds 2", f"--run_dir={tmp_path}"
    first, _ = read(plan, of_root)
    put(first.run.folder, first.run.config, main=30.0)
    first, second = read(plan, of_root)
    assert (first.state, first.error, second.state) == ("finished", 31.0, "waiting")
    with pytest.raises(ValueError, match=r"line 1: .*other settings \(p: None there, 0.5 here, sampling"):
        # The folder's name has the flags given: here someone has renamed one.
        (tmp_path / "resnet20").rename(tmp_path / "resnet20-sampling=bernoulli")
        read(f"{plan} --sampling bernoulli", of_root)


# The table


@pytest.fixture
def cells(read, tmp_path):
    """Four runs: finished, running, stopped and failed; and one that waits."""
    plan = "--arch resnet20 --method baseline,dhm --seeds 2\n--arch wrn16_8 --epochs 7"
    cells = read(plan, f"--run_dir={tmp_path}")
    put(cells[0].run.folder, cells[0].run.config, main=30.0)
    (cells[0].run.folder / "timings.csv").write_text("epoch,seconds\n0,30\n1,60\n")
    for cell in cells[1:3]:
        cell.run.folder.mkdir()
        (cell.run.folder / "history.csv").write_text("epoch,val_main_accuracy\n0,0.125\n1,0.25\n")
    return cells


TABLE = """\
Top-1 test error of main in the last epoch, %: mean (standard deviation) over the seeds
            finished           error   each seed
resnet20
  baseline    1 of 2           31.00   31.00; stopped after epoch 2/164, 75.0 %
  dhm         0 of 2               -   epoch 2/164, 75.0 %; failed
wrn16_8-epochs=7
  dhm         0 of 1               -   waiting
  resnet20 dhm-1 failed, see {folder}/resnet20/dhm-1.log: no room
"""


def test_the_table_says_what_each_run_has_come_to(grid, cells, tmp_path, capsys):
    ended = []
    table = grid.LiveTable(cells, lambda of_folder: ended.append(of_folder) or "Curves: there")
    for cell in cells[:4]:
        table.started(cell)
    table.ended(cells[0], 1, "its exit status does not count")
    table.stopped(cells[2])
    assert cells[2].state == "waiting"
    table.ended(cells[3], 1, "no room")
    printed = capsys.readouterr().out
    assert f"resnet20 dhm-0 started, its output goes to {tmp_path}/resnet20/dhm-0.log\n" in printed
    assert "resnet20 baseline-0 finished, error 31.00 %, 1.5 min\n" in printed and not ended
    assert f"resnet20 dhm-1 failed, see {tmp_path}/resnet20/dhm-1.log: no room\n" in printed
    table.show()
    assert capsys.readouterr().out == TABLE.format(folder=tmp_path)
    table.ended(cells[1], 1, "") or table.ended(cells[2], 1, "")
    assert ended == [cells[:4]] and capsys.readouterr().out.endswith("Curves: there\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("lines, shown", [(24, 8), (8, 6)])
def test_on_a_terminal_the_table_is_drawn_in_its_place(grid, cells, monkeypatch, lines, shown):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, lines)))
    table = grid.LiveTable(cells, None)
    cells[0].look()
    table.started(cells[1])
    cells[3].state = "failed"
    table.show()
    table.show()
    first, second = sys.stdout.getvalue().split(f"\r\033[{shown}A\033[J")
    assert first == second and first.count("\n") == shown and all(len(line) < 60 for line in first.splitlines())
    assert "\n  dhm         0 of 2               -   epoch 2" in first


def test_figures_are_drawn_once(grid, cells, monkeypatch):
    drawn, cell = [], cells[0]
    cell.look()
    of_recipe = type(grid.cifar100.RECIPE)
    monkeypatch.setattr(of_recipe, "draw_figures", lambda recipe, folder: drawn.append(flags.FLAGS.seeds))
    with grid.plan.flags_of(["--seeds=9"]):
        grid.draw_figures(cells[:4])
        grid.draw_figures(cells[:4])
        (cell.run.folder.parent / "curves.png").write_text("")
        assert grid.draw_figures(cells[:4]) is None
    assert drawn == [2, 2]  # the row's flags


# The program


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere.txt"], "grid.py: .*nowhere.txt"),
        (["plan.txt", "--only=dhm-0"], "grid.py: --only is what grid.py itself gives"),
        (["plan.txt"], r"grid.py: .*plan.txt, line 1: --method is one or several"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(grid, tmp_path, monkeypatch, arguments, words):
    from absl.testing import flagsaver

    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.txt").write_text("--method foo")
    with flagsaver.flagsaver(), pytest.raises(SystemExit, match=words):
        grid.main(flags.FLAGS(["grid.py", *arguments]))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.txt"]


def test_a_plan_that_cannot_be_read_is_told(grid, tmp_path):
    from absl.testing import flagsaver

    for path, words in ((tmp_path / "none.txt", "No such file"), (tmp_path, "Is a directory")):
        said = rf"grid\.py: The plan .*{path.name} cannot be read \({words}.*Name a text file"
        with flagsaver.flagsaver(), pytest.raises(SystemExit, match=said):
            grid.main(flags.FLAGS(["grid.py", str(path)]))


def test_a_slice_of_no_minutes_begins_nothing_and_says_to_go_on(grid, tmp_path, monkeypatch, capsys):
    from absl.testing import flagsaver

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))  # the program would set it for its processes
    plan = tmp_path / "plan.txt"
    plan.write_text("--arch resnet20 --seeds 2")
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        grid.main(flags.FLAGS(["grid.py", str(plan), "--minutes=0", f"--run_dir={tmp_path}/runs", "--data_dir=x"]))
    assert ended.value.code == 75 and not (tmp_path / "runs").exists()
    printed = capsys.readouterr().out
    assert "resnet20\n  dhm         0 of 2               -   waiting; waiting\n" in printed
    assert printed.endswith("0 of 2 runs are finished, 0 failed, 2 are to do: the same command goes on from there.\n")


@pytest.mark.parametrize(
    "states, stopped, status",
    [
        (("finished", "finished"), "time", 0),
        (("finished", "failed"), None, 1),
        (("failed", "waiting"), "time", 75),
        (("finished", "waiting"), signal.SIGINT, 130),
        (("waiting", "waiting"), signal.SIGTERM, 143),
    ],
)
def test_the_exit_status(grid, read, states, stopped, status):
    cells = read("--seeds 2")
    for cell, state in zip(cells, states):
        cell.state = state
    with pytest.raises(SystemExit) as ended:
        grid.tell_end(cells, stopped)
    assert ended.value.code == status


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_grid_that_is_stopped_ends_as_one_that_ran_through(tmp_path, cifar, backend):
    environment = without_tensorflow(tmp_path / "jax") if backend == "jax" else {"KERAS_BACKEND": backend}
    plan, whole, again = (tmp_path / name for name in ("plan.txt", "whole", "again"))
    plan.write_text("--method dsl --data_dir nowhere  # fails\n--method baseline\n")
    command = ["recipes/grid.py", str(plan), "--arch=resnet20", "--smoke", "--epochs=3", f"--data_dir={cifar}"]
    through = start(*command, f"--run_dir={whole}", **environment)
    assert through.returncode == 1 and "Traceback" not in through.stderr, through.stderr[-3000:]
    assert "1 of 2 runs are finished, 1 failed.\n" in through.stdout
    assert (whole / "resnet20-epochs=3" / "curves.png").exists()
    assert re.search("resnet20-epochs=3 dsl-0 failed, see .*: cifar100.py: .*no file or folder nowhere", through.stdout)

    plan.write_text("--method baseline\n")
    command = [*command, f"--run_dir={again}", "--jobs=2"]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    wait_for((again / "resnet20-epochs=3" / "baseline-0" / "history.csv").exists, 300)
    process.terminate()
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 143 and "stopped after epoch " in printed
    rest = start(*command, **environment)
    assert rest.returncode == 0 and "1 of 1 runs are finished, 0 failed.\n" in rest.stdout
    log = (again / "resnet20-epochs=3" / "baseline-0.log").read_text()
    assert "goes on from" in log and log.count(" $ ") == 2
    assert len(Run.open(again / "resnet20-epochs=3" / "baseline-0").history) == 3
    assert not kill_digits.differences(*(folder / "resnet20-epochs=3" for folder in (whole, again)))
