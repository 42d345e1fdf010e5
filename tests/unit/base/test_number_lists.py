"""Lists of numbers, as cpuset(7) writes them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.number_lists import numbers


def test_single_ones_and_ranges() -> None:
    assert numbers("0-3,7") == {0, 1, 2, 3, 7}
    assert numbers("5") == {5}
    assert numbers("1, 1-2") == {1, 2}


@pytest.mark.parametrize("text", ["", ",", "1,", "-1", "3-1", "a", "1-", "1--2", "٣", "0-9999999"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match="no list"):
        numbers(text)


@given(st.text(alphabet="0123456789-, ", max_size=40))
def test_nothing_goes_beyond_the_bound(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert numbers(text) <= set(range(8193))
