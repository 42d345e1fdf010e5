"""A poll loop for one keeper: descriptors and what to call when they are ready."""

import select
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR
Ready = Callable[[int, int], None]
"""Called with the descriptor and the poll events."""


class Loop:
    """Level-triggered epoll. Descriptors must be dropped before they are closed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._events: dict[int, int] = {}

    def watch(self, fd: int, events: int, ready: Ready) -> None:
        """Call `ready` when `fd` has one of `events`, or was hung up even if those are 0."""
        if fd not in self._events:
            self._epoll.register(fd, events)
        elif self._events[fd] != events:
            self._epoll.modify(fd, events)
        self._events[fd] = events
        self._ready[fd] = ready

    def drop(self, fd: int) -> None:
        """Forget `fd`; nothing happens when it is not watched.

        Hang-ups cannot be masked, so whoever wants no event at all for a while drops the
        descriptor instead of watching for 0.
        """
        if self._events.pop(fd, None) is not None:
            self._ready.pop(fd)
            self._epoll.unregister(fd)

    def turn(self, deadline: float | None) -> None:
        """Wait for events and serve them; returns at the latest at `deadline` (monotonic)."""
        timeout = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        for fd, events in self._epoll.poll(timeout, 16):
            # An earlier event of this turn may have dropped the descriptor.
            ready = self._ready.get(fd)
            if ready is not None:
                ready(fd, events)

    def fileno(self) -> int:
        """The epoll descriptor, which can be read while something is ready."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Release the epoll descriptor."""
        self._epoll.close()
