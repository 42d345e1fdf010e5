"""After a start of the engine: which machines run, which ended, what was half done.

The record is the truth about what exists, /proc about what runs. In order, for each machine:

1. Its QEMU lives: it is watched and its monitor joined; a keeper that was killed gets a successor.
   The record says `running`: its processors are let go if they are held. The record says anything
   else: it was killed before it had begun, or saved and not yet ended, so it is ended.
2. It does not live: the keeper's exit record says how it ended, or nobody knows.
3. A snapshot that was being made is finished or undone (`snapshots`).
4. What no record names is removed: folders, layers, control groups.

Then those with autostart are started beside (`autostart`).
"""

import asyncio
import logging
import os

from skerry.base.errors import SkerryError
from skerry.base.settings import Settings
from skerry.engine.vms import cables, forwarding
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import PAUSED, RUNNING, Live
from skerry.engine.vms.shelf import Shelf
from skerry.engine.vms.snapshots import Snapshots
from skerry.machine.full import fence, qemu

log = logging.getLogger(__name__)


class Recovery:
    """One run of it."""

    def __init__(self, settings: Settings, shelf: Shelf, life: Life, snapshots: Snapshots) -> None:
        self._root = settings.root
        self._shelf = shelf
        self._life = life
        self._snapshots = snapshots

    async def run(self) -> None:
        """All steps."""
        for complaint in self._shelf.load():
            log.error("%s", complaint)
        for live in self._shelf:
            try:
                await self._find(live)
            except (SkerryError, OSError) as error:
                log.warning("recovery of machine %s: %s", live.record.name, error)
        await asyncio.to_thread(self._shelf.tidy)
        await asyncio.to_thread(self._shelf.sweep)
        await asyncio.to_thread(self._sweep_host)

    async def _find(self, live: Live) -> None:
        record = live.record
        places = self._shelf.places(record)
        process, kept = qemu.find(places.run)
        if process is None:
            if record.status in (RUNNING, PAUSED):
                self._life.ended(live, qemu.ended(places.run))
            else:
                await asyncio.to_thread(self._clear, live)
            await self._snapshots.resolve(live)
            return
        if kept is None:
            await self._life.adopt(live, process)
        self._life.watch(live, process)
        if record.status not in (RUNNING, PAUSED):
            await self._life.end(live)
            return
        await self._life.join(live)
        await self._snapshots.resolve(live)
        await self._life.settle(live)
        if live.monitor is not None and any(nic.kind == "nat" for nic in record.hardware.nics):
            await forwarding.settle(live.monitor, record.hardware, detoured=record.uid != 0)

    def _sweep_host(self) -> None:
        """Bridges and tables of machines that do not run."""
        if os.geteuid() != 0:
            return
        cables.sweep(self._root)
        running = {fence.name(self._root, live.record.id) for live in self._shelf if live.process}
        try:
            fence.sweep(self._root, running)
        except SkerryError as error:
            log.warning("nftables of machines: %s", error)

    def _clear(self, live: Live) -> None:
        """A QEMU that a killed keeper has not told of."""
        group = self._life.group(live.record)
        if group is not None and group.exists():
            group.kill_all()
            group.remove()
