"""What others wrote does not drive the user's terminal."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import SystemFault
from skerry.cli.commands import ps
from skerry.cli.context import report, visible
from skerry.cli.table import layout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode ✓", "plain ünïcode ✓"),
        ("\x1b[2J\x07", "\\x1b[2J\\a"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x7f\x9b\u202e\U000e0001", "\\x7f\\u009b\\u202e\\U000e0001"),
        ("\udcff", "\udcff"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_nothing_unprintable_is_left(text: str) -> None:
    assert visible(text).isprintable()


def test_tables_errors_and_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in layout([["a\x1b[1m", "b\x1b"]])
    report(SystemFault("bad \x1b[31m\nname", hint="do\x1b\nthat"))
    assert capfd.readouterr().err == "skerry: bad \\x1b[31m name\ndo\\x1b\nthat\n"
    container: dict[str, Any] = {"Id": "a" * 64, "Created": 0, "Command": "sh \x1b[2J"}
    assert ps.fields(container, whole=True)["Command"] == '"sh \\x1b[2J"'
