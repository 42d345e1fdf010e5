"""Raw mode and its end, window sizes, detach keys."""

import os
import pty
import signal
import termios
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.cli.terminal import DetachKeys, RawMode, parse_keys, size


@pytest.fixture
def terminal() -> Iterator[int]:
    leader, follower = pty.openpty()
    yield follower
    os.close(leader)
    os.close(follower)


def test_raw_mode_is_restored(terminal: int) -> None:
    before = termios.tcgetattr(terminal)
    with RawMode(terminal) as raw:
        during = termios.tcgetattr(terminal)
        assert not during[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
        assert not during[1] & termios.OPOST
        raw.enter()
    assert termios.tcgetattr(terminal) == before
    raw.restore()
    assert termios.tcgetattr(terminal) == before


def test_raw_mode_is_restored_on_an_error(terminal: int) -> None:
    before = termios.tcgetattr(terminal)
    with pytest.raises(RuntimeError), RawMode(terminal):
        raise RuntimeError
    assert termios.tcgetattr(terminal) == before


def test_restoring_leaves_signal_handlers_alone(terminal: int) -> None:
    with RawMode(terminal):
        pass
    assert signal.getsignal(signal.SIGTTOU) == signal.SIG_DFL


def test_size(terminal: int) -> None:
    termios.tcsetwinsize(terminal, (31, 97))
    assert size(terminal) == (31, 97)
    read, write = os.pipe()
    assert size(read) == (0, 0)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-@,a", b"\0a"),
        ("ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x1b\x1c\x1d\x1e\x1f"),
        ("Ctrl-A", b"\x01"),
    ],
)
def test_detach_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-1", "ctrl-", "ab", "a,,b", "é", "ctrl-pp"])
def test_wrong_detach_keys(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid detach keys"):
        parse_keys(text)


def test_a_broken_off_sequence_is_sent_on() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"c") == (b"\x10c", False)
    assert keys.feed(b"\x10") == (b"", False)
    assert keys.feed(b"\x10\x11rest") == (b"\x10", True)


@given(
    st.lists(st.sampled_from([b"\x10", b"\x11", b"a", b"\x10\x11"]), max_size=12),
    st.lists(st.integers(1, 4), max_size=12),
)
def test_any_cutting_finds_the_same_sequence(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    keys, sent, at, found = DetachKeys(b"\x10\x11"), b"", 0, False
    for cut in [*cuts, len(data)]:
        if found or at >= len(data):
            break
        out, found = keys.feed(data[at : at + cut])
        sent += out
        at += cut
    place = data.find(b"\x10\x11")
    assert found == (place >= 0)
    if found:
        assert sent == data[:place]
    else:
        assert sent == data.removesuffix(b"\x10")
