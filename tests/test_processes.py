"""Processes that end as they are told, and with their parent; a failure stops nothing."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import types

import pytest
from programs import ROOT, wait_for


@pytest.fixture
def processes(monkeypatch):
    """`recipes/processes.py`, with the signals as a terminal has them, whatever started the tests."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import processes

    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield processes
    for number, handler in before.items():
        signal.signal(number, handler)


class Watch:
    """Notes what happens to jobs; `at_look` is called each time."""

    def __init__(self, at_look=lambda: None):
        self.begun, self.results, self.unfinished, self.look = [], {}, [], at_look

    def started(self, job):
        self.begun.append(job.name)

    def ended(self, job, code, why):
        self.results[job.name] = code, why

    def stopped(self, job):
        self.unfinished.append(job.name)


def jobs(folder, **scripts):
    """Jobs that run shell scripts, by their names."""
    return [
        types.SimpleNamespace(name=name, command=["sh", "-c", script], log=folder / f"{name}.log")
        for name, script in scripts.items()
    ]


def test_no_more_at_once_than_asked_for_and_a_failure_stops_nothing(processes, tmp_path):
    events = tmp_path / "events"
    work = f"echo + >> {events}; sleep 0.4; echo - >> {events}"
    (tmp_path / "file").write_text("")
    several = jobs(tmp_path, a=work, b=f"{work}; echo it is wrong; exit 3", c=work, d=f"{work}; kill -9 $$", e=work)
    several[2].log = tmp_path / "file" / "c.log"  # cannot be written
    assert processes.work(several, 2, watch := Watch()) is None
    assert watch.begun == ["a", "b", "d", "e"] and not watch.unfinished
    assert {name: code for name, (code, _) in watch.results.items()} == {"a": 0, "b": 3, "c": 126, "d": -9, "e": 0}
    assert watch.results["b"][1] == "it is wrong" and watch.results["d"][1].startswith("SIGKILL. ")
    assert "c.log cannot be written" in watch.results["c"][1]
    running = [0]
    for event in events.read_text().split():
        running.append(running[-1] + (1 if event == "+" else -1))
    assert max(running) == 2 and len(running) == 9


def test_a_log_is_appended_to_and_its_last_line_tells_why(processes, tmp_path):
    script = r"printf 'epoch 1\repoch 2\n\033[31mno\0 room\n\n  \n'; exit 1"
    for _ in range(2):
        processes.work(jobs(tmp_path, a=script), 1, watch := Watch())
        assert watch.results == {"a": (1, "[31mno room")}
    assert (tmp_path / "a.log").read_text().count("$ sh -c 'printf") == 2


SAVES = "trap 'echo saved; exit 143' TERM; echo begun; while :; do sleep 0.05; done"


@pytest.mark.parametrize("how", ["time", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop_all_save_and_nothing_new_begins(processes, tmp_path, how):
    until = Moment()
    begun = lambda: all((tmp_path / f"{name}.log").read_text().endswith("begun\n") for name in "ab")
    at_look = lambda: begun() and (until.come() if how == "time" else os.kill(os.getpid(), how))
    several = jobs(tmp_path, a=SAVES, b=SAVES, c="echo never")
    assert processes.work(several, 2, watch := Watch(at_look), until) == how
    assert sorted(watch.unfinished) == ["a", "b"] and not watch.results and not (tmp_path / "c.log").exists()
    assert [(tmp_path / f"{name}.log").read_text().split()[-1] for name in "ab"] == ["saved", "saved"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Moment:
    """A value of `time.monotonic()` that is not yet known."""

    has_come = False

    def come(self):
        self.has_come = True

    def __gt__(self, now):
        return not self.has_come


def test_signals_that_are_ignored_stay_so(processes, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        begun = lambda: (tmp_path / "a.log").read_text().endswith("begun\n") and os.kill(os.getpid(), signal.SIGHUP)
        assert processes.work(jobs(tmp_path, a="echo begun; sleep 0.5; echo done"), 1, Watch(begun)) is None
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "a.log").read_text().endswith("done\n")


@pytest.mark.parametrize("by", ["patience", "Ctrl-C"])
def test_one_that_does_not_stop_is_killed(processes, tmp_path, by):
    stubborn = f"trap '' TERM; echo $$ > {tmp_path}/pid; echo begun; while :; do sleep 0.05; done"
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    told = []

    def at_look():
        if (tmp_path / "a.log").read_text().endswith("begun\n") and not told:
            told.append(os.kill(os.getpid(), signal.SIGINT))
            if by == "Ctrl-C":
                timer.start()

    patience = 0.5 if by == "patience" else 300
    stopped = processes.work(jobs(tmp_path, a=stubborn), 1, Watch(at_look), patience=patience)
    assert stopped == signal.SIGINT and not is_alive((tmp_path / "pid").read_text().strip())


def is_alive(pid):
    """Whether a process runs, as Linux says."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_error_of_the_watch_leaves_no_process(processes, tmp_path):
    def at_look():
        if (tmp_path / "a.log").read_text().endswith("begun\n"):
            raise OSError("the table cannot be printed")

    with pytest.raises(OSError, match="cannot be printed"):
        processes.work(jobs(tmp_path, a=SAVES), 1, Watch(at_look))
    assert (tmp_path / "a.log").read_text().endswith("saved\n")


PARENT = """
import pathlib, sys, types
sys.path.insert(0, "recipes")
import processes
folder = pathlib.Path(sys.argv[1])
command = ["sh", "-c", f"echo $$ > {folder}/pid; trap '' TERM HUP; while :; do sleep 0.05; done"]
job = types.SimpleNamespace(command=command, log=folder / "log")
processes.work([job], 1, types.SimpleNamespace(started=print, look=lambda: None))
"""


def test_nothing_outlives_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
    assert is_alive(pid.read_text().strip())
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_alive(pid.read_text().strip()))


def test_a_process_has_its_share_of_the_cores(processes, tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    script = f"{sys.executable} -c 'import os; print(sorted(os.sched_getaffinity(0)))'; exit 1"
    for given, expected in ((None, cores), (cores[-1:], cores[-1:])):
        processes.work(jobs(tmp_path, a=script), 1, watch := Watch(), cores=given)
        assert watch.results["a"] == (1, str(expected))
