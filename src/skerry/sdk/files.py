"""`sandbox.files`, blocking and asynchronous. Paths inside are absolute."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from skerry.base.errors import NotFound
from skerry.sdk import file_words, requests
from skerry.sdk.client import Client
from skerry.sdk.containers import Container

if TYPE_CHECKING:
    from skerry.sdk.aio import AsyncContainer
    from skerry.sdk.aio_http import AsyncClient
    from skerry.sdk.file_words import LocalPath
    from skerry.sdk.sandbox_words import Entry


class Files:
    """`sandbox.files`. Paths are absolute; folders above a written file are made."""

    def __init__(self, container: Container, client: Client) -> None:
        self._container = container
        self._client = client

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Make or replace a file, which becomes root's; text is written as UTF-8."""
        raw = data.encode() if isinstance(data, str) else data
        self._container.put_archive("/", file_words.packed(path, raw, mode), keep_kinds=True)

    def read(self, path: str) -> bytes:
        """The content of a file. NotFound; InvalidInput when it is none; LimitExceeded above
        1 GiB."""
        return file_words.content_of(self._container.get_archive(path), path)

    def read_text(self, path: str) -> str:
        """The content of a file as UTF-8."""
        return self.read(path).decode()

    def list(self, path: str = "/") -> list[Entry]:
        """What is in a folder, by name. NotFound."""
        answer = self._client.get(file_words.list_target(self._container.id, path))
        return file_words.entries_of(answer)

    def stat(self, path: str) -> Entry:
        """About one file or folder; a symbolic link is not followed. NotFound."""
        request = requests.container(self._container.id, "archive", "HEAD", path=path)
        try:
            response = self._client.open(request.method, request.target)
        except NotFound:
            raise NotFound(f"there is no {path} in the sandbox, or no sandbox") from None
        response.connection.close()
        return file_words.entry_of(response.headers)

    def exists(self, path: str) -> bool:
        """Whether there is something."""
        try:
            self.stat(path)
        except NotFound:
            return False
        return True

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """Make a folder and those above it; one that is there gets the mode."""
        self._container.put_archive("/", file_words.folder(path, mode), keep_kinds=True)

    def upload(self, local: LocalPath, path: str) -> None:
        """A local file or folder becomes `path`, owned by root. NotFound, InvalidInput."""
        self._container.put_archive("/", file_words.packed_local(local, path), keep_kinds=True)

    def download(self, path: str, local: LocalPath, *, max_bytes: int | None = None) -> None:
        """A file or folder becomes `local`; nothing outside that is written.

        What the sandbox holds may be large: LimitExceeded above `max_bytes`.
        """
        pieces = self._container.get_archive(path)
        file_words.unpack_local(pieces, path, local, max_bytes)


class AsyncFiles:
    """`sandbox.files`; as `Files`."""

    def __init__(self, container: AsyncContainer, client: AsyncClient) -> None:
        self._container = container
        self._client = client

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Make or replace a file, which becomes root's; text is written as UTF-8."""
        raw = data.encode() if isinstance(data, str) else data
        await self._container.put_archive("/", file_words.packed(path, raw, mode), keep_kinds=True)

    async def read(self, path: str) -> bytes:
        """The content of a file. NotFound; InvalidInput when it is none; LimitExceeded above
        1 GiB."""
        return await asyncio.to_thread(self._blocking().read, path)

    async def read_text(self, path: str) -> str:
        """The content of a file as UTF-8."""
        return (await self.read(path)).decode()

    async def list(self, path: str = "/") -> list[Entry]:
        """What is in a folder, by name. NotFound."""
        target = file_words.list_target(self._container.id, path)
        return file_words.entries_of(await self._client.call("GET", target))

    async def stat(self, path: str) -> Entry:
        """About one file or folder; a symbolic link is not followed. NotFound."""
        return await asyncio.to_thread(self._blocking().stat, path)

    async def exists(self, path: str) -> bool:
        """Whether there is something."""
        return await asyncio.to_thread(self._blocking().exists, path)

    async def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """Make a folder and those above it; one that is there gets the mode."""
        await self._container.put_archive("/", file_words.folder(path, mode), keep_kinds=True)

    async def upload(self, local: LocalPath, path: str) -> None:
        """A local file or folder becomes `path`, owned by root. NotFound, InvalidInput."""
        await asyncio.to_thread(self._blocking().upload, local, path)

    async def download(self, path: str, local: LocalPath, *, max_bytes: int | None = None) -> None:
        """A file or folder becomes `local`; as `Files.download`."""
        await asyncio.to_thread(self._blocking().download, path, local, max_bytes=max_bytes)

    def _blocking(self) -> Files:
        # Archives are read from and written to local files, which block in any case.
        client = Client(self._client.host)
        return Files(Container(client, self._container.id), client)
