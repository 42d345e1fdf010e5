"""Machines in and out as OVA: a tar archive of an OVF descriptor, a manifest and the disks. Single
disks out in other products' formats."""

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import IO, Any

import msgspec

from skerry.base.errors import DigestMismatch, InvalidInput, LimitExceeded, NotFound
from skerry.base.ids import NAME_PATTERN
from skerry.engine.vms.creation import Creation, DiskWish, NicWish, must_be_off
from skerry.engine.vms.record import Live, Machine
from skerry.engine.vms.shelf import Shelf
from skerry.machine.full import manifest, ovf
from skerry.machine.full.disks import EXPORTS, Tools
from skerry.machine.full.spec import SECURE, Disk

MAX_PACKAGE = 4 << 40
_BLOCK = 1 << 20
_SLACK = 64 << 20
"""Bytes that a disk's format may take beside what it holds."""


class Exchange:
    """The service's half that packs and unpacks."""

    def __init__(self, shelf: Shelf, creation: Creation, root: str) -> None:
        self._shelf = shelf
        self._creation = creation
        self._scratch = os.path.join(root, "vms")

    async def export(self, live: Live) -> AsyncIterator[bytes]:
        """The machine's present state as an OVA; it has to be off. Callers hold its lock.

        The archive's size has to be known before its first byte, so the disks are converted first.
        """
        must_be_off(live, "an export")
        record = live.record
        places = self._shelf.make_folders(record)
        with tempfile.TemporaryDirectory(dir=places.state, prefix="export-") as folder:
            os.chmod(folder, 0o711)
            files: dict[str, str] = {}
            tools = Tools(record.uid)
            for at, disk in enumerate(record.hardware.disks, 1):
                name = f"{record.name}-disk{at:03}.vmdk"
                files[name] = os.path.join(folder, name)
                await tools.flatten(self._shelf.chain(disk.layer), files[name], "vmdk")
            packed = await asyncio.to_thread(_pack, record, files)
            yield packed
            for name, path in files.items():
                size = os.path.getsize(path)
                yield _tar_header(name, size)
                async for data in _contents(path):
                    yield data
                yield bytes(-size % 512)
            yield bytes(1024)

    async def export_disk(self, live: Live, form: str, name: str = "") -> AsyncIterator[bytes]:
        """The present state of one disk as a file of qemu-img's `form`, without a backing file;
        `name` may be left out where there is one disk. The machine has to be off; callers hold its
        lock. InvalidInput, NotFound."""
        must_be_off(live, "an export")
        if form not in EXPORTS:
            raise InvalidInput(
                f"unknown format: {form!r:.40}", hint=f"ova, {', '.join(sorted(EXPORTS))}"
            )
        disk = _the_disk(live.record, name)
        places = self._shelf.make_folders(live.record)
        with tempfile.TemporaryDirectory(dir=places.state, prefix="export-") as folder:
            os.chmod(folder, 0o711)
            path = os.path.join(folder, "disk")
            await Tools(live.record.uid).flatten(self._shelf.chain(disk.layer), path, form)
            async for data in _contents(path):
                yield data

    async def take_in(self, name: str, chunks: AsyncIterator[bytes]) -> Machine:
        """A machine out of an OVA. InvalidInput, LimitExceeded, DigestMismatch."""
        os.makedirs(self._scratch, mode=0o710, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="import-", dir=self._scratch) as folder:
            os.chmod(folder, 0o711)
            with tempfile.TemporaryFile(dir=folder) as spool:
                size = 0
                async for chunk in chunks:
                    size += len(chunk)
                    if size > MAX_PACKAGE:
                        raise LimitExceeded(f"the package is larger than {MAX_PACKAGE} bytes")
                    await asyncio.to_thread(spool.write, chunk)
                spool.seek(0)
                machine = await asyncio.to_thread(unpack, spool, folder)
            return await self._creation.create(
                name or _plain_name(machine.name), wish(machine, folder)
            )


async def _contents(path: str) -> AsyncIterator[bytes]:
    with open(path, "rb") as file:
        while data := await asyncio.to_thread(file.read, _BLOCK):
            yield data


def _the_disk(record: Machine, name: str) -> Disk:
    found = {disk.name: disk for disk in record.hardware.disks}
    if not found:
        raise NotFound(f"machine {record.name} has no disk")
    if not name and len(found) > 1:
        raise InvalidInput(
            f"machine {record.name} has {len(found)} disks", hint=f"choose one: {', '.join(found)}"
        )
    if name and name not in found:
        raise NotFound(f"machine {record.name} has no disk {name!r:.60}")
    return found[name] if name else next(iter(found.values()))


def _plain_name(title: str) -> str:
    """A descriptor's title as a name of ours, "" when nothing is left of it."""
    word = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in title)
    word = word.strip("-")[:60]
    return word if NAME_PATTERN.fullmatch(word) else ""


def wish(machine: ovf.OvfMachine, folder: str) -> dict[str, Any]:
    """The body of a request to create what the descriptor says. Networks of other products mean
    nothing here: every card becomes a NAT card."""
    made = []
    for disk in machine.disks:
        source = os.path.join(folder, disk.file) if disk.file else ""
        made.append(DiskWish(size=0 if source else disk.size, source=source, bus=disk.bus))
    ide = any(disk.bus == "ide" for disk in machine.disks)
    body: dict[str, Any] = {
        "memory": machine.memory,
        "cpus": machine.cpus,
        # Where there is IDE there is no Secure Boot.
        "firmware": "uefi" if ide and machine.firmware == SECURE else machine.firmware,
        "machine": "pc" if ide else "q35",
        "disks": msgspec.to_builtins(tuple(made)),
        "nics": msgspec.to_builtins(tuple(NicWish(model=nic.model) for nic in machine.nics)),
        "cdroms": [""] * machine.cdroms,
    }
    return body


def _pack(record: Machine, files: dict[str, str]) -> bytes:
    """Descriptor and manifest, in front of the disks as the format wants."""
    hardware = record.hardware
    sizes = {name: os.path.getsize(path) for name, path in files.items()}
    names = list(files)
    machine = ovf.OvfMachine(
        name=record.name,
        memory=hardware.memory,
        cpus=hardware.cpus,
        firmware=hardware.firmware,
        disks=tuple(
            ovf.OvfDisk(names[at], disk.size, disk.bus) for at, disk in enumerate(hardware.disks)
        ),
        nics=tuple(ovf.OvfNic(nic.network or nic.kind, nic.model) for nic in hardware.nics),
        cdroms=len([drive for drive in hardware.cdroms if not drive.path.endswith("/seed.iso")]),
        sizes=sizes,
    )
    descriptor = ovf.write(machine, hardware.uuid)
    title = f"{record.name}.ovf"
    digests = {title: hashlib.sha256(descriptor).hexdigest()}
    for name, path in files.items():
        with open(path, "rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    listed = manifest.write(digests)
    packed = b""
    for name, data in ((title, descriptor), (f"{record.name}.mf", listed)):
        packed += _tar_header(name, len(data)) + data + bytes(-len(data) % 512)
    return packed


def _tar_header(name: str, size: int) -> bytes:
    import tarfile

    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    # GNU's form writes sizes beyond 8 GiB, which VirtualBox and VMware read.
    return info.tobuf(tarfile.GNU_FORMAT)


def unpack(spool: IO[bytes], folder: str) -> ovf.OvfMachine:
    """The files of an OVA into `folder`, checked against its manifest; what its descriptor says."""
    import tarfile

    descriptor: bytes | None = None
    title = ""
    listed: dict[str, tuple[str, str]] = {}
    seen: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=spool, mode="r:") as tar:
            for info in tar:
                name = ovf.file_name(info.name.removeprefix("./"))
                if name in seen or not info.isreg():
                    raise InvalidInput(f"OVF: {name} comes twice or is no file")
                if len(seen) > ovf.MAX_FILES + 4:
                    raise LimitExceeded("OVF: too many files")
                file = tar.extractfile(info)
                assert file is not None
                seen[name] = ""
                if name.endswith(".ovf") and descriptor is None:
                    title, descriptor = name, file.read(ovf.MAX_DOCUMENT + 1)
                elif name.endswith(".mf"):
                    listed = manifest.parse(file.read(manifest.MAX_MANIFEST + 1))
                elif not name.endswith(".cert"):
                    seen[name] = os.path.join(folder, name)
                    with open(seen[name], "xb") as out:
                        shutil.copyfileobj(file, out, _BLOCK)
                    os.chmod(seen[name], 0o644)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InvalidInput(
            f"OVF: the archive is damaged: {error}",
            hint="packages are .ova and .ovf; disk images are given to skerry vm create --disk",
        ) from None
    if descriptor is None:
        raise InvalidInput("OVF: the archive holds no descriptor (.ovf)")
    _check(listed, title, descriptor, seen)
    machine = ovf.parse(descriptor)
    for disk in machine.disks:
        if disk.file and not seen.get(disk.file):
            raise InvalidInput(f"OVF: the file {disk.file} is not in the archive")
        if disk.file in machine.packed:
            decompress(seen[disk.file], disk.size + disk.size // 4 + _SLACK)
    return machine


def decompress(path: str, limit: int) -> None:
    """A gzip file, in place. LimitExceeded when more than `limit` bytes come out of it."""
    import gzip
    import zlib

    size, plain = 0, f"{path}.plain"
    try:
        with gzip.open(path, "rb") as source, open(plain, "xb") as out:
            while data := source.read(_BLOCK):
                size += len(data)
                if size > limit:
                    raise LimitExceeded(f"OVF: {os.path.basename(path)} is larger than its disk")
                out.write(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidInput(
            f"OVF: {os.path.basename(path)} is not the gzip file that it is said to be: {error}"
        ) from None
    os.chmod(plain, 0o644)
    os.rename(plain, path)


def _check(
    listed: dict[str, tuple[str, str]], title: str, descriptor: bytes, seen: dict[str, str]
) -> None:
    for name, (algorithm, wanted) in listed.items():
        if name == title:
            found = hashlib.new(algorithm, descriptor).hexdigest()
        elif seen.get(name):
            with open(seen[name], "rb") as file:
                found = hashlib.file_digest(file, algorithm).hexdigest()
        else:
            raise InvalidInput(f"OVF: the manifest lists {name}, which is not in the archive")
        if found != wanted:
            raise DigestMismatch(f"OVF: {name} is not what the manifest says")
