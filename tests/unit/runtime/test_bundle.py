"""Reading config.json: what holds, what does not, and hostile bytes."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded, SkerryError
from skerry.kernel.cgroups import Hierarchy, Layout
from skerry.runtime import bundle, plan
from skerry.runtime.commands.spec import example, make_rootless
from skerry.runtime.plan import Plan

LAYOUT = Layout("unified", (), Hierarchy(("cpu", "memory", "pids"), "/sys/fs/cgroup", "/"))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def packed(spec: Any) -> bytes:
    return json.dumps(spec).encode()


def paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value inside `value`."""
    found = [before] if before else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += paths(item, (*before, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += paths(item, (*before, index))
    return found


def full() -> dict[str, Any]:
    """A configuration with every part of it in use."""
    spec = example()
    spec["process"] |= {
        "oomScoreAdj": 5,
        "consoleSize": {"height": 5, "width": 9},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
    }
    spec["hooks"] = {
        "prestart": [{"path": "/x", "args": ["x"], "env": ["A=b"], "timeout": 3}],
        "poststop": [{"path": "/y"}],
    }
    spec["annotations"] = {"a": "b"}
    spec["domainname"] = "example"
    mapping = {"containerID": 0, "hostID": 1000, "size": 10}
    spec["linux"]["namespaces"] += [{"type": "user"}, {"type": "time"}]
    spec["linux"] |= {
        "uidMappings": [mapping],
        "gidMappings": [mapping],
        "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 2}},
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 0o600}],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "personality": {"domain": "LINUX"},
        "rootfsPropagation": "rslave",
        "cgroupsPath": "/a/b",
    }
    spec["mounts"].append(
        {
            "destination": "/m",
            "source": "/s",
            "options": ["rbind", "rro", "rshared", "idmap"],
            "uidMappings": [mapping],
            "gidMappings": [mapping],
        }
    )
    return spec


def test_examples_hold() -> None:
    assert bundle.parse(packed(example()))["hostname"] == "skerry"
    rootless = example()
    make_rootless(rootless, 1000, 1000)
    assert bundle.parse(packed(rootless))["linux"]["uidMappings"][0]["hostID"] == 1000
    bundle.parse(packed(full()))


def test_null_stands_for_absent() -> None:
    spec = example()
    spec["hooks"] = None
    spec["process"]["rlimits"] = None
    parsed = bundle.parse(packed(spec))
    assert "hooks" not in parsed
    assert "rlimits" not in parsed["process"]


def _drop_args(spec: dict[str, Any]) -> None:
    spec["process"]["args"] = []


CHANGES: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("process.args", _drop_args),
    ("ociVersion", lambda s: s.update(ociVersion="1.x")),
    ("process.env[0]", lambda s: s["process"].update(env=[1])),
    ("process.user.uid", lambda s: s["process"]["user"].update(uid=-1)),
    ("process.user.uid", lambda s: s["process"]["user"].update(uid=True)),
    ("process.terminal", lambda s: s["process"].update(terminal="yes")),
    ("oomScoreAdj", lambda s: s["process"].update(oomScoreAdj=1001)),
    ("hooks.prestart[0].path", lambda s: s.update(hooks={"prestart": [{"path": "rel"}]})),
    ("annotations.a", lambda s: s.update(annotations={"a": 1})),
    ("NUL", lambda s: s.update(annotations={"a\0": "b"})),
    ("clock", lambda s: s["linux"]["timeOffsets"].update(solar={"secs": 1})),
    ("size", lambda s: s["linux"]["uidMappings"][0].pop("size")),
    ("no mappings", lambda s: s["linux"].pop("uidMappings")),
    ("absolute", lambda s: s["linux"]["namespaces"][0].update(path="rel")),
    ("destination", lambda s: s["mounts"][0].pop("destination")),
    ("valid text", lambda s: s["process"].update(cwd="/\ud800")),
]


@pytest.mark.parametrize(("word", "change"), CHANGES)
def test_what_does_not_hold_is_named(word: str, change: Callable[[dict[str, Any]], Any]) -> None:
    spec = full()
    change(spec)
    with pytest.raises(InvalidInput) as caught:
        bundle.parse(packed(spec))
    assert word in caught.value.message
    assert "\n" not in caught.value.message


def test_limits() -> None:
    with pytest.raises(LimitExceeded):
        bundle.parse(b" " * (bundle.MAX_BYTES + 1))
    with pytest.raises(LimitExceeded):
        bundle.parse(b"[" * 200_000)


def test_load_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"config\.json not found"):
        bundle.load(str(tmp_path))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_order(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        bundle.parse(data)


PLACES = paths(full())


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_any_value_anywhere_is_planned_or_refused(place: tuple[Any, ...], value: Any) -> None:
    """Either there is a plan, that survives the wire and can be shown, or one clear error."""
    spec = copy.deepcopy(full())
    inner: Any = spec
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    try:
        made = plan.plan(bundle.parse(packed(spec)), bundle="/b", container_id="c", layout=LAYOUT)
    except SkerryError as error:
        assert error.message
        return
    assert Plan.from_wire(made.to_wire()) == made
    assert all(isinstance(line, str) for line in made.describe())


@given(JSON)
def test_any_process_is_read_or_refused(value: Any) -> None:
    try:
        bundle.parse_process(packed(value))
    except InvalidInput as error:
        assert error.message
