"""A pull-through cache: what is asked for and not here is fetched from another registry and kept.

A tag is looked up at the origin each time (a HEAD); when the origin cannot be reached, what is here
answers. Content by digest that is here is never asked for again. One fetch at a time per digest;
whoever comes meanwhile waits for it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from skerry.base.errors import NotFound, RegistryRateLimited, SkerryError
from skerry.base.oci_image import Descriptor
from skerry.registry.auth import Credentials
from skerry.registry.client import Client, Limits
from skerry.registry.config import Registries, RegistrySettings, load_registries
from skerry.registry.server import documents
from skerry.registry.server.call import BATCH
from skerry.registry.server.documents import Document
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Blob, Storage

_R = TypeVar("_R")
_PATIENCE = Limits(connect=5, answer=15, attempts=2)
"""A client waits meanwhile, and what is here answers when the origin does not."""


class Upstream:
    """The registry behind the cache. `place` is `host[:port]` or its URL."""

    def __init__(self, place: str, storage: Storage, *, root: str = "") -> None:
        scheme = re.match(r"(https?)://", place)
        name = re.sub(r"^https?://", "", place).rstrip("/")
        registries = load_registries(root)
        if scheme and scheme.group(1) == "http":
            registries = Registries({name: RegistrySettings(name, name, plain_http=True)})
        self._hub = name == "docker.io"
        self._storage = storage
        self._client = Client(name, registries, Credentials(), limits=_PATIENCE)
        self._fetching: dict[str, asyncio.Task[Any]] = {}

    async def close(self) -> None:
        """End what is being fetched; drop the connections."""
        for task in list(self._fetching.values()):
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)
        await self._client.close()

    def _there(self, repository: str) -> str:
        return f"library/{repository}" if self._hub and "/" not in repository else repository

    async def resolve(self, repository: str, tag: str) -> str:
        """The tag's digest there; the one that is kept here when the origin does not answer."""
        try:
            found = await self._client.resolve(self._there(repository), tag)
        except NotFound:
            raise Refusal("MANIFEST_UNKNOWN", f"the origin has no {repository}:{tag}") from None
        except SkerryError as error:
            try:
                return await asyncio.to_thread(self._storage.resolve, repository, tag)
            except Refusal:
                raise _unreachable(error) from None
        known = await asyncio.to_thread(self._kept, repository, tag)
        if known != found.digest:
            await self._once(
                f"{repository}:{tag}", lambda: self._fetch(repository, found.digest, tag)
            )
        return found.digest

    def _kept(self, repository: str, tag: str) -> str:
        try:
            return self._storage.resolve(repository, tag)
        except Refusal:
            return ""

    async def fetch_manifest(self, repository: str, digest: str) -> Document:
        """Get and store a manifest."""
        return await self._once(
            f"{repository}@{digest}", lambda: self._fetch(repository, digest, "")
        )

    async def _fetch(self, repository: str, digest: str, tag: str) -> Document:
        try:
            found = await self._client.manifest(self._there(repository), digest)
        except NotFound:
            raise Refusal("MANIFEST_UNKNOWN", f"the origin has no {repository}@{digest}") from None
        except SkerryError as error:
            raise _unreachable(error) from None
        document = documents.parse(found.data, found.media_type, digest=digest)
        await asyncio.to_thread(
            self._storage.put_manifest, repository, document, tag, complete=False
        )
        return document

    async def fetch_blob(self, repository: str, digest: str) -> Blob:
        """Get and store a blob that a manifest kept here speaks of."""
        return await self._once(f"blob {digest}", lambda: self._fetch_blob(repository, digest))

    async def _fetch_blob(self, repository: str, digest: str) -> Blob:
        piece = await asyncio.to_thread(self._storage.piece, repository, digest)
        if piece.size > self._storage.limits.blob:
            raise Refusal("DENIED", f"{digest} has {piece.size} bytes, too many for this cache")
        descriptor = Descriptor(piece.media_type, digest, piece.size)
        upload = await asyncio.to_thread(self._storage.start_upload, repository)
        try:
            blob = self._client.blob(self._there(repository), descriptor)
            async with aclosing(blob) as chunks:
                parts = bytearray()
                async for chunk in chunks:
                    parts += chunk
                    if len(parts) >= BATCH:
                        await asyncio.to_thread(upload.append, bytes(parts))
                        parts.clear()
            if parts:
                await asyncio.to_thread(upload.append, bytes(parts))
        except NotFound:
            self._storage.cancel_upload(upload)
            raise Refusal("BLOB_UNKNOWN", f"the origin has no blob {digest}") from None
        except Refusal:
            self._storage.cancel_upload(upload)
            raise
        except SkerryError as error:
            self._storage.cancel_upload(upload)
            raise _unreachable(error) from None
        except BaseException:
            self._storage.cancel_upload(upload)
            raise
        await asyncio.to_thread(self._storage.commit_upload, upload, digest)
        return self._storage.blob(repository, digest)

    async def _once(self, key: str, fetch: Callable[[], Awaitable[_R]]) -> _R:
        """Join the fetch that is under way; it goes on when the client that began it goes."""
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.ensure_future(fetch())
            self._fetching[key] = task
            task.add_done_callback(lambda _: self._fetching.pop(key, None))
        found: _R = await asyncio.shield(task)
        return found


def _unreachable(error: SkerryError) -> Refusal:
    if isinstance(error, RegistryRateLimited):
        wait = error.retry_after
        headers = {"Retry-After": str(int(wait) + 1)} if wait is not None else {}
        return Refusal("TOOMANYREQUESTS", error.message, headers=headers)
    return Refusal("UNAVAILABLE", error.message, status=502)
