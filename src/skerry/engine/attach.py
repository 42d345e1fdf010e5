"""Joining a container's streams before it runs, and sharing one stream among several clients.

A client attaches first and starts the container afterwards, so `Pending` stands in for the stream
until there is one. The driver joins one stream before the program's first byte; when several
clients wait, `FanOut` gives each of them all of it.
"""

import asyncio
from collections.abc import Sequence

from skerry.base.isolation import Attach
from skerry.engine.isolation import Stream

BUFFER = 64
"""Chunks that one slow client may lag behind the others before all wait for it."""


class Pending:
    """A Stream that waits for the container's start."""

    def __init__(self, how: Attach) -> None:
        self.how = how
        self._stream: asyncio.Future[Stream | None] = asyncio.get_running_loop().create_future()

    def resolve(self, stream: Stream | None) -> None:
        """The container has started (or, with None, will not)."""
        if not self._stream.done():
            self._stream.set_result(stream)

    async def read(self) -> bytes:
        """See Stream."""
        stream = await asyncio.shield(self._stream)
        return b"" if stream is None else await stream.read()

    async def write(self, data: bytes) -> None:
        """See Stream."""
        stream = await asyncio.shield(self._stream)
        if stream is not None:
            await stream.write(data)

    async def close_stdin(self) -> None:
        """See Stream."""
        stream = await asyncio.shield(self._stream)
        if stream is not None:
            await stream.close_stdin()

    async def close(self) -> None:
        """See Stream. Before the start it withdraws."""
        if not self._stream.done():
            self._stream.set_result(None)
            return
        stream = self._stream.result()
        if stream is not None:
            await stream.close()


def union(waiting: Sequence[Pending]) -> Attach:
    """What the driver has to join so that everybody gets what they asked for."""
    return Attach(
        stdin=any(each.how.stdin for each in waiting),
        stdout=any(each.how.stdout for each in waiting),
        stderr=any(each.how.stderr for each in waiting),
    )


def deliver(stream: Stream | None, waiting: Sequence[Pending], *, terminal: bool) -> None:
    """Hand a fresh stream to those who wait for it."""
    if stream is None or len(waiting) == 1:
        for each in waiting:
            each.resolve(stream)
        return
    shared = FanOut(stream, terminal=terminal)
    for each in waiting:
        each.resolve(shared.member(each.how))
    shared.begin()


class FanOut:
    """One stream for several clients, each with its own choice of outputs."""

    def __init__(self, stream: Stream, *, terminal: bool) -> None:
        self.stream = stream
        self.members: list[_Member] = []
        self._terminal = terminal
        self._task: asyncio.Task[None] | None = None

    def member(self, how: Attach) -> "_Member":
        """A Stream of its own."""
        member = _Member(self, how)
        self.members.append(member)
        return member

    def begin(self) -> None:
        """Start to read."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        rest = b""
        try:
            while data := await self.stream.read():
                if self._terminal:
                    frames = [(1, data)]
                else:
                    frames, rest = split_frames(rest + data)
                for member in list(self.members):
                    chosen = b"".join(frame for kind, frame in frames if member.wants(kind))
                    if chosen:
                        await member.queue.put(chosen)
        finally:
            for member in self.members:
                member.queue.put_nowait(b"") if not member.queue.full() else None
                member.ended = True

    async def leave(self, member: "_Member") -> None:
        """Drop one client; the last one closes the stream."""
        if member in self.members:
            self.members.remove(member)
            while not member.queue.empty():
                member.queue.get_nowait()
        if not self.members:
            if self._task is not None:
                self._task.cancel()
            await self.stream.close()


class _Member:
    """One client's end of a FanOut."""

    def __init__(self, shared: FanOut, how: Attach) -> None:
        self._shared = shared
        self._how = how
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(BUFFER)
        self.ended = False

    def wants(self, kind: int) -> bool:
        return self._how.stderr if kind == 2 else self._how.stdout

    async def read(self) -> bytes:
        if self.ended and self.queue.empty():
            return b""
        return await self.queue.get()

    async def write(self, data: bytes) -> None:
        if self._how.stdin:
            await self._shared.stream.write(data)

    async def close_stdin(self) -> None:
        if self._how.stdin:
            await self._shared.stream.close_stdin()

    async def close(self) -> None:
        await self._shared.leave(self)


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Whole frames of Docker's multiplexed stream with their stream number, and what is left."""
    frames, at = [], 0
    while len(data) - at >= 8:
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
        if end > len(data):
            break
        frames.append((data[at], data[at:end]))
        at = end
    return frames, data[at:]
