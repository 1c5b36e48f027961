"""Programs of the repository as a user starts them."""

import contextlib
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
from absl import flags

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


@contextlib.contextmanager
def recipe_module(name, *others):
    """Within, a module of `recipes/` as Python imports it for a script; its flags, and those of others, end with it."""
    known = set(flags.FLAGS)
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "recipes"))
        for flag in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, flag)
        for module in (name, *others):  # whose flags are gone
            sys.modules.pop(module, None)


def run_main(recipe, *arguments, **replaced):
    """Runs a recipe's main in this process, which has imported all that it needs, with other functions in it."""
    before = signal.getsignal(signal.SIGTERM)
    with recipe_module(recipe) as module:
        vars(module).update(replaced)
        try:
            module.main(flags.FLAGS([recipe, *arguments]))
        finally:
            signal.signal(signal.SIGTERM, before)
            keras.config.set_dtype_policy("float32")


def wait_for(condition, seconds=60):
    """Waits until a condition holds; fails if it does not in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()
