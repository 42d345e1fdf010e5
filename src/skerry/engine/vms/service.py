"""The machines' service: its parts, wired; recovery; what can be looked at."""

import contextlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from skerry.base.settings import Settings
from skerry.engine.vms.autostart import Autostart
from skerry.engine.vms.cloning import Cloning
from skerry.engine.vms.console import Consoles
from skerry.engine.vms.creation import Creation
from skerry.engine.vms.editing import Editing
from skerry.engine.vms.exchange import Exchange
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import Live, Machine
from skerry.engine.vms.recovery import Recovery
from skerry.engine.vms.shelf import Shelf
from skerry.engine.vms.snapshots import Snapshots

if TYPE_CHECKING:
    from skerry.engine.events import Events
    from skerry.store.records import Records


class Vms:
    """`engine.vms`."""

    def __init__(self, settings: Settings, records: "Records", events: "Events") -> None:
        self.shelf = Shelf(settings, records)
        self.life = Life(settings.root, self.shelf, events)
        self.creation = Creation(self.shelf, self.life)
        self.consoles = Consoles(self.shelf, self.life)
        self.snapshots = Snapshots(self.shelf, self.life)
        self.editing = Editing(self.shelf, self.life, self.creation)
        self.cloning = Cloning(self.shelf, self.life, self.creation, self.snapshots)
        self.exchange = Exchange(self.shelf, self.creation, settings.root)
        self._recovery = Recovery(settings, self.shelf, self.life, self.snapshots)
        self._autostart = Autostart(settings, self.shelf, self.life)

    async def recover(self) -> None:
        """Find everything again after a start of the engine."""
        await self._recovery.run()
        self._autostart.begin()

    async def close(self) -> None:
        """Leave; machines run on."""
        await self._autostart.end()
        for live in self.shelf:
            if live.watcher is not None:
                live.watcher.cancel()
            if live.monitor is not None:
                monitor, live.monitor = live.monitor, None
                await monitor.close()

    @contextlib.asynccontextmanager
    async def hold(self, key: str) -> Any:
        """A machine, while nobody else changes it. NotFound when it went meanwhile."""
        live = self.shelf.get(key)
        async with live.lock:
            yield self.shelf.get(live.record.id)

    def listing(self) -> list[Live]:
        """All machines, the oldest first."""
        return list(self.shelf)

    def summary(self, live: Live) -> dict[str, Any]:
        """A row of the list."""
        record = live.record
        return {
            "id": record.id,
            "name": record.name,
            "status": record.status,
            "cause": record.cause,
            "memory": record.hardware.memory,
            "cpus": record.hardware.cpus,
            "firmware": record.hardware.firmware,
            "disks": [disk.size for disk in record.hardware.disks],
            "snapshots": len(record.snapshots),
            "autostart": record.autostart,
            "autostart_order": record.autostart_order,
            "created_at": record.created_at,
            "started_at": record.started_at,
        }

    def inspect(self, key: str) -> dict[str, Any]:
        """Everything about one, as plain data."""
        live = self.shelf.get(key)
        return self.describe(live)

    def describe(self, live: Live) -> dict[str, Any]:
        """As plain data: the record, and what lives."""
        record = live.record
        data: dict[str, Any] = msgspec.to_builtins(record)
        for secret in ("uid", "version", "vnc_password", "pending", "seed"):
            data.pop(secret)
        places = self.shelf.places(record)
        data["pid"] = live.process.pid if live.process else 0
        data["folder"] = places.state
        data["disk_bytes"] = self._disk_bytes(record)
        return data

    def _disk_bytes(self, record: Machine) -> int:
        """What its folder takes on the disk."""
        total = 0
        for folder, _, files in os.walk(self.shelf.places(record).state):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
        return total
