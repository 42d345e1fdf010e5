"""QEMU's arguments for a container's machine. Pure: lists that can be compared and printed.

Everything QEMU opens comes as a descriptor that it inherits, so it needs no file of the host but
its own program. A template and its clones have the same devices in the same order; what differs is
what stands behind them (RAM, disks, the tap).
"""

import itertools
import json
from collections.abc import Callable

from skerry.base.light import NamedTuple
from skerry.machine.shape import Shape

BINARY = "/usr/bin/qemu-system-x86_64"
SLOT_SIZE = 64 << 30
"""Bytes of every prepared disk: a clone may swap the image, not its size."""
LAYERS_SERIAL, WRITABLE_SERIAL = "layers", "writable"
SLOT_MAC = "52:54:00:12:34:56"
PORTS = 6
"""Empty PCI Express ports for what is plugged in later: shares, memory and further cards. Each
takes an emulated machine's boot some two hundredths longer."""


class Disks(NamedTuple):
    """Descriptors of a clone's disks: the image's layers (read-only; -1 for none), the writable
    overlay and the blank file system below it (-1 when the last of `below` stands on nothing)."""

    layers: int
    writable: int
    blank: int
    below: tuple[int, ...] = ()
    """Frozen overlays between the two, top-most first."""


class Accel(NamedTuple):
    """How the processor is run: `kvm` or `tcg`, its model, and the guest's clock."""

    name: str
    cpu: str
    tsc_khz: int


def common(
    shape: Shape, accel: Accel, *, ram: int, share: bool, agent: int, qmp: int, console: int,
    room: int = 0,
) -> list[str]:  # fmt: skip
    """Machine, memory, monitor, the agent's port, the console; descriptors for each. `room` are
    bytes of memory that can be plugged in."""
    size = f"{shape.memory >> 20}"
    if room:
        size += f",maxmem={(shape.memory + room) >> 20}M"
    memory = {
        "qom-type": "memory-backend-file",
        "id": "ram",
        "size": shape.memory,
        "mem-path": f"/proc/self/fd/{ram}",
        "share": share,
        "prealloc": False,
    }
    return [
        BINARY,
        *("-machine", "q35,memory-backend=ram,usb=off,smbus=off,sata=off,vmport=off,hpet=off"),
        *("-accel", "kvm" if accel.name == "kvm" else "tcg,thread=multi"),
        *("-cpu", accel.cpu),
        *("-m", size, "-smp", f"{shape.cpus},maxcpus={shape.places}"),
        *("-object", json.dumps(memory)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-pci,id=serial,max_ports=2"),
        *("-chardev", f"socket,id=agent,fd={agent}"),
        *("-device", "virtserialport,bus=serial.0,chardev=agent,name=skerry.agent"),
        # The guest kernel's last words go where QEMU's own complaints go.
        *("-chardev", f"socket,id=console,fd={console}"),
        *("-device", "isa-serial,chardev=console"),
    ]


def ports() -> list[str]:
    """The empty ports."""
    arguments: list[str] = []
    for number in range(PORTS):
        device = f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}"
        arguments += ["-device", device]
    return arguments


def network(tap: int) -> list[str]:
    """The card, on a tap that is open already."""
    return [
        *("-netdev", f"tap,id=net0,fd={tap}"),
        *("-device", f"virtio-net-pci,id=card0,netdev=net0,mac={SLOT_MAC},romfile="),
    ]


def _slot(node: str, serial: str) -> list[str]:
    device = f"virtio-blk-pci,id={serial},drive={node},serial={serial},num-queues=1"
    return ["-device", device]


def empty_nodes(mark: str = "") -> dict[str, dict[str, object]]:
    """Nothing behind the disks, by their serials; nodes are named as those of `nodes`."""
    return {
        serial: {
            "driver": "null-co",
            "node-name": f"{serial}{mark}",
            "size": SLOT_SIZE,
            "read-only": read_only,
            "read-zeroes": True,
        }
        for serial, read_only in ((LAYERS_SERIAL, True), (WRITABLE_SERIAL, False))
    }


def empty_disks() -> list[str]:
    """The template's disks: slots with nothing in them."""
    arguments: list[str] = []
    for serial, node in empty_nodes().items():
        arguments += ["-blockdev", json.dumps(node), *_slot(serial, serial)]
    return arguments


File = Callable[[int, bool], dict[str, object]]
"""The node of a descriptor, and whether it is read-only."""


def nodes(found: Disks, file: File, mark: str = "") -> dict[str, dict[str, object]]:
    """What stands behind a clone's disks, by their serials; nodes are named by serial and mark."""
    layers = empty_nodes(mark)[LAYERS_SERIAL]
    if found.layers >= 0:
        layers = {
            "driver": "raw",
            "read-only": True,
            "node-name": f"{LAYERS_SERIAL}{mark}",
            "file": file(found.layers, True),
        }
    backing: dict[str, object] | None = None
    if found.blank >= 0:
        backing = {"driver": "raw", "read-only": True, "file": file(found.blank, True)}
    for fd in reversed(found.below):
        backing = {
            "driver": "qcow2",
            "read-only": True,
            "file": file(fd, True),
            "backing": backing,
        }
    writable: dict[str, object] = {
        "driver": "qcow2",
        "node-name": f"{WRITABLE_SERIAL}{mark}",
        "discard": "unmap",
        "file": file(found.writable, False),
        "backing": backing,
    }
    return {LAYERS_SERIAL: layers, WRITABLE_SERIAL: writable}


def of_set(number: int, *, read_only: bool) -> dict[str, object]:
    """The node of a set of descriptors."""
    return {
        "driver": "file",
        "filename": f"/dev/fdset/{number}",
        "read-only": read_only,
        "locking": "off",
    }


def disks(found: Disks) -> list[str]:
    """A clone's disks."""
    arguments: list[str] = []
    sets = itertools.count(1)

    def file(fd: int, read_only: bool) -> dict[str, object]:
        number = next(sets)
        arguments.extend(["-add-fd", f"fd={fd},set={number}"])
        return of_set(number, read_only=read_only)

    for serial, node in nodes(found, file).items():
        arguments += ["-blockdev", json.dumps(node), *_slot(str(node["node-name"]), serial)]
    return arguments


_FEWER_TASKS = "noreplace-smp no_timer_check initcall_blacklist=trace_eval_init"
"""What an emulated processor is spared at boot: to write over 10,000 lock prefixes, each among code
that is translated anew for it (they cost nothing where there is one processor); to find out whether
the timer works; to write numbers for names into the formats of trace events."""


def boot(kernel: int, initramfs: int, accel: Accel) -> list[str]:
    """What only the template has."""
    words = [
        "console=ttyS0 printk.devkmsg=on quiet loglevel=1 panic=-1",
        "cryptomgr.notests random.trust_cpu=on apparmor=0",
    ]
    if accel.name == "tcg":
        words.append(f"tsc=reliable tsc_early_khz={accel.tsc_khz} {_FEWER_TASKS}")
    return [
        *("-kernel", f"/proc/self/fd/{kernel}", "-initrd", f"/proc/self/fd/{initramfs}"),
        *("-append", " ".join(words)),
    ]


INCOMING = ("-incoming", "defer")
