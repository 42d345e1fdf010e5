"""Volumes: folders that outlive their containers, `<root>/volumes/<name>/_data`.

Only Docker's `local` driver without options. A volume is a record and a folder; the folder is made
first and removed last, so that recovery can tell leftovers by the missing record.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from skerry.base.errors import Conflict, InvalidInput, NotFound, SystemFault
from skerry.base.ids import check_name, new_id
from skerry.engine.record import MountPoint

if TYPE_CHECKING:
    from skerry.engine.events import Events
    from skerry.store.records import Records

KIND = "volume"


class Volume(NamedTuple):
    """`created_at` in nanoseconds since the epoch."""

    name: str
    labels: dict[str, str]
    created_at: int
    path: str
    anonymous: bool


class Volumes:
    """The service. `users(name)` tells which containers hold a volume."""

    def __init__(
        self,
        root: str,
        records: "Records",
        events: "Events",
        users: Callable[[str], list[str]],
    ) -> None:
        self._root = os.path.join(root, "volumes")
        self._records = records
        self._events = events
        self._users = users

    def _volume(self, data: Mapping[str, Any]) -> Volume:
        name = data["name"]
        return Volume(
            name,
            dict(data.get("labels") or {}),
            data["created_at"],
            os.path.join(self._root, name, "_data"),
            bool(data.get("anonymous")),
        )

    def all(self) -> list[Volume]:
        """All, by name."""
        return [self._volume(each.data) for each in self._records.all(KIND)]

    def find(self, name: str) -> Volume | None:
        """One, or None."""
        try:
            return self._volume(self._records.get(KIND, name))
        except NotFound:
            return None

    def get(self, name: str) -> Volume:
        """One; NotFound in Docker's words."""
        volume = self.find(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def in_use(self, name: str) -> list[str]:
        """Ids of the containers that hold it."""
        return self._users(name)

    def create(
        self, name: str = "", labels: Mapping[str, str] | None = None, *, anonymous: bool = False
    ) -> Volume:
        """Make it, or give the one that has the name."""
        name = check_name(name, "volume") if name else new_id()
        if existing := self.find(name):
            return existing
        path = os.path.join(self._root, name, "_data")
        try:
            os.makedirs(path, mode=0o755, exist_ok=True)
        except OSError as error:
            raise SystemFault(f"cannot make volume {name} in {path}: {error.strerror}") from None
        data = {
            "version": 1,
            "name": name,
            "labels": dict(labels or {}),
            "created_at": time.time_ns(),
            "anonymous": anonymous,
        }
        self._records.put(KIND, name, data)
        self._events.emit("volume", "create", name, {"driver": "local"})
        return self._volume(data)

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove it; Conflict while a container holds it."""
        if self.find(name) is None:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        if users := self._users(name):
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        self._records.delete(KIND, name)
        shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)
        self._events.emit("volume", "destroy", name, {"driver": "local"})

    def clean(self) -> None:
        """Remove folders that no record names: what a killed engine left."""
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return
        known = {volume.name for volume in self.all()}
        for name in names:
            if name not in known:
                shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)

    def provide(self, points: Iterable[MountPoint]) -> list[MountPoint]:
        """Give every volume mount its name and source; returns those whose volume is new."""
        fresh = []
        for point in points:
            if point.kind != "volume":
                continue
            known = bool(point.name) and self.find(point.name) is not None
            volume = self.create(point.name, anonymous=point.anonymous)
            point.name, point.source = volume.name, volume.path
            if not known and point.copy_up:
                fresh.append(point)
        return fresh


async def copy_up(root_fd: int, target: str, destination: str) -> None:
    """Fill a fresh volume with what the image has at `target`, owner and mode included.

    `root_fd` is the image's root; the path is resolved beneath it. Nothing happens when the image
    has no such folder.
    """
    from skerry.kernel.descriptors import open_in_root

    try:
        fd = open_in_root(root_fd, target, os.O_RDONLY | os.O_DIRECTORY)
    except (SystemFault, NotFound):
        return
    try:
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
    finally:
        os.close(fd)


def check_driver(body: Mapping[str, Any]) -> None:
    """InvalidInput for drivers and options that are not there."""
    if body.get("Driver") not in (None, "", "local"):
        raise InvalidInput(
            f"create {body.get('Name', '')}: error looking up volume plugin {body['Driver']}: "
            f'plugin "{body["Driver"]}" not found'
        )
    if body.get("DriverOpts"):
        raise InvalidInput("options of the local volume driver are not supported yet")
