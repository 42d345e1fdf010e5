"""SSH agents of the client, as sockets in a step: `RUN --mount=type=ssh`.

Each connection of a program is told to the client (event `ssh`), which opens a stream of its own
for it (`join`). The key never leaves the client.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, Protocol

from skerry.base.errors import NotFound
from skerry.build.events import Tell

_WAIT: Final = 20.0
"""Seconds that a program waits for the client to take its connection."""
_MAX: Final = 64
_PIECE: Final = 64 << 10


class Peer(Protocol):
    """The client's end of one connection."""

    async def read(self) -> bytes:
        """What the agent answers; empty at the end."""

    async def write(self, data: bytes) -> None:
        """Send to the agent."""


class _Offer(NamedTuple):
    """A connection that waits for the client, and one that has ended."""

    peer: asyncio.Future[Peer]
    over: asyncio.Future[None]


class Agents:
    """The connections of one build."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._waiting: dict[int, _Offer] = {}
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
            loop = asyncio.get_running_loop()
            offer = self._waiting[number] = _Offer(loop.create_future(), loop.create_future())
            try:
                self._tell({"kind": "ssh", "id": id, "connection": number})
                await _splice(reader, writer, await asyncio.wait_for(offer.peer, _WAIT))
            except TimeoutError:
                return
            finally:
                del self._waiting[number]
                if not offer.over.done():
                    offer.over.set_result(None)
        finally:
            writer.close()

    async def join(self, number: int, peer: Peer) -> None:
        """Carry a connection that the client was told of to its end. NotFound if nobody waits."""
        offer = self._waiting.get(number)
        if offer is None or offer.peer.done():
            raise NotFound(f"no agent connection {number} is waiting")
        offer.peer.set_result(peer)
        await asyncio.shield(offer.over)


async def _splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
    """Carry bytes both ways until either side has ended."""

    async def there() -> None:
        while piece := await reader.read(_PIECE):
            await peer.write(piece)

    async def back() -> None:
        while piece := await peer.read():
            writer.write(piece)
            await writer.drain()

    ways = [asyncio.ensure_future(there()), asyncio.ensure_future(back())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
