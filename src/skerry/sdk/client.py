"""Requests to an engine as calls: paths, queries and JSON in, plain data or typed errors out.

The lean layer that both the command line and the objects of `skerry.sdk` stand on.
"""

from __future__ import annotations

from skerry.base import errors
from skerry.base.hosts import default_paths, unix_path
from skerry.sdk import wire
from skerry.sdk.http import Connection, Response, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterable
    from typing import Any

__all__ = ["Client", "default_host", "error_of", "query", "quote"]

_BY_STATUS: dict[int, type[errors.SkerryError | errors.GuestFault]] = {
    304: errors.NotModified,
    400: errors.InvalidInput,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.Unsupported,
    409: errors.Conflict,
    413: errors.LimitExceeded,
    501: errors.Unsupported,
    502: errors.MachineFault,
    503: errors.Unavailable,
}


def default_host() -> str:
    """SKERRY_HOST, else the socket in the run folder."""
    return default_paths()[2]


def error_of(status: int, body: bytes) -> errors.SkerryError | errors.GuestFault:
    """The error that a response means; Docker's body is `{"message": "…"}`, skerry adds "hint"."""
    message, hint = "", ""
    try:
        value = wire.loads(body)
        if isinstance(value, dict):
            message, hint = str(value.get("message") or ""), str(value.get("hint") or "")
    except errors.InvalidInput:
        message = body.decode(errors="replace").strip()[:2000]
    kind = _BY_STATUS.get(status, errors.InvalidInput if status < 500 else errors.SystemFault)
    return kind(message or f"the engine answered with status {status} and no reason", hint=hint)


class Client:
    """Speaks to one engine. Not for use from two threads at once."""

    def __init__(self, host: str | None = None, *, timeout: float | None = None) -> None:
        """`host` is `unix:///path`; nothing is connected before the first call."""
        self.host = host or default_host()
        self.path = unix_path(self.host)
        self._timeout = timeout
        self._kept: Connection | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent; the next call connects again."""
        if self._kept:
            self._kept.close()
            self._kept = None

    def ensure(self) -> None:
        """Connect now, if not connected; errors as `connect`."""
        if not self._kept or not self._kept.reusable:
            self._kept = self.connect()

    def connect(self) -> Connection:
        """A fresh connection of the caller's own.

        Raises Unavailable when no engine is there, Forbidden when the user may not.
        """
        try:
            return Connection(self.path, timeout=self._timeout)
        except PermissionError:
            raise errors.Forbidden(
                f"permission denied at the engine's socket {self.path}",
                hint="run it as root, or as a user who owns an engine: --run-root, --host",
            ) from None
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise errors.Unavailable(
                f"no engine listens at {self.path}", hint="start one: skerry engine"
            ) from None
        except OSError as error:
            raise errors.Unavailable(
                f"cannot connect to {self.path}: {error.strerror or error}"
            ) from None

    def open(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        *,
        connection: Connection | None = None,
    ) -> Response:
        """A response whose body the caller streams, on a connection of its own.

        Raises by status from 400 on. The caller closes `response.connection`.
        """
        connection = connection or self.connect()
        try:
            response = connection.request(method, target, body, headers)
            if response.status >= 400:
                raise error_of(response.status, response.read())
        except BaseException:
            connection.close()
            raise
        return response

    def call(self, method: str, target: str, body: Any = None) -> Any:
        """JSON in, JSON out (None for an empty answer), on the kept connection."""
        data, headers = None, {}
        if body is not None:
            data = wire.dumps(body).encode("utf-8", "surrogateescape")
            headers["Content-Type"] = "application/json"
        if self._kept and (not self._kept.reusable or self._kept.stale()):
            self.close()
        kept = self._kept is not None
        connection = self._kept = self._kept or self.connect()
        try:
            try:
                response = connection.request(method, target, data, headers)
            except errors.Unavailable:
                # An engine may close an idle connection at the moment it is used again; a request
                # that changes something is only repeated when it cannot have been read.
                if not kept or method != "GET":
                    raise
                self.close()
                connection = self._kept = self.connect()
                response = connection.request(method, target, data, headers)
            payload = response.read()
        except BaseException:
            self.close()
            raise
        if response.status >= 400 or response.status == 304:
            raise error_of(response.status, payload)
        if "json" in response.headers.get("content-type", "") and payload.strip():
            return wire.loads(payload)
        return payload.decode(errors="replace") if payload.strip() else None

    def get(self, target: str) -> Any:
        """GET, as `call`."""
        return self.call("GET", target)

    def post(self, target: str, body: Any = None) -> Any:
        """POST, as `call`."""
        return self.call("POST", target, body)

    def delete(self, target: str) -> Any:
        """DELETE, as `call`."""
        return self.call("DELETE", target)

    def hijack(self, target: str, body: Any = None) -> tuple[_socket.socket, bytes]:
        """Upgrade a POST to a raw stream: the socket and the bytes that came with the head.

        What comes out is framed (`skerry.sdk.frames`) unless there is a terminal. The caller
        closes the socket.
        """
        data = b"" if body is None else wire.dumps(body).encode("utf-8", "surrogateescape")
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        if data:
            headers["Content-Type"] = "application/json"
        connection = self.connect()
        try:
            response = connection.request("POST", target, data, headers)
            # Engines before API 1.22 answered 200 and hijacked all the same.
            if response.status not in (101, 200):
                raise error_of(response.status, response.read())
        except BaseException:
            connection.close()
            raise
        return connection.detach()
