"""Streams in all compressions, cut, corrupt, and far larger than they look."""

import bz2
import gzip
import lzma
import threading
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.store.compression import PIECE, Pump, decompressed
from skerry.store.limits import Unpacking

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def run(data: bytes, *, size: int = 1 << 16, limit: int = 1 << 30) -> bytes:
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return b"".join(decompressed(iter(pieces), "stream", limit=limit))


@pytest.mark.parametrize("name", COMPRESSORS)
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=5000), size=st.integers(min_value=1, max_value=600))
def test_comes_out_as_it_went_in(name: str, data: bytes, size: int) -> None:
    if name == "plain":
        data = b"p" + data
    assert run(COMPRESSORS[name](data), size=size) == data


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_members_follow_one_another(name: str) -> None:
    compress = COMPRESSORS[name]
    data = compress(b"one") + compress(b"") + compress(b"two" * 100_000)
    for size in (1, 7, 1 << 16):
        if size > 1 or len(data) < 5000:
            assert run(data, size=size) == b"one" + b"two" * 100_000


def test_zeros_may_follow_gzip_but_nothing_else() -> None:
    assert run(gzip.compress(b"x") + bytes(5000), size=100) == b"x"
    with pytest.raises(InvalidInput, match="corrupt"):
        run(gzip.compress(b"x") + b"garbage that is no member")


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
def test_cut_short(name: str) -> None:
    data = COMPRESSORS[name](bytes(range(256)) * 50)
    for cut in range(8, len(data) - 1, 11):
        with pytest.raises(InvalidInput):
            run(data[:cut])


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
@settings(max_examples=60, deadline=None)
@given(at=st.integers(min_value=6, max_value=400), value=st.integers(0, 255))
def test_corrupt(name: str, at: int, value: int) -> None:
    data = bytearray(COMPRESSORS[name](bytes(range(256)) * 3))
    data[at % len(data)] = value
    try:
        run(bytes(data), limit=1 << 22)
    except InvalidInput as error:
        assert error.message.startswith("stream: ")


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_bombs_stop_at_the_limit_in_small_pieces(name: str) -> None:
    data = COMPRESSORS[name](bytes(64 << 20))
    assert len(data) < 1 << 17
    total = 0
    with pytest.raises(LimitExceeded, match="more than 20000000 bytes"):
        for piece in decompressed(iter([data]), "stream", limit=20_000_000):
            assert len(piece) <= PIECE
            total += len(piece)
    assert total <= 20_000_000


def unpacked(data: bytes, unpacking: Unpacking) -> int:
    return sum(map(len, decompressed(iter([data]), "stream", unpacking=unpacking)))


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_what_little_becomes_much(name: str) -> None:
    """Zeros compress by the thousand: they may as far as nobody asks, and no further."""
    data = COMPRESSORS[name](bytes(32 << 20))
    assert unpacked(data, Unpacking(unquestioned=32 << 20)) == 32 << 20
    with pytest.raises(LimitExceeded, match=r"a bomb by all appearances: beyond 8 MiB at most 200"):
        unpacked(data, Unpacking(unquestioned=8 << 20))
    assert unpacked(data, Unpacking(unquestioned=8 << 20, ratio=1_000_000)) == 32 << 20


def test_what_compresses_well_is_no_bomb() -> None:
    line = b"2024-01-02T03:04:05Z GET /index.html 200 %d\n"
    data = gzip.compress(b"".join(line % n for n in range(200_000)))
    assert unpacked(data, Unpacking(unquestioned=1000)) > 8_000_000


def test_many_tiny_members_take_no_quadratic_time() -> None:
    member = gzip.compress(b"")
    assert run(member * 20_000, size=1 << 20) == b""


def test_pump_hands_on_errors_and_ends_its_thread() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"one"
        raise InvalidInput("broken")

    before = threading.active_count()
    with pytest.raises(InvalidInput, match="broken"), Pump(chunks()) as pump:
        assert list(pump.chunks()) == [b"one"]
    assert threading.active_count() == before


def test_pump_can_be_left_early() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1000)

    before = threading.active_count()
    with Pump(endless()) as pump:
        assert len(next(pump.chunks())) == 1000
    assert threading.active_count() == before
