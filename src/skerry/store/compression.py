"""Compressed streams, told apart by their first bytes, read and written in bounded pieces.

A few bytes of gzip or zstd can stand for gigabytes, so a decompressor is never asked for more than
one piece at a time.
"""

import bz2
import lzma
import threading
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol

import zstandard
from isal import igzip_lib

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.store.limits import DEFAULT, Unpacking, shown
from skerry.store.zstd_frames import ZstdFrames

PIECE: Final = 1 << 20
"""Most bytes that a stream yields at once."""
_SLICE: Final = 64 << 10
_ZSTD_WINDOW: Final = 128 << 20
"""The largest window that zstd itself accepts without being told to (`--long=27`)."""
_XZ_MEMORY: Final = 256 << 20

Chunks = Iterator[bytes]
_CORRUPT: Final[Any] = (
    igzip_lib.IsalError,
    lzma.LZMAError,
    OSError,
    EOFError,
)


class _Decompressor(Protocol):
    """The interface that bz2, lzma and isal share."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def decompressed(
    chunks: Chunks, what: str, *, limit: int = 0, unpacking: Unpacking = DEFAULT
) -> Chunks:
    """The plain bytes of a stream that is gzip, zstd, xz, bzip2 or not compressed at all.

    Every member of a multi-member stream is read. InvalidInput when it is corrupt or cut short,
    LimitExceeded when more than `limit` plain bytes come out (without one, `unpacking.size`), or
    more than `unpacking` allows for what came. `what` names the stream in errors.
    """
    packed, limit = 0, limit or unpacking.size

    def counted(pieces: Chunks) -> Chunks:
        nonlocal packed
        for piece in pieces:
            packed += len(piece)
            yield piece

    chunks = counted(chunks)
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 6:
            break
    rest = _chain(head, chunks)
    total = 0
    for piece in _plain(head, rest, what):
        total += len(piece)
        if total > limit:
            raise LimitExceeded(f"{what}: more than {limit} bytes when decompressed")
        if total > unpacking.unquestioned and total > unpacking.allowed(packed):
            raise LimitExceeded(
                f"{what}: {shown(packed)} become more than {shown(total)}, a bomb by all "
                f"appearances: beyond {shown(unpacking.unquestioned)} at most {unpacking.ratio} "
                "bytes are made of one",
                hint="if it is meant, raise unpack.unquestioned or unpack.ratio in limits.toml",
            )
        yield piece


def file_chunks(file: BinaryIO) -> Chunks:
    """The rest of a file in pieces, of whatever length they come in."""
    read = getattr(file, "read1", file.read)
    while chunk := read(PIECE):
        yield chunk


def _gunzip() -> Any:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


def _chain(head: bytes, chunks: Chunks) -> Chunks:
    if head:
        yield head
    yield from chunks


def is_compressed(head: bytes) -> bool:
    """Whether a stream that starts with these (at least six) bytes would be changed."""
    return head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh")) or (
        head[:1] != b"" and 0x50 <= head[0] <= 0x5F and head[1:4] == b"\x2a\x4d\x18"
    )


def _plain(head: bytes, chunks: Chunks, what: str) -> Chunks:
    if not is_compressed(head):
        return chunks
    if head.startswith(b"\x1f\x8b"):
        return _members(chunks, _gunzip, what)
    if head.startswith(b"\xfd7zXZ\x00"):
        return _members(chunks, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), what)
    if head.startswith(b"BZh"):
        return _members(chunks, bz2.BZ2Decompressor, what)
    return _zstd(chunks, what)


def _members(chunks: Chunks, make: Callable[[], Any], what: str) -> Chunks:
    decompressor: _Decompressor | None = None
    first = True
    try:
        for data in _slices(chunks):
            while data or (decompressor is not None and not decompressor.needs_input):
                if decompressor is None:
                    # gzip(1) ignores zeros after the last member: block devices and tapes pad so.
                    data = data if first else data.lstrip(b"\0")
                    if not data:
                        break
                    decompressor, first = make(), False
                piece = decompressor.decompress(data, PIECE)
                data = b""
                if piece:
                    yield piece
                if decompressor.eof:
                    data, decompressor = decompressor.unused_data, None
    except _CORRUPT as error:
        raise InvalidInput(f"{what}: corrupt compressed data: {error}") from None
    if decompressor is not None:
        raise InvalidInput(f"{what}: the compressed data ends too early")


def _slices(chunks: Chunks) -> Chunks:
    """Small pieces: what follows a member is copied, and members may be tiny and many."""
    for chunk in chunks:
        for at in range(0, len(chunk), _SLICE):
            yield chunk[at : at + _SLICE]


class _Reader:
    """A file over chunks, as zstandard wants it; remembers nothing."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            self._left = next(self._chunks, b"")
        if size < 0 or size >= len(self._left):
            piece, self._left = self._left, b""
        else:
            piece, self._left = self._left[:size], self._left[size:]
        return piece


def _zstd(chunks: Chunks, what: str) -> Chunks:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frames = ZstdFrames()
    source: Any = _Reader(frames.watch(chunks))
    reader = decompressor.stream_reader(source, read_across_frames=True)
    try:
        while piece := reader.read(PIECE):
            yield piece
    except zstandard.ZstdError as error:
        raise InvalidInput(f"{what}: corrupt compressed data: {error}") from None
    if not frames.whole:
        raise InvalidInput(f"{what}: the compressed data ends too early")


class Pump:
    """Runs an iterator of chunks in a thread of its own, a few chunks ahead of the reader.

    Reading, hashing and inflating release the interpreter's lock, so they overlap with unpacking.
    Use in a `with` block: leaving it ends the thread. `chunks` raises the iterator's error.
    """

    def __init__(self, chunks: Chunks, ahead: int = 16) -> None:
        self._chunks = chunks
        self._queue: Queue[bytes | BaseException | None] = Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="skerry-pump", daemon=True)

    def chunks(self) -> Chunks:
        """What the thread has read, in order."""
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> "Pump":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)
            except Empty:
                self._thread.join(0.01)

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                if not self._offer(chunk):
                    return
            self._offer(None)
        except BaseException as error:
            self._offer(error)

    def _offer(self, item: bytes | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.5)
            except Full:
                continue
            return True
        return False
