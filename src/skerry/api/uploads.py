"""Large bodies that a thread reads from the connection itself.

aiohttp hands a body on in the pieces that a client writes (32 KB from the docker command), and
each piece costs a turn of the event loop and a change of threads. So for an upload of an archive
only the head of the request goes through aiohttp's parser. The connection is not read from by the
loop until `body` ends: a thread takes the chunks apart (RFC 9112, section 7.1). Whatever it leaves
unread, the last chunk at least, then goes to the parser, for which the body was just a short one;
errors, trailers and the next request on the connection stay its business.
"""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator
from typing import BinaryIO, Final, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage

from skerry.api.call import Call
from skerry.base.errors import InvalidInput
from skerry.engine.archives import PieceFile, as_file

BUFFER: Final = 512 << 10
"""Bytes of a body in memory; a unix socket holds less."""
_LINE: Final = 1024
"""Bytes of a chunk's size with its extensions."""
_DIGITS: Final = 15
_PLACE: Final = b"/archive?"


class Body(PieceFile):
    """A chunked body as a blocking file: `read1` in one thread, the rest on the loop."""

    def __init__(self, sock: socket.socket, early: bytes) -> None:
        """`sock` becomes ours; `early` is what of the body came in with the head."""
        self._socket = sock
        self._buffer = bytearray(max(BUFFER, len(early)))
        self._view = memoryview(self._buffer)
        self._view[: len(early)] = early
        self._start, self._end = 0, len(early)
        self._left = 0
        """Bytes of the current chunk, with the line end after it."""
        self._last = False
        """The next thing is the last chunk."""

    def read1(self, size: int = -1) -> bytes:
        """See PieceFile. InvalidInput also when what comes is not chunked."""
        size = BUFFER if size < 0 else size
        while not self._last:
            parts: list[memoryview] = []
            wanted = size
            while wanted and not self._last and self._start < self._end:
                part = self._next(wanted)
                if part is None:
                    break
                wanted -= len(part)
                parts.append(part)
            if wanted < size:
                return b"".join(parts)
            if not self._last:
                self._fill()
        return b""

    def _next(self, most: int) -> memoryview | None:
        """What can be had of the current chunk; None when more has to come in first."""
        if not self._left:
            return self._begin()
        here = self._end - self._start
        if self._left <= 2:
            # Checked by nobody, as in aiohttp: the next size is, and would be wrong.
            step, taken = min(self._left, here), 0
        else:
            step = taken = min(self._left - 2, here, most)
        part = self._view[self._start : self._start + taken]
        self._start += step
        self._left -= step
        return part

    def _begin(self) -> memoryview | None:
        """Read a chunk's size."""
        at = self._buffer.find(b"\n", self._start, min(self._end, self._start + _LINE))
        if at < 0 and self._end - self._start < _LINE:
            return None
        digits = bytes(self._view[self._start : max(at, self._start)]).partition(b";")[0].strip()
        if not 0 < len(digits) <= _DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
            raise InvalidInput("the request's body is not chunked as its head says")
        count = int(digits, 16)
        if count:
            self._left = count + 2
            self._start = at + 1
        else:
            self._last = True
        return self._view[:0]

    def _fill(self) -> None:
        """Take what has come in, waiting for something."""
        rest = self._end - self._start
        if self._start and rest:
            self._buffer[:rest] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, rest
        while True:
            try:
                count = self._socket.recv_into(self._view[rest:], 0, socket.MSG_DONTWAIT)
                break
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket, select.POLLIN)
                poll.poll()
            except ConnectionError:
                count = 0
                break
        if not count:
            raise InvalidInput("the request's body was cut off")
        self._end += count

    def unread(self) -> bytes:
        """What a parser that has only seen the head must get: the rest as a body of its own."""
        rest = bytes(self._view[self._start : self._end])
        if self._left > 2:
            return b"%x\r\n" % (self._left - 2) + rest
        # In the middle of a line end: as if it followed a chunk of one byte.
        return (b"", b"1\r\nX\r", b"1\r\nX")[self._left] + rest

    def cut(self) -> None:
        """Let a read that waits fail."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Done with the socket."""
        self._socket.close()


class Connection(web.RequestHandler):
    """A client's connection, whose uploads of archives stop behind their heads."""

    __slots__ = ("_body", "_early")

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._early: bytes | None = None
        self._body: Body | None = None

    def data_received(self, data: bytes) -> None:
        """The head alone goes to the parser when it asks for an upload and nothing is before it."""
        cut = 0
        if data.startswith(b"PUT ") and not self._messages and self._current_request is None:
            cut = data.find(b"\r\n\r\n") + 4
        if cut < 4 or _PLACE not in data[:cut] or not isinstance(self.transport, asyncio.Transport):
            super().data_received(data)
            return
        super().data_received(data[:cut])
        if self._awaits_chunks():
            self._early = data[cut:]
            self.transport.pause_reading()
        elif cut < len(data):
            super().data_received(data[cut:])

    def _awaits_chunks(self) -> bool:
        if len(self._messages) != 1:
            return False
        head = self._messages[0][0]
        if self.transport is None or self.transport.get_extra_info("ssl_object"):
            return False
        if not isinstance(head, RawRequestMessage):
            return False
        return head.method == "PUT" and head.chunked and "Expect" not in head.headers

    def hold(self) -> Body | None:
        """The body of the current request, when it was held back."""
        if self._early is None or self.transport is None:
            return None
        mine = os.dup(self.transport.get_extra_info("socket").fileno())
        self._body, self._early = Body(socket.socket(fileno=mine), self._early), None
        return self._body

    def release(self) -> None:
        """Go on as if nothing had been held back. Idempotent; no thread may read any more."""
        early, body = self._early, self._body
        self._early = self._body = None
        if body is not None:
            early = body.unread()
            body.close()
        transport = self.transport
        if early is None or not isinstance(transport, asyncio.Transport):
            return
        if early:
            super().data_received(early)
        if not transport.is_closing():
            transport.resume_reading()

    def leave(self) -> None:
        """The request is over. A thread that still reads, for an engine that ends, is told to stop;
        whoever holds the body releases it then."""
        if self._body is not None:
            self._body.cut()
        else:
            self.release()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The thread must not wait for a client that is gone."""
        if self._body is not None:
            self._body.cut()
        super().connection_lost(exc)


class Server(web.Server):
    """Makes such connections."""

    def __call__(self) -> Connection:
        """One more."""
        return Connection(self, loop=self._loop, **self._kwargs)


def leave(request: web.BaseRequest) -> None:
    """What of a request's body was held back and not read goes the ordinary way."""
    if isinstance(request.protocol, Connection):
        request.protocol.leave()


@contextlib.asynccontextmanager
async def body(call: Call) -> AsyncIterator[BinaryIO]:
    """A request's body as a blocking file for one thread, which has ended before this does.

    Reading raises InvalidInput when the body stops before its end.
    """
    connection = call.request.protocol
    held = connection.hold() if isinstance(connection, Connection) else None
    if held is None or not isinstance(connection, Connection):
        async with as_file(call.chunks()) as stream:
            yield stream
        return
    try:
        yield cast(BinaryIO, held)
    finally:
        connection.release()
