"""What saves one machine, as often as it is asked (`saving` has the theory), and what it needs for
that: the disks that QEMU has written to, the files that the machine came from, the host's folders.
"""

import os
import socket
import time
from collections.abc import Callable

from skerry.base.errors import (
    Conflict,
    GuestFault,
    MachineFault,
    SkerryError,
    SystemFault,
    Unavailable,
)
from skerry.base.light import Any
from skerry.machine import cabling, orderly, said, saving, shares, tasks
from skerry.machine.asking import Guest, Waiting
from skerry.machine.clone import Cloned
from skerry.machine.conf import Conf
from skerry.machine.growing import Size
from skerry.machine.memory import copy_extents
from skerry.machine.patience import waited
from skerry.runtime import wire


class Saver:
    """Of one machine. `goes_on` is called when it goes on, `fail` when it cannot."""

    def __init__(
        self,
        conf: Conf,
        cloned: Cloned,
        node: str,
        guest: Guest,
        size: Size,
        goes_on: Callable[[], None],
        fail: Callable[[str], None],
    ) -> None:
        """`node` is that of the writable disk."""
        self.conf = conf
        self.machine = cloned.machine
        self.guest = guest
        self.size = size
        self.ram = cloned.ram
        """The machine's own memory, or -1."""
        self.fail = fail
        self._goes_on = goes_on
        self._sharer = cloned.sharer
        self._disk = node
        self._disks = [os.open(conf.writable, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)]
        """Every disk that QEMU has written to; a folder may have been exchanged since."""
        reading = os.O_RDONLY | os.O_CLOEXEC
        self.came_from = os.open(conf.ram, reading), os.open(conf.state, reading)
        """The files of memory and state that the machine was started with."""
        self._saved = 0
        self.current: saving.Saving | None = None

    def save(self, sock: socket.socket, seq: int, given: list[int]) -> None:
        """Save the machine: descriptors are the new overlay and, unless only the disk is wanted,
        files for its devices and its memory. The answer says whether they are `apart`, or the
        first has a stream of both."""
        if self.size.is_changing:
            raise Conflict("the machine's memory is being changed")
        disk, *target = [os.dup(fd) for fd in given]
        orderly.mark(disk)
        self._disks.append(os.dup(disk))
        self._saved += 1
        _Request(self, sock, seq, disk, target).begin()

    def new(self, done: saving.Done) -> saving.Saving:
        """One more saving."""
        return saving.Saving(self.machine.monitor, self._disk, self._saved, done)

    def over(self, work: saving.Saving) -> None:
        """It is."""
        self._disk = work.node
        self.current = None

    def went_on(self) -> None:
        """The machine has."""
        self._goes_on()

    def take_folders(self) -> None:
        """The guest uses them no more."""
        shares.unplug(self.machine.monitor, self._sharer)
        self._sharer = -1

    def give_folders(self) -> None:
        """Once more, if they were taken."""
        if self._sharer >= 0:
            return
        conf = self.conf
        try:
            self._sharer = shares.plug(
                self.machine.monitor, conf.shares, conf.run_dir, cabling.SHARES_PORT
            )
        except SkerryError as error:
            self.fail(f"the host's folders did not come back after it was saved: {error}")

    def close_disks(self) -> None:
        """QEMU has closed them in good order."""
        for disk in self._disks:
            orderly.close(disk)


class _Request:
    """One saving, from the request to its answer."""

    def __init__(
        self, saver: Saver, sock: socket.socket, seq: int, disk: int, target: list[int]
    ) -> None:
        self._saver = saver
        self._guest = saver.guest
        self._sock = sock
        self._seq = seq
        self._disk = disk
        self._target = target
        version = saver.machine.monitor.execute("query-version")
        major = said.number(version["qemu"]["major"], 1000)
        self._own = saver.ram >= 0
        self._live = not self._own and saving.copies_live(saver.conf.accel[0], major)
        self._shared = bool(saver.conf.shares and target)
        self._freeze = self._shared or not self._live
        self._version = version
        self._told: dict[str, Any] = {}
        self._asked = self._still_since = 0.0
        self._work = saver.new(self._done)

    def begin(self) -> None:
        """Ask the guest to hold still; `_held` hears of it."""
        saver, work, size = self._saver, self._work, self._saver.conf.shape[0]
        if self._target and not self._live:
            # While the guest goes on.
            try:
                os.ftruncate(self._target[1], size)
                if not self._own:
                    copy_extents(saver.came_from[0], self._target[1], size)
            except (SkerryError, OSError) as fault:
                work.give_up(SystemFault(f"cannot copy the machine's memory: {fault}"))
                return
        self._asked = time.monotonic()
        pid = saver.machine.pid
        work.wait_for_guest(lambda: waited(pid), saves_memory=bool(self._target))
        saver.current = work
        waiting = Waiting(None, 0, self._held)
        if self._target:
            self._guest.ask(
                {"op": "hold", "shares": self._shared, "freeze": self._freeze}, b"", waiting
            )
            # Nothing goes out after that: when the answer comes, nothing is on the way.
            self._guest.line.hold()
        else:
            # What programs have written so far lies in the guest's memory.
            self._guest.ask({"op": "sync"}, b"", waiting)

    def _held(self, answer: dict[str, Any]) -> None:
        work = self._work
        if self._saver.current is not work:
            return
        try:
            if "error" in answer:
                raise said.guests_error(answer["error"])
            self._copy(answer)
        except (SkerryError, GuestFault) as fault:
            text = f"cannot save the machine: {fault.message}"
            if "error" not in answer and not isinstance(fault, Unavailable):
                work.give_up(SystemFault(text))
            elif isinstance(fault, Conflict):
                work.give_up(Conflict(fault.message, hint=fault.hint))
            else:
                work.give_up(MachineFault(text, hint=fault.hint))
        except OSError as fault:
            work.give_up(SystemFault(f"cannot save the machine: {fault}"))

    def _copy(self, answer: dict[str, Any]) -> None:
        """The guest holds still."""
        saver, work = self._saver, self._work
        if not self._target:
            work.only_disk(self._disk)
            return
        self._told.update({key: answer.get(key) for key in ("renew", "hooks")})
        if self._freeze:
            # At most since it was asked, whatever the guest says.
            now, frozen = time.monotonic(), said.number(answer.get("frozen_us"), 1 << 40)
            self._still_since = max(self._asked, now - frozen / 1e6)
        if self._shared:
            saver.take_folders()
        (base, state), (devices, memory) = saver.came_from, self._target
        files = saving.Files(
            saver.machine.pid, saver.ram if self._own else base, state, saver.conf.shape[0],
            memory, devices, self._own, saver.size.more,
        )  # fmt: skip
        if self._live:
            work.begin(devices, self._disk, files)
        else:
            work.stand(files, self._disk)

    def _done(self, found: dict[str, Any] | None, error: SkerryError | GuestFault | None) -> None:
        for fd in (self._disk, *self._target):
            os.close(fd)
        self._saver.over(self._work)
        if self._shared:
            self._saver.give_folders()
        line = self._guest.line
        if self._target:
            line.release()
        if self._shared:
            try:
                then = Waiting(None, 0, lambda answer: self._over(answer, found, error))
                self._guest.ask({"op": "go"}, b"", then)
            except MachineFault as fault:
                self._over({}, None, error or fault)
        elif self._target:
            line.say({"op": "go", "seq": 0}, tasks.pack(0, tasks.go(time.time_ns())))
            self._stood(found)
        self._guest.tell(clock())
        if not self._shared:
            self._over({}, found, error)
        # Whether the guest ever says that it goes on is of no matter to who waits.
        self._saver.went_on()

    def _stood(self, found: dict[str, Any] | None) -> None:
        if found and self._still_since:
            found["pause_ms"] = round((time.monotonic() - self._still_since) * 1000, 1)

    def _over(
        self,
        answer: dict[str, Any],
        found: dict[str, Any] | None,
        error: SkerryError | GuestFault | None,
    ) -> None:
        if "error" in answer:
            fault = said.guests_error(answer["error"])
            self._saver.fail(f"the host's folders did not come back after it was saved: {fault}")
        if self._shared:
            self._stood(found)
        if error is not None:
            said.say(self._sock, {"reply": self._seq, "error": wire.error_to_wire(error)})
        else:
            about = {
                "guest": self._told,
                "qemu": self._version,
                "cpus": self._saver.size.cpus,
                "more": 0,
            }
            said.answer(self._sock, self._seq, {**about, **(found or {})}, b"")


def clock() -> dict[str, Any]:
    """A guest's clock stands while its machine is stopped; what it is asked next sees it right."""
    return {"op": "clock", "time_ns": time.time_ns()}
