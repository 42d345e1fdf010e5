"""The command line of QEMU for a machine: a pure function, so it can be looked at.

Device ids and their order follow the hardware alone: a saved state fits only the same devices.

Sources: qemu(1), docs/system/qemu-block-drivers.rst, docs/interop/live-block-operations.rst.
"""

import os
from typing import NamedTuple

from skerry.machine.full.spec import (
    MAX_DEVICES,
    NIC_MODELS,
    SECURE,
    VIDEOS,
    Cdrom,
    Disk,
    Hardware,
    Nic,
    Share,
)

QEMU = "/usr/bin/qemu-system-x86_64"
_OVMF = "/usr/share/OVMF/OVMF_"
OVMF = {
    "uefi": (f"{_OVMF}CODE_4M.fd", f"{_OVMF}VARS_4M.fd"),
    SECURE: (f"{_OVMF}CODE_4M.secboot.fd", f"{_OVMF}VARS_4M.ms.fd"),
}
"""Firmware to its code and its variables as they are shipped."""
_AHCI_PORTS = 6
_USB_PORTS = 15
"""The most that QEMU's XHCI has of each speed; it has four when it is not told."""
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Wiring(NamedTuple):
    """Where the outside of a machine is. Numbers are descriptors that QEMU inherits."""

    accel: str
    """kvm or tcg: what `auto` came to on this host."""
    qmp: int
    """A listening socket."""
    serial: int
    """A listening socket."""
    layers: dict[str, str]
    """Layer id to the path of its qcow2 file."""
    socket_dir: str
    """Where QEMU may make the screen's socket."""
    discs: dict[str, int]
    """Drive to an open disc image."""
    taps: dict[int, int]
    """Number of the network card to its open tap device."""
    shares: dict[str, int]
    """Tag to a socket that is connected to virtiofsd."""
    vnc_secret: str
    """The file that has VNC's password; empty for none."""
    tpm: int
    """A socket connected to swtpm, -1 for none."""
    incoming: int
    """A saved state to begin with, -1 for none."""
    detours: dict[tuple[str, int, str], int]
    """(Address, port, protocol) of the host to the port that QEMU listens at instead."""
    hold: bool
    """Do not let the processors run yet."""


def node(layer: str) -> str:
    """The block node of a layer; QEMU takes 31 characters."""
    return f"l-{layer.rpartition(chr(47))[2][:24]}"


def command(name: str, hardware: Hardware, wiring: Wiring) -> list[str]:
    """argv; argv[0] is the program's path."""
    words = [QEMU, "-name", f"guest={name}", "-nodefaults", "-no-user-config", "-uuid"]
    words += [hardware.uuid, *_processor(hardware, wiring), "-rtc", "base=utc"]
    words += ["-boot", "menu=off,strict=on", "-sandbox", SANDBOX, "-msg", "timestamp=on"]
    words += ["-chardev", f"socket,id=qmp,fd={wiring.qmp},server=on,wait=off"]
    words += ["-mon", "chardev=qmp,mode=control"]
    words += ["-chardev", f"socket,id=serial0,fd={wiring.serial},server=on,wait=off"]
    words += ["-serial", "chardev:serial0", "-device", "virtio-rng-pci,id=rng0"]
    words += _controllers(hardware)
    ranks = _ranks(hardware)
    places = _ata(hardware)
    if hardware.vars:
        words += _firmware(hardware, wiring)
    for disk in hardware.disks:
        place = places.get(disk.name, "")
        words += _disk(disk, wiring.layers[disk.layer], ranks[disk.name], place)
    for at, drive in enumerate(hardware.cdroms):
        words += _cdrom(drive, at, places.get(drive.name, ""), wiring, ranks[drive.name])
    for at, nic in enumerate(hardware.nics):
        words += _nic(nic, at, wiring, ranks[f"net{at}"])
    for at, share in enumerate(hardware.shares):
        words += _share(share, at, wiring)
    words += _screen(hardware, wiring)
    words += _extras(hardware, wiring)
    if wiring.incoming >= 0:
        words += ["-incoming", f"fd:{wiring.incoming}"]
    if wiring.hold:
        words += ["-S"]
    return words


def _processor(hardware: Hardware, wiring: Wiring) -> list[str]:
    machine = f"{hardware.machine},usb=off,vmport=off"
    if any(share.driver == "virtiofs" for share in hardware.shares):
        machine += ",memory-backend=ram"
    if hardware.vars:
        machine += ",pflash0=code,pflash1=" + node(hardware.vars)
    if hardware.firmware == SECURE:
        machine += ",smm=on"
    words = ["-machine", machine]
    # Left alone, TCG keeps up to 1 GiB of code: more than the control group has room for.
    words += ["-accel", "kvm" if wiring.accel == "kvm" else "tcg,thread=multi,tb-size=256"]
    model = hardware.cpu or ("host" if wiring.accel == "kvm" else "max")
    # ARAT: without it an idle guest wakes up 250 times a second to emulate a timer.
    words += ["-cpu", model if wiring.accel == "kvm" or "arat" in model else f"{model},+arat"]
    words += ["-smp", str(hardware.cpus), "-m", f"size={hardware.memory // 1024}k"]
    if "memory-backend=ram" in machine:
        words += ["-object", f"memory-backend-memfd,id=ram,size={hardware.memory},share=on"]
    return words


def _ranks(hardware: Hardware) -> dict[str, int]:
    """Boot indexes: by kind as asked, in order within a kind; -1 never boots."""
    names = {
        "disk": [disk.name for disk in hardware.disks],
        "cdrom": [drive.name for drive in hardware.cdroms],
        "network": [f"net{at}" for at in range(len(hardware.nics))],
    }
    ranks = dict.fromkeys([name for kind in names.values() for name in kind], -1)
    order = [name for kind in hardware.boot for name in names[kind]]
    return ranks | {name: at for at, name in enumerate(order, 1)}


def _rank(rank: int) -> str:
    return f",bootindex={rank}" if rank > 0 else ""


def _controllers(hardware: Hardware) -> list[str]:
    words = []
    buses = {disk.bus for disk in hardware.disks}
    if "scsi" in buses:
        words += ["-device", "virtio-scsi-pci,id=scsi0"]
    needed = {bus for bus in _ata(hardware).values() if bus.startswith("bus=ahci")}
    for name in sorted({bus.removeprefix("bus=").partition(".")[0] for bus in needed}):
        words += ["-device", f"ahci,id={name}"]
    if hardware.usb or "usb" in buses:
        words += ["-device", f"qemu-xhci,id=usb0,p2={_USB_PORTS},p3={_USB_PORTS}"]
        words += ["-device", "usb-tablet,id=tablet,bus=usb0.0"]
    return words


def _ata(hardware: Hardware) -> dict[str, str]:
    """Disk or drive at IDE or SATA to its bus, as a part of `-device`. QEMU itself would put a
    second one where the first one is. pc has IDE with two units at each of two buses; SATA, and
    what finds no room there, is at AHCI with a port each; q35 has an AHCI controller itself."""
    ide = (
        [f"bus=ide.{at // 2},unit={at % 2}" for at in range(4)] if hardware.machine == "pc" else []
    )
    sata = [] if ide else [f"bus=ide.{at}" for at in range(_AHCI_PORTS)]
    more = range(-(-2 * MAX_DEVICES // _AHCI_PORTS))
    sata += [f"bus=ahci{card}.{at}" for card in more for at in range(_AHCI_PORTS)]
    found = {}
    devices: list[Disk | Cdrom] = [*hardware.disks, *hardware.cdroms]
    for each in devices:
        if each.bus in ("sata", "ide"):
            first = ide and (each.bus == "ide" or isinstance(each, Cdrom))
            found[each.name] = (ide if first else sata).pop(0)
    return found


def _firmware(hardware: Hardware, wiring: Wiring) -> list[str]:
    code, _ = OVMF[hardware.firmware]
    words = [
        "-blockdev",
        f"driver=raw,node-name=code,read-only=on,file.driver=file,file.filename={code}",
        "-blockdev",
        _layer(hardware.vars, wiring.layers[hardware.vars], cache=""),
    ]
    if hardware.firmware == SECURE:
        # Only the firmware writes the variables, from the system management mode (OVMF's README).
        words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        words += ["-global", "ICH9-LPC.disable_s3=1"]
    return words


def quoted(path: str) -> str:
    """A path inside an option: QEMU reads a comma doubled."""
    return path.replace(",", ",,")


def _layer(layer: str, path: str, cache: str = ",discard=unmap") -> str:
    return (
        f"driver=qcow2,node-name={node(layer)}{cache},file.driver=file,file.filename={quoted(path)}"
    )


def _disk(disk: Disk, path: str, rank: int, place: str) -> list[str]:
    drive = node(disk.layer)
    device = {
        "virtio": "virtio-blk-pci",
        "sata": f"ide-hd,{place}",
        "ide": f"ide-hd,{place}",
        "scsi": "scsi-hd,bus=scsi0.0",
        "nvme": "nvme",
        "usb": "usb-storage,bus=usb0.0",
    }[disk.bus]
    serial = f",serial={disk.name}"
    return [
        "-blockdev",
        _layer(disk.layer, path),
        "-device",
        f"{device},id={disk.name},drive={drive}{serial}{_rank(rank)}",
    ]


def _cdrom(drive: Cdrom, at: int, place: str, wiring: Wiring, rank: int) -> list[str]:
    words = []
    medium = ""
    if drive.name in wiring.discs:
        number = at + 1
        words += ["-add-fd", f"fd={wiring.discs[drive.name]},set={number},opaque={drive.name}"]
        words += [
            "-blockdev",
            f"driver=raw,node-name=medium-{drive.name},read-only=on,"
            f"file.driver=file,file.filename=/dev/fdset/{number}",
        ]
        medium = f",drive=medium-{drive.name}"
    if drive.bus == "virtio":
        device = f"virtio-blk-pci,id={drive.name}{medium},serial={drive.name}"
        return [*words, "-device", device] if medium else []
    return [*words, "-device", f"ide-cd,{place},id={drive.name}{medium}{_rank(rank)}"]


def _nic(nic: Nic, at: int, wiring: Wiring, rank: int) -> list[str]:
    device = f"{NIC_MODELS[nic.model]},id=net{at},mac={nic.mac}{_rank(rank)}"
    if nic.kind == "none":
        return ["-netdev", f"hubport,id=n{at},hubid={at}", "-device", f"{device},netdev=n{at}"]
    if nic.kind == "nat":
        backend = f"user,id=n{at}"
        for each in nic.forwards:
            port = wiring.detours.get((each.host_ip, each.host_port, each.protocol))
            port = port or each.host_port
            backend += f",hostfwd={each.protocol}:{each.host_ip}:{port}-:{each.guest_port}"
    else:
        backend = f"tap,id=n{at},fd={wiring.taps[at]}"
    return ["-netdev", backend, "-device", f"{device},netdev=n{at}"]


def _share(share: Share, at: int, wiring: Wiring) -> list[str]:
    if share.driver == "9p":
        readonly = ",readonly=on" if share.readonly else ""
        return [
            "-fsdev",
            f"local,id=fs{at},path={quoted(share.path)},security_model=none,"
            f"multidevs=remap{readonly}",
            "-device",
            f"virtio-9p-pci,id=share{at},fsdev=fs{at},mount_tag={share.tag}",
        ]
    return [
        "-chardev",
        f"socket,id=fs{at},fd={wiring.shares[share.tag]}",
        "-device",
        f"vhost-user-fs-pci,id=share{at},chardev=fs{at},tag={share.tag}",
    ]


def _screen(hardware: Hardware, wiring: Wiring) -> list[str]:
    if hardware.video == "none":
        return ["-display", "none"]
    words = ["-device", f"{VIDEOS[hardware.video]},id=video0"]
    secret = ""
    if wiring.vnc_secret:
        words += ["-object", f"secret,id=vnc0,file={quoted(wiring.vnc_secret)}"]
        secret = ",password-secret=vnc0"
    if hardware.vnc == "unix":
        return [*words, "-vnc", f"unix:{quoted(os.path.join(wiring.socket_dir, 'vnc.sock'))}"]
    return [*words, "-vnc", f"{hardware.vnc}{secret}"]


def _extras(hardware: Hardware, wiring: Wiring) -> list[str]:
    words = []
    if hardware.sound:
        words += ["-audiodev", "none,id=audio0", "-device", "intel-hda,id=sound0"]
        words += ["-device", "hda-duplex,id=codec0,bus=sound0.0,audiodev=audio0"]
    if hardware.tpm:
        words += ["-chardev", f"socket,id=tpm0,fd={wiring.tpm}"]
        words += ["-tpmdev", "emulator,id=tpmdev0,chardev=tpm0"]
        words += ["-device", "tpm-tis,id=tpm,tpmdev=tpmdev0"]
    return words
