"""Changing machines: most things while they are off; discs, ports, names at any time."""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from skerry.base.errors import InvalidInput, NotFound
from skerry.base.ids import check_name
from skerry.engine.vms import autostart, cables, forwarding
from skerry.engine.vms.creation import (
    Creation,
    DiskWish,
    NicWish,
    card,
    check_disc,
    check_password,
    must_be_off,
)
from skerry.engine.vms.forwarding import Rule
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import Live, Machine
from skerry.engine.vms.shelf import Shelf
from skerry.machine.full import spec
from skerry.machine.full.spec import Cdrom, Disk, Forward, Hardware, Nic, Share


class Changes(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request to change a machine; what is None stays. `discs` is drive to image,
    "" ejects; `sizes` is disk to its new size; `nics` and `shares` replace those there are.

    `detach` names disks, drives (`cd0`), cards (`net1`) and shared folders (their tags);
    `add_forwards` and `drop_forwards` (host ports as `8080/tcp`) are of the first NAT card."""

    name: str | None = None
    autostart: bool | None = None
    autostart_order: int | None = None
    autostart_delay: int | None = None
    discs: dict[str, str] = {}
    vnc_password: str | None = None
    memory: int | None = None
    cpus: int | None = None
    machine: str | None = None
    cpu: str | None = None
    accel: str | None = None
    boot: tuple[str, ...] | None = None
    video: str | None = None
    vnc: str | None = None
    usb: bool | None = None
    sound: bool | None = None
    tpm: bool | None = None
    nics: tuple[NicWish, ...] | None = None
    shares: tuple[Share, ...] | None = None
    add_nics: tuple[NicWish, ...] = ()
    add_shares: tuple[Share, ...] = ()
    add_forwards: tuple[Forward, ...] = ()
    drop_forwards: tuple[str, ...] = ()
    add_disks: tuple[DiskWish, ...] = ()
    add_cdroms: int = 0
    sizes: dict[str, int] = {}
    detach: tuple[str, ...] = ()


_PLAIN = (
    *("memory", "cpus", "machine", "cpu", "accel", "boot", "video", "vnc", "usb", "sound", "tpm"),
    "shares",
)


class Editing:
    """The service's half that changes. Callers hold the machine's lock."""

    def __init__(self, shelf: Shelf, life: Life, creation: Creation) -> None:
        self._shelf = shelf
        self._life = life
        self._creation = creation

    async def edit(self, live: Live, body: Mapping[str, Any]) -> None:
        """All changes or none. Conflict when one of them needs the machine off."""
        wanted: Changes = spec.load(body, Changes)
        record = live.record
        if _needs_off(wanted):
            must_be_off(live, "this change")
        hardware = self._plain(record.hardware, wanted)
        spec.check(hardware)
        gone, come = self._ports(live, hardware)
        if wanted.shares or wanted.add_shares:
            cables.check_shares(hardware)
        if wanted.name is not None:
            check_name(wanted.name, "machine")
            if wanted.name != record.name:
                self._creation.check_free(wanted.name)
        password = None if wanted.vnc_password is None else check_password(wanted.vnc_password)
        shown = record.hardware.vnc != "unix"
        if shown and password is not None and not (password and record.vnc_password):
            must_be_off(live, "asking for a VNC password, or for none any more,")
        before = msgspec.structs.replace(record)
        with self._shelf.making(record):
            try:
                hardware = await self._disks(record, hardware, wanted)
                spec.check(hardware)
                for drive, path in wanted.discs.items():
                    hardware = await self._insert(live, hardware, drive, path)
                record.hardware = hardware
                record.name = wanted.name or record.name
                for field in autostart.FIELDS:
                    if (value := getattr(wanted, field)) is not None:
                        setattr(record, field, value)
                autostart.check(record)
                if password is not None:
                    record.vnc_password = password
                self._shelf.save(record)
                try:
                    await self._tell_qemu(live, gone, come, password)
                except BaseException:
                    self._shelf.save(before)
                    raise
            except BaseException:
                for field in record.__struct_fields__:
                    setattr(record, field, getattr(before, field))
                raise
        self._life.tell(live, "update")

    def _ports(self, live: Live, hardware: Hardware) -> tuple[set[Rule], set[Rule]]:
        """Forwarded ports that a running machine loses and gets. Conflict when it cannot."""
        record = live.record
        if live.process is None:
            return set(), set()
        old, new = forwarding.wanted(record.hardware), forwarding.wanted(hardware)
        gone, come = old - new, new - old
        if record.uid:
            forwarding.check_reachable(gone | come)
        held = {(each.host_ip, each.host_port, each.protocol) for each in gone}
        asked = {(each.host_ip, each.host_port, each.protocol) for each in come}
        cables.check_ports(record, self._life.others(live), sorted(asked - held))
        return gone, come

    async def _tell_qemu(
        self, live: Live, gone: set[Rule], come: set[Rule], password: str | None
    ) -> None:
        if live.process is None:
            return
        monitor = self._life.running(live)
        if password is not None and live.record.hardware.vnc != "unix":
            await monitor.execute("set_password", protocol="vnc", password=password)
        if gone or come:
            await forwarding.exchange(monitor, gone, come)

    def _plain(self, hardware: Hardware, wanted: Changes) -> Hardware:
        changes = {name: value for name in _PLAIN if (value := getattr(wanted, name)) is not None}
        if wanted.nics is not None:
            old = [nic.mac for nic in hardware.nics]
            changes["nics"] = tuple(
                card(each, old[at] if at < len(old) else "") for at, each in enumerate(wanted.nics)
            )
        return fewer_and_more(msgspec.structs.replace(hardware, **changes), wanted)

    async def _disks(self, record: Machine, hardware: Hardware, wanted: Changes) -> Hardware:
        known = {disk.name: disk for disk in hardware.disks}
        for name in wanted.sizes:
            if name not in known:
                raise NotFound(f"machine {record.name} has no disk {name!r:.60}")
        for name, size in wanted.sizes.items():
            disk = known[name]
            if spec.check_size(size) < disk.size:
                raise InvalidInput(f"{name} has {disk.size} bytes and cannot become smaller")
            await self._shelf.tools(record).grow(self._shelf.chain(disk.layer), size)
            known[name] = Disk(name, disk.layer, size, disk.bus)
        for name in wanted.detach:
            known.pop(name, None)
        for each in wanted.add_disks:
            name = next(f"disk{at}" for at in range(1000) if f"disk{at}" not in known)
            known[name] = await self._creation.new_disk(record, name, each)
        drives = list(hardware.cdroms)
        if not 0 <= wanted.add_cdroms <= spec.MAX_DEVICES:
            raise InvalidInput(f"{wanted.add_cdroms} more drives: from 1 to {spec.MAX_DEVICES}")
        for _ in range(wanted.add_cdroms):
            taken = {drive.name for drive in drives}
            drives.append(Cdrom(next(f"cd{at}" for at in range(99) if f"cd{at}" not in taken)))
        return msgspec.structs.replace(hardware, disks=tuple(known.values()), cdroms=tuple(drives))

    async def _insert(self, live: Live, hardware: Hardware, drive: str, path: str) -> Hardware:
        if drive not in {each.name for each in hardware.cdroms}:
            raise NotFound(f"machine {live.record.name} has no drive {drive!r:.60}")
        check_disc(path)
        if live.process is not None:
            await self._exchange(live, drive, path)
        drives = tuple(
            msgspec.structs.replace(each, path=path) if each.name == drive else each
            for each in hardware.cdroms
        )
        return msgspec.structs.replace(hardware, cdroms=drives)

    async def _exchange(self, live: Live, drive: str, path: str) -> None:
        """Of a running machine: open the tray, take the disc out, put another one in."""
        monitor = self._life.running(live)
        await monitor.execute("blockdev-open-tray", id=drive, force=True)
        await monitor.execute("blockdev-remove-medium", id=drive)
        for each in await monitor.execute("query-named-block-nodes", flat=True):
            if str(each.get("node-name")).startswith(f"medium-{drive}"):
                await monitor.execute("blockdev-del", node_name=each["node-name"])
        await monitor.remove_fds(drive)
        if path:
            node = f"medium-{drive}-{os.urandom(3).hex()}"
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                number = await monitor.add_fd(fd, drive)
            finally:
                os.close(fd)
            await monitor.execute(
                "blockdev-add",
                driver="raw",
                node_name=node,
                read_only=True,
                file={"driver": "file", "filename": f"/dev/fdset/{number}"},
            )
            await monitor.execute("blockdev-insert-medium", id=drive, node_name=node)
        await monitor.execute("blockdev-close-tray", id=drive)


def fewer_and_more(hardware: Hardware, wanted: Changes) -> Hardware:
    """Without what is detached (disks apart, which are files), with what is added."""
    nics = {f"net{at}": nic for at, nic in enumerate(hardware.nics)}
    shares = {share.tag: share for share in hardware.shares}
    drives = {drive.name: drive for drive in hardware.cdroms}
    disks = {disk.name for disk in hardware.disks}
    for name in wanted.detach:
        kind: dict[str, Any] | None = next((x for x in (nics, drives, shares) if name in x), None)
        if kind is not None:
            del kind[name]
        elif name not in disks:
            raise NotFound(
                f"the machine has no {name!r:.60}",
                hint=f"it has {', '.join((*sorted(disks), *drives, *nics, *shares)) or 'nothing'}",
            )
    cards = _forwarding([*nics.values(), *map(card, wanted.add_nics)], wanted)
    return msgspec.structs.replace(
        hardware,
        nics=tuple(cards),
        cdroms=tuple(drives.values()),
        shares=(*shares.values(), *wanted.add_shares),
    )


def _forwarding(cards: list[Nic], wanted: Changes) -> list[Nic]:
    """Forwarded ports added to, and taken from, the first NAT card."""
    if not wanted.add_forwards and not wanted.drop_forwards:
        return cards
    at = next((at for at, nic in enumerate(cards) if nic.kind == "nat"), None)
    if at is None:
        raise InvalidInput("ports are forwarded to a NAT network card, and there is none")
    kept = list(cards[at].forwards)
    for port in wanted.drop_forwards:
        left = [each for each in kept if port != f"{each.host_port}/{each.protocol}"]
        if len(left) == len(kept):
            raise NotFound(f"the machine forwards no port {port!r:.40}")
        kept = left
    cards[at] = msgspec.structs.replace(cards[at], forwards=(*kept, *wanted.add_forwards))
    return cards


def _needs_off(wanted: Changes) -> bool:
    free = {"name", *autostart.FIELDS, "discs", "vnc_password", "add_forwards", "drop_forwards"}
    return any(
        getattr(wanted, field) not in (None, (), {}, 0)
        or (isinstance(getattr(wanted, field), bool))
        for field in wanted.__struct_fields__
        if field not in free
    ) or any(getattr(wanted, field) == () for field in ("nics", "shares"))
