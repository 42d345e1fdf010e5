"""Who is told when the kernel kills for lack of memory in a container that goes on.

A descriptor a container (`Cgroup.watch_oom`), all of them in one epoll(7): that of cgroup v2 polls
as POLLPRI, which an event loop does not know. Most containers end within a second, and their end
says it, so they are watched only after that. The kernel may wake us before it has counted: v1 tells
before it kills.
"""

import asyncio
import os
import resource
import select
from collections.abc import Callable
from typing import Protocol

from skerry.base.errors import SkerryError
from skerry.kernel.cgroups_group import OomWatch

AFTER = 1.0
"""Seconds of a container's life until it is watched."""
LOOKS = (0.05, 0.5, 2.0)
"""Seconds after a wake at which the count is read."""


class Starving(Protocol):
    """Of a control group, what is needed of it here."""

    def watch_oom(self) -> OomWatch:
        """See Cgroup.watch_oom."""

    def oom_kills(self) -> int:
        """See Cgroup.oom_kills."""


class _Watched:
    def __init__(self, container_id: str, group: Starving) -> None:
        self.id = container_id
        self.group = group
        self.watch = OomWatch(-1, 0)
        self.kills = 0
        self.timers: list[asyncio.TimerHandle] = []


class OomWatches:
    """By container; `told` is called with its id, and whether that may have been told before, by an
    earlier engine. To be used on the event loop."""

    def __init__(self, told: Callable[[str, bool], None]) -> None:
        self._told = told
        self._watched: dict[str, _Watched] = {}
        self._by_fd: dict[int, _Watched] = {}
        # From the start, so that the number of descriptors does not grow with use.
        self._epoll = select.epoll()
        self._read = False
        # Connections and streams need descriptors too.
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def watch(self, container_id: str, group: Starving) -> None:
        """From a second from now on."""
        self.forget(container_id)
        watched = self._watched[container_id] = _Watched(container_id, group)
        later = asyncio.get_running_loop().call_later(AFTER, self._begin, watched)
        watched.timers.append(later)

    def _begin(self, watched: _Watched) -> None:
        if len(self._by_fd) >= self._most:
            return
        try:
            watch = watched.group.watch_oom()
        except SkerryError:
            return  # No memory controller, or the container has just ended.
        watched.watch = watch
        self._by_fd[watch.fd] = watched
        if not self._read:
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._woken)
            self._read = True
        self._epoll.register(watch.fd, watch.mask)
        self._look(watched, earlier=True)

    def _woken(self) -> None:
        loop = asyncio.get_running_loop()
        for fd, _ in self._epoll.poll(0):
            watched = self._by_fd.get(fd)
            if watched is None:
                continue  # A child that is being started has it open for a moment longer.
            watched.watch.clear()
            for timer in watched.timers:
                timer.cancel()
            watched.timers = [loop.call_later(after, self._look, watched) for after in LOOKS]

    def _look(self, watched: _Watched, earlier: bool = False) -> None:
        try:
            kills = watched.group.oom_kills()
        except SkerryError:
            return
        if kills > watched.kills:
            watched.kills = kills
            self._told(watched.id, earlier)

    def forget(self, container_id: str) -> None:
        """It has ended."""
        watched = self._watched.pop(container_id, None)
        if watched is None:
            return
        for timer in watched.timers:
            timer.cancel()
        if watched.watch.fd >= 0:
            del self._by_fd[watched.watch.fd]
            os.close(watched.watch.fd)  # It leaves the epoll with that.

    def close(self) -> None:
        """Forget all."""
        for container_id in list(self._watched):
            self.forget(container_id)
        if self._read:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._read = False
        self._epoll.close()
