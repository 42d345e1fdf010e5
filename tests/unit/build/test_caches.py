"""Keys and why they missed; states; caches from elsewhere; the classic stream."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.api.build_stream import Classic
from skerry.base.errors import InvalidInput, SkerryError
from skerry.build import inventory, keys, remote_cache
from skerry.build.inventory import Rule
from skerry.build.keys import Key
from skerry.build.state import State, fingerprint
from skerry.store import open_store
from skerry.store.image import chain_ids
from skerry.store.steps import Step

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def test_fingerprints_tell_parts_apart() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint("", "a") != fingerprint("a", "")


def test_a_states_chain_is_the_image_specs() -> None:
    assert State((A, B, C)).chain == chain_ids((A, B, C))[-1]
    assert State((A,)).chain == A
    assert State().chain == ""


def test_history_tells_empty_steps_and_those_with_layers() -> None:
    state = State(created="t0").step(A, "RUN a", "t1").configured({"User": "x"}, "USER x")
    state = state.step("", "RUN true", "t2")
    assert [(each.created, each.empty_layer) for each in state.history] == [
        ("t1", False),
        ("t1", True),
        ("t2", True),
    ]
    assert state.layers == (A,)


@pytest.mark.parametrize(
    ("parts", "files", "expected"),
    [
        ({"base": "x", "files": "1"}, {}, "the layers below it changed"),
        ({"base": "a", "files": "2"}, {"f": "9", "n": "1"}, "n is new, f changed, g is gone"),
        ({"base": "a", "files": "1"}, {}, "its result was pruned"),
    ],
)
def test_a_miss_is_explained(
    tmp_path: Path, parts: dict[str, str], files: dict[str, str], expected: str
) -> None:
    with open_store(str(tmp_path)) as store:
        before = Key({"base": "a", "files": "1"}, {"f": "1", "g": "2"}, "slot")
        assert keys.why_missed(store, before) == "it was not run before"
        keys.note(store, before)
        assert keys.why_missed(store, Key(parts, files, "slot")) == expected


def step(key: str, layer: str, used: float = 1.0) -> Step:
    return Step(key, layer, f"RUN {key}", "", 1.0, used, chain=(layer,) if layer else ())


def layer(store: Any, name: str, size: int) -> str:
    folder = Path(store.root) / "tmp" / name
    folder.mkdir()
    (folder / "file").write_bytes(b"x" * size)
    diff_id = f"sha256:{name * 64}"
    store.layers.adopt(str(folder), diff_id, size)
    return diff_id


def test_recorded_steps_keep_their_layers_until_they_are_pruned(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store:
        for name, used in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
            store.steps.put(step(name * 8, layer(store, name, 100_000), used))
        layer(store, "d", 5)
        store.gc.collect()
        assert store.layers.all() == [A, B, C]
        usage = store.gc.usage()
        assert usage.categories["build cache"].bytes >= 300_000
        assert usage.total == sum(each.bytes for each in usage.categories.values())

        class NoMounts:
            def all(self) -> list[Any]:
                return []

        found = inventory.Inventory(store, NoMounts(), str(tmp_path / "none"))  # type: ignore[arg-type]
        assert [each.id for each in found.entries()] == ["a" * 8, "b" * 8, "c" * 8]
        one = found.entries()[0].size
        assert found.prune(Rule(filters={"id": frozenset({"b"})})).ids == ["b" * 8]
        assert found.prune(Rule(keep_bytes=one)).ids == ["a" * 8]
        assert store.layers.all() == [C]
        assert found.prune(Rule(unused_for=60.0)).ids == ["c" * 8]
        assert store.layers.all() == []


def test_a_step_whose_layer_is_gone_is_not_found(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store:
        store.steps.put(step("k", A))
        assert store.steps.find("k") is None
        store.steps.put(step("k", ""))
        assert store.steps.find("k") == step("k", "")


@pytest.mark.parametrize(("text", "expected"), [("24h", 86400), ("1h30m", 5400), ("90s", 90)])
def test_durations(text: str, expected: float) -> None:
    assert inventory.seconds(text) == expected


@given(st.text(max_size=12))
def test_durations_are_numbers_or_errors(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert inventory.seconds(text) >= 0


def test_a_list_of_steps_comes_back(tmp_path: Path) -> None:
    data = msgspec.json.encode(remote_cache.listed([step("k", A), step("n", "")]))
    found = remote_cache.parse(data, "cache")
    assert [(each.key, each.layer) for each in found.steps] == [("k", A), ("n", "")]


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["version", "steps", "key", "layer", "chain"]), inner),
    max_leaves=12,
).map(msgspec.json.encode))  # fmt: skip
def test_hostile_lists_are_errors(data: bytes) -> None:
    try:
        remote_cache.parse(data, "cache")
    except SkerryError as error:
        assert "cache" in error.message or "digest" in error.message


def said(*events: dict[str, Any], quiet: bool = False) -> str:
    shape = Classic(("t:latest",), quiet=quiet)
    return "".join(message.get("stream", "") for event in events for message in shape.take(event))


PLAN = {
    "kind": "plan",
    "steps": [
        {"step": "0.0", "text": "FROM a"},
        {"step": "0.1", "text": "RUN x"},
        {"step": "1.0", "text": "FROM b"},
    ],
}


def log(step: str, data: bytes) -> dict[str, Any]:
    return {"kind": "log", "step": step, "stream": 1, "data": data}


def test_the_classic_stream_is_in_the_dockerfiles_order() -> None:
    text = said(
        PLAN,
        {"kind": "done", "step": "1.0", "chain": C},
        {"kind": "done", "step": "0.0", "chain": A},
        log("0.1", b"caf\xc3"),
        log("0.1", b"\xa9\n"),
        {"kind": "done", "step": "0.1", "key": "k" * 12, "cached": True},
        {"kind": "result", "image": B},
    )
    assert text == (
        "Step 1/3 : FROM a\n ---> aaaaaaaaaaaa\nStep 2/3 : RUN x\ncafé\n ---> Using cache\n"
        " ---> kkkkkkkkkkkk\nStep 3/3 : FROM b\n ---> cccccccccccc\n"
        "Successfully built bbbbbbbbbbbb\nSuccessfully tagged t:latest\n"
    )


def test_triggers_come_where_they_run() -> None:
    text = said(
        PLAN,
        {"kind": "added", "step": "0.0.1", "text": "RUN trigger"},
        {"kind": "done", "step": "0.0"},
        {"kind": "done", "step": "0.0.1"},
        {"kind": "done", "step": "0.1"},
    )
    assert [line.partition(" : ")[2] for line in text.splitlines()] == [
        "FROM a", "RUN trigger", "RUN x", "FROM b",
    ]  # fmt: skip


def test_a_quiet_build_says_its_id_only() -> None:
    assert said(PLAN, log("0.1", b"x"), {"kind": "result", "image": B}, quiet=True) == f"{B}\n"
