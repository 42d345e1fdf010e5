"""Ids and names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.base.ids import check_name, check_volume_name, new_id, random_name, short


def test_ids_are_64_digits_and_all_different() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(each) == 64 and int(each, 16) >= 0 for each in ids)


def test_short() -> None:
    assert short("sha256:" + "0123456789abcdef" * 4) == "0123456789ab"
    assert short("0123456789abcdef" * 4) == "0123456789ab"


def test_random_names_are_names() -> None:
    for _ in range(200):
        name = random_name()
        assert check_name(name) == name
        assert name.count("_") == 1


@pytest.mark.parametrize(
    "name", ["", "a", "-a", "_ab", "a b", "a/b", "..", "é1", "a" * 256, "ab\n"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidInput, match="Invalid machine name"):
        check_name(name, "machine")
    with pytest.raises(
        InvalidInput, match=r"includes invalid characters for a local volume name|too short"
    ):
        check_volume_name(name)


@given(st.text(max_size=40))
def test_a_name_is_safe_as_a_path_component(text: str) -> None:
    try:
        name = check_name(text)
    except InvalidInput:
        return
    assert "/" not in name
    assert "\0" not in name
    assert name not in (".", "..")
