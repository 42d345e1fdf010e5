"""Docker's progress messages, and the queue between the work that tells them and its client.

A message is `{"status", "id", "progressDetail": {"current", "total"}, "progress"}`; the docker CLI
draws its bars from `progressDetail`, older clients print `progress`.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

Message = dict[str, Any]
Tell = Callable[[Message], None]
Listener = Callable[[str, int, int], None]
"""Told a layer's status, and how many of how many bytes are done (0 of 0 for a plain status)."""

INTERVAL: Final = 0.1
"""Seconds between two messages about the same bytes."""
_WIDTH: Final = 50
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def human_size(size: float) -> str:
    """Four digits and a decimal unit, as go-units writes them."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g}{_UNITS[unit]}"


def bar(current: int, total: int) -> str:
    """Docker's `progress`: a bar of 50 columns and the sizes."""
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{human_size(current):>8}"
    done = min(current * 100 // total // 2, _WIDTH)
    sizes = f"{human_size(current):>8}"
    if current <= total:
        sizes += f"/{human_size(total)}"
    return f"[{'=' * done}>{' ' * (_WIDTH - done)}] {sizes}"


def layer_message(id: str, status: str, current: int = 0, total: int = 0) -> Message:
    """What is said about one layer."""
    if not current and not total:
        return {"status": status, "progressDetail": {}, "id": id}
    detail = {"current": current, "total": total}
    return {"status": status, "progressDetail": detail, "progress": bar(current, total), "id": id}


class Feed:
    """Messages for one client. Of those that a slow one has not read yet, a layer's newer bytes
    take the place of the older ones, so that it cannot fall behind without limit."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._last: dict[tuple[str, str], Message] = {}
        self._ready = asyncio.Event()
        self._ended = False

    def tell(self, message: Message) -> None:
        """Add one; from the event loop's thread."""
        key = (message.get("id", ""), message.get("status", ""))
        waiting = self._last.get(key)
        if waiting is not None and message.get("progressDetail"):
            waiting.update(message)
            return
        self._messages.append(message)
        if message.get("progressDetail"):
            self._last[key] = message
        self._ready.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._ready.set()

    async def messages(self) -> AsyncIterator[Message]:
        """In order, until the end."""
        while True:
            while self._messages:
                message = self._messages.popleft()
                self._last.pop((message.get("id", ""), message.get("status", "")), None)
                yield message
            if self._ended:
                return
            self._ready.clear()
            await self._ready.wait()


async def follow(work: Callable[[Tell], Awaitable[None]]) -> AsyncIterator[Message]:
    """Run `work` and yield what it tells; its error is raised at the end.

    A reader that leaves ends the work: close the iterator (`aclosing`).
    """
    feed = Feed()

    async def run() -> None:
        try:
            await work(feed.tell)
        finally:
            feed.end()

    task = asyncio.create_task(run())
    try:
        async for message in feed.messages():
            yield message
        await task
    finally:
        await end([task])


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they are gone; what they failed with concerns nobody any more."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()


class Meter:
    """Passes on how far some bytes are, at most every `INTERVAL` seconds and at their end."""

    def __init__(self, status: str, total: int, listener: Listener) -> None:
        self._status = status
        self._total = total
        self._listener = listener
        self._last = 0.0

    def at(self, current: int) -> None:
        """So many are done."""
        now = time.monotonic()
        if now - self._last >= INTERVAL or current == self._total:
            self._last = now
            self._listener(self._status, current, self._total)
