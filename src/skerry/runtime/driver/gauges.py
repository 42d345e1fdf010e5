"""The files that a container's statistics come from, open for as long as somebody watches it."""

import asyncio
import resource

from skerry.kernel import cgroups_files
from skerry.kernel.cgroups_files import Read
from skerry.kernel.kept_files import KeptFiles

IDLE = 3.0
"""Seconds after the last reading of a container until its files are closed."""
_FILES_EACH = 16
"""Of a container, rounded up."""


class Gauges:
    """By container. To be used on the event loop."""

    def __init__(self) -> None:
        self._kept: dict[str, KeptFiles] = {}
        self._read_at: dict[str, float] = {}
        self._sweep: asyncio.TimerHandle | None = None
        # Connections need descriptors too.
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 // _FILES_EACH

    def of(self, container_id: str) -> Read:
        """What reads a file for a container's statistics."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get(container_id)
        if kept is None:
            if len(self._kept) >= self._most:
                return cgroups_files.parsed
            kept = self._kept[container_id] = KeptFiles()
        self._read_at[container_id] = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE, self._close_idle)
        return kept.parsed

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        for container_id, at in list(self._read_at.items()):
            if at + IDLE <= loop.time():
                self.forget(container_id)
        if self._kept:
            self._sweep = loop.call_later(IDLE, self._close_idle)

    def forget(self, container_id: str) -> None:
        """The container has ended, or nobody watches it any more."""
        kept = self._kept.pop(container_id, None)
        if kept is not None:
            kept.close()
            del self._read_at[container_id]

    def close(self) -> None:
        """Close everything."""
        for container_id in list(self._kept):
            self.forget(container_id)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
