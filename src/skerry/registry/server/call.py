"""One request on its way through the server, and what the routes share."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
from aiohttp import web

import skerry
from skerry.registry.server.documents import Document
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.sending import Sender
from skerry.registry.server.storage import Blob, Storage

_R = TypeVar("_R")
HEADERS: Final = {
    "Docker-Distribution-Api-Version": "registry/2.0",
    "X-Content-Type-Options": "nosniff",
    "Server": f"skerry/{skerry.__version__}",
}
BATCH: Final = 1 << 20
"""Bytes that are written and hashed in one go."""


class Origin(Protocol):
    """Where a pull-through cache gets what it does not have."""

    async def resolve(self, repository: str, tag: str) -> str:
        """The tag's digest, there or, when the origin cannot be reached, here."""
        ...

    async def fetch_manifest(self, repository: str, digest: str) -> Document:
        """Get and store; MANIFEST_UNKNOWN."""
        ...

    async def fetch_blob(self, repository: str, digest: str) -> Blob:
        """Get and store; BLOB_UNKNOWN."""
        ...


class Options(NamedTuple):
    """How the server behaves."""

    read_only: bool = False
    delete: bool = True
    page: bool = True


class Busy:
    """Which uploads have a request at work: one at a time."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def of(self, id_: str, patience: float) -> AsyncIterator[None]:
        """Wait for one's turn; 409 when the other does not end within `patience` seconds."""
        lock, users = self._locks.get(id_, (asyncio.Lock(), 0))
        self._locks[id_] = (lock, users + 1)
        try:
            try:
                # The connection of an earlier attempt may not have noticed yet that it is dead.
                async with asyncio.timeout(patience):
                    await lock.acquire()
            except TimeoutError:
                raise Refusal(
                    "BLOB_UPLOAD_INVALID", "another request is sending to this upload", status=409
                ) from None
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks[id_]
            if users > 1:
                self._locks[id_] = (lock, users - 1)
            else:
                del self._locks[id_]


class Call(NamedTuple):
    """A request with what its path said. `reference` is a tag, digest or upload id."""

    request: web.BaseRequest
    storage: Storage
    options: Options
    workers: ThreadPoolExecutor
    sender: Sender
    busy: Busy
    origin: Origin | None
    repository: str = ""
    reference: str = ""

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters after the question mark."""
        return self.request.query

    async def work(self, function: Callable[..., _R], *args: Any, **named: Any) -> _R:
        """A blocking call, off the loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.workers, lambda: function(*args, **named))

    async def chunk(self) -> bytes:
        """The next bytes of the body, empty at its end. 408 when the client stalls."""
        try:
            async with asyncio.timeout(self.storage.limits.idle):
                return await self.request.content.readany()
        except TimeoutError:
            raise Refusal(
                "UNKNOWN", "no data came for too long", status=408, headers={"Connection": "close"}
            ) from None

    async def body(self, limit: int, what: str) -> bytes:
        """The whole body. SIZE_INVALID (413) over `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        if (self.request.content_length or 0) <= limit:
            while chunk := await self.chunk():
                parts.append(chunk)
                size += len(chunk)
                if size > limit:
                    break
            else:
                return b"".join(parts)
        raise Refusal(
            "SIZE_INVALID",
            f"{what} of more than {limit} bytes",
            status=413,
            headers={"Connection": "close"},
        )


def answer(
    data: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(data),
        status=status,
        content_type="application/json",
        charset="utf-8",
        headers=headers,
    )


def empty(status: int, headers: Mapping[str, str]) -> web.Response:
    """An answer without a body."""
    return web.Response(status=status, headers={"Content-Length": "0", **headers})
