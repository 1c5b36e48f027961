"""The processes of a training on several machines, read from the environment variable TF_CONFIG."""

import json
import os

_EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'


def read_cluster():
    """Reads TF_CONFIG, which says the same on every backend: TensorFlow's format.

    `cluster` lists the address of each process, the same list on every machine; `task` is the process that reads it.
    A `chief`, one address, counts as the first process; without it that is the first worker.

    Returns:
        Tuple `(addresses, index)`: list of the strings `"host:port"` of all processes, and the number of this one;
        `([], 0)` where TF_CONFIG is not set or empty.

    Raises:
        ValueError: if TF_CONFIG is malformed.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return [], 0
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _invalid(f"it is not JSON ({error})", text) from None
    if not isinstance(config, dict):
        raise _invalid("it is not a JSON object", text)
    jobs = _jobs(config.get("cluster"), text)
    kind, index = _task(config.get("task"), jobs, text)
    return [*jobs["chief"], *jobs["worker"]], index if kind == "chief" else len(jobs["chief"]) + index


def _invalid(problem, text):
    return ValueError(
        f"Invalid environment variable TF_CONFIG: {problem}. Expected, for the first of two processes: {_EXAMPLE}. "
        f"Received: {text}"
    )


def _jobs(cluster, text):
    """The lists of addresses, `{"chief": [...], "worker": [...]}`."""
    if not isinstance(cluster, dict):
        raise _invalid('"cluster" is missing or not an object', text)
    if unknown := sorted(set(cluster) - {"chief", "worker"}):
        raise _invalid(f'"cluster" has {unknown}, and only "worker" and "chief" train', text)
    jobs = {kind: cluster.get(kind, []) for kind in ("chief", "worker")}
    for kind, addresses in jobs.items():
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise _invalid(f'"{kind}" of "cluster" is not a list of "host:port"', text)
    if len(jobs["chief"]) > 1:
        raise _invalid('"chief" of "cluster" has more than one address', text)
    addresses = [*jobs["chief"], *jobs["worker"]]
    if not addresses:
        raise _invalid('"worker" of "cluster" is missing or empty', text)
    if len(set(addresses)) < len(addresses):
        raise _invalid('"cluster" has an address twice', text)
    return jobs


def _is_address(address):
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 2**16


def _task(task, jobs, text):
    """The type of this process, and its number among those of its type."""
    if not isinstance(task, dict):
        raise _invalid('"task" is missing or not an object', text)
    kind, index = task.get("type"), task.get("index")
    if not isinstance(kind, str) or kind not in jobs:
        raise _invalid('"type" of "task" is not "worker" or "chief"', text)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(jobs[kind]):
        raise _invalid(f'"index" of "task" is not the number of one of the {len(jobs[kind])} of "{kind}", from 0', text)
    return kind, index
