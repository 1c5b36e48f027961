"""TF_CONFIG: which process this is, and what is said of a malformed one."""

import json

import pytest

import dhm_keras as dhm

pytestmark = pytest.mark.tensorflow

WORKERS = ["10.0.0.1:2222", "10.0.0.2:2222"]


def config(cluster, kind="worker", index=0):
    return {"cluster": cluster, "task": {"type": kind, "index": index}}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (None, (0, 1)),
        ({}, (0, 1)),
        (config({"worker": WORKERS[:1]}), (0, 1)),
        (config({"worker": WORKERS}, index=1), (1, 2)),
        (config({"chief": ["10.0.0.9:1"], "worker": WORKERS}, "chief"), (0, 3)),
        (config({"chief": ["10.0.0.9:1"], "worker": WORKERS}, index=1), (2, 3)),
    ],
)
def test_process(monkeypatch, value, place):
    if value is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        monkeypatch.setenv("TF_CONFIG", json.dumps(value))
    assert dhm.distribute.process() == place
    assert dhm.distribute.is_chief() == (place[0] == 0)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{'cluster'", "It is not JSON"),
        ("[1]", "It is not a JSON object"),
        (config([WORKERS]), "`cluster` needs the key `worker`"),
        (config({"worker": WORKERS, "ps": WORKERS}), "`cluster` needs the key `worker`"),
        (config({"worker": WORKERS[0]}), "`cluster` needs as `worker` a list of strings host:port"),
        (config({"worker": ["10.0.0.1", WORKERS[1]]}), "`cluster` needs as `worker` a list of strings host:port"),
        (config({"worker": WORKERS * 2}), "`cluster` names an address twice"),
        (config({"chief": WORKERS, "worker": WORKERS}, "chief"), "`cluster` has more than one chief"),
        ({"cluster": {"worker": WORKERS}}, "`task` needs a `type`"),
        (config({"worker": WORKERS}, "chief"), "`task` needs a `type`"),
        (config({"worker": WORKERS}, index=2), "`task` needs an integer `index` in \\[0, 2\\)"),
        (config({"worker": WORKERS}, index="0"), "`task` needs an integer `index` in \\[0, 2\\)"),
    ],
)
def test_malformed(monkeypatch, value, problem):
    monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(ValueError, match=problem):
        dhm.distribute.process()
    with pytest.raises(ValueError, match=r'TF_CONFIG.*"task": {"type": "worker", "index": 0}'):
        dhm.distribute.data_parallel().__enter__()
