"""Docker's API over TCP, behind mutual TLS.

TLS is ended here, in front of the HTTP server, which is given one end of a socket pair for each
client. asyncio's own TLS cannot do what attach and exec need: when the client ends its input it
closes both ways, and the rest of the program's output is lost. Here the client's close_notify
becomes the end of the pair's one direction, and the other goes on.

Who may connect: whoever has a certificate that the authority in `--tlscacert` has signed. That is
root on this host, so there is no form without it, and plain TCP has to be asked for by name.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

from skerry.base.errors import InvalidInput, SystemFault

log = logging.getLogger(__name__)

HANDSHAKE = 10.0
"""Seconds that a client has for it."""
CLIENTS = 1024
"""Connections at the same time."""
_BLOCK = 1 << 16
PLAIN = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
"""What a client without TLS is told, in the words of Go's servers."""

Connect = Callable[[socket.socket], Awaitable[None]]
"""Give a connected socket to the HTTP server."""


def parse_address(host: str) -> tuple[str, int]:
    """`tcp://address:port`, `tcp://[v6]:port`; InvalidInput otherwise."""
    rest = host.removeprefix("tcp://").rstrip("/")
    address, colon, port = rest.rpartition(":")
    if not host.startswith("tcp://") or not colon or not port.isdecimal() or int(port) > 65535:
        raise InvalidInput(f"cannot use host {host!r}", hint="write it as tcp://address:port")
    return address.removeprefix("[").removesuffix("]"), int(port)


def listen(host: str) -> socket.socket:
    """A listening socket at `tcp://address:port`; SystemFault when it cannot be had."""
    address, port = parse_address(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.create_server((address, port), family=family, backlog=512)
    except OSError as error:
        raise SystemFault(f"cannot listen on {host}: {error.strerror or error}") from None
    sock.setblocking(False)
    return sock


def mutual(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    """A server's context that takes clients of one authority only. InvalidInput names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"cannot use the authority {authority}: {_why(error)}") from None
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"cannot use {certificate} with {key}: {_why(error)}") from None
    return context


def _why(error: OSError) -> str:
    return error.strerror or str(error)


class Terminator:
    """Takes clients on a listening socket and passes their plain bytes on."""

    def __init__(self, listening: socket.socket, context: ssl.SSLContext, connect: Connect) -> None:
        self._listening = listening
        self._context = context
        self._connect = connect
        self._sessions: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Take no more clients and end those that are there."""
        self._accepting.cancel()
        for task in self._sessions:
            task.cancel()
        await asyncio.gather(self._accepting, *self._sessions, return_exceptions=True)
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                # Out of descriptors, or a client that was gone before it was taken.
                log.warning("cannot take a client: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            if len(self._sessions) >= CLIENTS:
                peer.close()
                continue
            task = loop.create_task(self._serve(peer))
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)

    async def _serve(self, peer: socket.socket) -> None:
        with peer:
            peer.setblocking(False)
            session = _Session(peer, self._context)
            try:
                async with asyncio.timeout(HANDSHAKE):
                    try:
                        await session.handshake()
                    except ssl.SSLError as error:
                        if error.reason == "HTTP_REQUEST":
                            await asyncio.get_running_loop().sock_sendall(peer, PLAIN)
                        raise
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                with ours:
                    await self._connect(theirs)
                    await session.pump(ours)
            except (OSError, TimeoutError) as error:
                log.info("a client of the TCP socket: %s", error)


class _Session:
    """One client's TLS."""

    def __init__(self, peer: socket.socket, context: ssl.SSLContext) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._arrived, self._waiting = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._waiting, server_side=True)
        self._sending = asyncio.Lock()

    async def handshake(self) -> None:
        """ssl.SSLError when the client shows no certificate that counts."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            else:
                await self._flush()
                return
            finally:
                # The alert that says why.
                with contextlib.suppress(OSError):
                    await self._flush()

    async def _fill(self) -> None:
        data = await self._loop.sock_recv(self._peer, _BLOCK)
        if data:
            self._arrived.write(data)
        else:
            self._arrived.write_eof()

    async def _flush(self) -> None:
        async with self._sending:
            while data := self._waiting.read():
                await self._loop.sock_sendall(self._peer, data)

    async def pump(self, inner: socket.socket) -> None:
        """Both ways, until the server has said everything or the client has gone."""
        come = asyncio.ensure_future(self._come(inner))
        go = asyncio.ensure_future(self._go(inner))
        try:
            await asyncio.wait((come, go), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (come, go):
                task.cancel()
            await asyncio.gather(come, go, return_exceptions=True)

    async def _come(self, inner: socket.socket) -> None:
        """From the client; returns when it has gone altogether."""
        while data := await self._read():
            await self._loop.sock_sendall(inner, data)
        inner.shutdown(socket.SHUT_WR)
        # It may go on reading: only the end of its connection is the end.
        while await self._loop.sock_recv(self._peer, _BLOCK):
            pass

    async def _read(self) -> bytes:
        """What the client sent; empty after its close_notify. OSError when it was cut off."""
        while True:
            try:
                return self._tls.read(_BLOCK)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""

    async def _go(self, inner: socket.socket) -> None:
        """To the client; returns when the server has closed."""
        while data := await self._loop.sock_recv(inner, _BLOCK):
            self._tls.write(data)
            await self._flush()
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()
