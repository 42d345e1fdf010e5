"""Snapshots of machines: saved while they run, packed for other engines, taken in from them."""

import asyncio
import os
from pathlib import Path
from typing import Any

from skerry.base.errors import Conflict
from skerry.base.isolation import DISK, Overlay, SavedInfo
from skerry.machine import portable, stream, template
from skerry.machine.accel import choose
from skerry.machine.chains import frozen_disks
from skerry.machine.guest import identity
from skerry.machine.shape import Shape
from skerry.machine.wall import Wall

SAVE_SECONDS = 150.0


class Snapshots(Wall):
    """The part of the driver that saves machines."""

    async def save(
        self, container_id: str, rootfs: Overlay, memory: int = -1, devices: str = ""
    ) -> SavedInfo:
        """Save the running machine; it goes on.

        What it has written to its disk is never written again: from now on it writes to the fresh
        disk of `rootfs`. Its memory goes into the empty file behind the descriptor `memory`, the
        rest to the path `devices`; without those only the disk is frozen. Conflict when it does not
        run or is paused; it runs on as before when this fails.
        """
        container = self._containers.get(container_id)
        if container is None:
            raise Conflict(f"container {container_id} is not running")
        disk = Path(os.path.dirname(rootfs.upper), DISK)
        await asyncio.to_thread(self.disks.writable, disk)
        overlay = os.open(disk, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        if memory < 0:
            answer = await self.ask(container_id, "save", fds=(overlay,), seconds=SAVE_SECONDS)
            return SavedInfo(float(answer["pause_ms"]), [], False, {})
        size = self._shape_of(container_id).memory
        # Into memory, as the machine may stand still meanwhile; what takes long comes afterwards.
        raw = os.memfd_create("skerry-stream", os.MFD_CLOEXEC)
        try:
            fds = (overlay, os.dup(raw), os.dup(memory))
            answer = await self.ask(container_id, "save", fds=fds, seconds=SAVE_SECONDS)
            take = _write_out if answer.get("apart") is True else _split
            await asyncio.to_thread(take, raw, memory, size, devices)
        finally:
            os.close(raw)
        renew, hooks = read_told(answer.get("guest"))
        version = portable.told_version(answer.get("qemu"))
        made_of = {**self._containers[container_id].facts.get("made_of", {}), "qemu": version}
        if made_of.get("cpus"):
            made_of["cpus"] = int(answer["cpus"])
            made_of["more"] = int(answer["more"])
        return SavedInfo(float(answer["pause_ms"]), renew, hooks, made_of)

    async def load_memory(self, path: str) -> int:
        """A sealed memfd with the memory of a saved machine; the caller closes it. Copies map it,
        and none of their hypervisors can write to it."""
        return await asyncio.to_thread(_load_memory, path)

    def seal(self, memory: int) -> None:
        """Let nobody write to a memfd any more."""
        template.seal(memory)

    def pack_snapshot(
        self, overlay: Overlay, folder: str, made_of: dict[str, Any], target: str
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """What of a machine's snapshot another engine takes in, below the folder `target`: words
        for `take_snapshot`, and file names to paths. `folder` has its memory, if it was kept.
        Blocks."""
        files: dict[str, str] = {}
        if made_of:
            portable.leave_out_shares(portable.MadeOf(**made_of))
        if chain := frozen_disks(overlay):
            files[DISK] = f"{target}/{DISK}"
            self.disks.flatten(chain, Path(files[DISK]))
        if not made_of:
            return {}, files
        layers = self._ready_disks(overlay)
        said = portable.MadeOf(**made_of)._replace(layers=portable.digest(layers) if layers else "")
        files[portable.MEMORY] = f"{target}/{portable.MEMORY}"
        portable.compress(f"{folder}/memory", files[portable.MEMORY])
        files[portable.DEVICES] = f"{folder}/{portable.DEVICES}"
        return said._asdict(), files

    def take_snapshot(
        self, said: object, files: dict[str, str], overlay: Overlay, folder: str
    ) -> dict[str, Any]:
        """Put what `pack_snapshot` made, perhaps a stranger, into the folder of a frozen layer that
        is being made above the layers of `overlay`; the `made_of` of a machine with memory.

        InvalidInput for what is no snapshot, Unsupported when its memory cannot go on here. Blocks.
        """
        made_of: dict[str, Any] = {}
        if portable.MEMORY in files and portable.DEVICES in files:
            found = portable.parse(said)
            portable.refuse(found, self._here(found.shape, overlay))
            portable.expand(files[portable.MEMORY], f"{folder}/memory", found.memory + found.more)
            portable.take_devices(files[portable.DEVICES], f"{folder}/{portable.DEVICES}")
            made_of = found._asdict()
        self.disks.take_in(Path(files[DISK]), Path(folder, DISK))
        return made_of

    def _here(self, shape: Shape, overlay: Overlay) -> portable.MadeOf:
        contents, accel = self.templates.kit_contents(), choose()
        layers = self._ready_disks(overlay)
        return portable.made_of(contents, shape, accel)._replace(
            qemu=portable.qemu_version(), layers=portable.digest(layers) if layers else ""
        )


def read_told(said: object) -> tuple[list[str], bool]:
    """What a guest tells when it is saved: which files a copy must have of its own, and whether
    it has hooks. What makes no sense is nothing."""
    told = said if isinstance(said, dict) else {}
    renew = told.get("renew")
    named = renew if isinstance(renew, list) else []
    return [path for path in identity.RENEWED if path in named], told.get("hooks") is True


def _load_memory(path: str) -> int:
    memory = os.memfd_create("skerry-saved", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            os.ftruncate(memory, size)
            template.copy_sparse(file.fileno(), memory, size)
        template.seal(memory)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _split(raw: int, memory: int, size: int, devices: str) -> None:
    """Take apart what QEMU has written."""
    with open(devices, "xb") as file:
        file.writelines(stream.split(stream.read(raw), memory, size, "ram"))


def _write_out(raw: int, _memory: int, _size: int, devices: str) -> None:
    """What is apart already."""
    with open(devices, "xb") as file:
        file.writelines(stream.read(raw))
