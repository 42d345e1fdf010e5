"""A step that forks without end: the kernel holds it at its limit, a watcher ends it.

Touching the limit is no fault: `make -j` may meet it and go on with fewer. A step is ended that
stays there: at every look for a while it was refused more processes, and had hardly fewer than it
may have.
"""

import asyncio
import time
from typing import Final, NoReturn

from skerry.base.errors import SkerryError
from skerry.build.errors import ForkedWithoutEnd
from skerry.engine.isolation import Driver

SECONDS: Final = 10
"""So long a step has to be at its limit…"""
LOOKS: Final = 10
"""…and be seen there so often: a busy host looks late."""
_BETWEEN: Final = 0.5
_FULL: Final = 0.9
"""This share of the limit is at the limit: places come free between refusal and look."""


class Crowd:
    """What the looks at one step have shown."""

    def __init__(self) -> None:
        self._refused = 0
        self._since = 0.0
        self._looks = 0

    def see(self, at: float, processes: int, limit: int, refused: int) -> bool:
        """Take one look: seconds of a clock, the numbers of processes that there are, may be, and
        were refused since the start. Whether the step is to be ended."""
        grown, self._refused = refused > self._refused, refused
        if not limit or not grown or processes < _FULL * limit:
            self._looks = 0
            return False
        if not self._looks:
            self._since = at
        self._looks += 1
        return self._looks > LOOKS and at - self._since >= SECONDS


async def watch(driver: Driver, id: str, command: str, step: str) -> NoReturn:
    """Watch a running program until it is to be ended: ForkedWithoutEnd."""
    crowd = Crowd()
    while True:
        await asyncio.sleep(_BETWEEN)
        try:
            seen, refused = await driver.stats(id), await driver.refused_forks(id)
        except SkerryError:
            continue  # it is ending, which others wait for
        if crowd.see(time.monotonic(), seen.pids, seen.pids_limit, refused):
            raise ForkedWithoutEnd(command, seen.pids_limit, refused, SECONDS, step=step)
