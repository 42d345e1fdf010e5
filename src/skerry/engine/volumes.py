"""Volumes: folders that outlive their containers, `<root>/volumes/<name>/_data`.

A volume is a record and a folder; the folder is made first and removed last, so that recovery can
tell leftovers by the missing record. A volume of the `local` driver with a device is mounted on its
`_data` for as long as a container that has it runs (`hold` and `release`), as Docker does it. The
mount is the host's and outlives a killed engine; `recover` counts the running containers again and
takes down what none of them has.
"""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from skerry.base.errors import Conflict, InvalidInput, NotFound, SkerryError, SystemFault
from skerry.base.ids import check_volume_name, new_id
from skerry.engine import local_driver
from skerry.engine.record import MountPoint

if TYPE_CHECKING:
    from skerry.engine.container import Container
    from skerry.engine.events import Events
    from skerry.store import Store

KIND = "volume"
log = logging.getLogger(__name__)


class Volume(NamedTuple):
    """`created_at` in nanoseconds since the epoch; `options` are the driver's, as given."""

    name: str
    labels: dict[str, str]
    created_at: int
    path: str
    anonymous: bool
    options: dict[str, str]

    @property
    def mounts(self) -> bool:
        """Whether it is mounted while containers use it."""
        return bool(self.options.get("device"))


class Volumes:
    """The service. `users(name)` tells which containers hold a volume."""

    def __init__(
        self,
        root: str,
        store: "Store",
        events: "Events",
        users: Callable[[str], list[str]],
    ) -> None:
        self._root = os.path.join(root, "volumes")
        self._records = store.records
        self._scratch = store.scratch
        self._events = events
        self._users = users
        self._known: dict[str, Volume] = {}
        self._holders: dict[str, set[str]] = {}
        """Of volumes that are mounted: the ids of those who need them so."""
        self._locks: dict[str, asyncio.Lock] = {}
        for each in self._records.all(KIND):
            volume = self._volume(each.data)
            self._known[volume.name] = volume

    def _volume(self, data: Mapping[str, Any]) -> Volume:
        name = data["name"]
        return Volume(
            name,
            dict(data.get("labels") or {}),
            data["created_at"],
            os.path.join(self._root, name, "_data"),
            bool(data.get("anonymous")),
            dict(data.get("options") or {}),
        )

    def all(self) -> list[Volume]:
        """All, by name."""
        return sorted(self._known.values(), key=lambda each: each.name)

    def find(self, name: str) -> Volume | None:
        """One, or None."""
        return self._known.get(name)

    def get(self, name: str) -> Volume:
        """One; NotFound in Docker's words."""
        volume = self.find(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def in_use(self, name: str) -> list[str]:
        """Ids of the containers that hold it."""
        return self._users(name)

    def check_visible(self, point: MountPoint) -> None:
        """Conflict when the mount's volume is a device that is not mounted now."""
        volume = self._known.get(point.name)
        if volume is not None and volume.mounts and not self._holders.get(point.name):
            raise Conflict(
                f"volume {point.name} is mounted only while a container that has it runs"
            )

    def create(
        self,
        name: str = "",
        labels: Mapping[str, str] | None = None,
        *,
        anonymous: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> Volume:
        """Make it, or give the one that has the name. InvalidInput, Unsupported for options."""
        name = check_volume_name(name) if name else new_id()
        try:
            parsed = local_driver.parse(options or {})
        except InvalidInput as wrong:
            raise InvalidInput(f"create {name}: {wrong.message}", hint=wrong.hint) from None
        if existing := self.find(name):
            return existing
        path = os.path.join(self._root, name, "_data")
        try:
            os.makedirs(path, mode=0o755, exist_ok=True)
        except OSError as error:
            raise SystemFault(f"cannot make volume {name} in {path}: {error.strerror}") from None
        if parsed.size:
            try:
                local_driver.limit(path, parsed.size)
            except SkerryError:
                self._discard(name)
                raise
        data = {
            "version": 1,
            "name": name,
            "labels": dict(labels or {}),
            "created_at": time.time_ns(),
            "anonymous": anonymous,
            "options": dict(options or {}),
        }
        self._records.put(KIND, name, data)
        volume = self._known[name] = self._volume(data)
        self._events.emit("volume", "create", name, {"driver": "local"})
        return volume

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove it; Conflict while a container holds it."""
        if self.find(name) is None:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        users = self._users(name) or sorted(self._holders.get(name, ()))
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        self._records.delete(KIND, name)
        del self._known[name]
        self._locks.pop(name, None)
        self._discard(name)
        self._events.emit("volume", "destroy", name, {"driver": "local"})

    def _discard(self, name: str) -> None:
        """The folder, never what is mounted on it."""
        path = os.path.join(self._root, name, "_data")
        local_driver.take_down(path)
        local_driver.unlimit(path)
        self._scratch.discard(os.path.join(self._root, name))

    def clean(self) -> None:
        """Remove folders that no record names: what a killed engine left."""
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return
        for name in names:
            if name not in self._known:
                self._discard(name)
            else:
                _sweep_staging(os.path.join(self._root, name))

    def expect(self, containers: Iterable["Container"]) -> None:
        """After a crash: take the mounts of those for needed that ran when they were saved."""
        for container in containers:
            if container.running:
                for volume in self._to_mount(container.record.mounts):
                    self._holders.setdefault(volume.name, set()).add(container.id)

    def recover(self, containers: Iterable["Container"]) -> None:
        """Once it is known which of them run: take down the mounts that nobody needs."""
        idle = {each.id for each in containers if not (each.running or each.starting)}
        for volume in self._known.values():
            if volume.mounts:
                holders = self._holders.setdefault(volume.name, set())
                holders -= idle
                if not holders:
                    local_driver.take_down(volume.path)

    def _to_mount(self, points: Iterable[MountPoint]) -> list[Volume]:
        found = {point.name: self._known.get(point.name) for point in points if point.name}
        return [volume for volume in found.values() if volume is not None and volume.mounts]

    async def hold(self, points: Iterable[MountPoint], holder: str) -> None:
        """Mount what has to be mounted for who uses these. SystemFault; then nothing is held."""
        for volume in self._to_mount(points):
            try:
                await self._hold(volume, holder)
            except BaseException:
                await self.release(points, holder)
                raise

    async def _hold(self, volume: Volume, holder: str) -> None:
        async with self._lock(volume.name):
            holders = self._holders.setdefault(volume.name, set())
            if not holders:
                await asyncio.to_thread(local_driver.take_down, volume.path)
            # A holder of before a restart of the host has lost its mount.
            if not local_driver.is_mount_point(volume.path):
                call = await asyncio.to_thread(
                    local_driver.plan, local_driver.parse(volume.options)
                )
                await asyncio.to_thread(local_driver.carry_out, call, volume.path)
            holders.add(holder)

    async def release(self, points: Iterable[MountPoint], holder: str) -> None:
        """The opposite of `hold`; idempotent."""
        for volume in self._to_mount(points):
            async with self._lock(volume.name):
                holders = self._holders.get(volume.name, set())
                if holder in holders:
                    holders.discard(holder)
                    if not holders:
                        await asyncio.to_thread(local_driver.take_down, volume.path)

    def needs_mounts(self, points: Iterable[MountPoint]) -> bool:
        """Whether `hold` and `release` have anything to do."""
        return bool(points) and bool(self._to_mount(points))

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def provide(self, points: Iterable[MountPoint]) -> list[MountPoint]:
        """Give every volume mount its name and source; returns those to fill from the image.

        Docker fills a volume that is empty, whether it is new or not.
        """
        empty = []
        for point in points:
            if point.kind != "volume":
                continue
            volume = self.create(
                point.name,
                point.labels,
                anonymous=point.anonymous,
                options=point.driver_options,
            )
            point.name, point.source = volume.name, volume.path
            if point.copy_up and not point.subpath:
                empty.append(point)
        return empty

    def told(self, container: "Container", action: str) -> None:
        """Docker's events `mount` and `unmount` of a container's volumes."""
        for point in container.record.mounts:
            if point.kind == "volume":
                about = {"container": container.id, "driver": "local"}
                if action == "mount":
                    about |= {
                        "destination": point.target,
                        "propagation": "",
                        "read/write": str(not point.read_only).lower(),
                    }
                self._events.emit("volume", action, point.name, about)


STAGING = "_incoming"
"""Beside `_data`: contents that are being brought in."""


def _sweep_staging(folder: str) -> None:
    shutil.rmtree(os.path.join(folder, STAGING), ignore_errors=True)


async def copy_up(root_fd: int, target: str, destination: str) -> None:
    """Fill an empty volume with what the image has at `target`, owner and mode included.

    `root_fd` is the image's root; the path is resolved beneath it. Nothing happens when the image
    has no such folder, or when the volume holds anything.
    """
    from skerry.kernel.descriptors import open_in_root

    try:
        fd = open_in_root(root_fd, target, os.O_RDONLY | os.O_DIRECTORY)
    except (SystemFault, NotFound):
        return
    try:
        with os.scandir(destination) as entries:
            if next(entries, None) is not None:
                return
        status = os.fstat(fd)
        os.chown(destination, status.st_uid, status.st_gid)
        os.chmod(destination, status.st_mode & 0o7777)
        if not os.listdir(fd):
            return
        process = await asyncio.create_subprocess_exec(
            "cp",
            "-a",
            "--",
            f"/proc/self/fd/{fd}/.",
            destination,
            pass_fds=(fd,),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        if process.returncode:
            raise SystemFault(
                f"cannot fill the volume at {target}: {err.decode('utf-8', 'replace').strip():.300}"
            )
    except OSError as error:
        raise SystemFault(f"cannot fill the volume at {target}: {error.strerror}") from None
    finally:
        os.close(fd)


def check_driver(body: Mapping[str, Any]) -> None:
    """InvalidInput for drivers that are not there."""
    if body.get("Driver") not in (None, "", "local"):
        raise InvalidInput(
            f"create {body.get('Name', '')}: error looking up volume plugin {body['Driver']}: "
            f'plugin "{body["Driver"]}" not found'
        )
