"""A machine as it is saved, and as it is alive in the engine."""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from skerry.base.errors import SystemFault
from skerry.machine.full.seed import CloudInit
from skerry.machine.full.spec import Hardware

if TYPE_CHECKING:
    from skerry.machine.full.monitor import Monitor
    from skerry.machine.full.qemu import Running

KIND = "vm"
LAYER = "vm-layer"
"""Records of layers: `{"version": 1, "parent": layer or ""}`, id `<folder>/<hex>`."""
VERSION = 1

OFF, RUNNING, PAUSED, SAVED, ABORTED = "off", "running", "paused", "saved", "aborted"


class Snapshot(msgspec.Struct, frozen=True):
    """A machine at a moment. `hardware` names layers that nobody writes to any more; `full` when
    memory and devices are kept too. `parent` is "" for a root. Times in ns since the epoch."""

    id: str
    name: str
    parent: str
    created_at: int
    hardware: Hardware
    full: bool
    comment: str = ""


class Pending(msgspec.Struct, frozen=True):
    """A snapshot of a running machine that is being made: what a killed engine has to finish or
    undo. `hardware` is what the machine has afterwards."""

    snapshot: Snapshot
    hardware: Hardware


class Machine(msgspec.Struct):
    """The record. `current` is the snapshot that the present state descends from, "" for none.
    `saved` is the state that the next start goes on from, below the machine's folder."""

    id: str
    name: str
    uid: int
    created_at: int
    hardware: Hardware
    version: int = VERSION
    status: str = OFF
    cause: str = ""
    saved: str = ""
    snapshots: list[Snapshot] = []
    current: str = ""
    pending: Pending | None = None
    autostart: bool = False
    autostart_order: int = 0
    autostart_delay: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int | None = None
    seed: CloudInit | None = None
    vnc_password: str = ""

    @property
    def folder(self) -> str:
        """The name of its folders below `vms/`."""
        return self.id[:16]

    def snapshot(self, key: str) -> Snapshot | None:
        """By name, id or the beginning of an id."""
        for each in self.snapshots:
            if key in (each.name, each.id):
                return each
        found = [each for each in self.snapshots if len(key) >= 4 and each.id.startswith(key)]
        return found[0] if len(found) == 1 else None

    def layers(self) -> set[str]:
        """All that it or one of its snapshots stands on, without their parents."""
        found = set(self.hardware.layers())
        for each in self.snapshots:
            found.update(each.hardware.layers())
        if self.pending:
            found.update(self.pending.hardware.layers())
        return found


def from_plain(data: dict[str, Any]) -> Machine:
    """A record as read; SystemFault when another version wrote it."""
    if data.get("version") != VERSION:
        raise SystemFault(
            f"machine {data.get('name')}: record of version {data.get('version')} is not known"
        )
    try:
        return msgspec.convert(data, Machine)
    except msgspec.ValidationError as error:
        raise SystemFault(f"machine {data.get('name')}: damaged record: {error}") from None


class Live:
    """A machine in the engine's memory. Verbs hold `lock`."""

    def __init__(self, record: Machine) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.monitor: Monitor | None = None
        self.process: Running | None = None
        self.gone = asyncio.Event()
        """Set while no QEMU runs."""
        self.gone.set()
        self.asked_to_end = False
        """The next end of QEMU is what the engine wanted."""
        self.powered_down = False
        self.watcher: asyncio.Task[None] | None = None
