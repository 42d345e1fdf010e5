"""Sizes, durations, numbers, environments as people write them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, SkerryError
from skerry.cli import values
from skerry.cli.human import ago, duration, rfc3339, size_binary, size_decimal


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512), ("64m", 64 << 20), ("64M", 64 << 20), ("64mb", 64 << 20), ("64MiB", 64 << 20),
        ("1.5g", 3 << 29), ("1k", 1024), ("10 kb", 10240), ("1t", 1 << 40), ("0", 0), ("-1", -1),
        ("7b", 7),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "1x", "1.2.3m", "-5m", "1mm", "ib", "1i", "9" * 40, "٣"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(InvalidInput):
        values.parse_size(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("5s", 5 * 10**9), ("1m30s", 90 * 10**9), ("1h", 3600 * 10**9), ("500ms", 5 * 10**8),
        ("1.5s", 15 * 10**8), ("10us", 10_000), ("7ns", 7), ("0", 0), ("-2s", -2 * 10**9),
    ],
)  # fmt: skip
def test_durations(text: str, nanoseconds: int) -> None:
    assert values.parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1..5s", "1h-2m", "-"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(InvalidInput):
        values.parse_duration(text)


@given(st.text(max_size=12))
def test_anything_is_a_value_or_invalid(text: str) -> None:
    for reader in (values.parse_size, values.parse_duration, values.parse_cpus, values.parse_time):
        try:
            reader(text)
        except SkerryError as error:
            assert error.message


def test_processors() -> None:
    assert values.parse_cpus("1.5") == 1_500_000_000
    assert values.parse_cpus(".25") == 250_000_000
    assert values.parse_cpus("2") == 2_000_000_000
    for wrong in ("", "x", "1.2.3", "-1", "0.1234567891"):
        with pytest.raises(InvalidInput):
            values.parse_cpus(wrong)


def test_environment_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "now")
    monkeypatch.delenv("NOWHERE", raising=False)
    path = tmp_path / "env"
    path.write_bytes(b"\xef\xbb\xbf# comment\n\nA=1\n  B=a b=c\r\nHERE\nNOWHERE\n")
    got = values.environment(["A=2", "HERE", "NOWHERE", "E="], [str(path)])
    assert got == ["A=1", "B=a b=c", "HERE=now", "A=2", "HERE=now", "NOWHERE", "E="]


@pytest.mark.parametrize("content", [b"A B=1", b"=x", b"\xff\xfe"])
def test_wrong_environment_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "env"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="env"):
        values.environment([], [str(path)])
    with pytest.raises(InvalidInput, match="cannot read"):
        values.environment([], [str(tmp_path / "missing")])


def test_filters() -> None:
    assert values.parse_filters(["status=a", "status=b", "Label=x=y"]) == {
        "status": ["a", "b"],
        "label": ["x=y"],
    }
    with pytest.raises(InvalidInput):
        values.parse_filters(["status"])


def test_times() -> None:
    assert values.parse_time("1700000000.5") == "1700000000.5"
    assert values.parse_time("2026-01-02T03:04:05Z") == "1767323045.000000000"
    assert values.parse_time("") == ""
    with pytest.raises(InvalidInput, match="invalid time"):
        values.parse_time("yesterday")


@pytest.mark.parametrize(
    ("size", "decimal", "binary"),
    [
        (0, "0B", "0B"), (999, "999B", "999B"), (1000, "1kB", "1000B"), (1024, "1.024kB", "1KiB"),
        (1982853, "1.983MB", "1.891MiB"), (25276583936, "25.28GB", "23.54GiB"),
    ],
)  # fmt: skip
def test_sizes_for_people(size: int, decimal: str, binary: str) -> None:
    assert size_decimal(size) == decimal
    assert size_binary(size) == binary


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
        (150, "2 minutes"), (3600, "About an hour"), (5000, "About an hour"), (7200, "2 hours"),
        (47 * 3600, "47 hours"), (48 * 3600, "2 days"), (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"), (730 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_times_for_people() -> None:
    assert ago(0) == ""
    assert rfc3339(1767323045 * 10**9 + 6).startswith("2026-01-0")
    assert ".000000006" in rfc3339(1767323045 * 10**9 + 6)
