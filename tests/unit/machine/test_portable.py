"""What an archive says of a machine, and its memory on the way."""

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError, Unsupported
from skerry.machine import portable
from skerry.machine.shape import MIB, Shape

MADE = portable.MadeOf("k" * 32, "tcg", "qemu64", 2_000_000, 256 * MIB, 1, "7.2.0", "ab")
SAME = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def test_what_was_said_comes_back() -> None:
    assert portable.parse(json.loads(json.dumps(MADE._asdict()))) == MADE
    assert MADE.shape == Shape(256 * MIB, 1)


@pytest.mark.parametrize(
    "words",
    [
        {"memory": 0},
        {"memory": 1 << 50},
        {"memory": MIB + 1},
        {"memory": True},
        {"cpus": 1 << 20},
        {"cpus": "1"},
        {"tsc_khz": -1},
        {"kit": None},
        {"kit": "\n"},
        {"cpu": "x" * 1000},
        {"more": 1},
        {"shares": -1},
    ],
    ids=json.dumps,
)
def test_what_no_machine_is_made_of(words: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        portable.parse({**MADE._asdict(), **words})


_PLAIN = st.none() | st.integers() | st.text()
_FIELDS = dict.fromkeys(portable.MadeOf._fields, _PLAIN)


@given(st.recursive(_PLAIN, st.lists) | st.fixed_dictionaries(_FIELDS, optional={"x": _PLAIN}))
@settings(deadline=None)
def test_any_words_are_read_or_refused(said: object) -> None:
    try:
        portable.parse(said)
    except InvalidInput:
        return


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"kit": "other"}, "guest kit other"),
        ({"qemu": ""}, "QEMU not known, here is 7.2.0"),
        ({"accel": "kvm", "cpu": "host"}, "accelerator kvm, here is tcg; processor host"),
        ({"tsc_khz": 2_100_000}, "clock of 2100000 kHz"),
        ({"layers": "cd"}, "another image of its layers"),
    ],
)
def test_what_cannot_go_on_here_is_named(words: dict[str, Any], expected: str) -> None:
    with pytest.raises(Unsupported, match=expected):
        portable.refuse(MADE._replace(**words), MADE)


def test_folders_do_not_travel() -> None:
    with pytest.raises(Unsupported, match="volumes or binds"):
        portable.refuse(MADE._replace(shares=1), MADE)


def test_the_same_goes_on() -> None:
    portable.refuse(MADE._replace(tsc_khz=2_000_900), MADE)


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 255)), max_size=8))
@SAME
def test_memory_comes_back_as_it_was(tmp_path: Path, pages: list[tuple[int, int]]) -> None:
    source, packed, back = (tmp_path / name for name in ("memory", "memory.zst", "back"))
    with source.open("wb") as file:
        file.truncate(1 << 18)
        for page, value in pages:
            file.seek(page * 4096)
            file.write(bytes([value]) * 4096)
    for path in (packed, back):
        path.unlink(missing_ok=True)
    portable.compress(str(source), str(packed))
    portable.expand(str(packed), str(back), 1 << 18)
    assert back.read_bytes() == source.read_bytes()
    assert portable.digest(str(back)) == portable.digest(str(source))


@given(st.binary(max_size=64), st.integers(0, 40), st.integers(0, 255))
@SAME
def test_damaged_memory_is_refused(tmp_path: Path, junk: bytes, at: int, value: int) -> None:
    whole = bytearray(zstandard.compress(bytes(range(256)) * 16))
    whole[at % len(whole)] ^= value
    for data in (bytes(whole), junk, bytes(whole[:at])):
        (tmp_path / "packed").write_bytes(data)
        (tmp_path / "back").unlink(missing_ok=True)
        try:
            portable.expand(str(tmp_path / "packed"), str(tmp_path / "back"), 4096)
        except SkerryError:
            continue
        assert (tmp_path / "back").stat().st_size == 4096


@pytest.mark.parametrize(("size", "word"), [(4095, "more"), (4097, "less")])
def test_memory_of_another_length(tmp_path: Path, size: int, word: str) -> None:
    (tmp_path / "packed").write_bytes(zstandard.compress(bytes(4096)))
    with pytest.raises(InvalidInput, match=word):
        portable.expand(str(tmp_path / "packed"), str(tmp_path / "back"), size)


def test_the_digest_is_of_data_not_of_holes(tmp_path: Path) -> None:
    sparse, full = tmp_path / "sparse", tmp_path / "full"
    with sparse.open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 20)
    full.write_bytes(b"x" * 4096 + bytes((1 << 20) - 4096))
    assert portable.digest(str(sparse)) == portable.digest(str(full))


def test_versions_of_qemu() -> None:
    assert portable.told_version({"qemu": {"major": 7, "minor": 2, "micro": 22}}) == "7.2.22"
    for said in (None, {}, {"qemu": {"major": "x", "minor": 1, "micro": 1}}, {"qemu": 3}):
        assert portable.told_version(said) == ""
