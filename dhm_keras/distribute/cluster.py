"""The machines that train together, as the environment variable TF_CONFIG names them."""

import json
import os

EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'


def place():
    """This process among those of the cluster that TF_CONFIG describes.

    Returns:
        (index, count): the chief comes first, then the workers in their order; (0, 1) without a cluster.

    Raises:
        ValueError: if TF_CONFIG is malformed.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return 0, 1
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _invalid(f"It is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise _invalid("It is not a JSON object")
    if not config.get("cluster"):
        return 0, 1
    chiefs, workers = _jobs(config["cluster"])
    task = config.get("task")
    if not isinstance(task, dict) or task.get("type") not in config["cluster"]:
        raise _invalid(f"`task` needs a `type` out of {sorted(config['cluster'])}")
    members = chiefs if task["type"] == "chief" else workers
    index = task.get("index")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(members):
        raise _invalid(f"`task` needs an integer `index` in [0, {len(members)})")
    return index + (len(chiefs) if task["type"] == "worker" else 0), len(chiefs) + len(workers)


def _jobs(cluster):
    """The addresses of the chief, none or one, and of the workers."""
    if not isinstance(cluster, dict) or not set(cluster) <= {"chief", "worker"}:
        raise _invalid("`cluster` needs the key `worker`, and may have `chief`, but no other")
    for job in cluster:
        if not isinstance(cluster[job], list) or not cluster[job] or not all(map(_is_address, cluster[job])):
            raise _invalid(f"`cluster` needs as `{job}` a list of strings host:port")
    chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
    if len(chiefs) > 1:
        raise _invalid("`cluster` has more than one chief")
    if len({*chiefs, *workers}) < len(chiefs) + len(workers):
        raise _invalid("`cluster` names an address twice")
    return chiefs, workers


def _is_address(address):
    return isinstance(address, str) and address.rpartition(":")[0] != "" and address.rpartition(":")[2].isdigit()


def _invalid(problem):
    return ValueError(
        f"Invalid value of the environment variable TF_CONFIG. {problem}. Expected for example {EXAMPLE}. Received: "
        f"{os.environ['TF_CONFIG']}"
    )
