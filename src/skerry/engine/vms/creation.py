"""Making machines, changing and removing them."""

import asyncio
import os
import tempfile
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from skerry.base.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from skerry.base.ids import check_name, new_id, random_name
from skerry.engine.vms import autostart, cables
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import OFF, SAVED, Live, Machine
from skerry.engine.vms.shelf import Shelf
from skerry.machine.full import argv, disks, seed, spec
from skerry.machine.full.spec import Cdrom, Disk, Hardware, Nic, Share

if TYPE_CHECKING:
    from collections.abc import Mapping


_VOLUMES = 16 * 2048
"""Where a disc's volume descriptors begin, ECMA-119 section 6.2.1."""


class DiskWish(msgspec.Struct, forbid_unknown_fields=True):
    """A disk to be made: empty of `size` bytes, or a copy of the image `source`, grown to `size`
    when that is more."""

    size: int = 0
    source: str = ""
    format: str = ""
    bus: str = "virtio"


class NicWish(msgspec.Struct, forbid_unknown_fields=True):
    """A network card; see `spec.Nic`."""

    kind: str = "nat"
    network: str = ""
    mac: str = ""
    model: str = "virtio"
    forwards: tuple[spec.Forward, ...] = ()


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request to create a machine."""

    memory: int = 512 << 20
    cpus: int = 1
    machine: str = "q35"
    cpu: str = ""
    accel: str = "auto"
    firmware: str = "bios"
    boot: tuple[str, ...] = ("disk", "cdrom", "network")
    disks: tuple[DiskWish, ...] = ()
    cdroms: tuple[str, ...] = ()
    nics: tuple[NicWish, ...] = (NicWish(),)
    shares: tuple[Share, ...] = ()
    video: str = "std"
    vnc: str = "unix"
    vnc_password: str = ""
    usb: bool = False
    sound: bool = False
    tpm: bool = False
    autostart: bool = False
    autostart_order: int = 0
    autostart_delay: int = 0
    cloud_init: seed.CloudInit | None = None


def doubts(record: Machine) -> list[str]:
    """What was asked for and will not come about."""
    found = []
    if record.seed is not None and (doubt := seed.doubt(record.seed)):
        found.append(doubt)
    if record.vnc_password and record.hardware.vnc == "unix":
        found.append("the screen's unix socket asks for no password; --vnc ADDRESS:DISPLAY does")
    return found


class Creation:
    """The service's half that makes, edits and removes."""

    def __init__(self, shelf: Shelf, life: Life) -> None:
        self._shelf = shelf
        self._life = life

    async def create(self, name: str, body: "Mapping[str, Any]") -> Machine:
        """A machine that is off. InvalidInput, NotFound, Conflict."""
        wish: Wish = spec.load(body, Wish)
        record = self.begin(name)
        hardware = _hardware(wish, record.hardware.uuid)
        spec.check(replace_disks(hardware, wish))
        cables.check_shares(hardware)
        for field in autostart.FIELDS:
            setattr(record, field, getattr(wish, field))
        autostart.check(record)
        record.vnc_password = check_password(wish.vnc_password)
        with self._shelf.making(record):
            try:
                self._shelf.make_folders(record)
                record.hardware = hardware
                await self._fill(record, wish)
                spec.check(record.hardware)
                live = self._shelf.add(record)
            except BaseException:
                self.drop(record)
                raise
        self._life.tell(live, "create")
        return record

    def begin(self, name: str) -> Machine:
        """A record that is not saved yet, its name checked."""
        if name:
            check_name(name, "machine")
        self.check_free(name)
        names = {live.record.name for live in self._shelf}
        while not name:
            name = next((each for _ in range(16) if (each := random_name()) not in names), "")
        return Machine(
            id=new_id(),
            name=name,
            uid=self._shelf.free_uid(),
            created_at=time.time_ns(),
            hardware=Hardware(uuid=str(uuid.uuid4())),
        )

    def check_free(self, name: str) -> None:
        """Conflict when a machine has this name."""
        if any(live.record.name == name for live in self._shelf):
            raise Conflict(f"the machine name {name!r} is already in use")

    def drop(self, record: Machine) -> None:
        """What a failed creation has left."""
        import shutil

        places = self._shelf.places(record)
        shutil.rmtree(places.state, ignore_errors=True)
        shutil.rmtree(places.run, ignore_errors=True)

    async def _fill(self, record: Machine, wish: Wish) -> None:
        made = []
        for at, each in enumerate(wish.disks):
            made.append(await self.new_disk(record, f"disk{at}", each))
        changes: dict[str, Any] = {"disks": tuple(made)}
        if wish.firmware in argv.OVMF:
            changes["vars"] = await self.new_vars(record, wish.firmware)
        drives = [Cdrom(f"cd{at}", check_disc(path)) for at, path in enumerate(wish.cdroms)]
        if wish.cloud_init is not None:
            path = os.path.join(self._shelf.places(record).state, "seed.iso")
            settings = wish.cloud_init
            macs = [nic.mac for nic in record.hardware.nics]
            image = await asyncio.to_thread(seed.image, settings, record.name, record.id, macs)
            write_file(path, image)
            record.seed = settings
            # Where the guest finds its own disk it finds this one: Debian's kernel for clouds has
            # no driver for a drive at SATA.
            bus = "virtio" if made and made[0].bus == "virtio" else "sata"
            drives.append(Cdrom(f"cd{len(drives)}", path, bus))
        record.hardware = msgspec.structs.replace(record.hardware, cdroms=tuple(drives), **changes)

    async def new_disk(self, record: Machine, name: str, wish: DiskWish) -> Disk:
        """Make the file of a disk."""
        tools = self._shelf.tools(record)
        layer = self._shelf.new_layer(record)
        path = self._shelf.path(layer)
        if not wish.source:
            if not wish.size:
                raise InvalidInput(f"{name}: neither a size nor an image is given")
            await tools.create(path, spec.check_size(wish.size))
            return Disk(name, layer, wish.size, wish.bus)
        if not wish.source.startswith("/"):
            raise InvalidInput(f"disk image {wish.source!r:.200}: not an absolute path")
        with tempfile.TemporaryDirectory(dir=self._shelf.places(record).state) as scratch:
            source = await asyncio.to_thread(disks.readable, wish.source, scratch, record.uid)
            image = await tools.examine(source, wish.format)
            if wish.size and wish.size < image.size:
                raise InvalidInput(
                    f"{wish.source} is a disk of {image.size} bytes, {wish.size} are too few"
                )
            await tools.copy_in(source, image, path)
        size = max(wish.size, image.size)
        if size > image.size:
            await tools.grow([path], size)
        return Disk(name, layer, size, wish.bus)

    async def new_vars(self, record: Machine, firmware: str) -> str:
        """UEFI's variables as the firmware ships them."""
        shipped = argv.OVMF[firmware]
        if not all(map(os.path.exists, shipped)):
            raise NotFound(f"the firmware {firmware} is missing", hint="apt-get install ovmf")
        layer = self._shelf.new_layer(record)
        await self._shelf.tools(record).copy_in(
            shipped[1], disks.Image("raw", 0), self._shelf.path(layer)
        )
        return layer

    async def remove(self, live: Live, *, force: bool = False) -> None:
        """Remove it with its disks and snapshots; Conflict while it runs, unless forced."""
        record = live.record
        if live.process is not None:
            if not force:
                raise Conflict(
                    f"machine {record.name} is running", hint="stop it first, or use --force"
                )
            await self._life.end(live)
        self._shelf.forget(live)
        await asyncio.to_thread(self._shelf.sweep)
        self._life.tell(live, "destroy")


def _hardware(wish: Wish, identity: str) -> Hardware:
    """Everything but disks, drives and firmware variables, which are files to be made."""
    return Hardware(
        uuid=identity,
        memory=wish.memory,
        cpus=wish.cpus,
        machine=wish.machine,
        cpu=wish.cpu,
        accel=wish.accel,
        firmware=wish.firmware,
        boot=wish.boot,
        nics=tuple(card(each) for each in wish.nics),
        shares=wish.shares,
        video=wish.video,
        vnc=wish.vnc,
        usb=wish.usb,
        sound=wish.sound,
        tpm=wish.tpm,
    )


def replace_disks(hardware: Hardware, wish: Wish) -> Hardware:
    """With stand-ins for the disks, so that all can be checked before anything is made."""
    disks_ = tuple(
        Disk(f"disk{at}", "x/x", each.size or spec.MIB, each.bus)
        for at, each in enumerate(wish.disks)
    )
    drives = tuple(Cdrom(f"cd{at}") for at in range(len(wish.cdroms) + bool(wish.cloud_init)))
    return msgspec.structs.replace(hardware, disks=disks_, cdroms=drives)


def card(wish: NicWish, mac: str = "") -> Nic:
    """The card that was asked for; `mac` when none was given."""
    address = (wish.mac or mac or new_mac()).lower()
    return Nic(wish.kind, address, wish.network, wish.model, wish.forwards)


def new_mac() -> str:
    """QEMU's prefix and three random bytes."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))


def check_disc(path: str) -> str:
    """An image for a drive; empty for none."""
    if path and not path.startswith("/"):
        raise InvalidInput(f"disc image {path!r:.200}: not an absolute path")
    if not path:
        return path
    if not os.path.isfile(path):
        raise NotFound(f"no such disc image: {path}")
    try:
        with open(path, "rb") as file:
            file.seek(_VOLUMES)
            volume = file.read(6)[1:]
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from None
    if volume not in (b"CD001", b"BEA01"):
        raise InvalidInput(
            f"{path} is no disc image: it has neither an ISO 9660 nor a UDF volume",
            hint="disks are given by --disk",
        )
    return path


def check_password(text: str) -> str:
    """VNC's passwords have at most eight characters that count (RFC 6143, section 7.2.2)."""
    if text and not (text.isascii() and text.isprintable()):
        raise InvalidInput("a VNC password is printable ASCII")
    if len(text) > 8:
        raise LimitExceeded("a VNC password has at most 8 characters")
    return text


def write_file(path: str, data: bytes) -> None:
    """Whole or not at all."""
    part = f"{path}.part"
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(part, path)


def must_be_off(live: Live, what: str) -> None:
    """Conflict unless the machine is off."""
    if live.process is not None or live.record.status == SAVED:
        state = live.record.status
        raise Conflict(f"machine {live.record.name} is {state}: {what} needs it off")


__all__ = ["OFF", "Creation", "DiskWish", "NicWish", "Wish", "check_disc", "must_be_off"]
