"""Two processes on this machine, one device each, against one process: `MultiWorkerMirroredStrategy`."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from networks import free_ports

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

TESTS = pathlib.Path(__file__).parent


def start(path, config=None):
    """A process of worker.py that writes to `path`."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("TF_CONFIG", None)
    if config:
        environment["TF_CONFIG"] = json.dumps(config)
    command = [sys.executable, TESTS / "worker.py", path]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(path, process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]
    return dict(np.load(f"{path}.npz")), json.loads(pathlib.Path(f"{path}.json").read_text())


def test_two_processes_equal_one(tmp_path):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    paths = [str(tmp_path / name) for name in ("one", "first", "second")]
    configs = [None, *({"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(2))]
    processes = [start(path, config) for path, config in zip(paths, configs)]
    try:
        (one, logs), *two = [results(path, process) for path, process in zip(paths, processes)]
    finally:
        for process in processes:
            process.kill()
    assert logs.pop() == [0, 1, 1]
    for index, (weights, other_logs) in enumerate(two):
        assert other_logs.pop() == [index, 2, 2]
        for name, value in one.items():
            np.testing.assert_allclose(weights[name], value, rtol=1e-8, atol=1e-8, err_msg=name)
        for part, other in zip(logs, other_logs):
            assert part.keys() == other.keys()
            for key in part:
                np.testing.assert_allclose(other[key], part[key], rtol=1e-8, err_msg=key)
        assert json.dumps(other_logs) == json.dumps(two[0][1])
