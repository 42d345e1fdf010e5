"""The engine: its services, wired; its start and its end."""

import asyncio
import contextlib
import logging
import os
from typing import Any

from skerry.base.errors import SystemFault
from skerry.base.settings import Settings
from skerry.engine import facts, instance, machine_settings, walls
from skerry.engine.archive import Archive
from skerry.engine.archives import Archives
from skerry.engine.containers import Containers
from skerry.engine.copying import Copying
from skerry.engine.endpoints import Endpoints
from skerry.engine.events import Events
from skerry.engine.exec import Execs
from skerry.engine.forks import Forks
from skerry.engine.images import Images
from skerry.engine.isolation import Driver
from skerry.engine.lifecycle import Lifecycle
from skerry.engine.network_settings import NetworkSettings
from skerry.engine.network_settings import load as load_settings
from skerry.engine.networks import Networks
from skerry.engine.recovery import Recovery
from skerry.engine.roster import Roster
from skerry.engine.sbom import Sbom
from skerry.engine.signing import Signing
from skerry.engine.snapshot_files import SnapshotFiles
from skerry.engine.snapshots import Snapshots
from skerry.engine.system import System
from skerry.engine.transfer import Transfer
from skerry.engine.usage import Accounts
from skerry.engine.vms import Vms
from skerry.engine.volume_archives import VolumeArchives
from skerry.engine.volumes import Volumes
from skerry.network.fabric import Fabric
from skerry.store import Store, open_store

log = logging.getLogger(__name__)

TRASH_SECONDS = 20.0
"""How often removed files are really deleted; mass deletes slow down whoever creates files."""


class Engine:
    """The services of one root. Use as an async context manager."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        driver: Driver | None = None,
        host: facts.Host | None = None,
        network_settings: NetworkSettings | None = None,
    ) -> None:
        self.settings = settings
        make_folders(settings)
        self.store = store or open_store(settings.root)
        self.host = host or facts.Host()
        self.events = Events()
        self.roster = Roster()
        self.driver = driver or _default_driver(settings, self.roster)
        self.networks = Networks(
            self.store.records,
            self.events,
            # The services' unit tests bring a driver of their own and want the host left alone.
            Fabric(settings.root, settings.run_root) if driver is None else None,
            network_settings or load_settings(settings.root),
        )
        self.endpoints = Endpoints(settings.run_root, settings.root, self.networks, self.roster)
        self.lifecycle = Lifecycle(
            settings,
            self.store,
            self.driver,
            self.events,
            self.roster,
            self.host,
            self.endpoints,
        )
        self.endpoints.connections.rewire = self.lifecycle.rewire
        self.driver.on_oom = self.lifecycle.on_oom
        self.volumes = Volumes(settings.root, self.store, self.events, self._volume_users)
        self.containers = Containers(
            settings,
            self.store,
            self.driver,
            self.events,
            self.roster,
            self.lifecycle,
            self.volumes,
            self.host,
            self.endpoints,
        )
        self.snapshots = Snapshots(self.store, self.driver, self.roster, self.lifecycle)
        self.snapshot_files = SnapshotFiles(
            self.store, self.driver, self.roster, self.containers, self.snapshots
        )
        self.execs = Execs(self.driver, self.roster, self.lifecycle, self.host)
        self.forks = Forks(
            self.store, self.roster, self.lifecycle, self.containers, self.snapshots, self.execs
        )
        self.images = Images(self.store, self.events, self.roster)
        self.transfer = Transfer(self.store, self.events, settings.root)
        self.signing = Signing(self.transfer, settings.root)
        self.sbom = Sbom(self.store, self.transfer)
        self.archive = Archive(self.store, self.volumes, self.driver, self.lifecycle)
        self.archives = Archives(self.store, self.events)
        self.archives.policy = self.signing.gate
        self.copying = Copying(self.store, self.archives, self.transfer)
        self.system = System(settings, self.store, self.roster, self.host)
        self.accounts = Accounts(
            self.store, self.containers, self.images, self.volumes, self.driver
        )
        self.volume_archives = VolumeArchives(self.store, self.volumes, self.roster)
        self.vms = Vms(settings, self.store.records, self.events)
        self._sweeper: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None

    def _volume_users(self, name: str) -> list[str]:
        return [
            container.id
            for container in self.roster
            if any(point.name == name for point in container.record.mounts)
        ]

    def spares(self) -> list[dict[str, Any]]:
        """The machines that stand ready for containers to come; see `machine.spares`."""
        return self.driver.spares() if isinstance(self.driver, walls.Walls) else []

    async def __aenter__(self) -> "Engine":
        instance.write_pid_file(self.settings.run_root)
        await Recovery(
            self.settings,
            self.store,
            self.driver,
            self.roster,
            self.lifecycle,
            self.volumes,
            self.snapshots,
            self.execs,
            self.networks,
            self.endpoints,
        ).run()
        await self.vms.recover()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())
        self._warming = asyncio.get_running_loop().create_task(self._get_ready())
        return self

    async def __aexit__(self, *exc: object) -> None:
        for beside in (self._sweeper, self._warming):
            if beside is not None:
                beside.cancel()
        await self.vms.close()
        await self.lifecycle.close()
        await self.endpoints.close()
        await self.driver.close()
        self.store.close()
        instance.remove_pid_file(self.settings.run_root)

    async def _get_ready(self) -> None:
        """Machines for those to come, beside the work."""
        if isinstance(self.driver, walls.Walls):
            folder = os.path.join(self.settings.run_root, "containers")
            await self.driver.get_ready(self.settings.root, folder)

    async def _sweep(self) -> None:
        """Empty the trash now and then, beside the work."""
        while True:
            with contextlib.suppress(SystemFault, OSError):
                await asyncio.to_thread(self.store.gc.empty_trash)
            await asyncio.sleep(TRASH_SECONDS)


def make_folders(settings: Settings) -> None:
    """The root's and run root's own folders; others must not read what containers keep there."""
    try:
        for path, mode in (
            (settings.root, 0o710),
            (f"{settings.root}/containers", 0o710),
            (settings.run_root, 0o711),
            (f"{settings.run_root}/containers", 0o710),
        ):
            os.makedirs(path, mode=mode, exist_ok=True)
    except OSError as error:
        raise SystemFault(
            f"cannot make {error.filename}: {error.strerror}",
            hint="run as root, or choose other folders with --root and --run-root",
        ) from None


def _default_driver(settings: Settings, roster: Roster) -> Driver:
    spares = machine_settings.load(settings.root).spares

    def containers() -> Driver:
        # Imported late: the unit tests of the services need no runtime.
        from skerry.runtime.driver import RuntimeDriver

        return RuntimeDriver()

    def machines() -> Driver:
        from skerry.machine.driver import MachineDriver

        return MachineDriver(settings.root, spares=spares)

    def choose(id: str) -> str:
        container = roster.get(id)
        return walls.wall_of(container.record.host) if container else ""

    return walls.Walls({walls.CONTAINER: containers, walls.VM: machines}, choose)
