"""What a build tells while it runs: plain objects, in order, for whoever draws or prints them.

The forms are written down in docs/build.md; a client passes over kinds that it does not know.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from skerry.build.errors import Cancelled

Event = dict[str, Any]
Tell = Callable[[Event], None]


class Channel:
    """From a build to one reader."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """Never waits."""
        event.setdefault("time", time.time())
        self._queue.put_nowait(event)

    def end(self) -> None:
        """Nothing comes any more."""
        self._queue.put_nowait(None)

    async def read(self) -> AsyncIterator[list[Event]]:
        """Until the end: what has come since the last time."""
        event = await self._queue.get()
        while event is not None:
            found = [event]
            while not self._queue.empty() and (event := self._queue.get_nowait()) is not None:
                found.append(event)
            yield found
            if event is not None:
                event = await self._queue.get()


async def follow(work: Callable[[Tell], Awaitable[None]]) -> AsyncIterator[list[Event]]:
    """The events of `work` while it runs, those together that came together; its error at the end.
    Closing the iterator cancels it, and returns only when it has cleaned up. Cancelled."""
    channel = Channel()

    async def run() -> None:
        try:
            await work(channel.tell)
        finally:
            channel.end()

    task = asyncio.ensure_future(run())
    try:
        async for events in channel.read():
            yield events
        await asyncio.wait([task])
        if task.cancelled():
            raise Cancelled
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
