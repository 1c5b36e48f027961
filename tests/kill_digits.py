"""Kills the digits recipe at random moments, starts it again, and compares with a start that ran through.

    python tests/kill_digits.py --times 20

Each time one or two starts are killed (SIGKILL, the whole process group), then one runs to its end. Weights and
optimizer of the last epoch, weights of the best epoch and history must be the same to the bit.
"""

import argparse
import io
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent


def start(folder):
    """A process of its own group that trains three methods for two epochs, two at a time."""
    command = [sys.executable, "recipes/digits.py", "--smoke", "--jobs=2", f"--run_dir={folder}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def run_through(folder):
    """Trains to the end, but leaves out what the recipe does with the results.

    Returns:
        `(first, last)`: the seconds at which the first training began and the last one was done.
    """
    begin, process, first = time.perf_counter(), start(folder), None
    while process.poll() is None:
        time.sleep(0.05)
        seconds = time.perf_counter() - begin
        first = first or (seconds if list(folder.glob("*-0/config.json")) else None)
        if len(list(folder.glob("*-0/result.json"))) == 3:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return first, seconds
    raise RuntimeError(f"The recipe failed:\n{(folder / 'log').read_text()[-3000:]}")


def killed(folder, seconds):
    """Kills a start after so many seconds; whether a training was at work."""
    process = start(folder)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return bool(list(folder.glob("*-0/checkpoints")))


def contents(folder):
    """`{name: array or bytes}` of all that a training leaves, timings aside."""
    found = {}
    for run in sorted(pathlib.Path(folder).glob("*-0")):
        found[f"{run.name}/history.csv"] = (run / "history.csv").read_bytes()
        with zipfile.ZipFile(run / "last.keras") as archive:
            last = io.BytesIO(archive.read("model.weights.h5"))
        for name, file in (("last", last), ("best", run / "best.weights.h5")):
            with h5py.File(file) as weights:
                weights.visititems(
                    lambda key, item, of=f"{run.name}/{name}": (
                        found.update({f"{of}/{key}": item[()]}) if isinstance(item, h5py.Dataset) else None
                    )
                )
    return found


def differences(folder, other):
    """Names of what is not the same to the bit in two folders."""
    one, two = contents(folder), contents(other)
    if len(one) < 100:
        raise RuntimeError(f"{folder} does not hold the runs: {list(one)}")
    return [
        name for name in one | two if name not in one or name not in two or not np.array_equal(one[name], two[name])
    ]


def kill_and_compare(folder, times, seed, kills=(1, 2)):
    """Yields, for each time, the moments of the kills within trainings and the names of what differs.

    How many starts are killed each time is drawn from `kills`.
    """
    folder, rng = pathlib.Path(folder), random.Random(seed)
    first, last = run_through(folder / "whole")
    for number in range(times):
        again, moments = folder / f"{number}", []
        while not moments:
            shutil.rmtree(again, ignore_errors=True)
            drawn = [rng.uniform(first, last) for _ in range(rng.choice(kills))]
            moments = [moment for moment in drawn if killed(again, moment)]
        run_through(again)
        yield moments, differences(folder / "whole", again)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    same = 0
    with tempfile.TemporaryDirectory() as temporary:
        for number, (moments, names) in enumerate(
            kill_and_compare(temporary, arguments.times, arguments.seed), start=1
        ):
            same += not names
            at = ", ".join(f"{moment:.1f} s" for moment in moments)
            print(f"{number}: killed at {at}: {names or 'the same to the bit'}", flush=True)
    print(f"{same} of {arguments.times} the same to the bit")
    raise SystemExit(same != arguments.times)
