"""ADD of a URL: fetched once, asked for again with its ETag, kept by content.

`<root>/build/downloads/<sha256>`; a record for each URL says which one it was and how to ask.
"""

import asyncio
import email.utils
import hashlib
import os
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from skerry.base.errors import (
    DigestMismatch,
    InvalidInput,
    LimitExceeded,
    NotFound,
    SystemFault,
    Unavailable,
)
from skerry.build.state import fingerprint
from skerry.store import Store

KIND: Final = "build-download"
MAX_BYTES: Final = 8 << 30
_PIECE: Final = 1 << 20
_REDIRECTS: Final = 10
_CONNECT_SECONDS: Final = 30
_IDLE_SECONDS: Final = 60


class Download(NamedTuple):
    """A fetched file."""

    name: str
    """The last component of the URL's path; empty when it has none."""
    path: str
    digest: str
    """64 hex digits."""
    size: int
    modified_ns: int
    """By the server; 0 when it does not say."""


class Downloads:
    """Fetched files of one root."""

    def __init__(self, store: Store, root: str) -> None:
        self._store = store
        self.folder = os.path.join(root, "build", "downloads")

    async def fetch(self, url: str, checksum: str = "") -> Download:
        """The file, from here when the server says that it is the same.

        `checksum` is `sha256:<hex>`. NotFound, Unavailable, LimitExceeded, DigestMismatch.
        """
        if checksum and not checksum.startswith("sha256:"):
            raise InvalidInput(f"--checksum {checksum:.40}: only sha256 is known for URLs")
        record = self._record(url)
        if record and checksum == f"sha256:{record['digest']}":
            # Whatever the server has now, this is what was asked for.
            return self._found(url, record)
        found = await self._ask(url, record)
        if checksum and checksum != f"sha256:{found.digest}":
            raise DigestMismatch(f"{url}: digest is sha256:{found.digest}, not {checksum}")
        return found

    def _record(self, url: str) -> dict[str, Any] | None:
        try:
            data = self._store.records.get(KIND, fingerprint(url))
        except NotFound:
            return None
        return data if os.path.isfile(f"{self.folder}/{data['digest']}") else None

    def _found(self, url: str, record: dict[str, Any]) -> Download:
        record["used_at"] = time.time()
        self._store.records.put(KIND, fingerprint(url), record)
        path = f"{self.folder}/{record['digest']}"
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        return Download(name, path, record["digest"], record["size"], int(record["modified"] * 1e9))

    async def _ask(self, url: str, record: dict[str, Any] | None) -> Download:
        # Imported late: few builds fetch anything.
        import aiohttp

        headers = {"Accept-Encoding": "identity", "User-Agent": "skerry"}
        if record and record["etag"]:
            headers["If-None-Match"] = record["etag"]
        elif record and record["last_modified"]:
            headers["If-Modified-Since"] = record["last_modified"]
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=_IDLE_SECONDS
        )
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.get(url, headers=headers, max_redirects=_REDIRECTS) as answer,
            ):
                if answer.status == 304 and record:
                    return self._found(url, record)
                if answer.status in (404, 410):
                    raise NotFound(f"{url}: the server answers {answer.status}")
                if answer.status != 200:
                    raise Unavailable(f"{url}: the server answers {answer.status}")
                return await self._take(url, answer)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"{url}: {reason:.300}") from None

    async def _take(self, url: str, answer: Any) -> Download:
        if (answer.content_length or 0) > MAX_BYTES:
            raise LimitExceeded(f"{url}: more than {MAX_BYTES} bytes")
        try:
            os.makedirs(self.folder, 0o700, exist_ok=True)
            temporary = self._store.scratch.path("download")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemFault(f"{url}: {error}") from None
        seen, size = hashlib.sha256(), 0
        try:
            async for piece in answer.content.iter_chunked(_PIECE):
                size += len(piece)
                if size > MAX_BYTES:
                    raise LimitExceeded(f"{url}: more than {MAX_BYTES} bytes")
                seen.update(piece)
                await asyncio.to_thread(_write, fd, piece)
            os.rename(temporary, f"{self.folder}/{seen.hexdigest()}")
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        last = answer.headers.get("Last-Modified", "")
        record = {
            "url": url,
            "digest": seen.hexdigest(),
            "size": size,
            "etag": answer.headers.get("ETag", ""),
            "last_modified": last,
            "modified": _seconds(last),
            "created_at": time.time(),
        }
        return self._found(url, record)


class FileTree:
    """A fetched file as a tree of one file."""

    own = False

    def __init__(self, found: Download, url: str) -> None:
        from skerry.build.tree import Node
        from skerry.store.tar_reader import DIRECTORY, FILE

        self.what = url
        self.name = found.name or "download"
        self._path = found.path
        self._digest = bytes.fromhex(found.digest)
        self._root = Node("", DIRECTORY, 0o755, 0, 0, 0, 0, "", 0, 0, {})
        # The mode that Docker gives to what it fetched.
        self._file = Node(self.name, FILE, 0o600, 0, 0, found.size, found.modified_ns, "", 0, 0, {})

    def get(self, path: str) -> Any:
        """The file, or the root."""
        return {"": self._root, self.name: self._file}.get(path)

    def names(self, path: str) -> list[str]:
        """The only one."""
        return [] if path else [self.name]

    def digest(self, node: Any) -> bytes:
        """SHA-256, known since it came."""
        del node
        return self._digest

    def data(self, node: Any) -> Iterator[bytes]:
        """Its bytes."""
        left = node.size
        with open(self._path, "rb", buffering=0) as file:
            while left and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _seconds(text: str) -> float:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError):
        return 0.0
