"""Sockets and connections: how many, how long one may say nothing, TLS."""

import asyncio
import socket
import ssl

from aiohttp import web

from skerry.base.errors import InvalidInput, SystemFault
from skerry.registry.server.application import Application
from skerry.registry.server.storage import Limits


def parse_address(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port`. InvalidInput."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(f"{text!r:.80} is no address to listen on", hint="write 127.0.0.1:5000")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, int(port)


def listen(text: str) -> socket.socket:
    """A listening socket; all IPv4 addresses when the host is left out. SystemFault."""
    host, port = parse_address(text)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, proto)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(512)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise SystemFault(f"cannot listen on {text}: {error.strerror}") from None
    found.setblocking(False)
    return found


def tls(cert: str, key: str) -> ssl.SSLContext | None:
    """A context for the certificate, or None when there is none. InvalidInput."""
    if bool(cert) != bool(key):
        raise InvalidInput("TLS needs a certificate and its key", hint="give --tls-cert, --tls-key")
    if not cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"cannot use {cert} with {key}: {error}") from None
    return context


class _TooMany(asyncio.Protocol):
    """The answer to a connection over the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class Door:
    """Takes connections for an application."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self._application = application
        self._limits = limits
        self._silent: set[int] = set()
        self._server = web.Server(
            self._answer,
            keepalive_timeout=limits.idle,
            max_line_size=8190,
            max_field_size=8190,
            read_bufsize=256 << 10,
            access_log=None,
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._silent.discard(id(request.protocol))
        return await self._application.answer(request)

    def _connection(self) -> asyncio.Protocol:
        if len(self._server.connections) >= self._limits.connections:
            return _TooMany()
        protocol = self._server()
        # aiohttp's own timer starts with the end of the first request.
        self._silent.add(id(protocol))
        loop = asyncio.get_running_loop()
        loop.call_later(self._limits.idle, self._first_word, protocol)
        return protocol

    def _first_word(self, protocol: web.RequestHandler) -> None:
        if id(protocol) in self._silent:
            self._silent.discard(id(protocol))
            protocol.force_close()
            if protocol.transport is not None:
                protocol.transport.abort()

    async def open(
        self, sock: socket.socket, context: ssl.SSLContext | None = None
    ) -> asyncio.Server:
        """Accept from now on."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(self._connection, sock=sock, ssl=context, backlog=512)

    async def close(self) -> None:
        """Give open requests a moment, then end them."""
        self._server.pre_shutdown()
        await self._server.shutdown(5.0)
