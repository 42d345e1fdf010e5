"""The files of containers in machines: read and written behind the wall, running or not."""

import asyncio
import json
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from skerry.base.errors import Conflict
from skerry.base.isolation import DISK, MIRRORED, Overlay, Unpacking
from skerry.machine import lean, mirroring
from skerry.machine.chains import frozen_disks
from skerry.machine.conf import bare
from skerry.machine.shape import shape_for
from skerry.machine.wall import Wall

_TAKERS = 32


class Contents(Wall):
    """The part of the driver that carries files over the wall."""

    def __init__(self, root: str, *, cgroup_parent: str = "/skerry") -> None:
        """As `Wall`."""
        super().__init__(root, cgroup_parent=cgroup_parent)
        self._takers = ThreadPoolExecutor(_TAKERS, "machine-files")
        """Threads that wait for guests: a slow one keeps nobody else's."""

    async def close(self) -> None:
        """Let go of everything without ending any task."""
        await super().close()
        self._takers.shutdown(wait=False)

    async def mirror(self, container_id: str, overlay: Overlay, run_dir: str) -> None:
        """Make `overlay.upper` what the container has written by now.

        Of a container that does not run this is done once, and again only when its disk changed.
        """
        disk = Path(os.path.dirname(overlay.upper), DISK)
        if not disk.exists():
            return
        running = container_id in self._containers
        stamp = disk.with_name(MIRRORED)
        status = disk.stat()
        state = f"{status.st_mtime_ns} {status.st_size}"
        if not running and stamp.exists() and stamp.read_text() == state:
            return
        stamp.unlink(missing_ok=True)
        await self._pack(container_id, overlay, run_dir, overlay.upper)
        if not running:
            status = disk.stat()
            stamp.write_text(f"{status.st_mtime_ns} {status.st_size}")

    async def look(
        self, container_id: str, overlay: Overlay, folder: str, contents: tuple[str, ...]
    ) -> None:
        """Make `folder` what the running container has written by now, but of long files elsewhere
        than at and below `contents` (relative to the root) a hole of their size."""
        if container_id not in self._containers:
            raise Conflict(f"container {container_id} is not running")
        await self._pack(container_id, overlay, "", folder, contents=contents)

    async def _pack(
        self, container_id: str, overlay: Overlay, run_dir: str, folder: str, **more: Any
    ) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        loop = asyncio.get_running_loop()
        taking = loop.run_in_executor(self._takers, mirroring.take, mine, folder)
        request = {"op": "pack", **more}
        try:
            await self._work(container_id, overlay, run_dir, request, theirs.detach())
        except BaseException:
            with suppress(OSError):
                mine.shutdown(socket.SHUT_RDWR)
            with suppress(Exception):
                await taking
            raise
        await taking

    async def unpack(
        self, container_id: str, overlay: Overlay, run_dir: str, archive: Unpacking
    ) -> None:
        """Unpack into the container, running or not."""
        request = {
            "op": "unpack",
            "path": archive.path,
            "keep_kinds": archive.keep_kinds,
            "owner": archive.owner,
        }
        await self._work(container_id, overlay, run_dir, request, os.dup(archive.fd))

    async def _work(
        self, container_id: str, overlay: Overlay, run_dir: str, request: dict[str, Any], fd: int
    ) -> None:
        """Have a machine read or write its container's files; `fd` is taken over."""
        if container_id in self._containers:
            await self.ask(container_id, request.pop("op"), fds=(fd,), seconds=None, **request)
            return
        with self._opening():
            await self._read(container_id, overlay, run_dir, request, fd)

    async def _read(
        self, container_id: str, overlay: Overlay, run_dir: str, request: dict[str, Any], fd: int
    ) -> None:
        shape = shape_for(0, 0, 1)
        try:
            frozen = await self.templates.get(shape)
            layers = await asyncio.to_thread(self._ready_disks, overlay)
            await self.repair(overlay)
            below = frozen_disks(overlay)
            accel = self.templates.accel
            os.makedirs(run_dir, 0o700, exist_ok=True)
            conf = bare(
                container_id, run_dir, frozen.state, f"/proc/{os.getpid()}/fd/{frozen.ram}",
                shape=shape, accel=(accel.name, accel.cpu, accel.tsc_khz), layers=layers,
                writable=os.path.join(os.path.dirname(overlay.upper), DISK),
                below=[str(disk) for disk in below], blank=self.disks.floor(below),
            )  # fmt: skip
            await lean.run("reader", json.dumps([conf, request, os.getpid()]), fd)
        finally:
            os.close(fd)
            shutil.rmtree(run_dir, ignore_errors=True)
