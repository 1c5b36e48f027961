"""Processes that train, for `run.py` and `device_speed.py`."""

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("torch_python", None, "Interpreter that has PyTorch. Defaults to this one, if it has.")
flags.register_validator(
    "torch_python", lambda path: path is None or os.access(path, os.X_OK), "Expected the path of a Python interpreter."
)

HERE = pathlib.Path(__file__).parent


class Worker:
    """A process that takes steps, see `training_worker.py`; what it says of its start is `started`."""

    def __init__(self, script, *arguments, python=sys.executable):
        command = [python, HERE / f"{script}.py", *map(str, arguments)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors, "text": True}
        start = time.perf_counter()
        self.process, self.seconds = subprocess.Popen(command, **pipes), []
        self.started = self._answer() | {"in all": time.perf_counter() - start}

    def step(self, count=1):
        """Takes so many steps; their `seconds` are added to those before, `memory` is the peak so far in GiB."""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        answer = self._answer()
        self.seconds += answer["seconds"]
        self.memory = answer["GiB"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read()[-3000:] or "It said nothing: was it killed for want of memory?"
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended. {said}")
        return json.loads(line)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def torch_python():
    """The interpreter with PyTorch, or None."""
    return FLAGS.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
