"""After a crash: find every container again, put away what was half done.

Theory. The records are the truth about what exists, the keepers about what runs. So, in order:

1. Read the records; each becomes a live container in the state it was saved in.
2. Ask the driver about every one that may run. It still runs: adopt it. It ended meanwhile: the
   keeper's exit record says how. Neither: the host was restarted or the keeper was killed.
3. Networks are brought in line with what runs (`endpoints.settle`).
4. What has no record goes: run folders with their keepers and cgroups, state folders, snapshots,
   volumes. A `create` that did not reach its record never happened; a `remove` that deleted its
   record is finished.
5. Containers that end with --rm are removed, restart policies are applied.

Every step may be interrupted and run again.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import time

from skerry.base.errors import GuestFault, SkerryError
from skerry.base.isolation import Exit, Started
from skerry.base.settings import Settings
from skerry.engine import health, record, restart, shm
from skerry.engine.container import Container
from skerry.engine.endpoints import Endpoints
from skerry.engine.exec import Execs
from skerry.engine.isolation import Driver
from skerry.engine.lifecycle import Lifecycle
from skerry.engine.networks import Networks
from skerry.engine.roster import Roster
from skerry.engine.snapshots import Snapshots
from skerry.engine.volumes import Volumes
from skerry.store import Store

log = logging.getLogger(__name__)

LOST = 255
"""Exit code of a container whose end nobody saw, as with containerd."""


class Recovery:
    """One run of it."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        driver: Driver,
        roster: Roster,
        lifecycle: Lifecycle,
        volumes: Volumes,
        snapshots: Snapshots,
        execs: Execs,
        networks: Networks,
        endpoints: Endpoints,
    ) -> None:
        self._settings = settings
        self._store = store
        self._driver = driver
        self._roster = roster
        self._lifecycle = lifecycle
        self._volumes = volumes
        self._networks = networks
        self._endpoints = endpoints
        self._snapshots = snapshots
        self._execs = execs

    async def run(self) -> None:
        """All steps."""
        self._load()
        self._networks.load()
        self._endpoints.load()
        self._volumes.expect(self._roster)
        for container in list(self._roster):
            try:
                await self._find(container)
            except (SkerryError, GuestFault) as error:
                log.warning("recovery of %s: %s", container.record.name, error)
        await self._endpoints.settle()
        await self._sweep()

    def _load(self) -> None:
        for saved in self._store.records.all(record.KIND):
            try:
                self._roster.add(Container(record.from_plain(saved.data)))
            except SkerryError as error:
                log.error("%s", error)

    async def _find(self, container: Container) -> None:
        state = container.state
        run_dir = self._lifecycle.run_dir(container.id)
        # A container with an untouched `created` state may have been started just before the crash.
        if not os.path.isdir(run_dir) and not container.running and state.status != "restarting":
            return
        found = await self._driver.recover(container.id, run_dir, self._lifecycle.on_exit)
        if isinstance(found, Started):
            await self._adopt(container, found)
            return
        await self._execs.recover(container)
        shm.release(run_dir)
        # Also when nothing was found: cgroups and rests of a half-made start go.
        await self._driver.delete(container.id, self._lifecycle.state_dir(container.id), run_dir)
        if isinstance(found, Exit) and state.status != "exited":
            self._was_started(container)
            self._lifecycle.ended(container, found)
        elif container.running:
            self._lost(container)
        elif state.status == "restarting":
            # The pause before the restart was cut short.
            self._again(container)

    async def _adopt(self, container: Container, found: Started) -> None:
        state = container.state
        changed = not container.running or state.pid != found.pid
        self._was_started(container)
        state.pid, state.start_time = found.pid, found.start_time
        if not container.running:
            state.status = "running"
        if state.status == "running":
            # Whoever froze it for a snapshot died before the thaw.
            await self._driver.resume(container.id)
        container.process = self._saved_process(container)
        if changed:
            self._lifecycle.note(container)
        health.begin(container, self._lifecycle)
        await self._execs.recover(container)

    def _was_started(self, container: Container) -> None:
        saved = container.record
        saved.ever_started = True
        if not saved.state.started_at or saved.state.started_at < saved.state.finished_at:
            with contextlib.suppress(OSError):
                status = os.stat(self._lifecycle.run_dir(container.id))
                saved.state.started_at = status.st_mtime_ns

    def _saved_process(self, container: Container) -> dict[str, object] | None:
        """The OCI `process` that a running container was started with, out of its bundle."""
        import msgspec

        path = os.path.join(self._lifecycle.state_dir(container.id), "config.json")
        try:
            with open(path, "rb") as file:
                process = msgspec.json.decode(file.read(16 << 20)).get("process")
        except (OSError, msgspec.DecodeError, AttributeError) as error:
            log.warning("cannot read %s: %s", path, error)
            return None
        return process if isinstance(process, dict) else None

    def _lost(self, container: Container) -> None:
        """It ran when the host or the keeper died."""
        container.state.error = "its end was not seen: the host restarted or the keeper was killed"
        policy = restart.parse(container.record.host.get("RestartPolicy"))
        stopped = container.record.manually_stopped
        exit = Exit(LOST, False, time.time(), container.state.error)
        if restart.wanted_at_boot(policy, stopped=stopped):
            self._lifecycle.ended(container, exit)
            return
        container.exit_on_next = True
        self._lifecycle.ended(container, exit)

    def _again(self, container: Container) -> None:
        container.state.status = "exited"

        async def start() -> None:
            with contextlib.suppress(SkerryError, GuestFault):
                await self._lifecycle.start(container)

        self._lifecycle.spawn(start())

    async def _sweep(self) -> None:
        """What belongs to no record."""
        containers = os.path.join(self._settings.root, "containers")
        run = os.path.join(self._settings.run_root, "containers")
        for path in {*map(os.path.basename, [*_entries(containers), *_entries(run)])}:
            if self._roster.get(path) is not None:
                continue
            state_dir, run_dir = os.path.join(containers, path), os.path.join(run, path)
            shm.release(run_dir)
            try:
                await self._driver.delete(path, state_dir, run_dir)
            except SkerryError as error:
                log.warning("clean up of %s: %s", path, error)
            for folder in (state_dir, run_dir):
                shutil.rmtree(folder, ignore_errors=True)
        for id in self._store.snapshots.list():
            if self._roster.get(id) is None:
                self._store.snapshots.remove(id)
        self._snapshots.sweep()
        self._volumes.recover(self._roster)
        self._volumes.clean()
        await asyncio.sleep(0)


def _entries(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
