"""Files to clients by sendfile(2), from threads of their own.

Theory. One event loop is one thread: eight clients that pull at once share the processor time of
one, however many are idle. sendfile(2) runs without the interpreter's lock, so a transfer is handed
to one of a few threads for as long as its client takes what comes. A client that keeps a thread
waiting goes back to the loop, where waiting costs nothing, and asks again after its next slice;
so slow clients, however many, hold up nobody. Under TLS the loop does it all.

A thread works on a duplicate of the socket's descriptor: the loop may close its own at any time,
and the number may be another file's by then.
"""

import asyncio
import contextlib
import os
import select
import time
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final

SLICE: Final = 4 << 20
"""Bytes that a client has to take within the idle time, of which sendfile tells nothing between."""
TURN: Final = 1.0
"""Seconds that one client has a thread before others may."""
PATIENCE: Final = 50
"""Milliseconds that a thread waits for a client."""
THREADS: Final = 8


class Sender:
    """Sends for one server."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sender")
        self._free = THREADS

    def close(self) -> None:
        """Wait for the threads."""
        self._threads.shutdown()

    async def send(
        self, transport: asyncio.Transport, file: BinaryIO, start: int, end: int, idle: float
    ) -> int:
        """The file's bytes from `start` to `end`; how far it came when the file ends early.

        TimeoutError when the client takes less than a slice in `idle` seconds, ConnectionError when
        it has gone.
        """
        loop = asyncio.get_running_loop()
        while start < end:
            # What the transport still holds, headers first of all, has to go out before.
            if self._free and _is_plain(transport) and not transport.get_write_buffer_size():
                start = await self._turn(transport, file, start, end)
                if start == end:
                    break
            count = min(SLICE, end - start)
            async with asyncio.timeout(idle):
                sent = await loop.sendfile(transport, file, start, count)
            start += sent
            if sent < count:
                break
        return start

    async def _turn(
        self, transport: asyncio.Transport, file: BinaryIO, start: int, end: int
    ) -> int:
        if transport.is_closing():
            raise ConnectionResetError("the client has gone")
        with contextlib.ExitStack() as held:
            target = os.dup(transport.get_extra_info("socket").fileno())
            held.callback(os.close, target)
            source = os.dup(file.fileno())
            held.callback(os.close, source)
            work = self._threads.submit(_pump, target, source, start, end)
            held.pop_all()
        self._free -= 1
        # The awaiting task may be cancelled while the thread is at work.
        waiting = asyncio.wrap_future(work)
        waiting.add_done_callback(self._release)
        return await asyncio.shield(waiting)

    def _release(self, done: "asyncio.Future[int]") -> None:
        self._free += 1
        if not done.cancelled():
            # Looked at, also when nobody waits for it any more.
            done.exception()


def _is_plain(transport: asyncio.Transport) -> bool:
    return (
        transport.get_extra_info("sslcontext") is None
        and transport.get_extra_info("socket") is not None
    )


def _pump(target: int, source: int, start: int, end: int) -> int:
    """Send until the end, or while the client takes and has its turn; how far. Closes both."""
    until = time.monotonic() + TURN
    try:
        room = select.poll()
        room.register(target, select.POLLOUT)
        while start < end and time.monotonic() < until:
            try:
                sent = os.sendfile(target, source, start, end - start)
            except BlockingIOError:
                if not room.poll(PATIENCE):
                    break
                continue
            if not sent:
                break
            start += sent
        return start
    finally:
        os.close(target)
        os.close(source)
