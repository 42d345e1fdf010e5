"""Docker's framing of output without a terminal ("Attach to a container", stream format).

A frame is 8 bytes (stream number, three zeros, length as big-endian uint32), then the payload.
"""

from __future__ import annotations

from skerry.base.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STDIN, STDOUT, STDERR, SYSTEM = 0, 1, 2, 3


class Demultiplexer:
    """Feeds on bytes, gives (stream, payload) pieces; never holds back a payload's beginning."""

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The pieces in `data`. InvalidInput when it is not framed so."""
        pieces = []
        start, end = 0, len(data)
        while start < end:
            if not self._left:
                want = 8 - len(self._head)
                self._head += data[start : start + want]
                start += want
                if len(self._head) < 8:
                    break
                self._stream = self._head[0]
                if self._stream > SYSTEM or any(self._head[1:4]):
                    raise InvalidInput(f"the engine's stream is not framed: {self._head!r}")
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""
                continue
            piece = data[start : start + self._left]
            start += len(piece)
            self._left -= len(piece)
            pieces.append((self._stream, piece))
        return pieces

    @property
    def complete(self) -> bool:
        """True between frames."""
        return not self._left and not self._head


def demultiplex(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """`Demultiplexer` over an iterable."""
    frames = Demultiplexer()
    for chunk in chunks:
        yield from frames.feed(chunk)
