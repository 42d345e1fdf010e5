"""Starting, stopping, pausing, saving: the states of a machine.

    off ──start──> running ──pause──> paused        saved: off, and the next start goes on
     ^               │  ^               │           aborted: QEMU ended and nobody had asked
     └──stop, end────┘  └───resume──────┘

QEMU is always started with its processors held. It runs them only after the record says so: an
engine that is killed in between finds a machine that has done nothing yet, and ends it.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skerry.base.errors import Conflict, NotModified, SkerryError, SystemFault, Unavailable
from skerry.engine.vms import cables
from skerry.engine.vms.record import ABORTED, OFF, PAUSED, RUNNING, SAVED, Live, Machine
from skerry.engine.vms.saving import LOAD_SECONDS, check_savable, write_state
from skerry.engine.vms.shelf import Shelf
from skerry.kernel import kvm_probe
from skerry.kernel.cgroups import Cgroup, Layout, detect, plan
from skerry.machine.full import detours, fence, keeper, launching, qemu, serial
from skerry.machine.full.monitor import Monitor

if TYPE_CHECKING:
    from skerry.engine.events import Events

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""For the guest to follow the power button; then it is switched off."""
_KILL_SECONDS = 10.0
_RECORD_SECONDS = 5.0
_PIDS = 512
_OWN = re.compile(r"[0-9-]+T[0-9:.]+Z [\w./-]*qemu")


class Life:
    """The verbs that change a machine's state. Callers hold the machine's lock unless noted."""

    def __init__(self, root: str, shelf: Shelf, events: "Events") -> None:
        self._root = root
        self._shelf = shelf
        self._events = events
        self._kvm: bool | None = None
        self._layout: Layout | None = None

    def tell(self, live: Live, action: str, **attributes: str) -> None:
        """An event."""
        self._events.emit("vm", action, live.record.id, {"name": live.record.name, **attributes})

    async def accelerator(self, wanted: str) -> str:
        """kvm or tcg; Conflict when kvm was asked for and does not work."""
        if wanted == "tcg":
            return "tcg"
        if self._kvm is None:
            found = await asyncio.to_thread(kvm_probe.probe)
            self._kvm = found.state == kvm_probe.WORKS
        if wanted == "kvm" and not self._kvm:
            raise Conflict("KVM does not work on this host", hint="see skerry doctor; --accel auto")
        return "kvm" if self._kvm else "tcg"

    async def start(self, live: Live) -> None:
        """Boot, or go on from the saved state. NotModified when it runs."""
        record = live.record
        if live.process is not None:
            if record.status == PAUSED:
                raise Conflict(
                    f"machine {record.name} is paused", hint=f"skerry vm resume {record.name}"
                )
            raise NotModified(f"machine {record.name} is running already")
        cables.check_ports(record, self.others(live))
        cables.check_shares(record.hardware)
        cables.check_discs(record)
        places = self._shelf.make_folders(record)
        incoming = os.path.join(places.state, record.saved) if record.saved else ""
        launch = await self._launch(record, incoming)
        await self._spawn(live, launch)
        used = record.saved
        try:
            if incoming:
                await self._loaded(live)
            self._shelf.change(
                record, saved="", status=RUNNING, cause="", exit_code=None,
                started_at=time.time_ns(),
            )  # fmt: skip
        except BaseException:
            await self.end(live)
            raise
        await self._monitor(live).execute("cont")
        if used == "saved.state":
            with contextlib.suppress(OSError):
                os.unlink(incoming)
        self.tell(live, "start")

    def others(self, live: Live) -> list[Machine]:
        """The other machines that run."""
        return [each.record for each in self._shelf if each is not live and each.process]

    async def _launch(self, record: Machine, incoming: str) -> launching.Launch:
        hardware = record.hardware
        accel = await self.accelerator(hardware.accel)
        groups = (os.stat("/dev/kvm").st_gid,) if accel == "kvm" and record.uid else ()
        places = self._shelf.places(record)
        return launching.Launch(
            name=record.name,
            hardware=hardware,
            places=places,
            uid=record.uid,
            accel=accel,
            chains=self._shelf.chains(hardware.layers()),
            taps=cables.cables(self._root, record, self._shelf.networks()),
            cgroup=await asyncio.to_thread(self._make_group, record),
            fence=fence.name(self._root, record.id),
            groups=groups,
            incoming=incoming,
            vnc_secret=_secret(record, places),
            detours=tuple(detours.choose(cables.forwards(hardware))) if record.uid else (),
        )

    def _group(self, record: Machine) -> Cgroup | None:
        if record.uid == 0:
            return None
        if self._layout is None:
            self._layout = detect()
        if not self._layout.controllers and self._layout.version != 2:
            return None
        return Cgroup(f"/skerry/vm-{record.id}", self._layout)

    def _make_group(self, record: Machine) -> str:
        """The machine's control group with its limits; what an earlier QEMU left in it dies."""
        group = self._group(record)
        if group is None:
            return ""
        resources: dict[str, Any] = {
            "memory": {"limit": record.hardware.memory + launching.OVERHEAD},
            "pids": {"limit": _PIDS + record.hardware.cpus},
        }
        known = {name: resources[name] for name in resources if name in group.layout.controllers}
        writes = plan(group.path, known, group.layout, devices=False)
        group.kill_all()
        group.create(writes)
        return group.path

    def group(self, record: Machine) -> Cgroup | None:
        """The machine's control group; None when it has none."""
        return self._group(record)

    async def _spawn(self, live: Live, launch: launching.Launch) -> None:
        live.asked_to_end = live.powered_down = False
        process = await qemu.start(launching.plan(launch))
        self.watch(live, process)
        try:
            await self.join(live)
        except Unavailable:
            live.asked_to_end = True
            qemu.kill(process)
            await live.gone.wait()
            raise SystemFault(f"QEMU did not start: {self.complaint(live.record)}") from None

    def watch(self, live: Live, process: qemu.Running) -> None:
        """Follow a QEMU until it ends."""
        live.process = process
        live.gone.clear()
        live.watcher = asyncio.get_running_loop().create_task(self._watch(live, process))

    async def join(self, live: Live) -> None:
        """Connect to the monitor of the running QEMU."""
        path = os.path.join(self._shelf.places(live.record).run, keeper.QMP)
        connecting = asyncio.ensure_future(Monitor.connect(path, self._listener(live)))
        gone = asyncio.ensure_future(live.gone.wait())
        await asyncio.wait((connecting, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not connecting.done():
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            raise Unavailable("QEMU has ended")
        live.monitor = connecting.result()

    def _listener(self, live: Live) -> Callable[[str, dict[str, Any]], None]:
        def heard(name: str, data: dict[str, Any]) -> None:
            if name == "SHUTDOWN" and data.get("guest"):
                live.asked_to_end = True
                self.tell(live, "shutdown", reason=str(data.get("reason"))[:40])
            elif name == "POWERDOWN":
                live.powered_down = True

        return heard

    def _monitor(self, live: Live) -> Monitor:
        if live.monitor is None:
            raise Unavailable(f"machine {live.record.name}: QEMU's monitor is not joined")
        return live.monitor

    def running(self, live: Live) -> Monitor:
        """The monitor of a machine that runs or is paused, else Conflict."""
        if live.process is None:
            raise Conflict(
                f"machine {live.record.name} is not running",
                hint=f"start it: skerry vm start {live.record.name}",
            )
        return self._monitor(live)

    async def _loaded(self, live: Live) -> None:
        """Wait until the saved state is in."""
        monitor = self._monitor(live)
        deadline = time.monotonic() + LOAD_SECONDS
        while True:
            status = await monitor.status()
            if status != "inmigrate":
                break
            if time.monotonic() > deadline:
                raise SystemFault("the saved state was not read in time")
            await asyncio.sleep(0.01)
        if status not in ("paused", "prelaunch"):
            raise SystemFault(f"the saved state does not fit this machine: QEMU is in {status}")

    async def _watch(self, live: Live, process: qemu.Running) -> None:
        record = live.record
        run = self._shelf.places(record).run
        await self._last(live, process)
        ended = qemu.ended(run)
        deadline = time.monotonic() + _RECORD_SECONDS
        while ended is None and qemu.find(run)[1] and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            ended = qemu.ended(run)
        if live.monitor is not None:
            monitor, live.monitor = live.monitor, None
            await monitor.close()
        live.process = None
        self.ended(live, ended)
        live.gone.set()

    async def _last(self, live: Live, process: qemu.Running) -> None:
        """Until QEMU has gone; a keeper that dies before it gets a successor."""
        run = self._shelf.places(live.record).run
        gone = asyncio.ensure_future(qemu.wait(process))
        try:
            while not gone.done():
                keeping = qemu.find(run)[1]
                if keeping is None and qemu.alive(*process):
                    with contextlib.suppress(SkerryError):
                        await self.adopt(live, process)
                    keeping = qemu.find(run)[1]
                if keeping is None:
                    break
                kept = asyncio.ensure_future(qemu.wait(keeping))
                await asyncio.wait((gone, kept), return_when=asyncio.FIRST_COMPLETED)
                kept.cancel()
            await gone
        finally:
            gone.cancel()

    async def adopt(self, live: Live, process: qemu.Running) -> None:
        """Give a QEMU whose keeper was killed another one."""
        record = live.record
        group = self._group(record)
        bridges = [
            cables.internal_bridge(self._root, nic.network)
            for nic in record.hardware.nics
            if nic.kind == "internal"
        ]
        fenced = record.uid != 0 and launching.needs_fence(record.hardware)
        plan_ = launching.adoption(
            self._shelf.places(record),
            group.path if group else "",
            fence.name(self._root, record.id) if fenced else "",
            bridges,
            [each for each in cables.forwards(record.hardware) if each[1] < detours.first_free()],
            process,
        )
        await qemu.start(plan_)

    def ended(self, live: Live, ended: qemu.Ended | None) -> None:
        """Record the end of QEMU, and clean up behind it."""
        record = live.record
        record.finished_at = int(ended.time * 1e9) if ended else time.time_ns()
        record.exit_code = ended.code if ended else None
        if record.status in (RUNNING, PAUSED):
            good = live.asked_to_end or (ended is not None and ended.code == 0)
            record.status = OFF if good else ABORTED
            record.cause = "" if good else self._cause(record, ended)
            with contextlib.suppress(SkerryError):
                self._shelf.save(record)
            self.tell(live, "stop" if good else "die", cause=record.cause)
        live.asked_to_end = False
        group = self._group(record)
        if group is not None:
            with contextlib.suppress(SkerryError):
                group.kill_all()
                group.remove()

    def _cause(self, record: Machine, ended: qemu.Ended | None) -> str:
        if ended is None:
            return "its end was not seen: the host restarted or the keeper was killed"
        if ended.starved:
            return "QEMU was killed: it took more memory than its control group may have"
        if ended.signal:
            return f"QEMU was killed by {signal.Signals(ended.signal).name}"
        if ended.code is None:
            return "QEMU was killed; its keeper had been killed before, so nobody saw by what"
        return f"QEMU ended with code {ended.code}: {self.complaint(record)}"

    def complaint(self, record: Machine) -> str:
        """The last thing that QEMU complained about."""
        try:
            text = serial.tail(self._shelf.places(record).qemu_log, 4096).decode("utf-8", "replace")
        except OSError:
            text = ""
        return last_complaint(text)

    async def stop(self, live: Live, timeout: float = STOP_SECONDS, *, force: bool = False) -> None:
        """Press the power button, wait, then switch off. NotModified when it does not run.

        Takes the lock itself, and leaves it while it waits: a guest that asks back can be looked
        at, answered and forced."""
        async with live.lock:
            process = live.process
            if process is None:
                raise NotModified(f"machine {live.record.name} is not running")
            pressed = not force and await self._press(live)
        if pressed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(live.gone.wait(), timeout)
                return
        async with live.lock:
            if live.process == process:
                await self.end(live)

    async def _press(self, live: Live) -> bool:
        """The power button; False when it cannot be."""
        with contextlib.suppress(SkerryError):
            monitor = self._monitor(live)
            if live.record.status == PAUSED:
                await self._go_on(live)
            await monitor.execute("system_powerdown")
            live.asked_to_end = True
            return True
        return False

    async def end(self, live: Live) -> None:
        """Switch off now: disks are flushed, then QEMU ends; killed when it does not."""
        live.asked_to_end = True
        with contextlib.suppress(SkerryError, TimeoutError):
            await self._monitor(live).execute("quit", timeout=5)
            await asyncio.wait_for(live.gone.wait(), _KILL_SECONDS)
            return
        if live.process is not None:
            qemu.kill(live.process)
        await live.gone.wait()

    async def settle(self, live: Live) -> None:
        """After a recovery: processors run or are held as the record says."""
        monitor = self._monitor(live)
        status = await monitor.status()
        if live.record.status == RUNNING and status != "running":
            await monitor.execute("cont")
        elif live.record.status == PAUSED and status == "running":
            await monitor.execute("stop")

    async def reset(self, live: Live) -> None:
        """The reset button."""
        await self.running(live).execute("system_reset")
        self.tell(live, "reset")

    async def pause(self, live: Live) -> None:
        """Hold the processors."""
        monitor = self.running(live)
        if live.record.status == PAUSED:
            raise NotModified(f"machine {live.record.name} is paused already")
        await monitor.execute("stop")
        try:
            self._shelf.change(live.record, status=PAUSED)
        except BaseException:
            await monitor.execute("cont")
            raise
        self.tell(live, "pause")

    async def resume(self, live: Live) -> None:
        """Let them go on; a saved machine is started."""
        if live.process is None and live.record.status == SAVED:
            await self.start(live)
            return
        self.running(live)
        if live.record.status != PAUSED:
            raise NotModified(f"machine {live.record.name} is not paused")
        await self._go_on(live)
        self.tell(live, "resume")

    async def _go_on(self, live: Live) -> None:
        self._shelf.change(live.record, status=RUNNING)
        await self._monitor(live).execute("cont")

    async def save(self, live: Live) -> None:
        """Write memory and devices to the disk and end QEMU; the next start goes on from there."""
        monitor = self.running(live)
        check_savable(live.record)
        places = self._shelf.places(live.record)
        path = os.path.join(places.state, "saved.state")
        await monitor.execute("stop")
        try:
            await write_state(monitor, f"{path}.part")
            os.rename(f"{path}.part", path)
            self._shelf.change(live.record, status=SAVED, saved="saved.state")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            with contextlib.suppress(SkerryError):
                if live.record.status == RUNNING:
                    await monitor.execute("cont")
            raise
        await self.end(live)
        self.tell(live, "save")

    def discard_state(self, live: Live) -> None:
        """Forget the saved state: the machine is off, as if its power had been cut."""
        record = live.record
        if record.status != SAVED:
            raise Conflict(f"machine {record.name} has no saved state")
        self._shelf.change(record, status=OFF, saved="")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._shelf.places(record).state, "saved.state"))


def last_complaint(text: str) -> str:
    """Of QEMU's log: its own last line (with a time, `-msg timestamp=on`) that is no warning, else
    the last of a helper, whose complaints lie between."""
    lines = [line for line in text.splitlines() if line.strip() and ": warning: " not in line]
    own = [line for line in lines if _OWN.match(line)]
    found = own[-1].partition(" ")[2] if own else lines[-1] if lines else "it said nothing"
    return found.strip()[:500]


def _secret(record: Machine, places: launching.Places) -> str:
    """The file with VNC's password, which only QEMU's user can read."""
    if not record.vnc_password or record.hardware.vnc == "unix":
        return ""
    path = os.path.join(places.run, "vnc-password")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with open(fd, "w", encoding="ascii") as file:
        file.write(record.vnc_password)
        if record.uid:
            os.fchown(file.fileno(), record.uid, record.uid)
    return path
