"""Where the frames of a zstd stream end (RFC 8878, section 3.1).

The library's reader takes the end of its input for the end of the stream, also in the middle of a
frame. So the blocks' headers are followed here, on the side, while the compressed bytes pass.
"""

from collections.abc import Generator, Iterator
from typing import Final

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_DICTIONARY: Final = (0, 1, 2, 4)
_CONTENT_SIZE: Final = (0, 2, 4, 8)
_RLE: Final = 1


class ZstdFrames:
    """Follows one stream. What is malformed is the decompressor's to refuse."""

    def __init__(self) -> None:
        self._walk = self._frames()
        self._wanted = next(self._walk)
        self._held = b""
        self._between = True

    @property
    def whole(self) -> bool:
        """Whether what has passed ends with a frame."""
        return self._between and not self._held

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks."""
        for chunk in chunks:
            self._take(chunk)
            yield chunk

    def _take(self, chunk: bytes) -> None:
        at = 0
        while at < len(chunk):
            if self._wanted < 0:
                # Bytes that are passed over.
                step = min(-self._wanted, len(chunk) - at)
                at += step
                self._wanted += step
                if not self._wanted:
                    self._wanted = self._walk.send(b"")
                continue
            part = chunk[at : at + self._wanted - len(self._held)]
            at += len(part)
            self._held += part
            if len(self._held) == self._wanted:
                held, self._held = self._held, b""
                self._wanted = self._walk.send(held)

    def _frames(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it is to be sent; a negative number of them is passed over."""
        while True:
            self._between = True
            magic = yield 4
            self._between = False
            if magic != _MAGIC:
                size = int.from_bytes((yield 4), "little")
                if size:
                    yield -size
                continue
            about = (yield 1)[0]
            single = about >> 5 & 1
            rest = (not single) + _DICTIONARY[about & 3]
            rest += _CONTENT_SIZE[about >> 6] or single
            if rest:
                yield -rest
            last = 0
            while not last:
                block = int.from_bytes((yield 3), "little")
                last = block & 1
                size = 1 if block >> 1 & 3 == _RLE else block >> 3
                if size:
                    yield -size
            if about >> 2 & 1:
                yield -4
