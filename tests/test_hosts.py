"""Two processes on this machine as two hosts: one is killed, both are started again; the first process alone writes."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from networks import free_ports

from dhm_keras import checkpoint
from dhm_keras.run import Run

pytestmark = pytest.mark.slow

TESTS = pathlib.Path(__file__).parent


@contextlib.contextmanager
def hosts(folder, files, kill=(None, None)):
    """Two processes of `resume_worker.py`; whoever still runs at the end is killed."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index, (file, step) in enumerate(zip(files, kill)):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        environment = {**os.environ, "PYTHONPATH": paths, "TF_CONFIG": json.dumps(task), "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, str(TESTS / "resume_worker.py"), str(folder), str(file), *([step] if step else [])]
        log = open(f"{file}.log", "w")  # noqa: SIM115, the process writes to it
        processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_through(folder, files):
    with hosts(folder, files) as processes:
        for process, file in zip(processes, files):
            assert process.wait(timeout=300) == 0, pathlib.Path(f"{file}.log").read_text()[-3000:]
    return [(dict(np.load(f"{file}.npz")), pathlib.Path(f"{file}.json").read_text()) for file in files]


def test_one_of_two_is_killed_and_both_are_started_again(tmp_path):
    whole = run_through(tmp_path / "whole", [tmp_path / "whole-0", tmp_path / "whole-1"])
    assert whole[0][1] == whole[1][1]
    for name, value in whole[0][0].items():
        np.testing.assert_array_equal(whole[1][0][name], value, err_msg=name)
    assert Run.open(tmp_path / "whole").result == {"epochs": 3} and len(Run.open(tmp_path / "whole").history) == 3

    folder, files = tmp_path / "killed", [tmp_path / "killed-0", tmp_path / "killed-1"]
    with hosts(folder, files, kill=(None, "7")) as processes:  # the second one, within the second epoch
        assert processes[1].wait(timeout=300) == -9
    assert [path.name[:20] for path in checkpoint.paths(folder / "checkpoints")] == [
        "epoch0001-step000002",
        "epoch0001-step000000",
    ]
    for (weights, history), (expected, other) in zip(run_through(folder, files), whole):
        for name, value in expected.items():
            np.testing.assert_array_equal(weights[name], value, err_msg=name)
        history, other = json.loads(history), json.loads(other)
        assert history.keys() == other.keys()
        for name, column in other.items():  # TensorFlow adds up what the processes have seen in another order
            np.testing.assert_allclose(history[name], column, rtol=1e-6, err_msg=name)
    assert "goes on from" in pathlib.Path(f"{files[1]}.log").read_text()
