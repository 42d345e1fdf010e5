"""Docker's ways to write times and modes, its versions, filters, routes, detach keys."""

import stat
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from skerry.api import formats, hijack, versions
from skerry.api.errors import message_of, status_of
from skerry.api.router import Route, Router
from skerry.api.server import all_routes
from skerry.base import errors


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0001-01-01T00:00:00Z"),
        (10**9, "1970-01-01T00:00:01Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
    ],
)
def test_times_are_written_as_go_does(nanoseconds: int, text: str) -> None:
    assert formats.rfc3339(nanoseconds) == text


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("", 0),
        ("0", 0),
        ("12", 12 * 10**9),
        ("12.5", 12_500_000_000),
        ("1.000000001", 1_000_000_001),
        ("10m", 400 * 10**9),
        ("1h30m", -4400 * 10**9),
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T01:00:01.25+01:00", 1_250_000_000),
        ("1970-01-01T00:00:01.123456789Z", 1_123_456_789),
        ("1970-01-02", 86400 * 10**9),
    ],
)
def test_times_are_read_in_every_form(text: str, nanoseconds: int) -> None:
    assert formats.parse_time(text, now=1000) == nanoseconds


@given(st.text(max_size=30))
def test_any_time(text: str) -> None:
    try:
        assert isinstance(formats.parse_time(text), int)
    except errors.InvalidInput:
        return


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3000, "50 minutes"),
        (3700, "About an hour"),
        (3600 * 47, "47 hours"),
        (86400 * 13, "13 days"),
        (86400 * 20, "2 weeks"),
        (86400 * 90, "3 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_durations_are_said_as_docker_says_them(seconds: float, text: str) -> None:
    assert formats.human_duration(seconds) == text


def test_modes_are_those_of_go() -> None:
    assert formats.go_file_mode(stat.S_IFDIR | 0o755) == 1 << 31 | 0o755
    assert formats.go_file_mode(stat.S_IFREG | stat.S_ISUID | 0o711) == 1 << 23 | 0o711
    assert formats.go_file_mode(stat.S_IFLNK | 0o777) == 1 << 27 | 0o777
    assert formats.go_file_mode(stat.S_IFDIR | stat.S_ISVTX | 0o777) == 1 << 31 | 1 << 20 | 0o777


def test_versions_are_negotiated_in_the_path() -> None:
    assert versions.split("/v1.41/info") == ((1, 41), "/info")
    assert versions.split("/info") == (versions.NEWEST, "/info")
    assert versions.split("/v1.²/info") == (versions.NEWEST, "/v1.²/info")
    assert versions.split("/volumes/v1") == (versions.NEWEST, "/volumes/v1")
    with pytest.raises(errors.InvalidInput, match=r"client version 1\.12 is too old"):
        versions.split("/v1.12/info")
    with pytest.raises(errors.InvalidInput, match=r"Maximum supported API version is 1\.50"):
        versions.split("/v1.99/info")


def test_the_type_of_a_stream_tells_of_frames_since_1_42() -> None:
    assert versions.stream_type(versions.Version(1, 41), terminal=False) == versions.RAW_STREAM
    new = versions.Version(1, 42)
    assert versions.stream_type(new, terminal=False) == versions.MULTIPLEXED_STREAM
    assert versions.stream_type(new, terminal=True) == versions.RAW_STREAM


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotModified("x"), 304),
        (errors.LimitExceeded("x"), 400),
        (errors.CommandNotFound("x"), 400),
        (errors.Forbidden("x"), 403),
        (errors.NotFound("x"), 404),
        (errors.Conflict("x"), 409),
        (errors.KernelFault("x", 1), 500),
        (errors.Unsupported("x"), 501),
        (errors.Unavailable("x"), 503),
        (ValueError("secret"), 500),
    ],
)
def test_one_class_one_status(error: Exception, status: int) -> None:
    assert status_of(error) == status
    assert "secret" not in message_of(error)


async def nothing(call: Any) -> web.StreamResponse:
    return web.Response()


def test_routes() -> None:
    router = Router(
        [
            Route("GET", "/images/json", nothing),
            Route("GET", "/images/{name:*}/json", nothing),
            Route("DELETE", "/images/{name:*}", nothing),
            Route("GET", "/containers/{id}/json", nothing),
        ]
    )
    found = router.find("GET", "/images/a/b:c/json")
    assert found is not None
    assert found[1] == {"name": "a/b:c"}
    assert router.find("GET", "/containers/a/b/json") is None
    assert router.find("PUT", "/images/json") is None


def test_no_route_is_given_twice() -> None:
    seen = [(route.method, route.path) for route in all_routes()]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", b"\x10\x11"), ("ctrl-p,ctrl-q", b"\x10\x11"), ("a,ctrl-[", b"a\x1b"), ("ctrl-@", b"\0")],
)
def test_detach_keys(text: str, keys: bytes) -> None:
    assert hijack.parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "ab", ",", "ctrl-1", "é"])
def test_what_are_no_detach_keys(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="detach keys"):
        hijack.parse_keys(text)


def test_input_passes_until_the_keys_are_pressed() -> None:
    watch = hijack.DetachKeys(b"\x10\x11")
    assert watch.feed(b"ab\x10") == (b"ab", False)
    assert watch.feed(b"c") == (b"\x10c", False)
    assert watch.feed(b"d\x10\x10\x11e") == (b"d\x10", True)


@given(st.lists(st.binary(max_size=6), max_size=8))
def test_nothing_is_lost_but_a_beginning_of_the_keys(chunks: list[bytes]) -> None:
    watch = hijack.DetachKeys(b"\x10\x11")
    out = b""
    for chunk in chunks:
        data, detached = watch.feed(chunk)
        out += data
        if detached:
            return
    whole = b"".join(chunks)
    assert whole in (out, out + b"\x10")


@pytest.mark.parametrize("text", ["253402300800", "99999999999999999", "253402300800.9"])
def test_a_time_that_no_calendar_has_is_refused(text: str) -> None:
    """`GET /events?until=` with it would wait for ever."""
    assert formats.parse_time("253402300799") == 253402300799 * 10**9
    with pytest.raises(errors.InvalidInput, match="out of range"):
        formats.parse_time(text)
