"""TF_CONFIG: who trains, and which process this is."""

import json

import pytest

from dhm_keras.distribute.cluster import read_cluster

HOSTS = ["host1:2222", "host2:2222"]


def config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_one_process_without_a_cluster(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    assert read_cluster() == ([], 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (config({"worker": HOSTS}), (HOSTS, 0)),
        (config({"worker": HOSTS}, index=1), (HOSTS, 1)),
        (config({"worker": HOSTS, "chief": ["c:1"]}, "chief"), (["c:1", *HOSTS], 0)),
        (config({"worker": HOSTS, "chief": ["c:1"]}, index=1), (["c:1", *HOSTS], 2)),
        (config({"chief": ["c:1"]}, "chief"), (["c:1"], 0)),
        (config({"worker": ["[::1]:80"]}), (["[::1]:80"], 0)),
    ],
)
def test_addresses_and_index(monkeypatch, text, expected):
    monkeypatch.setenv("TF_CONFIG", text)
    assert read_cluster() == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", '"cluster" is missing'),
        ('{"cluster": []}', '"cluster" is missing or not an object'),
        (config({}), '"worker" of "cluster" is missing or empty'),
        (config({"worker": "host1:2222"}), '"worker" of "cluster" is not a list'),
        (config({"worker": ["host1"]}), "not a list of"),
        (config({"worker": ["host1:99999"]}), "not a list of"),
        (config({"worker": [":2222"]}), "not a list of"),
        (config({"worker": [2222]}), "not a list of"),
        (config({"worker": HOSTS, "ps": HOSTS}), r"\['ps'\]"),
        (config({"worker": HOSTS, "chief": ["a:1", "b:1"]}), "more than one"),
        (config({"worker": [*HOSTS, HOSTS[0]]}), "twice"),
        (json.dumps({"cluster": {"worker": HOSTS}}), '"task" is missing'),
        (config({"worker": HOSTS}, "evaluator"), '"type" of "task"'),
        (config({"worker": HOSTS}, ["worker"]), '"type" of "task"'),
        (config({"worker": HOSTS}, "chief"), "one of the 0"),
        (config({"worker": HOSTS}, index=2), "one of the 2"),
        (config({"worker": HOSTS}, index=-1), '"index" of "task"'),
        (config({"worker": HOSTS}, index="0"), '"index" of "task"'),
        (config({"worker": HOSTS}, index=True), '"index" of "task"'),
    ],
)
def test_malformed(monkeypatch, text, problem):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=problem) as error:
        read_cluster()
    assert '{"cluster": {"worker": ["host1:12345", "host2:12345"]}' in str(error.value)
