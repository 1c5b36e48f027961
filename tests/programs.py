"""Programs of the repository as a user starts them."""

import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent


def start(*arguments, **environment):
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500
    )


def without_tensorflow(folder):
    """The environment of a machine with JAX and without TensorFlow."""
    (folder / "tensorflow").mkdir(parents=True)
    (folder / "tensorflow" / "__init__.py").write_text("raise ImportError('there is no TensorFlow here')\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "KERAS_BACKEND": "jax"}


def wait_for(condition, seconds=60):
    """Waits until a condition holds; fails if it does not in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()
