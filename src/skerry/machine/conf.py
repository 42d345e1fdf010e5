"""What a machine is made from, decided by the engine and carried out by its warden. Plain data."""

import marshal
import os

from skerry.base.light import NamedTuple
from skerry.machine.shape import Shape


class Conf(NamedTuple):
    """Everything a warden needs, decided by the driver. Builtin types only (marshal)."""

    id: str
    run_dir: str
    cgroup: str
    jail: str
    """An empty folder, for QEMU's root."""
    ram: str
    """Where the template's memory can be opened: the engine's descriptor."""
    own: bool
    """Whether it runs on its own copy of `ram`, which others can map; with `shares` always."""
    state: str
    saved: bool
    """`ram` and `state` are of a machine that ran this container: it goes on."""
    renew: dict[str, str]
    """Files of a copy that are its own: path in the container to hexadecimal contents."""
    layers: str
    writable: str
    disk: int
    """Bytes that the container may have on it, 0 for as many as it has."""
    below: list[str]
    """Frozen disks between `writable` and `blank`, top-most first."""
    blank: str
    """Empty when the last of `below` stands on nothing."""
    more: int
    """Bytes behind the machine's memory in `ram`: of what was plugged in (`room.tail`)."""
    shape: tuple[int, int]
    accel: tuple[str, str, int]
    network: str
    """Path of the network namespace, empty for none."""
    files: dict[str, str]
    hostname: str
    terminal: bool
    size: tuple[int, int]
    open_stdin: bool
    shares: list[tuple[str, bool]]
    """Folders and files of the host that the guest sees, and whether read-only."""


def bare(
    id_: str, run_dir: str, state: str, ram: str, *, shape: Shape, accel: tuple[str, str, int],
    layers: str, writable: str, below: list[str], blank: str, own: bool = False,
) -> Conf:  # fmt: skip
    """A machine with disks and nothing else, that runs no container of its own."""
    return Conf(
        id=id_,
        run_dir=run_dir,
        cgroup="",
        jail=os.path.join(run_dir, "jail"),
        ram=ram,
        own=own,
        state=state,
        saved=False,
        renew={},
        layers=layers,
        writable=writable,
        disk=0,
        below=below,
        blank=blank,
        more=0,
        shape=(shape.memory, shape.cpus),
        accel=accel,
        network="",
        files={},
        hostname="",
        terminal=False,
        size=(0, 0),
        open_stdin=False,
        shares=[],
    )


def pack(conf: Conf, plan: bytes) -> bytes:
    """For the starter, whose process is of the same version."""
    return marshal.dumps((tuple(conf), plan))


def unpack(data: bytes) -> tuple[Conf, bytes]:
    """What `pack` packed."""
    fields, plan = marshal.loads(data)
    return Conf(*fields), plan
