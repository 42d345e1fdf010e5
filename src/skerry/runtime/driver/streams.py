"""The engine's end of attached streams (`engine.isolation.Stream`)."""

import asyncio
import socket
from contextlib import suppress

_CHUNK = 64 * 1024


class AttachStream:
    """A stream socket whose other end the keeper has; it frames and takes raw input.

    Nothing is buffered here: while nobody reads, the socket fills, then the keeper waits, then the
    program.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reading = False
        self._closed = False

    async def read(self) -> bytes:
        """The next bytes; empty at the end, also of a stream that was closed meanwhile."""
        if self._closed:
            return b""
        self._reading = True
        try:
            return await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK)
        except OSError:
            return b""
        finally:
            self._reading = False
            self._let_go()

    async def write(self, data: bytes) -> None:
        """Send to standard input; waits while the program does not read.

        Input for a program that has gone is dropped.
        """
        if not self._closed:
            with suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def close_stdin(self) -> None:
        """Half close."""
        if not self._closed:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        """Leave; a `read` that waits ends."""
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            # A closed descriptor would leave a waiting read hanging; the shutdown wakes it.
            self._sock.shutdown(socket.SHUT_RDWR)
        self._let_go()

    def _let_go(self) -> None:
        if self._closed and not self._reading:
            self._sock.close()


def stream_pair() -> tuple[AttachStream, int]:
    """The engine's end, and the descriptor to send to the keeper."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return AttachStream(mine), theirs.detach()
