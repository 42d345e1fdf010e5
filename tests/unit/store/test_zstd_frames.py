"""Ends of zstd frames."""

import itertools

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.base.errors import InvalidInput
from skerry.store.compression import decompressed
from skerry.store.zstd_frames import ZstdFrames

SKIPPABLE = b"\x53\x2a\x4d\x18\x05\0\0\0hello"
EMPTY = b"\x50\x2a\x4d\x18\0\0\0\0"


def frame(data: bytes, *, checksum: bool, size: bool) -> bytes:
    made = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size)
    return made.compress(data)


FRAMES = st.builds(
    frame,
    st.binary(max_size=300) | st.just(bytes(300_000)),
    checksum=st.booleans(),
    size=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(FRAMES | st.sampled_from([SKIPPABLE, EMPTY]), min_size=1, max_size=4), st.data())
def test_only_the_end_of_a_frame_is_one(parts: list[bytes], data: st.DataObject) -> None:
    ends = set(itertools.accumulate(map(len, parts), initial=0))
    stream = b"".join(parts)
    cut = data.draw(st.integers(0, len(stream)) | st.sampled_from(sorted(ends)))
    step = data.draw(st.integers(1, 40))
    frames = ZstdFrames()
    kept = stream[:cut]
    assert b"".join(frames.watch(kept[at : at + step] for at in range(0, cut, step))) == kept
    assert frames.whole == (cut in ends)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_anything_may_pass(data: bytes) -> None:
    assert list(ZstdFrames().watch(iter([data]))) == [data]


@pytest.mark.parametrize("cut", [1, 100, 150_000])
def test_a_cut_stream_is_no_shorter_one(cut: int) -> None:
    packed = zstandard.compress(bytes(range(256)) * 4096 + b"end")
    noise = zstandard.ZstdCompressor(level=1).compress(
        b"".join((n * 2654435761 % 2**32).to_bytes(4, "little") for n in range(60_000))
    )
    for whole in (packed, noise):
        left = whole[: max(10, len(whole) - cut)]
        with pytest.raises(InvalidInput, match="ends too early"):
            list(decompressed(iter([left]), "archive", limit=1 << 30))
    assert b"".join(decompressed(iter([packed]), "archive", limit=1 << 30)).endswith(b"end")
