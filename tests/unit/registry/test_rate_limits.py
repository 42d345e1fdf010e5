"""Rate limits as headers and as words."""

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.registry.rate_limits import (
    LONGEST_WAIT,
    RateLimit,
    describe,
    duration,
    parse_rate_limit,
    time_left,
)


def test_docker_hub_headers() -> None:
    headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "7;w=21600"}
    found = parse_rate_limit(headers)
    assert found == RateLimit(100, 7, 21600)
    assert describe(found) == "100 pulls in 6 h"


def test_nothing_said() -> None:
    assert parse_rate_limit({}) is None
    assert time_left({}) is None
    assert describe(None) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "1 s"),
        (40, "40 s"),
        (60, "1 min"),
        (61, "2 min"),
        (7800, "2 h 10 min"),
        (3600, "1 h"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_seconds_and_dates() -> None:
    assert time_left({"Retry-After": "120"}) == 120
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert time_left({"Retry-After": date}) == pytest.approx(100, abs=5)
    assert time_left({"X-RateLimit-Reset": str(int(time.time()) + 60)}) == pytest.approx(60, abs=5)
    assert time_left({"Retry-After": "999999999"}) == LONGEST_WAIT
    assert time_left({"Retry-After": "soon"}) is None


@given(st.text(max_size=40))
def test_any_text_gives_a_sane_wait(text: str) -> None:
    left = time_left({"Retry-After": text, "X-RateLimit-Reset": text})
    assert left is None or 0 <= left <= LONGEST_WAIT
    parse_rate_limit({"RateLimit-Limit": text})
