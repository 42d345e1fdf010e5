"""Snapshots of whole machines: a tree, any node of which can be gone back to.

A snapshot freezes the layers that the machine's disks are made of; the machine goes on in fresh
layers above them. Of a running machine its memory and devices are kept, too: they are written while
it runs, and it stands still only for what it changed meanwhile.

Steps of a snapshot of a running machine, and what an engine finds that was killed behind each:

1. the record says what is *pending*; layers are made           nothing was done: it is undone
2. memory is written; at its end, the guest held, QEMU moves    QEMU's disks tell which: the old
   its disks to the new layers, all at once                     layers, undone; the new, finished if
3. the state's file gets its name; the record takes it over     the file is whole, else kept as one
4. the guest goes on                                            without memory

QEMU does not run the guest between 2 and 4, so the new layers are still empty when the record
names them.
"""

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from skerry.base.errors import Conflict, NotFound, SkerryError
from skerry.base.ids import check_name, new_id
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import OFF, PAUSED, SAVED, Live, Machine, Pending, Snapshot
from skerry.engine.vms.saving import check_savable, write_state
from skerry.engine.vms.shelf import Shelf
from skerry.machine.full import argv, disks
from skerry.machine.full.spec import Disk, Hardware

if TYPE_CHECKING:
    from skerry.machine.full.monitor import Monitor

MAX_SNAPSHOTS = 1000


class Snapshots:
    """The service's half for snapshots. Callers hold the machine's lock."""

    def __init__(self, shelf: Shelf, life: Life) -> None:
        self._shelf = shelf
        self._life = life

    def find(self, live: Live, key: str) -> Snapshot:
        """By name, id or its beginning; NotFound."""
        found = live.record.snapshot(key)
        if found is None:
            raise NotFound(f"machine {live.record.name} has no snapshot {key!r:.100}")
        return found

    def state_file(self, record: Machine, snapshot: str) -> str:
        """Memory and devices of a snapshot."""
        return os.path.join(self._shelf.places(record).states, snapshot)

    async def create(
        self, live: Live, name: str = "", comment: str = "", *, disk_only: bool = False
    ) -> Snapshot:
        """A snapshot of the present state. `disk_only` leaves the memory out."""
        record = live.record
        name = self._name(record, name)
        snapshot = Snapshot(
            id=new_id(),
            name=name,
            parent=record.current,
            created_at=time.time_ns(),
            hardware=record.hardware,
            full=record.status != OFF and record.status != "aborted" and not disk_only,
            comment=comment[:2000],
        )
        if snapshot.full and live.process is not None:
            check_savable(record)
        with self._shelf.making(record):
            above = await self.above(record, record.hardware)
            if live.process is not None:
                await self._of_running(live, Pending(snapshot, above))
            else:
                self._of_resting(record, snapshot, above)
        self._life.tell(live, "snapshot", snapshot=name)
        return snapshot

    def _name(self, record: Machine, name: str) -> str:
        if len(record.snapshots) >= MAX_SNAPSHOTS:
            raise Conflict(f"machine {record.name} has {MAX_SNAPSHOTS} snapshots, the most it may")
        names = {each.name for each in record.snapshots}
        if not name:
            return next(each for at in range(1, 2000) if (each := f"snapshot-{at}") not in names)
        if name in names:
            raise Conflict(f"machine {record.name} has a snapshot {name} already")
        return check_name(name, "snapshot")

    async def above(self, record: Machine, hardware: Hardware) -> Hardware:
        """The same hardware on fresh layers above those that `hardware` names."""
        tools = self._shelf.tools(record)
        fresh: dict[str, str] = {}
        for layer in hardware.layers():
            self._shelf.check_depth(layer)
            fresh[layer] = self._shelf.new_layer(record, parent=layer)
            await tools.overlay(self._shelf.path(fresh[layer]), self._shelf.chain(layer))
        return moved(hardware, fresh)

    def _of_resting(self, record: Machine, snapshot: Snapshot, above: Hardware) -> None:
        if snapshot.full:
            # It is saved: the same state begins both the snapshot and what comes after it.
            source = os.path.join(self._shelf.places(record).state, record.saved)
            os.link(source, self.state_file(record, snapshot.id))
        record.snapshots.append(snapshot)
        record.current, record.hardware = snapshot.id, above
        self._shelf.save(record)
        self.freeze(snapshot.hardware)

    def freeze(self, hardware: Hardware) -> None:
        """Let nobody write to these layers and those below. Only after a record that stands above
        them was saved: a machine cannot start on a frozen layer. Idempotent."""
        for layer in hardware.layers():
            for path in self._shelf.chain(layer):
                disks.freeze(path)

    async def _of_running(self, live: Live, pending: Pending) -> None:
        record, snapshot = live.record, pending.snapshot
        monitor = self._life.running(live)
        record.pending = pending
        self._shelf.save(record)
        path = self.state_file(record, snapshot.id)
        try:
            if snapshot.full:
                await write_state(
                    monitor, f"{path}.part", lambda: self._switch(live, pending, monitor)
                )
                os.rename(f"{path}.part", path)
            else:
                await self._switch(live, pending, monitor)
        except BaseException:
            await self.resolve(live)
            raise
        self._finish(record)
        # QEMU cannot be saved again before it has run: a paused guest runs for an instant.
        await monitor.execute("cont")
        if record.status == PAUSED:
            await monitor.execute("stop")

    async def _switch(self, live: Live, pending: Pending, monitor: "Monitor") -> None:
        """Let QEMU write to the new layers from now on, all of them or none."""
        actions = []
        old, new = live.record.hardware.layers(), pending.hardware.layers()
        for below, layer in zip(old, new, strict=True):
            await monitor.execute(
                "blockdev-add",
                driver="qcow2",
                node_name=argv.node(layer),
                discard="unmap",
                file={"driver": "file", "filename": self._shelf.path(layer)},
                backing=None,
            )
            actions.append(
                {
                    "type": "blockdev-snapshot",
                    "data": {"node": argv.node(below), "overlay": argv.node(layer)},
                }
            )
        if actions:
            await monitor.execute("transaction", actions=actions)

    def _finish(self, record: Machine, *, keep: bool = True) -> None:
        """The machine goes on above the pending snapshot, which becomes one with `keep`."""
        pending = record.pending
        assert pending is not None
        if keep:
            record.snapshots.append(pending.snapshot)
            record.current = pending.snapshot.id
        record.hardware, record.pending = pending.hardware, None
        self._shelf.save(record)
        self.freeze(pending.snapshot.hardware)

    async def resolve(self, live: Live) -> None:
        """Finish or undo a pending snapshot, by what QEMU writes to; the guest goes on."""
        record = live.record
        pending = record.pending
        if pending is None:
            return
        switched = False
        if live.monitor is not None:
            with contextlib.suppress(SkerryError):
                switched = await self._writes_to(live.monitor, pending.hardware)
        path = self.state_file(record, pending.snapshot.id)
        if switched:
            # Without its memory a full snapshot is none, but the disks stand on new layers now.
            self._finish(record, keep=not pending.snapshot.full or os.path.exists(path))
        else:
            record.pending = None
            self._shelf.save(record)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.part")
        if live.monitor is not None:
            with contextlib.suppress(SkerryError):
                await self._life.settle(live)

    async def _writes_to(self, monitor: "Monitor", hardware: Hardware) -> bool:
        wanted = {argv.node(layer) for layer in hardware.layers()}
        if not wanted:
            return True
        found = {
            str(each.get("inserted", {}).get("node-name"))
            for each in await monitor.execute("query-block")
        }
        return wanted <= found

    async def restore(self, live: Live, key: str) -> Snapshot:
        """Go back to a snapshot: what has happened since is lost, the snapshots stay.

        A running machine runs on from there; another one is `saved` afterwards when the snapshot
        has memory, and off when not.
        """
        record = live.record
        snapshot = self.find(live, key)
        ran = live.process is not None
        if ran:
            await self._life.end(live)
        with self._shelf.making(record):
            hardware = await self.above(record, snapshot.hardware)
            self._drop_saved(record)
            record.hardware, record.current = hardware, snapshot.id
            record.saved = f"states/{snapshot.id}" if snapshot.full else ""
            record.status, record.cause = (SAVED if snapshot.full else OFF), ""
            self._shelf.save(record)
        await asyncio.to_thread(self._shelf.sweep)
        self._life.tell(live, "restore", snapshot=snapshot.name)
        if ran:
            await self._life.start(live)
        return snapshot

    def _drop_saved(self, record: Machine) -> None:
        if record.saved == "saved.state":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._shelf.places(record).state, record.saved))

    async def remove(self, live: Live, key: str) -> None:
        """Forget a snapshot; those made from it hang on its parent. The present stays."""
        record = live.record
        snapshot = self.find(live, key)
        if record.saved == f"states/{snapshot.id}":
            raise Conflict(
                f"machine {record.name} goes on from snapshot {snapshot.name} at its next start",
                hint=f"start it first, or forget the state: skerry vm discard {record.name}",
            )
        record.snapshots = [
            msgspec.structs.replace(each, parent=snapshot.parent)
            if each.parent == snapshot.id
            else each
            for each in record.snapshots
            if each.id != snapshot.id
        ]
        if record.current == snapshot.id:
            record.current = snapshot.parent
        self._shelf.save(record)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.state_file(record, snapshot.id))
        await asyncio.to_thread(self._shelf.sweep)
        self._life.tell(live, "snapshot-remove", snapshot=snapshot.name)

    def listing(self, live: Live) -> list[dict[str, Any]]:
        """All of a machine, parents before children, as plain data."""
        record = live.record
        found = []
        for each in record.snapshots:
            size = 0
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(self.state_file(record, each.id)).st_blocks * 512
            for layer in each.hardware.layers():
                with contextlib.suppress(FileNotFoundError):
                    size += os.stat(self._shelf.path(layer)).st_blocks * 512
            found.append(
                {
                    "id": each.id,
                    "name": each.name,
                    "parent": each.parent,
                    "created_at": each.created_at,
                    "full": each.full,
                    "comment": each.comment,
                    "bytes": size,
                    "current": each.id == record.current,
                }
            )
        return found


def moved(hardware: Hardware, fresh: dict[str, str]) -> Hardware:
    """`hardware` with other layers for its own."""
    return msgspec.structs.replace(
        hardware,
        vars=fresh[hardware.vars] if hardware.vars else "",
        disks=tuple(
            Disk(disk.name, fresh[disk.layer], disk.size, disk.bus) for disk in hardware.disks
        ),
    )
