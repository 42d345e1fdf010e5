"""SSH agents of the client, as sockets in a step: `RUN --mount=type=ssh`.

Each connection of a program is told to the client (event `ssh`), which opens a stream of its own
for it (`join`). The key never leaves the client.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Final

from skerry.base.errors import NotFound
from skerry.build.events import Tell

_WAIT: Final = 20.0
"""Seconds that a program waits for the client to take its connection."""
_MAX: Final = 64
_PIECE: Final = 64 << 10

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Agents:
    """The connections of one build."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._waiting: dict[int, asyncio.Future[Ends]] = {}
        self._count = 0

    @contextlib.asynccontextmanager
    async def listen(
        self,
        id: str,
        path: str,
        mode: int,
        owner: tuple[int, int],
    ) -> AsyncIterator[None]:
        """A socket at `path` while the block runs."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._serve(id, reader, writer)
            finally:
                tasks.discard(task)

        server = await asyncio.start_unix_server(serve, path)
        try:
            os.chown(path, *owner)
            os.chmod(path, mode)
            yield
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(
        self,
        id: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            if len(self._waiting) >= _MAX:
                return
            self._count += 1
            number = self._count
            self._waiting[number] = asyncio.get_running_loop().create_future()
            self._tell({"kind": "ssh", "id": id, "connection": number})
            try:
                theirs = await asyncio.wait_for(self._waiting[number], _WAIT)
            except TimeoutError:
                return
            finally:
                del self._waiting[number]
            await splice((reader, writer), theirs)
        finally:
            writer.close()

    def join(self, number: int, ends: Ends) -> None:
        """The client's stream for a connection it was told of. NotFound when nobody waits."""
        waiting = self._waiting.get(number)
        if waiting is None or waiting.done():
            raise NotFound(f"no agent connection {number} is waiting")
        waiting.set_result(ends)


async def splice(one: Ends, other: Ends) -> None:
    """Carry bytes both ways until either side has ended."""
    ways = [
        asyncio.ensure_future(_carry(one[0], other[1])),
        asyncio.ensure_future(_carry(other[0], one[1])),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        other[1].close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
