"""JSON by the C scanner: the same values as `json`, and words instead of tracebacks."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.sdk import wire

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_reads_what_json_writes(value: Any) -> None:
    assert wire.loads(json.dumps(value, indent=1).encode()) == value


@given(VALUES)
def test_writes_what_json_reads(value: Any) -> None:
    assert json.loads(wire.dumps(value)) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_invalid(data: bytes) -> None:
    try:
        value = wire.loads(data)
    except InvalidInput as error:
        assert error.message
    else:
        assert value == json.loads(data) or value != value


@pytest.mark.parametrize("text", ["", "  ", "{", "[1,]", "1 2", "nope", '"\x01"', "{'a': 1}"])
def test_refuses(text: str) -> None:
    with pytest.raises(InvalidInput):
        wire.loads(text)


def test_depth_is_an_error_not_a_crash() -> None:
    with pytest.raises(InvalidInput, match="too deeply"):
        wire.loads("[" * 200_000)


def test_refuses_what_has_no_json_form() -> None:
    with pytest.raises(TypeError):
        wire.dumps({"a": object()})
