"""Saving a running machine: memory, devices and disk at one instant, and it goes on.

Theory. The steps, each of which returns at once so that the warden goes on with its other work:

1. The agent is asked to hold its line, so that nothing is on the way when the machine is copied;
   the warden holds its own end. Where step 2 stands still anyway, the container is frozen first,
   and thawed only when the machine has gone on, or a copy has become another system: no program
   runs in a copy before its kernel has a seed of its own. Else programs go on, their output waits.
2. On KVM, and on TCG from QEMU 9.0: a migration into a file. It carries memory while the machine
   runs, and stops it when little is left. `pause-before-switchover` has it wait for us, with the
   machine stopped.
   Before, on TCG, that forgets pages that are written while QEMU copies ("physmem: Fix migration
   dirty bitmap coherency with TCG memory access"). There we copy the memory ourselves (`memory`):
   its base while the machine runs, then, with the machine stopped, what it has written since its
   start; QEMU only says what its devices are like (xen-save-devices-state, which is in every QEMU).
   Its base is copied before step 1, so that the container does not stand meanwhile.
   Before that go the sections of memory that the machine itself came from: `stream.with_devices`.
3. While it stands, the writable disk gets a fresh overlay: what was written so far is never written
   again. This comes from QEMU's blockdev-snapshot.
4. The rest of the memory, the devices; the machine goes on, the line is released.

Whatever fails, the machine goes on as it was. Without a file only step 3 is done, with a stop
around.
Source: docs/devel/migration.rst, qapi/migration.json and block-core.json of QEMU 7.2.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from skerry.base.errors import GuestFault, MachineFault, SkerryError, SystemFault, Unavailable
from skerry.machine import memory, room, stream
from skerry.machine.patience import Patience
from skerry.machine.qemu import WRITABLE_SERIAL
from skerry.machine.qmp import Monitor

POLL_SECONDS = 0.002
HOLD_SECONDS = 10.0
"""What a guest may take to hold still, without the time in which its host gives it no processor."""
HOLD_MOST_SECONDS = 120.0
SYNC_SECONDS = 120.0
"""The same where it writes back to its disk what programs have written."""
SAVE_SECONDS = 120.0
DOWNTIME_MS = 30
"""How long the last part of the memory may take: QEMU goes on copying until it believes so."""
_UNLIMITED = 1 << 40
Done = Callable[[dict[str, Any] | None, SkerryError | GuestFault | None], None]


def copies_live(accelerator: str, qemu_major: int) -> bool:
    """Whether memory can be copied while the machine writes to it and no page is lost."""
    return accelerator == "kvm" or qemu_major >= 9


class Files(NamedTuple):
    """Descriptors for `Saving.stand`, and whose memory it is."""

    pid: int
    """Of QEMU, as this process sees it."""
    base: int
    """What it maps privately."""
    state: int
    """The stream that it was started with."""
    size: int
    memory: int
    """Where its memory goes; the base is there already."""
    devices: int
    """Where a stream for copies goes."""
    shared: bool = False
    """`base` is its memory itself, which it does not map privately."""
    more: int = -1
    """Memory that was plugged in (`room`), which goes behind the other."""

    def copy_more(self) -> int:
        """Of a machine that stands still; how long it is, 0 without any."""
        if self.more < 0:
            return 0
        tail = room.tail(self.more)
        os.ftruncate(self.memory, self.size + tail)
        memory.copy_extents(self.more, self.memory, tail, to=self.size)
        return tail


class Saving:
    """One saving. `step` is called until `done` was; whoever calls `begin` closes what it gave."""

    def __init__(self, monitor: Monitor, node: str, number: int, done: Done) -> None:
        """`node` is the disk that is written to now, `number` is fresh for each saving."""
        self._monitor = monitor
        self._node = node
        self._number = number
        self._done = done
        self._deadline = time.monotonic() + SAVE_SECONDS
        self._patience: Patience | None = None
        self._stopped_at = 0.0
        self._migrating = False
        self._standing = False
        self._rotated = False
        self._files: Files | None = None
        self._more = 0
        self.node = node
        """The disk that is written to afterwards."""

    def wait_for_guest(self, waited: Callable[[], dict[str, float]], *, saves_memory: bool) -> None:
        """It is being asked to hold still, or else to write back what it has of its disk; what
        comes next is called when it has answered. `waited` is of `patience`, for QEMU."""
        seconds = HOLD_SECONDS if saves_memory else SYNC_SECONDS
        self._patience = Patience(seconds, HOLD_MOST_SECONDS, waited)

    def begin(self, target: int, disk: int, files: "Files") -> None:
        """Start the migration into the file `target`; `disk` is the empty overlay. Of `files` only
        the memory that was plugged in is for us to copy."""
        self._files = files
        monitor = self._monitor
        self._add_overlay(disk)
        names = ("x-ignore-shared", "pause-before-switchover")
        capabilities = [{"capability": name, "state": True} for name in names]
        monitor.execute("migrate-set-capabilities", capabilities=capabilities)
        limits = {"max_bandwidth": _UNLIMITED, "downtime_limit": DOWNTIME_MS}
        monitor.execute("migrate-set-parameters", **limits)
        monitor.give_fd("save", target)
        monitor.execute("migrate", uri="fd:save")
        self._migrating = True
        self._deadline = time.monotonic() + SAVE_SECONDS

    def stand(self, files: "Files", disk: int) -> None:
        """Save it all now, while it stands; done on return."""
        monitor = self._monitor
        self._add_overlay(disk)
        number = 200 + self._number
        devices = os.memfd_create("skerry-devices", os.MFD_CLOEXEC)
        try:
            # QEMU takes of a set what was opened exactly as it wants to open it.
            writing = os.open(f"/proc/self/fd/{devices}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                monitor.give_fd_set(number, writing)
            finally:
                os.close(writing)
            monitor.execute("stop")
            self._standing = True
            self._stopped_at = time.monotonic()
            self._rotate()
            monitor.execute("xen-save-devices-state", filename=f"/dev/fdset/{number}", live=False)
            more = files.copy_more()
            if files.shared:
                memory.copy_extents(files.base, files.memory, files.size)
            else:
                memory.copy_own(files.pid, files.base, files.memory, files.size)
            self._continue()
            pause = self._pause()
            self._standing = False
            monitor.execute("remove-fd", fdset_id=number)
            made = stream.with_devices(
                stream.read(files.state), stream.read(devices), files.size, "ram"
            )
            with open(files.devices, "wb", closefd=False) as file:
                file.writelines(made)
        finally:
            os.close(devices)
        self._done({"pause_ms": pause, "apart": True, "more": more}, None)

    def only_disk(self, disk: int) -> None:
        """Freeze the disk alone, and be done."""
        try:
            self._add_overlay(disk)
            self._monitor.execute("stop")
            self._stopped_at = time.monotonic()
            try:
                self._rotate()
            finally:
                self._monitor.execute("cont")
        except SkerryError as error:
            self._done(None, error)
        else:
            self._done({"pause_ms": self._pause()}, None)

    def step(self) -> None:
        """Look how far it is, and do what comes next."""
        try:
            self._step()
        except (SkerryError, GuestFault) as error:
            self.give_up(error)

    def _step(self) -> None:
        if not self._migrating:
            if self._patience is not None and self._patience.over():
                raise MachineFault("the guest does not hold still to be saved")
            return
        found = self._monitor.execute("query-migrate")
        status = found.get("status")
        if status == "pre-switchover" and not self._rotated:
            self._stopped_at = self._stopped_at or time.monotonic()
            self._rotate()
            if self._files is not None:
                self._more = self._files.copy_more()
            self._monitor.execute("migrate-continue", state="pre-switchover")
        elif status == "completed":
            self._continue()
            self._done({"pause_ms": self._pause(), "more": self._more}, None)
            return
        elif status in ("failed", "cancelled"):
            raise SystemFault(f"QEMU cannot save the machine: {found.get('error-desc', '')!s:.300}")
        if time.monotonic() > self._deadline:
            raise Unavailable("QEMU does not finish saving the machine")

    def _add_overlay(self, disk: int) -> None:
        monitor = self._monitor
        monitor.give_fd_set(100 + self._number, disk)
        self.node = f"{WRITABLE_SERIAL}-{self._number}"
        file = {
            "driver": "file",
            "filename": f"/dev/fdset/{100 + self._number}",
            "locking": "off",
        }
        monitor.execute(
            "blockdev-add", driver="qcow2", node_name=self.node, discard="unmap", file=file,
            backing=None,
        )  # fmt: skip

    def _rotate(self) -> None:
        self._monitor.execute("blockdev-snapshot", node=self._node, overlay=self.node)
        self._rotated = True

    def _continue(self) -> None:
        """Right after the end QEMU is still busy with itself."""
        deadline = time.monotonic() + 5
        while True:
            try:
                self._monitor.execute("cont")
                return
            except SkerryError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.001)

    def _pause(self) -> float:
        return round((time.monotonic() - self._stopped_at) * 1000, 1)

    def give_up(self, error: SkerryError | GuestFault) -> None:
        """Let it go on."""
        if self._migrating:
            with suppress(SkerryError):
                self._monitor.execute("migrate_cancel")
        if self._migrating or self._standing:
            with suppress(SkerryError):
                self._continue()
        if not self._rotated and self.node != self._node:
            with suppress(SkerryError):
                self._monitor.execute("blockdev-del", node_name=self.node)
            self.node = self._node
        self._done(None, error)
