"""A small HTTP/1.1 client for one engine on a unix socket.

Made for short-lived command lines: it imports `_socket` and nothing else, keeps the connection
between requests, streams bodies both ways and hands the connection over after an upgrade (Docker's
attach and exec). Every length an engine could claim has a limit here, since the client may speak to
an engine that it does not trust.

Sources: RFC 9112 (message framing), Docker Engine API, "Attach to a container" (hijacking).
"""

from __future__ import annotations

import _socket

from skerry.base.errors import InvalidInput, LimitExceeded, Unavailable
from skerry.sdk import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

MAX_HEAD = 64 * 1024
"""Bytes of status line and headers."""
MAX_BODY = 512 * 1024 * 1024
"""Bytes of a body that is read as a whole."""
MAX_LINE = 32 * 1024 * 1024
"""Bytes of one JSON document in a stream of them."""
_BLOCK = 65536
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str) -> str:
    """Percent-encode everything but RFC 3986's unreserved characters."""
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in raw)


def query(**parameters: object) -> str:
    """`?a=b&c=d`; None and empty strings are left out, booleans become 1 and 0, dicts JSON."""
    parts = []
    for name, value in parameters.items():
        if value is None or value == "":
            continue
        if isinstance(value, bool):
            value = "1" if value else "0"
        for item in value if isinstance(value, (list, tuple)) else (value,):
            text = wire.dumps(item) if isinstance(item, dict) else str(item)
            parts.append(f"{name}={quote(text)}")
    return "?" + "&".join(parts) if parts else ""


CHUNKED, UNTIL_CLOSE = -1, -2
"""Lengths of bodies that are not declared beforehand."""


def parse_head(head: bytes, where: str) -> tuple[int, dict[str, str], bool]:
    """Status, headers by lower-case name, whether the connection may be kept.

    `head` is without the empty line; `where` names the socket in errors. InvalidInput for what is
    not HTTP.
    """
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or len(code) != 3 or not _digits(code):
        raise InvalidInput(f"what listens at {where} does not speak HTTP: {lines[0]!r:.80}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name[0] in " \t":
            raise InvalidInput(f"a malformed header in the engine's answer: {line!r:.80}")
        headers[name.lower()] = value.strip()
    keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return int(code), headers, keep


def body_length(method: str, status: int, headers: dict[str, str]) -> int:
    """Bytes of a response's body, or CHUNKED, or UNTIL_CLOSE (RFC 9112, section 6.3)."""
    if method == "HEAD" or status in (204, 304) or 100 <= status < 200:
        return 0
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return CHUNKED
    length = headers.get("content-length")
    if length is None:
        return UNTIL_CLOSE
    if not _digits(length) or len(length) > 18:
        raise InvalidInput(f"the engine's answer claims a length of {length!r:.40}")
    return int(length)


def chunk_size(line: bytes) -> int:
    """The size in a chunk's first line; InvalidInput when it is not hexadecimal."""
    size = line.partition(b";")[0].strip()
    if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
        raise InvalidInput(f"a malformed chunk in the engine's answer: {size!r:.40}")
    return int(size, 16)


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


class Connection:
    """One connection; requests follow one another. Closed by `close` or the with statement."""

    def __init__(self, path: str, *, timeout: float | None = None) -> None:
        """`timeout` in seconds bounds each wait for the engine; None waits for ever.

        Raises FileNotFoundError, ConnectionRefusedError and PermissionError as they come, since
        the caller may be able to start an engine.
        """
        self._path = path
        self._timeout = timeout
        self._buffer = bytearray()
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self.reusable = True
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()
        self.reusable = False

    def stale(self) -> bool:
        """Whether the engine has closed it, or said something unasked, since the last answer."""
        if self._buffer:
            return True
        try:
            self._socket.setblocking(False)
            self._socket.recv(1, _socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(self._timeout)
        return True

    def send(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a request; an iterable body goes out in chunks."""
        head = [f"{method} {target} HTTP/1.1", "Host: skerry"]
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        whole = body if isinstance(body, bytes) else None
        parts = () if body is None or isinstance(body, bytes) else body
        if whole is not None or (body is None and method in ("POST", "PUT")):
            head.append(f"Content-Length: {len(whole or b'')}")
        elif body is not None:
            head.append("Transfer-Encoding: chunked")
        if any("\r" in line or "\n" in line for line in head):
            raise InvalidInput(f"a line break in the request {method} {target!r:.80}")
        data = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        try:
            self._socket.sendall(data + (whole or b""))
            for part in parts:
                if part:
                    self._socket.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            if body is not None and whole is None:
                self._socket.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            # The engine may have answered (413, 404) before it read the whole body.
            self.reusable = False
        except TimeoutError:
            raise self._silent(method, target) from None

    def receive(self, method: str = "GET") -> Response:
        """The next response's head; its body is read through the Response."""
        while True:
            status, headers = self._head()
            if status != 100:
                return Response(self, method, status, headers)

    def request(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """`send`, then `receive`."""
        self.send(method, target, body, headers)
        return self.receive(method)

    def detach(self) -> tuple[_socket.socket, bytes]:
        """After a 101: the socket and what has already been read from it. The caller closes."""
        self.reusable = False
        return self._socket, bytes(self._buffer)

    def _head(self) -> tuple[int, dict[str, str]]:
        end = -1
        searched = 0
        while (end := self._buffer.find(b"\r\n\r\n", searched)) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise LimitExceeded(f"the engine's answer has over {MAX_HEAD} bytes of headers")
            searched = max(0, len(self._buffer) - 3)
            if not self.fill():
                raise Unavailable(f"the engine at {self._path} closed the connection unanswered")
        if end > MAX_HEAD:
            raise LimitExceeded(f"the engine's answer has over {MAX_HEAD} bytes of headers")
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        status, headers, keep = parse_head(head, self._path)
        self.reusable = self.reusable and keep
        return status, headers

    def fill(self) -> bool:
        """Read once from the socket; False at the end."""
        try:
            data = self._socket.recv(_BLOCK)
        except ConnectionResetError:
            data = b""
        except TimeoutError:
            raise self._silent("waiting for", "an answer") from None
        self._buffer += data
        return bool(data)

    def take(self, count: int) -> bytes:
        """Up to `count` bytes, at least one; empty at the end."""
        if not self._buffer and not self.fill():
            return b""
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def line(self, limit: int) -> bytes:
        """Up to and without the next CRLF; LimitExceeded when none comes within `limit` bytes."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > limit:
                raise LimitExceeded(f"a line of over {limit} bytes in the engine's answer")
            if not self.fill():
                raise Unavailable("the engine's answer was cut off")
        if end > limit:
            raise LimitExceeded(f"a line of over {limit} bytes in the engine's answer")
        data = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return data

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def _silent(self, what: str, which: str) -> Unavailable:
        return Unavailable(f"the engine at {self._path} does not answer ({what} {which})")


class Response:
    """One answer. Read the body before the connection's next request."""

    def __init__(
        self, connection: Connection, method: str, status: int, headers: dict[str, str]
    ) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        length = body_length(method, status, headers)
        self._chunked = length == CHUNKED
        self._left = -1 if length in (CHUNKED, UNTIL_CLOSE) else length
        if length == UNTIL_CLOSE:
            connection.reusable = False

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces as they come; Unavailable when it ends too early."""
        connection = self.connection
        if self._chunked:
            yield from self._coded()
            return
        while self._left:
            data = connection.take(_BLOCK if self._left < 0 else min(self._left, _BLOCK))
            if not data:
                if self._left > 0:
                    connection.reusable = False
                    raise Unavailable(f"the engine's answer was cut off {self._left} bytes early")
                return
            if self._left > 0:
                self._left -= len(data)
            yield data

    def _coded(self) -> Iterator[bytes]:
        connection = self.connection
        while self._chunked:
            left = chunk_size(connection.line(1024))
            if not left:
                trailer = 0
                while line := connection.line(MAX_HEAD):
                    trailer += len(line)
                    if trailer > MAX_HEAD:
                        raise LimitExceeded("the engine's answer has too many trailers")
                self._chunked, self._left = False, 0
                return
            while left:
                data = connection.take(min(left, _BLOCK))
                if not data:
                    connection.reusable = False
                    raise Unavailable("the engine's answer was cut off")
                left -= len(data)
                yield data
            if connection.line(2):
                connection.reusable = False
                raise InvalidInput("a chunk in the engine's answer is longer than it says")

    def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body; LimitExceeded above `limit` bytes."""
        data = bytearray()
        for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                self.connection.close()
                raise LimitExceeded(f"the engine's answer is over {limit} bytes long")
        return bytes(data)

    def json(self) -> Any:
        """The body's JSON value; None for an empty body."""
        data = self.read()
        return wire.loads(data) if data.strip() else None

    def json_lines(self) -> Iterator[Any]:
        """A stream of JSON documents, one a line, as they come."""
        pending = bytearray()
        for chunk in self.chunks():
            pending += chunk
            if b"\n" in chunk:
                *lines, rest = pending.split(b"\n")
                pending = bytearray(rest)
                for line in lines:
                    if line.strip():
                        yield wire.loads(line)
            if len(pending) > MAX_LINE:
                self.connection.close()
                raise LimitExceeded(f"a line of over {MAX_LINE} bytes in the engine's stream")
        if pending.strip():
            yield wire.loads(pending)
