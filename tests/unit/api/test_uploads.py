"""Uploads that a thread reads from the connection: the chunks' framing, and what comes after."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.api import server
from skerry.api.uploads import Body
from skerry.base.errors import InvalidInput
from skerry.engine.archive import Body as Uploaded
from skerry.engine.engine import Engine
from skerry.engine.instance import listen
from skerry.engine.threads import blocking

LAST = b"0\r\n\r\n"


def chunked(pieces: list[bytes]) -> bytes:
    """The pieces as chunks, without the last one."""
    return b"".join(b"%x;note=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def _send(sock: socket.socket, data: bytes) -> None:
    with sock, contextlib.suppress(ConnectionError):
        sock.sendall(data)


@contextlib.contextmanager
def body(sent: bytes, early: int) -> Any:
    """A body whose first `early` bytes came in with the head; the rest is sent meanwhile."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    sender = threading.Thread(target=_send, args=(theirs, sent[early:]))
    found = Body(ours, sent[:early])
    sender.start()
    try:
        yield found
    finally:
        found.close()
        sender.join()


PIECES = st.lists(st.binary(min_size=1, max_size=300), max_size=6)


@given(PIECES, st.integers(0, 2000), st.integers(1, 400))
def test_the_pieces_come_out(pieces: list[bytes], early: int, size: int) -> None:
    with body(chunked(pieces) + LAST, early) as found:
        parts = []
        while part := found.read1(size):
            assert len(part) <= size
            parts.append(part)
        assert b"".join(parts) == b"".join(pieces)
        assert found.read1(size) == b""
        assert LAST.startswith(found.unread())


@given(PIECES, st.integers(0, 600))
def test_what_is_left_is_a_body_again(pieces: list[bytes], taken: int) -> None:
    whole = chunked(pieces) + LAST
    with body(whole, len(whole)) as found:
        got = found.read1(taken) if taken else b""
        rest = found.unread()
    assert rest.endswith(LAST)
    with body(rest, len(rest)) as found:
        left = found.read()
    # A line end that was cut through comes behind a byte that stands for its chunk.
    plain = b"".join(pieces)[len(got) :]
    assert left in (plain, b"X" + plain)


@pytest.mark.parametrize("sent", [b"", b"5\r\nab", b"zz\r\n", b"-1\r\n", b"\r\n", b"1" * 2000])
def test_what_is_no_body(sent: bytes) -> None:
    with body(sent, 0) as found, pytest.raises(InvalidInput):
        found.read()


@given(st.binary(max_size=200))
def test_any_bytes_end_or_are_refused(sent: bytes) -> None:
    with body(sent, len(sent)) as found, contextlib.suppress(InvalidInput):
        found.read()


HEAD = (
    b"PUT /v1.50/containers/%b/archive?path=/ HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"


class Reads:
    """An archive service that takes as much of a body as it is told."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.got = b""

    async def put(self, container: object, path: str, uploaded: Uploaded, **how: bool) -> None:
        if not self.least:
            raise InvalidInput("not even looked at")
        async with uploaded as stream:
            await blocking(lambda: self._take(stream))

    def _take(self, stream: BinaryIO) -> None:
        while len(self.got) < self.least:
            piece = stream.read(min(1000, self.least - len(self.got)))
            if not piece:
                return
            self.got += piece
        raise InvalidInput("enough")


PAYLOAD = bytes(range(256)) * 4000


async def _answers(path: str, *sent: bytes) -> bytes:
    """All that comes back before a ping's answer, and that."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(120):
            return await reader.readuntil(b"\r\n\r\nOK")
    finally:
        writer.close()


@pytest.mark.parametrize("least", [0, 1, 40_000, len(PAYLOAD), len(PAYLOAD) + 1])
@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
async def test_the_connection_goes_on(
    engine: Engine,
    socket_path: str,
    create: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    least: int,
    together: bool,
) -> None:
    made = await create("there")
    reads = Reads(least)
    monkeypatch.setattr(engine.archive, "put", reads.put)
    pieces = [PAYLOAD[at : at + 32768] for at in range(0, len(PAYLOAD), 32768)]
    sent = [HEAD % made.id.encode(), chunked(pieces), LAST, PING]
    back = await _answers(socket_path, *([b"".join(sent)] if together else sent))
    status = 200 if least > len(PAYLOAD) else 400
    assert back.startswith(b"HTTP/1.1 %d " % status)
    assert back.count(b"HTTP/1.1 ") == 2
    assert reads.got == PAYLOAD[:least]


@pytest.mark.parametrize("who", ["the client", "the engine"])
async def test_whoever_leaves_ends_the_reading(
    engine: Engine,
    short_tmp: Path,
    create: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    who: str,
) -> None:
    made = await create("there")
    loop = asyncio.get_running_loop()
    begun: asyncio.Future[None] = loop.create_future()
    ended: asyncio.Future[BaseException] = loop.create_future()

    async def put(container: object, path: str, uploaded: Uploaded, **how: bool) -> None:
        try:
            async with uploaded as stream:
                begun.set_result(None)
                await blocking(stream.read)
        except BaseException as error:
            ended.set_result(error)
            raise

    monkeypatch.setattr(engine.archive, "put", put)
    monkeypatch.setattr(server, "GRACE", 0.01)
    _, runner = await server.serve(engine, [listen(str(short_tmp / "s"))])
    _, writer = await asyncio.open_unix_connection(str(short_tmp / "s"))
    writer.write(HEAD % made.id.encode() + chunked([b"half"]))
    async with asyncio.timeout(120):
        await begun
        if who == "the client":
            writer.close()
        else:
            await runner.cleanup()
        assert "cut off" in str(await ended)
    writer.close()
    await runner.cleanup()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
