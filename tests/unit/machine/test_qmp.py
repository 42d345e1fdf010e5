"""QEMU's monitor, read from one that may lie, flood or go."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import Conflict, SkerryError, Unavailable
from skerry.machine.qmp import Monitor

KEYS = st.sampled_from(["QMP", "return", "error", "event", "desc"]) | st.text(max_size=5)
WORDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
LINES = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(KEYS, WORDS, max_size=3).map(lambda words: json.dumps(words).encode()),
    WORDS.map(lambda words: json.dumps(words).encode()),
)


@pytest.fixture
def pair() -> Iterator[tuple[Monitor, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Monitor(ours), theirs


@settings(deadline=None)
@given(st.lists(LINES, max_size=6), st.booleans())
def test_whatever_it_says_ends_in_an_answer_or_in_an_error_of_ours(
    lines: list[bytes], whole: bool
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\n".join(lines) + b"\n" * whole)
        theirs.shutdown(socket.SHUT_WR)
        monitor = Monitor(ours)
        for ask in (monitor.greet, lambda: monitor.execute("stop"), monitor.take_events):
            try:
                ask()
            except SkerryError as error:
                assert isinstance(error, (Unavailable, Conflict)), error
        assert all(isinstance(event, dict) for event in monitor.events)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=20))
def test_a_message_may_come_in_any_pieces(cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    said = b'{"QMP": {}}\r\n{"event": "STOP"}\r\n{"return": {}}\r\n{"return": {"pc": 7}}\r\n'
    with ours, theirs:
        monitor = Monitor(ours)
        at = 0
        for cut in cuts:
            theirs.sendall(said[at : at + cut])
            at += cut
            monitor._read()
        theirs.sendall(said[at:])
        monitor.greet()
        assert monitor.execute("query-x") == {"pc": 7}
        assert monitor.take_events() == [{"event": "STOP"}]


def test_a_refusal_is_told_in_its_words(pair: tuple[Monitor, socket.socket]) -> None:
    monitor, qemu = pair
    qemu.sendall(b'{"error": {"class": "GenericError", "desc": "' + b"x" * 9000 + b'"}}\n')
    with pytest.raises(Conflict) as caught:
        monitor.execute("device_add", bus_name="b")
    assert "device_add: xxx" in caught.value.message
    assert len(caught.value.message) < 600
    sent: dict[str, Any] = json.loads(qemu.recv(4096))
    assert sent == {"execute": "device_add", "arguments": {"bus-name": "b"}}


def test_a_line_without_an_end_is_refused(pair: tuple[Monitor, socket.socket]) -> None:
    monitor, qemu = pair
    with pytest.raises(Unavailable, match="more than it may"):
        for _ in range(40):
            qemu.sendall(b"x" * 65536)
            monitor.take_events()


def test_events_without_end_are_not_kept(pair: tuple[Monitor, socket.socket]) -> None:
    monitor, qemu = pair
    for _ in range(50):
        qemu.sendall(b'{"event": "RTC_CHANGE"}\n' * 100)
        assert monitor._read()
        monitor._sort_all()
    assert len(monitor.take_events()) == 1000
    assert monitor.take_events() == []
