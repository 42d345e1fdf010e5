"""Keys by name and text as keys."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.machine.full import keys


def test_names_and_chords() -> None:
    assert keys.chord("ctrl-alt-del") == ["ctrl", "alt", "delete"]
    assert keys.chord("Enter") == ["ret"]
    assert keys.chord("f12") == ["f12"]
    for wrong in ("", "hyper", "a-", "-".join("abcdefghi")):
        with pytest.raises(InvalidInput):
            keys.chord(wrong)


def test_text() -> None:
    assert keys.typed("aB1!\n") == [["a"], ["shift", "b"], ["1"], ["shift", "1"], ["ret"]]
    assert keys.typed('"~') == [["shift", "apostrophe"], ["shift", "grave_accent"]]
    with pytest.raises(InvalidInput, match="cannot type"):
        keys.typed("ä")


@given(st.text(alphabet=string.printable.replace("\r", "").replace("\x0b", "").replace("\x0c", "")))
def test_all_of_a_us_keyboard_can_be_typed(text: str) -> None:
    strokes = keys.typed(text)
    assert len(strokes) == len(text)
    for stroke in strokes:
        keys.chord("-".join(stroke))
