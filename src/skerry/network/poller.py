"""One thread's descriptors and deadlines: what the network helper hangs on."""

import heapq
import select
import socket
import time
from collections.abc import Callable


class Poller:
    """Descriptors and deadlines with what to call."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def watch(self, sock: socket.socket, events: int, call: Callable[[int], None]) -> None:
        """Call when it is ready, with the events."""
        fd = sock.fileno()
        if fd in self._calls:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._calls[fd] = call

    def forget(self, sock: socket.socket) -> None:
        """Watch it no more; before it is closed."""
        fd = sock.fileno()
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once, later."""
        self._count += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._count, call))

    def turn(self) -> None:
        """Wait for the next thing and do it."""
        left = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        for fd, events in self._epoll.poll(left):
            call = self._calls.get(fd)
            if call is not None:
                call(events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
