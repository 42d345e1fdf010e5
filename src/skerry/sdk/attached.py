"""The joined streams of a container or an exec, blocking."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from skerry.base.errors import Unavailable
from skerry.sdk.frames import STDERR, STDOUT, Demultiplexer

if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator

__all__ = ["STDERR", "STDOUT", "Attached"]
_SHUT_WR = 1


class Attached:
    """Read by iterating: (stream, bytes) pieces, stream 1 or 2 (always 1 with a terminal)."""

    def __init__(self, stream: tuple[_socket.socket, bytes], *, tty: bool) -> None:
        self._socket, self._first = stream
        self._frames = None if tty else Demultiplexer()
        self.deadline: float | None = None
        """By `time.monotonic()`: waiting for output longer raises TimeoutError."""

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the program goes on. Idempotent."""
        self._socket.close()

    def write(self, data: bytes) -> None:
        """Send to the program's standard input; blocks while it does not read. BrokenPipeError when
        nobody does any more, TimeoutError at the deadline."""
        if self.deadline is not None:
            self._socket.settimeout(max(0.001, self.deadline - time.monotonic()))
        try:
            self._socket.sendall(data)
        except ConnectionResetError:
            raise BrokenPipeError from None

    def close_stdin(self) -> None:
        """Tell the program that no more input comes."""
        self._socket.shutdown(_SHUT_WR)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        data = self._first
        while True:
            for piece in self._frames.feed(data) if self._frames else [(STDOUT, data)]:
                if piece[1]:
                    yield piece
            if self.deadline is not None:
                self._socket.settimeout(max(0.001, self.deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                raise Unavailable("the engine hung up in the middle of the output") from None
            if not data:
                return

    def read(self) -> tuple[bytes, bytes]:
        """Everything until the program closes its output: (stdout, stderr)."""
        streams = {STDOUT: bytearray(), STDERR: bytearray()}
        for stream, piece in self:
            streams.setdefault(stream, bytearray()).extend(piece)
        return bytes(streams[STDOUT]), bytes(streams[STDERR])
