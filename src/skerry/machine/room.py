"""Memory that a running machine gets beside what it booted with: a virtio-mem device.

Theory. The template has no place for it, so its boot pays for none: only a clone's command line
says that there may be more (`maxmem`), and a device is plugged into its port when somebody asks.
Its region is as large as any machine may become; of that the guest has what was asked for and it
has taken, and QEMU frees what it gives back. The region is a sparse file that QEMU shares with the
warden, so it is saved with the machine: behind the memory that the machine booted with.

Source: qapi/machine.json (MemoryDeviceInfo), docs of virtio-mem, virtio specification 5.15.
"""

import os

from skerry.machine import qemu
from skerry.machine.memory import copy_extents, end_of_data
from skerry.machine.qmp import Monitor
from skerry.machine.shape import MIB, MOST_MEMORY

REGION = MOST_MEMORY
PLACE = 256 << 30
"""Its address: beyond the largest machine's own memory and what the firmware has given to PCI:
it knew of no such region when the template booted."""
ROOM = PLACE + REGION
PORT = f"port{qemu.PORTS - 2}"
SECONDS = 15.0
"""Within which a guest has to take what it is given."""
_DEVICE, _BACKEND, _SET = "memory", "more", 400
_PATH = f"/machine/peripheral/{_DEVICE}"


def plug(monitor: Monitor, saved: int = -1, size: int = 0, more: int = 0) -> int:
    """Plug the device in, with nothing of it taken; the file of its memory, the caller's.

    `saved` is the file of a machine of `size` bytes that was saved with `more` behind them.
    """
    file = os.memfd_create("skerry-more", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, REGION)
        number = monitor.give_fd_set(_SET, file)
        monitor.execute(
            "object-add", qom_type="memory-backend-file", id=_BACKEND, size=REGION,
            mem_path=f"/proc/self/fd/{number}", share=True, prealloc=False,
        )  # fmt: skip
        monitor.execute(
            "device_add",
            driver="virtio-mem-pci",
            id=_DEVICE,
            memdev=_BACKEND,
            bus=PORT,
            memaddr=PLACE,
        )
        if more:  # Not before: a device that comes has its memory emptied.
            copy_extents(saved, file, size + more, start=size)
    except BaseException:
        os.close(file)
        raise
    return file


def ask(monitor: Monitor, size: int) -> None:
    """Have the guest take, or give back, until it has so many bytes. It takes its time."""
    monitor.execute("qom-set", path=_PATH, property="requested-size", value=size)


def taken(monitor: Monitor) -> int:
    """What it has."""
    found = monitor.execute("qom-get", path=_PATH, property="size")
    return found if type(found) is int else 0


def tail(file: int) -> int:
    """How long what is saved of the file is: never 0, which says that there is no device."""
    return max(-(-end_of_data(file) // MIB), 1) * MIB
