"""One HTTP exchange with a host that may be slow, hostile or gone.

Every wait has an end: connecting, the answer's head, the next bytes of its body, and a minimum
throughput over the time spent waiting (a reader that is slow itself is not held against the peer).
Nothing is decompressed, no cookie kept, no redirect followed here. What broke off and may work
the next time is `Cut`, what will not is `Hopeless`; callers make errors of both, as they know what
was wanted.
"""

import asyncio
import os
import socket
import ssl
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

import skerry
from skerry.registry.config import Registries, RegistrySettings, is_loopback

USER_AGENT: Final = f"skerry/{skerry.__version__}"
Body = Callable[[], "bytes | AsyncIterator[bytes]"]
"""Makes a request's body anew for each attempt."""


class Limits(NamedTuple):
    """How long and how often; times in seconds."""

    connect: float = 15.0
    answer: float = 60.0
    """From the last byte of a request to the whole head of its answer."""
    idle: float = 45.0
    """Without a byte of the body."""
    document: float = 120.0
    """For a whole document (manifest, token, list)."""
    list: float = 600.0
    """For all pages of a list."""
    window: float = 30.0
    throughput: int = 1024
    """Bytes a second that a body has to bring, on average over `window` of waiting."""
    attempts: int = 5
    pause: float = 0.3
    """Before the second attempt; doubles, with jitter, up to `longest_pause`."""
    longest_pause: float = 8.0
    redirects: int = 8


class Cut(Exception):
    """The exchange broke off; asking again may help."""


class Hopeless(Exception):
    """Asking again will not help."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class TooMuch(Exception):
    """The answer is longer than was allowed."""


class NoTls(Hopeless):
    """The peer does not speak TLS."""


class Answer:
    """An answer's head, and its body while it comes. Close it, or read it to the end."""

    def __init__(self, response: aiohttp.ClientResponse, limits: Limits) -> None:
        self._response = response
        self._limits = limits

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers."""
        return self._response.headers

    @property
    def url(self) -> URL:
        """What was asked."""
        return self._response.url

    @property
    def length(self) -> int | None:
        """Content-Length, None when it is not given or senseless."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body. Cut when it breaks off, stalls, or comes slower than the limits say."""
        clock = asyncio.get_running_loop().time
        content = self._response.content
        waited, received = 0.0, 0
        while True:
            asked = clock()
            try:
                chunk = await content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise Cut(_reason(error)) from None
            except TimeoutError:
                raise Cut(f"nothing came for {self._limits.idle:g} s") from None
            if not chunk:
                return
            waited += clock() - asked
            received += len(chunk)
            if waited >= self._limits.window:
                if received < self._limits.throughput * waited:
                    raise Cut(f"only {received} bytes came in {waited:.0f} s")
                waited, received = 0.0, 0
            yield chunk

    async def read(self, limit: int) -> bytes:
        """The whole body of a document; TooMuch over `limit` bytes, Cut when it takes too long."""
        if (self.length or 0) > limit:
            raise TooMuch
        data = bytearray()
        try:
            async with asyncio.timeout(self._limits.document):
                async for chunk in self.chunks():
                    data += chunk
                    if len(data) > limit:
                        raise TooMuch
        except TimeoutError:
            raise Cut(f"the answer did not end in {self._limits.document:g} s") from None
        return bytes(data)

    def close(self) -> None:
        """Give up what has not been read. Idempotent."""
        self._response.close()

    async def drain(self) -> None:
        """Read the little that is left, so that the connection can be used again."""
        try:
            await self.read(64 << 10)
        except (Cut, TooMuch):
            self.close()


class Wire:
    """Connections to any host, each as its settings say. Close it."""

    def __init__(self, registries: Registries, limits: Limits) -> None:
        self.registries = registries
        self.limits = limits
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[tuple[bool, str, str, str], ssl.SSLContext] = {}

    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: Body | None = None,
        settings: RegistrySettings | None = None,
    ) -> Answer:
        """One request; Cut, NoTls or Hopeless. `settings` are those of the URL's host if None."""
        if url.scheme not in ("http", "https") or not url.host:
            raise Hopeless(f"leads to {_plain(str(url))!r:.120}, which is no web address")
        host = url.authority.rpartition("@")[2]
        settings = settings or self.registries.of(host)
        if settings.blocked:
            raise Hopeless(f"{settings.name} is blocked in registries.toml")
        secure = url.scheme == "https"
        limits = self.limits
        data = body() if body else None
        if isinstance(data, bytes):
            headers = {**headers, "Content-Length": str(len(data))}
        try:
            async with asyncio.timeout(limits.connect + limits.answer) as deadline:
                response = await self._open().request(
                    method,
                    url,
                    headers=headers,
                    data=None if data is None else _watched(data, deadline, limits),
                    ssl=self._context(settings) if secure else False,
                    proxy=_proxy(settings, url),
                    allow_redirects=False,
                )
        except TimeoutError:
            raise Cut("no answer in time") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise Hopeless(
                f"its certificate is not trusted: {_certificate_fault(error)}",
                f'name its authority in registries.toml: [registry."{settings.name}"] ca = "FILE"',
            ) from None
        except aiohttp.ClientConnectorSSLError as error:
            raise NoTls(
                f"no TLS connection: {_reason(error)}",
                "if it speaks plain HTTP only, say so in registries.toml: "
                f'[registry."{settings.name}"] plain_http = true',
            ) from None
        except aiohttp.ClientConnectorDNSError as error:
            if getattr(error.os_error, "errno", None) == socket.EAI_AGAIN:
                raise Cut(f"the name {url.host} cannot be looked up now") from None
            raise Hopeless(f"no such host: {url.host}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Cut(_reason(error)) from None
        except ValueError as error:
            raise Hopeless(f"cannot be asked: {_plain(str(error))}") from None
        return Answer(response, limits)

    async def close(self) -> None:
        """Drop all connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            limits = self.limits
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, limit_per_host=16),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=limits.connect, sock_read=limits.idle
                ),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=1 << 20,
            )
        return self._session

    def _context(self, settings: RegistrySettings) -> ssl.SSLContext:
        key = (settings.insecure, settings.ca, settings.cert, settings.key)
        if key not in self._contexts:
            try:
                self._contexts[key] = _tls(settings)
            except OSError as error:  # ssl.SSLError is one
                files = ", ".join(filter(None, (settings.ca, settings.cert, settings.key)))
                raise Hopeless(f"cannot use {files}: {error.strerror or error}") from None
        return self._contexts[key]


def _tls(settings: RegistrySettings) -> ssl.SSLContext:
    if not (settings.insecure or settings.ca or settings.cert):
        return _system_tls(tuple(map(_stamp, ssl.get_default_verify_paths()[:2])))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.insecure:
        # Reading the system's authorities takes longer than a small pull: not for nothing.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_default_certs()
    if settings.ca:
        context.load_verify_locations(settings.ca)
    if settings.cert:
        context.load_cert_chain(settings.cert, settings.key)
    return context


@lru_cache(maxsize=1)
def _system_tls(stamps: tuple[object, ...]) -> ssl.SSLContext:
    """One for all clients, until `stamps` of the authorities' places say they have changed."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _stamp(path: str | None) -> object:
    try:
        status = os.stat(path or "")
    except OSError:
        return None
    return path, status.st_mtime_ns, status.st_size


async def _watched(
    body: bytes | AsyncIterator[bytes], deadline: asyncio.Timeout, limits: Limits
) -> AsyncGenerator[bytes, None]:
    """The body in pieces, each of which puts the deadline off: a long upload may take long."""
    clock = asyncio.get_running_loop().time
    if isinstance(body, bytes):
        for start in range(0, len(body), 1 << 20):
            deadline.reschedule(clock() + limits.answer)
            yield body[start : start + (1 << 20)]
    else:
        async for chunk in body:
            deadline.reschedule(clock() + limits.answer)
            yield chunk
    deadline.reschedule(clock() + limits.answer)


def _proxy(settings: RegistrySettings, url: URL) -> str | None:
    """The proxy for a URL: configured, else the environment's, else none."""
    if settings.proxy is not None:
        return settings.proxy or None
    host = url.host or ""
    if is_loopback(host) or urllib.request.proxy_bypass(f"{host}:{url.port}"):
        return None
    found = urllib.request.getproxies().get(url.scheme)
    if found and "://" not in found:
        found = f"http://{found}"
    return found


def _certificate_fault(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    return str(getattr(cause, "verify_message", "") or cause)[:200]


def _reason(error: Exception) -> str:
    """Words for what went wrong on a connection."""
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        # asyncio's own text is Python's: "Connect call failed ('127.0.0.1', 1)".
        number = cause.errno or 0
        known = os.strerror(number).lower() if number > 0 else ""
        return _plain(f"cannot connect: {known or cause.strerror or cause}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed without an answer"
    if isinstance(error, aiohttp.ServerTimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was cut in the middle of the answer"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is no HTTP"
    if isinstance(error, OSError) and error.strerror:
        return _plain(error.strerror)
    return _plain(str(error)) or type(error).__name__


def _plain(text: str) -> str:
    """Printable, one line, not too long: it may come from the peer and go to a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()
