"""Several processes at a time, each on its share of the cores, that end with the process that started them.

As a program it is what each of them is started through: it ties itself to its parent and then becomes the command.
"""

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time

PATIENCE = 45  # seconds that a process told to stop has for its step, which may have to be compiled, and to save
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
CANNOT_RUN = 126  # as in a shell


def work(jobs, at_once, watch, until=float("inf"), cores=None, patience=PATIENCE):
    """Runs commands, so many at a time. One that fails does not stop the others.

    At the time given, on SIGTERM, when the terminal is closed and on Ctrl-C no further one is started, and those that
    run get SIGTERM, on which a training saves after its step. Ctrl-C while they do kills them.

    Args:
        jobs: Iterable of objects with `command`, a list of strings, and `log`, a `pathlib.Path`: what the command
            prints is appended to that file.
        at_once: Integer > 0.
        watch: Object with methods `started(job)`; `ended(job, code, why)`, with the exit status and a sentence on why
            it may have failed; `stopped(job)`; and `look()`, called several times a second. What it raises stops all.
        until: Float. Value of `time.monotonic()` at which to stop. Defaults to never.
        cores: List of integers. CPU cores that the processes share. Defaults to `None`: the system distributes them.
        patience: Float. Seconds from SIGTERM to SIGKILL. Defaults to `45`.

    Returns:
        `None` if all jobs have ended, else why they were stopped: a signal's number, or `"time"`.
    """
    waiting, running = list(reversed(jobs)), {}
    with _signals_noted() as signals:
        try:
            while (waiting or running) and not signals and time.monotonic() < until:
                for place in sorted(set(range(at_once)) - running.keys()):
                    if waiting and not signals:
                        _begin(place, waiting.pop(), running, watch, cores[place::at_once] if cores else [])
                time.sleep(0.1)
                for place, (job, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[place]
                        watch.ended(job, process.returncode, _why(job.log, process.returncode))
                watch.look()
        finally:
            _stop([process for _, process in running.values()], patience, signals)
        for job, _ in running.values():
            watch.stopped(job)
    return (signals[0] if signals else "time") if waiting or running else None


def _begin(place, job, running, watch, cores):
    """Starts a job's process at a place among those that run."""
    through = [sys.executable, __file__, str(os.getpid()), ",".join(map(str, cores))]
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with open(job.log, "a", encoding="utf-8") as log:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} $ {shlex.join(job.command)}", file=log, flush=True)
            process = subprocess.Popen(
                [*through, *job.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the parent alone
            )
    except OSError as error:
        watch.ended(job, CANNOT_RUN, f"{job.log} cannot be written, or the process not be started ({error}).")
        return
    running[place] = job, process
    watch.started(job)


def _stop(processes, patience, signals):
    """Ends processes that may still run, with all that they have started."""
    before, end = len(signals), time.monotonic() + patience
    _send(processes, signal.SIGTERM)
    while any(process.poll() is None for process in processes):
        if time.monotonic() > end or signal.SIGINT in signals[before:]:
            _send(processes, signal.SIGKILL)
        time.sleep(0.05)


def _send(processes, number):
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def _why(log, code):
    """The last line of a log, after the signal that ended the process, if one did."""
    by_signal = f"{signal.Signals(-code).name}. " if code < 0 else ""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"{by_signal}{log} cannot be read ({error.strerror})."
    lines = ["".join(filter(str.isprintable, line)).strip() for line in lines]
    return by_signal + next(filter(None, reversed(lines)), "")[:500]


@contextlib.contextmanager
def _signals_noted():
    """Within, SIGTERM, SIGHUP and Ctrl-C are appended to the list that is yielded, and do nothing else.

    Those that this process was started to ignore, as SIGHUP by nohup, it goes on to ignore.
    """
    noted = []
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: noted.append(number)) for number in heeded}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def become(parent, cores, *command):
    """Replaces this process by a command that is killed when its parent ends, however that ends.

    Args:
        parent: String, the parent's process id.
        cores: String, the numbers of the cores to run on, with commas between them; empty for all.
        command: Strings.
    """
    if sys.platform == "linux":  # elsewhere nothing of the kind lasts through the exec
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(parent):  # it has ended before that
        raise SystemExit(1)
    if cores and hasattr(os, "sched_setaffinity"):  # before TensorFlow or JAX look how many there are
        os.sched_setaffinity(0, map(int, cores.split(",")))
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(*sys.argv[1:])
