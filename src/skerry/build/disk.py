"""How much a step may write. overlayfs has no quota, so a watcher ends the step.

The reserve keeps the host usable whatever a step does; the limit is for one step's own files.
Cache mounts count for the reserve only: they are not the step's.
"""

import asyncio
import time
from typing import Final, NoReturn

from skerry.base.errors import LimitExceeded, SystemFault
from skerry.store import Store
from skerry.store.limits import Room
from skerry.store.trees import DiskUsage

RESERVE_SHARE: Final = 20
"""A step is ended when less than one part in so many of the disk is free…"""
RESERVE_BYTES: Final = 1 << 30
"""…and less than this."""
_NEAR: Final = 4
"""Within so many reserves it is looked more often: a disk writes gigabytes in a second."""
_SECONDS: Final = 0.5
_SECONDS_NEAR: Final = 0.05
_REST: Final = 10
"""Adding up many files takes a while: so many times as long it rests."""


async def watch(store: Store, upper: str, limit: int) -> NoReturn:
    """Watch the disk of the store, and the bytes in `upper` when `limit` is not 0, until either is
    too much: SystemFault, LimitExceeded."""
    room, due = Room(store.root, RESERVE_BYTES, RESERVE_SHARE), 0.0
    while True:
        free, needed = room.reserved()
        if free < needed:
            # What the step before has filled it with may lie in the trash.
            await asyncio.to_thread(store.scratch.empty_trash)
            free, needed = room.reserved()
        if free < needed:
            raise SystemFault(
                f"the step was ended: only {free >> 20} MiB are left on the disk of {room.folder}",
                hint="make room with `skerry builder prune` or `skerry system prune`",
            )
        if limit and time.monotonic() >= due:
            begun = time.monotonic()
            used = await asyncio.to_thread(DiskUsage().tree, upper)
            if used > limit:
                raise LimitExceeded(
                    f"the step was ended: it has written {used >> 20} MiB, more than its limit of "
                    f"{limit >> 20} MiB",
                    hint="give it more with --disk-limit",
                )
            due = time.monotonic() + _REST * (time.monotonic() - begun)
        await asyncio.sleep(_SECONDS_NEAR if free < _NEAR * needed else _SECONDS)
