"""Docker's framing of two streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.sdk.frames import Demultiplexer, demultiplex


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8)


@given(FRAMES, st.lists(st.integers(1, 30), max_size=30))
def test_any_cutting_gives_the_same_streams(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(frame(*each) for each in frames)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(data[at : at + cut])
        at += cut
    chunks.append(data[at:])
    got: dict[int, bytes] = {1: b"", 2: b""}
    for stream, piece in demultiplex(chunks):
        got[stream] += piece
    assert got == {
        number: b"".join(payload for stream, payload in frames if stream == number)
        for number in (1, 2)
    }


def test_a_payload_is_not_held_back() -> None:
    frames = Demultiplexer()
    assert frames.feed(frame(1, b"hello")[:10]) == [(1, b"he")]
    assert not frames.complete
    assert frames.feed(b"llo") == [(1, b"llo")]
    assert frames.complete


@pytest.mark.parametrize("head", [b"\x09\0\0\0\0\0\0\1", b"\1\0\1\0\0\0\0\1", b"HTTP/1.1"])
def test_refuses_what_is_not_framed(head: bytes) -> None:
    with pytest.raises(InvalidInput, match="not framed"):
        Demultiplexer().feed(head)


@given(st.binary(max_size=100))
def test_any_bytes_are_frames_or_invalid(data: bytes) -> None:
    try:
        pieces = Demultiplexer().feed(data)
    except InvalidInput:
        return
    assert sum(len(piece) for _, piece in pieces) <= len(data)
