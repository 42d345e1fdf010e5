"""What a machine is made of: plain data, checked once, kept in its record and in its snapshots."""

import re
from typing import Any

import msgspec

from skerry.base.errors import InvalidInput, LimitExceeded

MIB = 1 << 20
MIN_MEMORY = 16 * MIB
MAX_MEMORY = 4 << 40
MAX_CPUS = 255
MAX_DISK = 16 << 40
MAX_DEVICES = 16
"""Of each kind: disks, drives for discs, network cards, shared folders."""

BUSES = frozenset(("virtio", "sata", "ide", "scsi", "nvme", "usb"))
NIC_MODELS = {
    "virtio": "virtio-net-pci",
    "e1000": "e1000",
    "e1000e": "e1000e",
    "rtl8139": "rtl8139",
    "vmxnet3": "vmxnet3",
}
MACHINES = frozenset(("q35", "pc"))
ACCELERATORS = frozenset(("auto", "kvm", "tcg"))
SECURE = "uefi-secure"
"""UEFI that starts only what Microsoft's keys have signed."""
FIRMWARES = frozenset(("bios", "uefi", SECURE))
BOOT_DEVICES = frozenset(("disk", "cdrom", "network"))
VIDEOS = {
    "std": "VGA",
    "virtio": "virtio-vga",
    "qxl": "qxl-vga",
    "cirrus": "cirrus-vga",
    "none": "",
}
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,34}")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_CPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=,-]{0,400}")


class Forward(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port of the host that leads to one of the guest, behind NAT."""

    host_port: int
    guest_port: int
    host_ip: str = "127.0.0.1"
    protocol: str = "tcp"


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk. `layer` is the qcow2 file that takes the guest's writes; `size` in bytes."""

    name: str
    layer: str
    size: int
    bus: str = "virtio"


class Cdrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drive for discs; an empty `path` is an empty drive. On `virtio` it is a disk that cannot be
    written to, and is not there without a disc."""

    name: str
    path: str = ""
    bus: str = "sata"


class Nic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network card. `kind` is nat, bridge (of the host or the engine), internal or none (no
    cable); `network` names the bridge or the internal network."""

    kind: str
    mac: str
    network: str = ""
    model: str = "virtio"
    forwards: tuple[Forward, ...] = ()


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder of the host that the guest mounts by `tag`. `driver` is virtiofs or 9p."""

    path: str
    tag: str
    driver: str = "virtiofs"
    readonly: bool = False


class Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a guest can see. `memory` in bytes; `uuid` is the SMBIOS system UUID."""

    uuid: str
    memory: int = 512 * MIB
    cpus: int = 1
    machine: str = "q35"
    cpu: str = ""
    accel: str = "auto"
    firmware: str = "bios"
    vars: str = ""
    """The layer that holds UEFI's variables."""
    boot: tuple[str, ...] = ("disk", "cdrom", "network")
    disks: tuple[Disk, ...] = ()
    cdroms: tuple[Cdrom, ...] = ()
    nics: tuple[Nic, ...] = ()
    shares: tuple[Share, ...] = ()
    video: str = "std"
    vnc: str = "unix"
    """Where the screen can be seen: `unix` (a socket) or `127.0.0.1:DISPLAY`."""
    usb: bool = False
    sound: bool = False
    tpm: bool = False

    def layers(self) -> tuple[str, ...]:
        """Of everything that is written to."""
        own = tuple(disk.layer for disk in self.disks)
        return (*own, self.vars) if self.vars else own


def load(data: Any, kind: type[Any] = Hardware) -> Any:
    """Plain data as one of the types above; InvalidInput names the place."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"invalid machine: {error}") from None


def check(hardware: Hardware) -> Hardware:
    """`hardware` when it can be built, else InvalidInput."""
    if not MIN_MEMORY <= hardware.memory <= MAX_MEMORY:
        raise InvalidInput(f"memory: {hardware.memory} bytes, from 16m to 4096g")
    if not 1 <= hardware.cpus <= MAX_CPUS:
        raise InvalidInput(f"cpus: {hardware.cpus}, from 1 to {MAX_CPUS}")
    _choice("machine type", hardware.machine, MACHINES)
    _choice("accelerator", hardware.accel, ACCELERATORS)
    _choice("firmware", hardware.firmware, FIRMWARES)
    if hardware.firmware == SECURE and hardware.machine != "q35":
        raise InvalidInput(f"machine type {hardware.machine} has no Secure Boot", hint="q35 has it")
    _choice("video", hardware.video, VIDEOS)
    for device in hardware.boot:
        _choice("boot device", device, BOOT_DEVICES)
    if hardware.cpu and not _CPU.fullmatch(hardware.cpu):
        raise InvalidInput(f"invalid CPU model: {hardware.cpu!r:.80}")
    for kind in ("disks", "cdroms", "nics", "shares"):
        if len(getattr(hardware, kind)) > MAX_DEVICES:
            raise LimitExceeded(f"{kind}: at most {MAX_DEVICES}")
    for disk in hardware.disks:
        _choice("bus", disk.bus, BUSES)
        check_size(disk.size)
    for nic in hardware.nics:
        _check_nic(nic)
    for drive in hardware.cdroms:
        _choice("bus of a drive", drive.bus, ("sata", "virtio"))
    tags = [share.tag for share in hardware.shares]
    if len(set(tags)) < len(tags):
        raise InvalidInput("two shared folders have the same tag")
    for share in hardware.shares:
        _check_share(share)
    _check_vnc(hardware.vnc)
    _check_forwards(hardware)
    return hardware


def check_size(size: int) -> int:
    """Of a disk, in bytes."""
    if not MIB // 2 <= size <= MAX_DISK:
        raise InvalidInput(f"disk size {size}: from 512k to 16t")
    return size


def _choice(what: str, value: str, known: Any) -> None:
    if value not in known:
        raise InvalidInput(
            f"unknown {what}: {value!r:.40}", hint=f"choose {', '.join(sorted(known))}"
        )


def _check_nic(nic: Nic) -> None:
    _choice("kind of network", nic.kind, ("nat", "bridge", "internal", "none"))
    _choice("network card", nic.model, NIC_MODELS)
    if not _MAC.fullmatch(nic.mac):
        raise InvalidInput(
            f"invalid MAC address {nic.mac!r:.40}",
            hint="six bytes as 52:54:00:12:34:56, the first one even",
        )
    if nic.kind in ("bridge", "internal") and not _NETWORK.fullmatch(nic.network):
        raise InvalidInput(
            f"invalid name of a network: {nic.network!r:.80}", hint=f"write {nic.kind}=NAME"
        )
    if nic.forwards and nic.kind != "nat":
        raise InvalidInput("ports are forwarded to a NAT network card only")
    for forward in nic.forwards:
        _choice("protocol", forward.protocol, ("tcp", "udp"))
        check_address(forward.host_ip)
        for port in (forward.host_port, forward.guest_port):
            if not 0 < port < 65536:
                raise InvalidInput(f"invalid port: {port}")


def check_address(text: str) -> str:
    """An IPv4 address of the host."""
    import ipaddress

    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise InvalidInput(f"invalid IPv4 address: {text!r:.40}") from None


def _check_forwards(hardware: Hardware) -> None:
    seen = set()
    for nic in hardware.nics:
        for forward in nic.forwards:
            key = (forward.host_ip, forward.host_port, forward.protocol)
            if key in seen:
                raise InvalidInput(f"port {forward.host_port}/{forward.protocol} given twice")
            seen.add(key)


def _check_share(share: Share) -> None:
    _choice("driver of a shared folder", share.driver, ("virtiofs", "9p"))
    if not _TAG.fullmatch(share.tag):
        raise InvalidInput(f"invalid tag of a shared folder: {share.tag!r:.80}")
    if not share.path.startswith("/"):
        raise InvalidInput(f"shared folder {share.path!r:.200}: not an absolute path")


def _check_vnc(vnc: str) -> None:
    if vnc == "unix":
        return
    address, colon, display = vnc.rpartition(":")
    if not colon or not display.isascii() or not display.isdecimal() or int(display[:6]) > 5000:
        raise InvalidInput(f"invalid VNC address {vnc!r:.60}", hint="unix, or 127.0.0.1:DISPLAY")
    check_address(address)
