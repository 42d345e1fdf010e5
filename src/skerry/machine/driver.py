"""`MachineDriver`: containers in machines of their own, by the same contract as `RuntimeDriver`.

The life cycle, the keepers and their recovery are the runtime driver's; what differs is the program
that a keeper keeps (`warden`) and who is asked about what goes on behind the wall.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from skerry.base.errors import (
    Conflict,
    InvalidInput,
    KernelFault,
    MachineFault,
    SkerryError,
    Unavailable,
    Unsupported,
)
from skerry.base.isolation import (
    Attach,
    ExecTask,
    Exit,
    LogOptions,
    Overlay,
    Started,
    Stats,
    Task,
)
from skerry.kernel import cgroups, processes
from skerry.machine import (
    machine_id,
    planning,
    portable,
    rehearsal,
    said,
    tidying,
)
from skerry.machine.chains import disk_of, frozen_disks, on_layers_disk
from skerry.machine.conf import Conf, pack
from skerry.machine.contents import Contents
from skerry.machine.shape import shape_for
from skerry.machine.snapshots import Snapshots
from skerry.machine.spares import TAKE_SECONDS, Pattern, Spare, Spares
from skerry.runtime import bundle, plan, tiny_init
from skerry.runtime.driver import leftovers
from skerry.runtime.driver.driver import CONFIG
from skerry.runtime.driver.readings import networks, stats_from
from skerry.runtime.driver.streams import AttachStream
from skerry.runtime.steps import process_to_wire

log = logging.getLogger(__name__)

OnExit = Callable[[str, Exit], None]


class MachineDriver(Snapshots, Contents):
    """Containers in microVMs."""

    name = "vm"

    def __init__(self, root: str, *, cgroup_parent: str = "/skerry", spares: int = 0) -> None:
        """`root` is the engine's; kits, templates and disks are kept below it. At most so many
        `spares` stand ready."""
        super().__init__(root, cgroup_parent=cgroup_parent)
        self.spares = Spares(
            self.disks, self._spawner.send, self._cgroup_parent, spares, lambda: self._busy > 0
        )
        self._guests: dict[str, tuple[Task, planning.Guest]] = {}
        self._given: dict[str, Spare] = {}
        """Spares that are promised to a start, by its run directory."""

    # Life cycle

    async def create(self, task: Task) -> None:
        """Check and plan, write the bundle; InvalidInput when the spec cannot be run here."""
        self._guests[task.id] = (task, self._guest(task))
        self._spawner.ensure()

    def _guest(self, task: Task) -> planning.Guest:
        spec = self._with_init(task)
        has_id = machine_id.in_image(task.rootfs)
        if has_id:
            spec = machine_id.with_mount(spec, task.state_dir)
        made = planning.guest_for(
            spec,
            container_id=task.id,
            state_dir=task.state_dir,
            has_layers=task.rootfs is not None,
            host_cpus=os.cpu_count() or 1,
        )
        os.makedirs(task.state_dir, 0o700, exist_ok=True)
        if has_id:
            text = f"{machine_id.of(task.id)}\n".encode()
            leftovers.write_file(task.state_dir, machine_id.NAME, text)
        root = dict(task.spec.get("root", {}), path="rootfs")
        saved = json.dumps({**task.spec, "root": root}).encode()
        leftovers.write_file(task.state_dir, CONFIG, saved)
        return made

    def _with_init(self, task: Task) -> dict[str, Any]:
        if not task.init:
            return dict(task.spec)
        tiny_init.find_init()  # Missing here, it is missing in the kit.
        return tiny_init.with_init(dict(task.spec), planning.GUEST_INIT)

    def _host_cgroup(self, task: Task) -> str:
        named = task.spec.get("linux", {}).get("cgroupsPath")
        path = named or f"{self._cgroup_parent}/{task.id}"
        return cgroups.container_path(path, task.id, self._layout)

    async def start(
        self, task: Task, on_exit: OnExit, *, attach: Attach | None = None
    ) -> tuple[Started, AttachStream | None]:
        """Clone the template and run the container in it; as `Driver.start`."""
        with self._opening():
            return await self._start(task, on_exit, attach)

    async def _start(
        self, task: Task, on_exit: OnExit, attach: Attach | None
    ) -> tuple[Started, AttachStream | None]:
        planned, guest = self._guests.pop(task.id, (None, None))
        if guest is None or planned != task:
            guest = self._guest(task)
        saved = task.saved
        if saved and saved.made_of:
            # It has the size it was made with, whatever its container's limits are by now.
            guest = guest._replace(shape=portable.MadeOf(**saved.made_of).shape)
        frozen, layers = await asyncio.gather(
            self.templates.get(
                guest.shape,
                guest.kernel,
                [write.value for write in guest.plan.cgroup_writes if write.file == "bpf"],
                lambda: self.disks.practice(rehearsal.plan_for(task.spec)),
            ),
            asyncio.to_thread(self._prepare_disks, task),
        )
        cgroup, accel = self._host_cgroup(task), self.templates.accel
        process = guest.plan.process
        assert process is not None
        below = frozen_disks(task.rootfs)
        conf = Conf(
            id=task.id,
            run_dir=task.run_dir,
            cgroup=cgroup,
            jail=os.path.join(task.run_dir, "jail"),
            ram=saved.memory if saved else f"/proc/{os.getpid()}/fd/{frozen.ram}",
            own=False,
            state=saved.devices if saved else frozen.state,
            saved=saved is not None,
            renew=(saved.renew if saved else task.renew) or {},
            layers=layers,
            writable=str(disk_of(task)),
            disk=task.disk,
            below=[str(disk) for disk in below],
            blank=self.disks.floor(below),
            more=int(saved.made_of.get("more", 0)) if saved else 0,
            shape=(guest.shape.memory, guest.shape.cpus),
            accel=(accel.name, accel.cpu, accel.tsc_khz),
            network=guest.network,
            files=await asyncio.to_thread(_read_files, guest.files),
            hostname=guest.hostname,
            terminal=process.terminal,
            size=(process.rows, process.columns),
            open_stdin=task.open_stdin,
            shares=[(share.source, share.read_only) for share in guest.shares],
        )
        head = {
            "op": "start",
            "run_dir": task.run_dir,
            "log": task.log,
            "terminal": process.terminal,
            "open_stdin": task.open_stdin,
            "stdin_once": task.stdin_once,
            "attach": attach,
            "limits": guest.limits,
            "facts": {
                "id": task.id,
                "container": task.id,
                "cgroup": cgroup,
                "state_dir": task.state_dir,
                "shape": [guest.shape.memory, guest.shape.cpus],
                "template": frozen.key,
                "made_of": (saved.made_of if saved else None)
                or portable.made_of(frozen.kit, guest.shape, accel)
                ._replace(shares=len(guest.shares))
                ._asdict(),
            },
        }
        body = pack(conf, guest.plan.to_wire())
        if conf.saved:
            return await self._run(task.id, head, body, on_exit, attach)
        if spare := self.spares.take(frozen.key, shares=bool(conf.shares)):
            self._given[task.run_dir] = spare
        try:
            return await self._run(task.id, head, body, on_exit, attach)
        finally:
            if unused := self._given.pop(task.run_dir, None):
                unused.hang_up()
            folder = os.path.dirname(task.run_dir)
            self.spares.asked(
                Pattern(
                    frozen,
                    guest.shape,
                    conf.accel,
                    dict(task.spec),
                    folder,
                    bool(conf.shares),
                    guest.kernel,
                ),
                missed=spare is None,
            )

    async def get_ready(self, folder: str) -> None:
        """Have spares of what the last engine was asked for, where their templates are there;
        `folder` is where run directories are made."""
        for kind in await asyncio.to_thread(self.spares.last_kinds):
            with self._opening():
                try:
                    if not await asyncio.to_thread(self.templates.is_made, kind.shape, kind.kernel):
                        continue
                    frozen = await self.templates.get(kind.shape, kind.kernel)
                except (SkerryError, OSError) as error:
                    log.warning("no spare machine of what was asked for before: %s", error)
                    continue
            accel = self.templates.accel
            self.spares.expect(
                Pattern(
                    frozen, kind.shape, (accel.name, accel.cpu, accel.tsc_khz), kind.spec, folder,
                    kind.shares, kind.kernel,
                )
            )  # fmt: skip

    def _send(self, head: dict[str, Any], body: bytes, fds: tuple[int, ...]) -> None:
        """To the spare that the request was promised, the first time."""
        spare = self._given.pop(head["run_dir"], None)
        if spare is None:
            super()._send(head, body, fds)
            return
        spare.give(head, body, fds)
        self._in_background(self._see_taken(spare))

    async def _see_taken(self, spare: Spare) -> None:
        """One that does nothing is killed; then the request is sent again."""
        try:
            await asyncio.wait_for(spare.ended.wait(), TAKE_SECONDS)
        except TimeoutError:
            await asyncio.to_thread(spare.kill)

    def _prepare_disks(self, task: Task) -> str:
        self.disks.prepare()
        self.disks.writable(disk_of(task))
        return self._ready_disks(task.rootfs)

    async def exec(
        self, task: ExecTask, on_exit: OnExit, *, attach: Attach | None
    ) -> tuple[Started, AttachStream | None]:
        """Run a further process in the machine; errors as `start`."""
        container = self._containers.get(task.container_id)
        if container is None:
            raise Conflict(f"container {task.container_id} is not running")
        spec = bundle.load(str(container.facts["state_dir"]))
        process = plan.plan_process(bundle.parse_process(json.dumps(task.process).encode()), spec)
        head = {
            "op": "exec",
            "id": task.id,
            "run_dir": task.run_dir,
            "machine": container.run_dir,
            "log": LogOptions("none"),
            "terminal": process.terminal,
            "size": [process.rows, process.columns],
            "open_stdin": task.open_stdin,
            "stdin_once": True,
            "attach": attach,
            "facts": {
                "id": task.id,
                "container": task.container_id,
                "exec": True,
                "machine": container.run_dir,
            },
        }
        return await self._run(task.id, head, process_to_wire(process), on_exit, attach)

    async def delete(self, container_id: str, state_dir: str, run_dir: str) -> None:
        """Kill what still runs and remove every trace but the caller's own files."""
        self._guests.pop(container_id, None)
        self._hang_up(run_dir)
        await super().delete(container_id, state_dir, run_dir)

    async def close(self) -> None:
        """Let go of everything without ending any task."""
        for run_dir in list(self._lines):
            self._hang_up(run_dir)
        await self.spares.close()
        await super().close()
        self.templates.close()

    # What can go

    def unused(self, chains: list[Overlay]) -> tidying.Unused:
        """The files that no running machine and none of these chains of layers needs; nothing while
        a machine starts."""
        if self._busy:
            return tidying.Unused([], [], [])
        facts = [container.facts for container in self._containers.values()]
        used = {str(each.get("template", "")) for each in facts}
        wanted = [on_layers_disk(chain) for chain in chains]
        return tidying.Unused(
            self.templates.unused_kits(), self.templates.unused(used), self.disks.unused(wanted)
        )

    async def tidy(self, chains: list[Overlay]) -> int:
        """Remove them; the bytes that were freed."""
        found = self.unused(chains)
        keys = {path.name for path in found.templates}
        self.spares.forget(keys)
        self.templates.forget(keys)
        return await asyncio.to_thread(found.set_aside().remove)

    # Behind the wall

    async def signal(self, container_id: str, run_dir: str, signal: int) -> None:
        """Send a signal to the init, or to an exec; with SIGKILL the whole task ends."""
        kept = self._kept.get(run_dir)
        if kept is None:
            raise Conflict(f"cannot signal {container_id or run_dir}: it is not running")
        is_exec = bool(kept.facts.get("exec"))
        id_ = kept.id if is_exec else "main"
        try:
            await self.ask(kept.facts["container"], "signal", id=id_, signal=int(signal))
        except (Unavailable, MachineFault):
            if signal != 9:
                raise
            # The machine is ending, or does not listen: its keeper's program is the warden.
            with suppress(Conflict):
                await super().signal(container_id, run_dir, signal)

    async def pause(self, container_id: str) -> None:
        """Stop the machine."""
        await self.ask(container_id, "pause")

    async def resume(self, container_id: str) -> None:
        """Let it go on."""
        await self.ask(container_id, "resume")

    async def resize(self, run_dir: str, rows: int, columns: int) -> None:
        """Set the terminal's size on both sides of the wall: on return the program's has it.
        Conflict when there is no terminal."""
        await super().resize(run_dir, rows, columns)
        kept = self._kept.get(run_dir)
        if kept is None:
            return
        id_ = kept.id if kept.facts.get("exec") else "main"
        # The guest would hear of it from the terminal here as well, some time.
        with suppress(Conflict, Unavailable, MachineFault):
            await self.ask(kept.facts["container"], "resize", id=id_, rows=rows, columns=columns)

    async def update(self, container_id: str, resources: dict[str, object]) -> None:
        """Change limits of a running task; `resources` is OCI `linux.resources`. InvalidInput for
        more than its machine has."""
        if container_id not in self._containers:
            raise Conflict(f"container {container_id} is not running")
        checked = bundle.parse_resources(json.dumps(resources).encode())
        shape = self._shape_of(container_id)
        needed = planning.check_fits(dict(checked), shape, os.cpu_count() or 1)
        if needed.cpus > shape.cpus:
            await self.ask(container_id, "processors", count=needed.cpus)
        # What the host cannot give is a limit that nobody reaches.
        most = shape_for(processes.meminfo("MemTotal"), 0, 1).memory
        more = min(needed.memory, most) - shape.memory
        if more > 0:
            await self.ask(container_id, "memory", size=more)
        mine, guests = planning.split_limits(dict(checked))
        if mine:
            await super().update(container_id, mine)
        group, layout = planning.GUEST_GROUP, planning.GUEST_LAYOUT
        writes = cgroups.plan(group, guests, layout, devices=False)
        if writes:
            rows = [list(write) for write in writes]
            await self.ask(container_id, "update", writes=rows)
        if needed.memory and more <= 0:
            await self.ask(container_id, "memory", size=0)

    async def rewire(self, container_id: str, state_dir: str) -> None:
        """Have a running machine's cards follow its container's interfaces, and its files of names
        those on this host."""
        paths = {name: os.path.join(state_dir, name) for name in ("hosts", "resolv.conf")}
        files = await asyncio.to_thread(_read_files, paths)
        await self.ask(container_id, "rewire", files=files)

    async def processes(self, container_id: str) -> list[list[str]]:
        """Rows of UID, PID, PPID, C, STIME, TTY, TIME, CMD; of the guest's processes."""
        answer = await self.ask(container_id, "processes")
        try:
            return said.read_rows(answer.get("body"))
        except ValueError:
            raise _senseless(container_id) from None

    async def stats(self, container_id: str) -> Stats:
        """One reading of the counters: the guest's own of the container."""
        answer = await self.ask(container_id, "stats")
        try:
            return stats_from(
                answer["stats"], networks(str(answer["network"])), int(answer["memory"])
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise _senseless(container_id) from None

    async def refused_forks(self, container_id: str) -> int:
        """Unsupported: no guest is asked for it."""
        raise Unsupported("a machine does not tell how many processes it was refused")


def _senseless(container_id: str) -> MachineFault:
    return MachineFault(f"the machine of {container_id} answers without sense")


def _read_files(files: dict[str, str]) -> dict[str, str]:
    """The contents of small files for the guest. InvalidInput for one that is not small."""
    found = {}
    for name, path in files.items():
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read(planning.MOST_FILE + 1)
        except OSError as error:
            raise KernelFault(f"read {path}", error.errno or 0) from None
        if len(text) > planning.MOST_FILE:
            raise InvalidInput(f"{path} is too large for the guest's /etc")
        found[name] = text
    return found
