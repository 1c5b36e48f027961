"""The table of a grid of runs while they are trained: in place on a terminal, else a line for each thing that happens.

It is the `watch` of `processes.work`, for cells of `plan.read`.
"""

import shutil
import sys
import time

import dhm_keras as dhm

EVERY = 600  # seconds between whole tables where there is no terminal


class LiveTable:
    """What each run of a grid has come to.

    Args:
        cells: List of `plan.Cell`.
        folder_ended: Function of the cells of one folder, called when the last of them has ended, to a text that is
            printed.
    """

    def __init__(self, cells, folder_ended):
        self.cells, self.folder_ended = cells, folder_ended
        self._in_place, self._height = sys.stdout.isatty(), 0  # lines of the table above the cursor
        self._shown = time.monotonic()

    # What `processes.work` calls

    def started(self, cell):
        cell.state = "running"
        if not self._in_place:
            self.say(f"{_name(cell)} started, its output goes to {cell.log}")

    def ended(self, cell, code, why):
        """Files a run under what it has come to: its result counts, not the exit status."""
        cell.state, cell.why = "failed", why
        _look(cell)
        if cell.state == "failed":
            self.say(_failure(cell))
        elif not self._in_place:
            self.say(f"{_name(cell)} finished, error {cell.error:.2f} %{_minutes(cell.run)}")
        others = [other for other in self.cells if other.run.folder.parent == cell.run.folder.parent]
        states = {other.state for other in others}
        if "finished" in states and states <= {"finished", "failed"}:
            self.say(self.folder_ended(others))

    def stopped(self, cell):
        cell.state = "waiting"
        _look(cell)  # it may have been at its end

    def look(self):
        if time.monotonic() - self._shown > (1 if self._in_place else EVERY):
            self.show()

    # What is printed

    def say(self, text):
        """Prints a text, on a terminal above the table."""
        if text:
            self._erase()
            print(text.rstrip(), flush=True)

    def show(self):
        """Prints the table, on a terminal in the place of the one before."""
        self._erase()
        lines = self.lines()
        if self._in_place:
            size = shutil.get_terminal_size()
            if len(lines) >= size.lines:
                lines = [*self.lines(True)[: size.lines - 2], "(The whole table is taller than the terminal.)"]
            lines = [line[: size.columns - 1] for line in lines]
            self._height = len(lines)
        print("\n".join(lines), flush=True)
        self._shown = time.monotonic()

    def lines(self, only_running=False):
        """The table, a list of strings; if need be of the methods alone that have a running run, and failures."""
        lines = [
            "Top-1 test error of main in the last epoch, %: mean (standard deviation) over the seeds",
            f"{'':<12}{'finished':>8}{'error':>16}   each seed",
        ]
        groups = {}
        for cell in self.cells:  # of several rows with one folder, side by side
            groups.setdefault(cell.run.folder.parent, {}).setdefault(cell.run.config["method"], []).append(cell)
        for folder, of_methods in groups.items():
            rows = [
                _row(method, cells)
                for method, cells in of_methods.items()
                if not only_running or any(cell.state == "running" for cell in cells)
            ]
            lines += [folder.name, *rows] if rows else []
        failed = [cell for cell in self.cells if cell.state == "failed"]
        return lines + [f"  {_failure(cell)}" for cell in failed]

    def _erase(self):
        if self._height:
            print(f"\r\033[{self._height}A\033[J", end="")
        self._height = 0


def _look(cell):
    """Sets the cell's state by its files; files that are damaged are a failure of this run alone."""
    try:
        cell.look()
    except (ValueError, OSError, LookupError) as error:
        cell.state, cell.why = "failed", str(error)


def _minutes(run):
    """`", 3.4 min"`, or nothing where the file that says so is damaged."""
    try:
        return f", {run.seconds / 60:.1f} min"
    except (ValueError, OSError):
        return ""


def _name(cell):
    return f"{cell.run.folder.parent.name} {cell.run.folder.name}"


def _row(method, cells):
    errors = [cell.error for cell in cells if cell.state == "finished"]
    error = dhm.analysis.mean_std(errors) if errors else "-"
    return f"  {method:<10}{f'{len(errors)} of {len(cells)}':>8}{error:>16}   {'; '.join(map(_text, cells))}"


def _failure(cell):
    return f"{_name(cell)} failed, see {cell.log}: {cell.why}"


def _text(cell):
    """`"27.40"`, `"epoch 57/164, 35.1 %"`, `"stopped after epoch 57/164, 35.1 %"`, `"waiting"`, `"failed"`."""
    if cell.state == "finished":
        return f"{cell.error:.2f}"
    if cell.state == "failed":
        return "failed"
    try:
        history = cell.run.history
        reached = (
            f"epoch {len(history)}/{cell.run.config['epochs']}, {100 * (1 - history[-1]['val_main_accuracy']):.1f} %"
        )
    except (OSError, ValueError, LookupError):  # no epoch is finished
        return "started" if cell.state == "running" else "waiting"
    return reached if cell.state == "running" else f"stopped after {reached}"
