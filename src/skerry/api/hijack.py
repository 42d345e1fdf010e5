"""Taking a connection over from HTTP: attach and exec become a raw duplex stream.

Docker's clients ask with `Connection: Upgrade` and get `101 UPGRADED`, or, in the older form, get
`200 OK` with a raw body and simply write on. After that the connection belongs to us: the
transport's protocol is exchanged, and aiohttp's old one is told of the connection's end, so that it
can let go of its own things.

Back-pressure goes both ways: we stop reading from a client whose program does not take its input,
and stop reading from the program while the client does not take its output.
"""

import asyncio
import contextlib
import select
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from skerry.api.versions import RAW_STREAM
from skerry.base.errors import SystemFault
from skerry.engine.isolation import Stream

HIGH = 256 * 1024
"""Bytes of unread input after which the client is no longer read from."""
LOOK = 5.0
"""Seconds between looks for a client that ended its input and then went without a word."""


class Hijacked(asyncio.Protocol):
    """A client's connection after the take-over."""

    def __init__(self, transport: asyncio.Transport, previous: Any) -> None:
        self.transport = transport
        self._previous = previous
        self._input = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.ended = False
        self.lost = False
        self._paused = False

    def data_received(self, data: bytes) -> None:
        self._input += data
        if len(self._input) > HIGH and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._arrived.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._arrived.set()
        # True keeps our side open: the client may only have ended its input.
        return not self.gone()

    def gone(self) -> bool:
        """Whether the client has closed both ways; the end of its input alone looks the same to
        a reader, but not to poll(2)."""
        if self.lost:
            return True
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.lost = True
        self._arrived.set()
        self._writable.set()
        self._previous.connection_lost(exc)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def read(self) -> bytes:
        """What the client sent; empty at the end."""
        while not self._input and not self.ended:
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._input)
        self._input.clear()
        if self._paused and not self.lost:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send to the client; waits while it does not read. ConnectionResetError when it left."""
        if self.lost:
            raise ConnectionResetError
        self.transport.write(data)
        await self._writable.wait()
        if self.lost:
            raise ConnectionResetError


class _Done(web.Response):
    """Nothing more to send: the connection is no longer HTTP."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None

    @property
    def prepared(self) -> bool:
        return True


def take_over(request: web.BaseRequest, content_type: str) -> Hijacked:
    """Answer the request's upgrade and become the connection's owner."""
    protocol = request.protocol
    transport = request.transport
    if not isinstance(transport, asyncio.Transport):
        raise SystemFault("the client has left")
    if "upgrade" in request.headers.get("Connection", "").lower():
        head = (
            "HTTP/1.1 101 UPGRADED\r\n"
            f"Content-Type: {content_type}\r\n"
            "Connection: Upgrade\r\n"
            "Upgrade: tcp\r\n\r\n"
        )
    else:
        # As with Docker, whatever is inside.
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n\r\n"
    hijacked = Hijacked(transport, protocol)
    # Bytes that came right behind the request wait in aiohttp's hands.
    early = getattr(protocol, "_message_tail", b"")
    transport.set_protocol(hijacked)
    if early:
        protocol._message_tail = b""
        hijacked.data_received(early)
    transport.write(head.encode())
    with contextlib.suppress(RuntimeError):
        transport.resume_reading()
    return hijacked


class DetachKeys:
    """Watches input for the keys that leave a terminal without ending its program."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._seen = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys were pressed. A half-typed sequence waits."""
        if not self._keys:
            return data, False
        out = bytearray()
        for value in data:
            self._seen += bytes((value,))
            if self._seen == self._keys:
                return bytes(out), True
            while self._seen and not self._keys.startswith(self._seen):
                out.append(self._seen[0])
                self._seen = self._seen[1:]
        return bytes(out), False


async def join(
    client: Hijacked,
    stream: Stream,
    *,
    stdin: bool,
    keys: bytes,
    after: Callable[[], Awaitable[None]] | None = None,
) -> web.Response:
    """Pump both ways until the program's output ends, the client leaves or detaches.

    `after` is awaited between the end of the output and the end of the connection.
    """

    async def output() -> None:
        while data := await stream.read():
            await client.write(data)
        if after is not None:
            await after()

    async def input() -> bool:
        watch = DetachKeys(keys)
        while data := await client.read():
            data, detached = watch.feed(data)
            if data and stdin:
                await stream.write(data)
            if detached:
                return True
        if stdin and not client.lost:
            await stream.close_stdin()
        # Output goes on after the end of the input, unless the client is really gone.
        return client.lost

    out = asyncio.ensure_future(output())
    come = asyncio.ensure_future(input())
    try:
        while not (out.done() or _left(come) or (client.ended and client.gone())):
            waiting = {out} if come.done() else {out, come}
            await asyncio.wait(waiting, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (out, come):
            task.cancel()
        await asyncio.gather(out, come, return_exceptions=True)
        await stream.close()
        if not client.lost:
            client.transport.close()
    return finished()


def _left(come: "asyncio.Future[bool]") -> bool:
    """Whether the input's task says that the client has gone or detached."""
    return come.done() and _result(come)


def _result(come: "asyncio.Future[bool]") -> bool:
    return come.cancelled() or come.exception() is not None or come.result()


def finished() -> web.Response:
    """The response of a handler whose connection was taken over."""
    response = _Done()
    response.force_close()
    return response


_NAMED = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}
DEFAULT_KEYS = b"\x10\x11"
"""ctrl-p,ctrl-q."""


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as bytes; InvalidInput for what is no key. Empty means the default."""
    from skerry.base.errors import InvalidInput

    if not text:
        return DEFAULT_KEYS
    result = bytearray()
    for key in text.split(","):
        letter = key.removeprefix("ctrl-") if key.startswith("ctrl-") else ""
        if len(letter) == 1 and letter.lower().isascii() and letter.isalpha():
            result.append(ord(letter.lower()) - ord("a") + 1)
        elif letter in _NAMED and letter:
            result.append(_NAMED[letter])
        elif len(key) == 1 and key.isascii():
            result.append(ord(key))
        else:
            raise InvalidInput(f"Invalid detach keys ({text:.40}) provided")
    return bytes(result)
