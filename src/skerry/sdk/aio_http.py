"""HTTP over asyncio streams, with the limits of `skerry.sdk.http`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from skerry.base import errors
from skerry.base.hosts import unix_path
from skerry.sdk import http, wire
from skerry.sdk.client import default_host, error_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_BLOCK = 65536


class AsyncResponse:
    """One answer on a connection of its own. Close it, or use it in an async with."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        status: int,
        headers: dict[str, str],
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.status = status
        self.headers = headers
        self._length = http.body_length(method, status, headers)

    async def __aenter__(self) -> AsyncResponse:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self.writer.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces as they come."""
        if self._length == http.CHUNKED:
            async for data in self._coded():
                yield data
            return
        left = self._length
        while left:
            data = await self.reader.read(_BLOCK if left < 0 else min(left, _BLOCK))
            if not data:
                if left > 0:
                    raise errors.Unavailable("the engine's answer was cut off")
                return
            left -= len(data) if left > 0 else 0
            yield data

    async def _coded(self) -> AsyncIterator[bytes]:
        while True:
            left = http.chunk_size(await _line(self.reader))
            if not left:
                while await _line(self.reader):
                    pass
                return
            while left:
                data = await self.reader.read(min(left, _BLOCK))
                if not data:
                    raise errors.Unavailable("the engine's answer was cut off")
                left -= len(data)
                yield data
            if await _line(self.reader):
                raise errors.InvalidInput("a chunk in the engine's answer is longer than it says")

    async def read(self, limit: int = http.MAX_BODY) -> bytes:
        """The whole body; LimitExceeded above `limit` bytes."""
        data = bytearray()
        async for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                raise errors.LimitExceeded(f"the engine's answer is over {limit} bytes long")
        return bytes(data)

    async def json_lines(self) -> AsyncIterator[Any]:
        """A stream of JSON documents, one a line."""
        pending = b""
        async for chunk in self.chunks():
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield wire.loads(line)
            if len(pending) > http.MAX_LINE:
                raise errors.LimitExceeded(f"a line of over {http.MAX_LINE} bytes in the stream")
        if pending.strip():
            yield wire.loads(pending)


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n"))[:-2]
    except asyncio.IncompleteReadError:
        raise errors.Unavailable("the engine's answer was cut off") from None
    except asyncio.LimitOverrunError:
        raise errors.LimitExceeded("a line in the engine's answer is too long") from None


class AsyncClient:
    """Requests to one engine, a connection each: many may wait at the same time."""

    def __init__(self, host: str | None = None) -> None:
        self.host = host or default_host()
        self.path = unix_path(self.host)

    async def open(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncResponse:
        """A response whose body the caller streams. Raises by status from 400 on, and for 304."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.path, limit=http.MAX_HEAD)
        except PermissionError:
            raise errors.Forbidden(
                f"permission denied at the engine's socket {self.path}"
            ) from None
        except OSError:
            raise errors.Unavailable(
                f"no engine listens at {self.path}", hint="start one: skerry engine"
            ) from None
        try:
            head = [f"{method} {target} HTTP/1.1", "Host: skerry"]
            head += [f"{name}: {value}" for name, value in (headers or {}).items()]
            if body is not None or method in ("POST", "PUT"):
                head.append(f"Content-Length: {len(body or b'')}")
            if any("\r" in line or "\n" in line for line in head):
                raise errors.InvalidInput(f"a line break in the request {method} {target!r:.80}")
            writer.write(("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + (body or b""))
            response = await self._receive(reader, writer, method)
            if response.status >= 400 or response.status == 304:
                raise error_of(response.status, await response.read())
        except BaseException:
            writer.close()
            raise
        return response

    async def _receive(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str
    ) -> AsyncResponse:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                raise errors.Unavailable(
                    f"the engine at {self.path} closed the connection unanswered"
                ) from None
            except asyncio.LimitOverrunError:
                raise errors.LimitExceeded("the engine's answer has too many headers") from None
            except ConnectionResetError:
                raise errors.Unavailable(f"the engine at {self.path} hung up") from None
            status, headers, _ = http.parse_head(head[:-4], self.path)
            if status != 100:
                return AsyncResponse(reader, writer, method, status, headers)

    async def call(self, method: str, target: str, body: Any = None) -> Any:
        """JSON in, JSON out (None for an empty answer)."""
        data = None if body is None else wire.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        async with await self.open(method, target, data, headers) as response:
            payload = await response.read()
        if "json" in response.headers.get("content-type", "") and payload.strip():
            return wire.loads(payload)
        return payload.decode(errors="replace") if payload.strip() else None

    async def hijack(
        self, target: str, body: Any = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Upgrade a POST to a raw stream."""
        data = b"" if body is None else wire.dumps(body).encode()
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        if data:
            headers["Content-Type"] = "application/json"
        response = await self.open("POST", target, data, headers)
        return response.reader, response.writer
