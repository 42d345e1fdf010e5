"""The line between warden and agent: what it carries, and what it refuses from either end."""

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.machine import channel
from skerry.machine.channel import (
    ACK,
    DATA,
    END,
    EOF,
    HEADER,
    PART,
    WINDOW,
    Decoder,
    Line,
    Message,
    ProtocolFault,
    pack,
    pack_message,
    parse_message,
)
from skerry.runtime.loop import Loop

KINDS = st.integers(channel.PART, channel.RESET)
FRAMES = st.lists(st.tuples(KINDS, st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=20)


@given(FRAMES, st.integers(1, 50))
def test_frames_survive_any_cutting(frames: list[tuple[int, int, bytes]], size: int) -> None:
    data = b"".join(pack(*frame) for frame in frames)
    decoder = Decoder()
    found = []
    for at in range(0, len(data), size):
        found += decoder.feed(data[at : at + size])
    assert [tuple(frame) for frame in found] == frames


@given(st.binary(max_size=4000))
def test_any_bytes_are_frames_or_a_fault(data: bytes) -> None:
    decoder = Decoder()
    try:
        frames = decoder.feed(data)
    except ProtocolFault:
        return
    assert all(len(frame.data) <= channel.CHUNK for frame in frames)


@given(st.binary(max_size=2000))
def test_any_bytes_are_a_message_or_a_fault(data: bytes) -> None:
    try:
        message = parse_message(data)
    except ProtocolFault:
        return
    assert isinstance(message.head, dict)


@given(st.dictionaries(st.text(max_size=20), st.integers()), st.binary(max_size=100_000))
def test_messages_come_back_as_they_went(head: dict[str, int], body: bytes) -> None:
    frames = Decoder().feed(pack_message(head, body))
    assert [frame.kind for frame in frames[:-1]] == [PART] * (len(frames) - 1)
    assert frames[-1].kind == END
    assert parse_message(b"".join(frame.data for frame in frames)) == Message(head, body)


@pytest.mark.parametrize(
    "text", [b'{"a": 1} ', b' {"a": 1}', b'{"a": 1}{}', b'{"\xff": 1}', b"[]", b""]
)
def test_a_head_is_one_object_and_nothing_else(text: bytes) -> None:
    with pytest.raises(ProtocolFault):
        parse_message(struct.pack(">I", len(text)) + text)


def test_a_deep_head_is_a_fault() -> None:
    text = b"[" * 60_000
    with pytest.raises(ProtocolFault):
        parse_message(struct.pack(">I", len(text)) + text)


class End:
    """A line and the raw other end of it."""

    def __init__(self, most: int = 4096) -> None:
        self.loop = Loop()
        mine, self.raw = socket.socketpair()
        mine.setblocking(False)
        self.raw.setblocking(False)
        self.heard: list[Message] = []
        self.lost: list[str] = []
        self._mine = mine
        self.line = Line(
            self.loop, mine.fileno(), self.heard.append, self.lost.append, most_message=most
        )

    def turn_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if condition():
                return
            self.loop.turn(0.0)
        raise AssertionError("it does not come")

    def close(self) -> None:
        self.loop.close()
        self._mine.close()
        self.raw.close()


@pytest.fixture
def end() -> Iterator[End]:
    made = End()
    yield made
    made.close()


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(99, 0, 0, 0, 0),
        HEADER.pack(DATA, 0, 0, 5, channel.CHUNK + 1),
        HEADER.pack(DATA, 1, 0, 5, 0),
        pack(DATA, 5, b"for nobody"),
        pack(EOF, 5),
        pack(ACK, 5, b"abc"),
        pack(PART, 0, b"x" * 3000) + pack(PART, 0, b"x" * 3000),
        pack(END, 7, b"message on a stream"),
        pack(END, 0, b"no message"),
    ],
)
def test_a_peer_that_breaks_the_protocol_loses_the_line(end: End, data: bytes) -> None:
    end.raw.send(data)
    end.turn_until(lambda: bool(end.lost))
    assert len(end.lost) == 1
    assert end.line.lost


def test_a_flood_beyond_the_window_loses_the_line(end: End) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    end.line.sink(1, writing)
    piece = pack(DATA, 1, b"x" * channel.CHUNK)
    sent = 0
    while not end.lost and sent < 4 * WINDOW:
        # Acknowledgements are ignored, as a peer that floods would.
        sent += end.raw.send(piece) - HEADER.size
        end.loop.turn(0.0)
    assert end.lost == ["a stream sends more than its window"]
    os.close(reading)


def test_more_credit_than_was_used_loses_the_line(end: End) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    end.line.source(1, reading)
    end.raw.send(pack(ACK, 1, struct.pack(">I", 1)))
    end.turn_until(lambda: bool(end.lost))
    os.close(writing)


def test_a_slow_taker_holds_the_source_back_and_loses_nothing(end: End) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    source = end.line.source(1, reading)
    decoder, got, wanted = Decoder(), bytearray(), os.urandom(3 * WINDOW)
    left = memoryview(wanted)
    unacknowledged = 0

    def read() -> None:
        nonlocal unacknowledged
        try:
            frames = decoder.feed(end.raw.recv(1 << 20))
        except BlockingIOError:
            return
        for frame in frames:
            if frame.kind == DATA:
                got.extend(frame.data)
                unacknowledged += len(frame.data)
                assert unacknowledged <= WINDOW

    idle = 0
    while len(got) < len(wanted):
        with contextlib.suppress(BlockingIOError):
            left = left[os.write(writing, left) :] if left else left
        before = len(got)
        end.loop.turn(0.0)
        read()
        idle = idle + 1 if len(got) == before else 0
        if idle > 3 and unacknowledged:
            end.raw.send(pack(ACK, 1, struct.pack(">I", unacknowledged)))
            unacknowledged = 0
    assert bytes(got) == wanted
    os.close(writing)
    if unacknowledged:
        end.raw.send(pack(ACK, 1, struct.pack(">I", unacknowledged)))
    end.turn_until(lambda: source.fd < 0)


def test_a_reader_that_goes_is_told_to_the_other_end(end: End) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    end.line.sink(1, writing)
    os.close(reading)
    end.raw.send(pack(DATA, 1, b"x"))
    decoder = Decoder()
    frames: list[channel.Frame] = []

    def told() -> bool:
        try:
            frames.extend(decoder.feed(end.raw.recv(4096)))
        except BlockingIOError:
            return False
        return any(frame.kind == channel.RESET for frame in frames)

    end.turn_until(told)
    assert not end.lost


def test_messages_are_heard_in_order(end: End) -> None:
    for number in range(5):
        end.raw.send(pack_message({"n": number}, b"body"))
    end.turn_until(lambda: len(end.heard) == 5)
    assert [json.dumps(message.head) for message in end.heard] == [
        f'{{"n": {n}}}' for n in range(5)
    ]
