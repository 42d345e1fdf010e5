"""How long a guest may take, whatever else its host has to do.

A guest that does not answer is given up, but a busy host is no guest's fault: the time that QEMU's
threads have waited for a processor is added to the guest's. Lean.

Source: Documentation/scheduler/sched-stats.rst (/proc/<pid>/task/<tid>/schedstat).
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress


def waited(pid: int, proc: str = "/proc") -> dict[str, float]:
    """Seconds for which each thread of a process was ready to run and did not, by its number; none
    where the kernel does not count them."""
    found = {}
    with suppress(OSError):
        for thread in os.listdir(f"{proc}/{pid}/task"):
            path = f"{proc}/{pid}/task/{thread}/schedstat"
            with suppress(OSError, ValueError, IndexError), open(path) as file:
                found[thread] = int(file.read().split()[1]) / 1e9
    return found


class Patience:
    """The time of one answer, from now on."""

    def __init__(
        self,
        seconds: float,
        most: float,
        waited: Callable[[], dict[str, float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` of the guest's own, `most` on the clock. `waited` is asked for its threads."""
        self._clock = clock
        self._waited = waited
        self._seconds = seconds
        self._before = waited()
        self._began = clock()
        self._due = self._began + min(seconds, most)
        self._latest = self._began + most

    def over(self) -> bool:
        """Whether the guest has had its time."""
        now = self._clock()
        if now < self._due:
            return False
        now_waited = self._waited().items()
        lost = max((each - self._before.get(name, 0.0) for name, each in now_waited), default=0.0)
        self._due = min(self._began + self._seconds + lost, self._latest)
        return now >= self._due
