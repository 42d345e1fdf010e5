"""What is remembered of the machines that were asked for, and what is made of any file."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skerry.machine import remembered
from skerry.machine.remembered import Kind
from skerry.machine.shape import Shape

NOW = 1_764_000_000.0
SMALL = Kind(Shape(256 << 20, 1), "", False, NOW - 60, {"mounts": []})
LARGE = Kind(Shape(1 << 30, 2), "/boot/vmlinuz", True, NOW - 5, {})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = ("memory", "cpus", "kernel", "shares", "asked", "spec")
ROWS = st.fixed_dictionaries(dict.fromkeys(FIELDS, JSON))


def test_the_last_asked_comes_first_again(tmp_path: Path) -> None:
    remembered.write(tmp_path, [SMALL, LARGE])
    assert remembered.read(tmp_path, NOW) == [LARGE, SMALL]


def test_what_nobody_asked_for_during_a_day_is_forgotten(tmp_path: Path) -> None:
    old = SMALL._replace(asked=NOW - remembered.KEEP_SECONDS)
    later = SMALL._replace(asked=NOW + 60)  # Of a clock that went wrong.
    remembered.write(tmp_path, [old, later, LARGE])
    assert remembered.read(tmp_path, NOW) == [LARGE]
    remembered.write(tmp_path, [])
    assert remembered.read(tmp_path, NOW) == []


def test_no_file_is_nothing_to_remember(tmp_path: Path) -> None:
    assert remembered.read(tmp_path, NOW) == []


@given(st.binary(max_size=64) | st.lists(ROWS | JSON, max_size=2).map(
    lambda kinds: json.dumps({"version": remembered.VERSION, "kinds": kinds}).encode()
))  # fmt: skip
def test_any_file_is_read_without_an_error(data: bytes) -> None:
    for kind in remembered.parse(data, NOW):
        assert kind.shape.memory > 0
        assert kind.shape.cpus > 0
        assert isinstance(kind.spec, dict)


def test_a_damaged_row_makes_the_file_nothing() -> None:
    row: dict[str, Any] = {
        "memory": 256 << 20, "cpus": 1, "kernel": "", "shares": False, "asked": NOW, "spec": {},
    }  # fmt: skip

    def kinds(**words: Any) -> int:
        data = json.dumps({"version": 1, "kinds": [{**row, **words}]}).encode()
        return len(remembered.parse(data, NOW))

    assert kinds() == 1
    wrong = ({"memory": -1}, {"cpus": 10_000}, {"spec": None}, {"kernel": 3}, {"asked": "now"})
    assert [kinds(**words) for words in wrong] == [0] * len(wrong)
