"""Mutations of files, as hypothesis draws them, and what the fuzz tests share."""

import functools
import json
import os
import signal

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("DHM_FUZZ", "1"))  # so many times the examples, drawn anew each time


def laws(examples):
    """Settings of a test: so many examples, the same ones each time."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )


# Mutations: strategies of functions from the bytes of a file to other bytes


def edit(content, kind, place, length, value, there):
    """One change at `place` and, for those that need two, `there`: shares of the length."""
    i, j = int(place * len(content)), int(there * len(content))
    part = content[i : i + length]
    match kind:
        case "flip":
            return content[:i] + bytes(b ^ (value[0] or 1) for b in part[:1]) + content[i + 1 :]
        case "replace":
            return content[:i] + value + content[i + len(value) :]
        case "insert":
            return content[:i] + value + content[i:]
        case "delete":
            return content[:i] + content[i + length :]
        case "truncate":
            return content[:i]
        case "repeat":
            return content[:i] + part + part + content[i + length :]
        case "move":
            return content[:j] + part + content[j:]
        case "splice":
            return content[:i] + content[j:]


KINDS = ["flip", "replace", "insert", "delete", "truncate", "repeat", "move", "splice"]
SHARE = st.floats(0, 1, exclude_max=True)
EDIT = st.tuples(st.sampled_from(KINDS), SHARE, st.integers(1, 600), st.binary(min_size=1, max_size=40), SHARE)
WHOLE = [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00", b"\x80\x04.", b"null", b"{}", b"[" * 100_000]
BYTES = st.one_of(
    st.lists(EDIT, min_size=1, max_size=4).map(
        lambda edits: lambda content: functools.reduce(lambda c, e: edit(c, *e), edits, content)
    ),
    st.sampled_from(WHOLE).map(lambda whole: lambda content: whole),
    st.binary(max_size=200).map(lambda whole: lambda content: whole),
)

# Values that a JSON text can have in place of others. Those in bytes are put in as they are.
DEEP = [
    (opening * n + closing * n).encode() for n in (900, 960, 100_000) for opening, closing in ("[]", ('{"a":', "}"))
]
RAW = [b"NaN", b"-Infinity", b"1e999", b"1" * 5000, b'"\xff\xfe"', rb'"\ud800"', b"2.0", b"-0", b"true", *DEEP]
VALUE = st.one_of(
    st.sampled_from(RAW),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    ).map(lambda value: json.dumps(value).encode()),
)


def change_json(content, place, what, value):
    """The JSON text with a member, at any depth, that is replaced, left out, renamed, doubled."""
    document = json.loads(content)
    members = [(document, key) for key in document]
    for holder, key in members:  # grows as it goes
        if isinstance(holder[key], (dict, list)):
            inner = holder[key]
            members += [(inner, k) for k in (inner if isinstance(inner, dict) else range(len(inner)))]
    holder, key = members[int(place * len(members))]
    if what == "leave out" or (what != "replace" and isinstance(holder, list)):
        del holder[key]
    elif what == "rename":
        holder["a"] = holder.pop(key)
    else:
        holder[key] = "here"
    new = value if what != "double" else value + b", " + json.dumps(key).encode() + b": " + value
    return json.dumps(document).encode().replace(b'"here"', new)


JSON_CHANGE = st.tuples(SHARE, st.sampled_from(["replace", "leave out", "rename", "double"]), VALUE)
TEXT = BYTES | JSON_CHANGE.map(lambda change: lambda content: change_json(content, *change))


class Within:
    """A time limit: what hangs fails."""

    def __enter__(self):
        signal.signal(signal.SIGALRM, self._late)
        signal.alarm(20)

    def __exit__(self, *_):
        signal.alarm(0)

    def _late(self, *_):
        raise AssertionError("it hangs")


def outcome(call, *names, errors=ValueError):
    """`(value, None)`, or `(None, error)` of a kind that is allowed, whose message has one of the names."""
    try:
        with Within():
            return call(), None
    except errors as error:
        assert any(str(name) in str(error) for name in names), error
        return None, error


class Mutated:
    """Within, a file has other contents, which it yields."""

    def __init__(self, path, mutate):
        self.path, self.before = path, path.read_bytes()
        self.after = mutate(self.before)

    def __enter__(self):
        self.path.write_bytes(self.after)
        return self.after

    def __exit__(self, *_):
        self.path.write_bytes(self.before)
