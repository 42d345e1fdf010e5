"""Points in a container's history: take them, list them, go back to any, drop them.

Theory. A snapshot is its frozen layer and its record, in this order: without the record the layer
is nobody's and goes with the next sweep, so a snapshot is whole or absent. A container that does
not run gives its writable layer away and goes on above it, which takes the same time for any size.
One that runs is frozen while its layer is copied (shared, where the file system can).
"""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from skerry.base.errors import Conflict, LimitExceeded, NotFound, Unsupported
from skerry.base.ids import check_name, new_id
from skerry.base.isolation import Overlay, Saved, SavedInfo
from skerry.engine import snapshot as snapshots
from skerry.engine import walls
from skerry.engine.container import Container
from skerry.engine.isolation import Driver
from skerry.engine.lifecycle import Lifecycle
from skerry.engine.roster import Roster
from skerry.engine.snapshot import Snapshot
from skerry.store import Store
from skerry.store.changes import MOUNT_POINTS
from skerry.store.difference import Difference, difference

log = logging.getLogger(__name__)

MOST = 10_000
"""Snapshots of one engine."""


MEMORY, DEVICES, MADE_OF = "memory", "devices", "made-of.json"
"""Files of a machine's snapshot, beside its layer."""


class Freezing(NamedTuple):
    """`machine`: a machine runs on the layer and has to be saved."""

    machine: bool


class Snapshots:
    """The service."""

    def __init__(self, store: Store, driver: Driver, roster: Roster, lifecycle: Lifecycle) -> None:
        self._store = store
        self._driver = driver
        self._roster = roster
        self._lifecycle = lifecycle

    def all(self, container: str = "") -> list[Snapshot]:
        """Oldest first; of one container when a reference is given."""
        return snapshots.load(self._store, self._roster.find(container).id if container else "")

    def find(self, reference: str) -> Snapshot:
        """By id, beginning of an id, `CONTAINER:NAME` or NAME; NotFound."""
        names = {each.id: each.record.name for each in self._roster}
        return snapshots.find(snapshots.load(self._store), reference, names)

    def current(self, container: Container) -> str:
        """The id of the snapshot that the container continues; empty for none."""
        return self._store.snapshots.node(container.id)

    def owner(self, snapshot: Snapshot) -> Container:
        """The container that it is of."""
        return self._roster.find(snapshot.container)

    async def create(
        self, reference: str, name: str = "", comment: str = "", *, disk_only: bool = False
    ) -> Snapshot:
        """Take one, of a running machine with its memory unless `disk_only`. Conflict for a taken
        name; nothing is left when it fails."""
        if name:
            check_name(name, "snapshot")
        if len(comment) > snapshots.MAX_COMMENT:
            raise LimitExceeded(f"a comment has at most {snapshots.MAX_COMMENT} characters")
        container = self._roster.find(reference)
        async with container.lock:
            others = snapshots.load(self._store, container.id)
            if len(others) >= MOST:
                raise Conflict(f"the container has {MOST} snapshots")
            name = snapshots.free_name(others, name)
            taken = Snapshot(
                new_id(),
                name,
                container.id,
                time.time_ns(),
                self.current(container),
                comment=comment,
            )
            async with self.freeze(container, taken.id) as frozen:
                if frozen.machine:
                    taken.kind = snapshots.DISK if disk_only else snapshots.MACHINE
                    info = await self._save(container, taken.id, memory=not disk_only)
                    taken.pause_ms = info.pause_ms
                taken.size = await asyncio.to_thread(self._store.snapshots.frozen.usage, taken.id)
                snapshots.save(self._store, taken)
            self._store.snapshots.set_node(container.id, taken.id)
        self._lifecycle.emit(container, "snapshot", snapshot=taken.id, snapshotName=taken.name)
        return taken

    @contextlib.asynccontextmanager
    async def freeze(self, container: Container, layer: str) -> AsyncIterator[Freezing]:
        """Freeze its layer under an id that is kept inside the block; the caller has its lock.

        A machine that runs goes on writing to its disk, which lies in the layer now: whoever gets
        `machine` has to save it inside the block. When that fails, the layer is no snapshot, and
        the machine stands on it all the same: it cannot be known here which of the two disks it
        writes to, and together they have everything.
        """
        if container.removing:
            raise Conflict(f"container {container.record.name} is being removed")
        machine = walls.wall_of(container.record.host) == walls.VM
        with self._store.snapshots.frozen.hold(layer):
            if not machine:
                async with self._still(container):
                    await asyncio.to_thread(
                        self._store.snapshots.freeze, container.id, layer, in_use=container.running
                    )
                yield Freezing(machine=False)
                return
            if container.state.status == "paused":
                raise Conflict(
                    f"the machine {container.record.name} is paused", hint="unpause it first"
                )
            running = container.running
            if not running and isinstance(self._driver, walls.Walls):
                overlay = self._store.snapshots.overlay(container.id)
                await self._driver.repair(container.id, overlay)
            await asyncio.to_thread(self._store.snapshots.freeze, container.id, layer, in_use=False)
            yield Freezing(machine=running)

    async def save(self, container: Container, memory: int = -1, devices: str = "") -> SavedInfo:
        """Save a machine whose layer is being frozen; see MachineDriver.save."""
        if not isinstance(self._driver, walls.Walls):
            raise Unsupported("this engine has no machines")
        rootfs = self._store.snapshots.overlay(container.id)
        return await self._driver.save(container.id, rootfs, memory, devices)

    def seal(self, container: Container, memory: int) -> None:
        """Let nobody write to a memfd with the memory of a machine any more."""
        if isinstance(self._driver, walls.Walls):
            self._driver.seal(container.id, memory)

    async def _save(self, container: Container, layer: str, *, memory: bool) -> SavedInfo:
        if not memory:
            return await self.save(container)
        folder = self._store.snapshots.frozen.path(layer)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(f"{folder}/{MEMORY}", flags, 0o600)
        try:
            info = await self.save(container, fd, f"{folder}/{DEVICES}")
            with open(f"{folder}/{MADE_OF}", "x") as file:
                json.dump(info.made_of, file)
            return info
        except BaseException:
            for name in (MEMORY, DEVICES, MADE_OF):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{name}")
            raise
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def _saved(self, chosen: Snapshot) -> AsyncIterator[Saved | None]:
        """What its container is started from: a machine with its memory, or nothing special."""
        if chosen.kind != snapshots.MACHINE:
            yield None
            return
        if not isinstance(self._driver, walls.Walls):
            raise Unsupported("this engine has no machines")
        folder = self._store.snapshots.frozen.path(chosen.id)
        fd = await self._driver.load_memory(chosen.container, f"{folder}/{MEMORY}")
        try:
            path = f"/proc/{os.getpid()}/fd/{fd}"
            yield Saved(path, f"{folder}/{DEVICES}", {}, self.made_of(chosen))
        finally:
            os.close(fd)

    def made_of(self, chosen: Snapshot) -> dict[str, Any]:
        """What a machine that was kept with its memory is made of; empty when nobody wrote it."""
        try:
            with open(f"{self._store.snapshots.frozen.path(chosen.id)}/{MADE_OF}") as file:
                found: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            return {}
        return found

    @contextlib.asynccontextmanager
    async def _still(self, container: Container) -> AsyncIterator[None]:
        """Nothing in the container runs inside the block.

        An engine that dies here leaves it frozen, and the next one thaws it: its record says that
        it runs.
        """
        paused = False
        if container.state.status == "running":
            with contextlib.suppress(Conflict):  # it has just ended
                await self._driver.pause(container.id)
                paused = True
        try:
            yield
        finally:
            if paused and container.running:
                with contextlib.suppress(Conflict):
                    await self._driver.resume(container.id)

    async def restore(self, reference: str, *, force: bool = False) -> Container:
        """Take its container back to a snapshot; what was written since is dropped.

        Conflict while it runs, unless forced: then its programs are killed, and it is started
        again afterwards. A machine that was kept with its memory goes on where it was.
        """
        chosen = self.find(reference)
        container = self.owner(chosen)
        running = container.running or container.state.status == "restarting"
        if running and not force:
            raise Conflict(
                f"container {container.record.name} is {container.state.status}",
                hint="stop it first, or restore with --force",
            )
        container.kept = True
        try:
            if container.running:
                await self._lifecycle.kill(container)
            elif running:
                await self._lifecycle.end(container)
            async with container.lock:
                if container.running or container.removing:
                    raise Conflict(f"container {container.record.name} was started meanwhile")
                await asyncio.to_thread(
                    self._store.snapshots.reset, container.id, chosen.id, chosen.id
                )
        finally:
            container.kept = False
        self._lifecycle.emit(container, "restore", snapshot=chosen.id, snapshotName=chosen.name)
        if running or chosen.kind == snapshots.MACHINE:
            async with self._saved(chosen) as saved:
                await self._lifecycle.start(container, saved)
        return container

    async def remove(self, reference: str) -> Snapshot:
        """Forget one; those taken after it become its parent's. Layers go when nobody is left who
        stands on them."""
        gone = self.find(reference)
        container = self.owner(gone)
        async with container.lock:
            with self._store.records.transaction():
                for each in snapshots.load(self._store, gone.container):
                    if each.parent == gone.id:
                        each.parent = gone.parent
                        snapshots.save(self._store, each)
                self._store.records.delete(snapshots.KIND, gone.id)
            if self.current(container) == gone.id:
                self._store.snapshots.set_node(container.id, gone.parent)
            await asyncio.to_thread(self.sweep)
        self._lifecycle.emit(container, "snapshot-remove", snapshot=gone.id)
        return gone

    def sweep(self) -> None:
        """Drop records of containers that are gone, and layers that nobody needs."""
        kept = []
        for each in self._store.records.all(snapshots.KIND):
            if self._roster.get(each.data.get("container", "")) is None:
                self._store.records.delete(snapshots.KIND, each.id)
            else:
                kept.append(each.id)
        self._store.snapshots.sweep_frozen(kept)

    async def difference(self, one: str, other: str) -> list[Difference]:
        """How the files of one container or snapshot differ from another's."""
        for reference in (one, other):
            with contextlib.suppress(NotFound):
                await self._lifecycle.settle(self._roster.find(reference))
        (first, one_points), (second, other_points) = self._view(one), self._view(other)
        ignore = MOUNT_POINTS | one_points | other_points
        return await asyncio.to_thread(difference, first, second, ignore)

    def _view(self, reference: str) -> tuple[Overlay, frozenset[str]]:
        """The layers of a container or snapshot, and where something is mounted in it."""
        try:
            container = self._roster.find(reference)
            overlay = self._store.snapshots.overlay(container.id)
        except NotFound as missing:
            try:
                chosen = self.find(reference)
            except NotFound:
                raise NotFound(f"No such container or snapshot: {reference:.200}") from missing
            container = self.owner(chosen)
            overlay = self._store.snapshots.frozen_overlay(chosen.id)
        return overlay, frozenset(point.target for point in container.record.mounts)
