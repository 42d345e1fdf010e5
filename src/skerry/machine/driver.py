"""`MachineDriver`: containers in machines of their own, by the same contract as `RuntimeDriver`.

The life cycle, the keepers and their recovery are the runtime driver's; what differs is the program
that a keeper keeps (`warden`) and who is asked about what goes on behind the wall.
"""

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from skerry.base.errors import (
    Conflict,
    InvalidInput,
    KernelFault,
    MachineFault,
    Unavailable,
    Unsupported,
)
from skerry.base.isolation import (
    DISK,
    MIRRORED,
    Attach,
    ExecTask,
    Exit,
    LogOptions,
    Overlay,
    SavedInfo,
    Started,
    Stats,
    Task,
    Unpacking,
)
from skerry.kernel import cgroups, processes
from skerry.machine import (
    lean,
    machine_id,
    mirroring,
    orderly,
    planning,
    portable,
    qemu,
    rehearsal,
    stream,
    template,
    tidying,
    warden,
)
from skerry.machine.accel import choose
from skerry.machine.conf import Conf, bare, pack
from skerry.machine.disks import Disks, repair
from skerry.machine.guest import identity
from skerry.machine.shape import Shape, shape_for
from skerry.machine.spares import TAKE_SECONDS, Pattern, Spare, Spares
from skerry.machine.templates import Templates
from skerry.runtime import bundle, plan, rundir, tiny_init
from skerry.runtime.driver import RuntimeDriver, leftovers
from skerry.runtime.driver.driver import CONFIG
from skerry.runtime.driver.link import Control
from skerry.runtime.driver.readings import networks, stats_from
from skerry.runtime.driver.spawning import Spawner
from skerry.runtime.driver.streams import AttachStream
from skerry.runtime.steps import process_to_wire

OnExit = Callable[[str, Exit], None]
ANSWER_SECONDS = 20.0
SAVE_SECONDS = 150.0
_TAKERS = 32
_BOOT = """
import os, sys
os.close(int(sys.argv[2]))
sys.path.insert(1, sys.argv[3])
from skerry.machine.spawner import main
main(int(sys.argv[1]))
"""


class MachineDriver(RuntimeDriver):
    """Containers in microVMs."""

    name = "vm"

    def __init__(self, root: str, *, cgroup_parent: str = "/skerry", spares: int = 0) -> None:
        """`root` is the engine's; kits, templates and disks are kept below it. At most so many
        `spares` stand ready."""
        super().__init__(cgroup_parent=cgroup_parent, spawner=Spawner(_BOOT))
        self.templates = Templates(Path(root))
        self.disks = Disks(Path(root, "machines"))
        self.spares = Spares(
            self.disks, self._spawner.send, self._cgroup_parent, spares, lambda: self._busy > 0
        )
        self._guests: dict[str, tuple[Task, planning.Guest]] = {}
        self._lines: dict[str, Control] = {}
        self._given: dict[str, Spare] = {}
        """Spares that are promised to a start, by its run directory."""
        self._takers = ThreadPoolExecutor(_TAKERS, "machine-files")
        """Threads that wait for guests: a slow one keeps nobody else's."""
        self._busy = 0
        """Starts that may be about to open a template or a disk by its name."""

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

    @contextmanager
    def _opening(self) -> Iterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

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
                or _made_of(frozen.kit, guest.shape, accel)
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
                    frozen, guest.shape, conf.accel, dict(task.spec), folder, bool(conf.shares)
                ),
                missed=spare is None,
            )

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

    async def repair(self, rootfs: Overlay) -> None:
        """Check the writable disk of a container that does not run, if a machine left it open:
        before it is written to or frozen, and the mark goes or stays with it."""
        disk = Path(os.path.dirname(rootfs.upper), DISK)
        if orderly.is_marked(str(disk)):
            await asyncio.to_thread(repair, disk)

    def _ready_disks(self, overlay: Overlay | None) -> str:
        self.disks.prepare()
        if overlay is None or not overlay.lower:
            return ""
        return str(self.disks.layers(_on_layers_disk(overlay)))

    async def save(
        self, container_id: str, rootfs: Overlay, memory: int = -1, devices: str = ""
    ) -> SavedInfo:
        """Save the running machine; it goes on.

        What it has written to its disk is never written again: from now on it writes to the fresh
        disk of `rootfs`. Its memory goes into the empty file behind the descriptor `memory`, the
        rest to the path `devices`; without those only the disk is frozen. Conflict when it does not
        run or is paused; it runs on as before when this fails.
        """
        container = self._containers.get(container_id)
        if container is None:
            raise Conflict(f"container {container_id} is not running")
        disk = Path(os.path.dirname(rootfs.upper), DISK)
        await asyncio.to_thread(self.disks.writable, disk)
        overlay = os.open(disk, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        if memory < 0:
            answer = await self.ask(container_id, "save", fds=(overlay,), seconds=SAVE_SECONDS)
            return SavedInfo(float(answer["pause_ms"]), [], False, {})
        size = self._shape_of(container_id).memory
        # Into memory, as the machine may stand still meanwhile; what takes long comes afterwards.
        raw = os.memfd_create("skerry-stream", os.MFD_CLOEXEC)
        try:
            fds = (overlay, os.dup(raw), os.dup(memory))
            answer = await self.ask(container_id, "save", fds=fds, seconds=SAVE_SECONDS)
            take = _write_out if answer.get("apart") is True else _split
            await asyncio.to_thread(take, raw, memory, size, devices)
        finally:
            os.close(raw)
        renew, hooks = read_told(answer.get("guest"))
        version = portable.told_version(answer.get("qemu"))
        made_of = {**self._containers[container_id].facts.get("made_of", {}), "qemu": version}
        if made_of.get("cpus"):
            made_of["cpus"] = int(answer["cpus"])
            made_of["more"] = int(answer["more"])
        return SavedInfo(float(answer["pause_ms"]), renew, hooks, made_of)

    async def load_memory(self, path: str) -> int:
        """A sealed memfd with the memory of a saved machine; the caller closes it. Copies map it,
        and none of their hypervisors can write to it."""
        return await asyncio.to_thread(_load_memory, path)

    def seal(self, memory: int) -> None:
        """Let nobody write to a memfd any more."""
        template.seal(memory)

    def pack_snapshot(
        self, overlay: Overlay, folder: str, made_of: dict[str, Any], target: str
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """What of a machine's snapshot another engine takes in, below the folder `target`: words
        for `take_snapshot`, and file names to paths. `folder` has its memory, if it was kept.
        Blocks."""
        files: dict[str, str] = {}
        if made_of:
            portable.leave_out_shares(portable.MadeOf(**made_of))
        if chain := frozen_disks(overlay):
            files[DISK] = f"{target}/{DISK}"
            self.disks.flatten(chain, Path(files[DISK]))
        if not made_of:
            return {}, files
        layers = self._ready_disks(overlay)
        said = portable.MadeOf(**made_of)._replace(layers=portable.digest(layers) if layers else "")
        files[portable.MEMORY] = f"{target}/{portable.MEMORY}"
        portable.compress(f"{folder}/memory", files[portable.MEMORY])
        files[portable.DEVICES] = f"{folder}/{portable.DEVICES}"
        return said._asdict(), files

    def take_snapshot(
        self, said: object, files: dict[str, str], overlay: Overlay, folder: str
    ) -> dict[str, Any]:
        """Put what `pack_snapshot` made, perhaps a stranger, into the folder of a frozen layer that
        is being made above the layers of `overlay`; the `made_of` of a machine with memory.

        InvalidInput for what is no snapshot, Unsupported when its memory cannot go on here. Blocks.
        """
        made_of: dict[str, Any] = {}
        if portable.MEMORY in files and portable.DEVICES in files:
            found = portable.parse(said)
            portable.refuse(found, self._here(found.shape, overlay))
            portable.expand(files[portable.MEMORY], f"{folder}/memory", found.memory + found.more)
            portable.take_devices(files[portable.DEVICES], f"{folder}/{portable.DEVICES}")
            made_of = found._asdict()
        self.disks.take_in(Path(files[DISK]), Path(folder, DISK))
        return made_of

    def _here(self, shape: Shape, overlay: Overlay) -> portable.MadeOf:
        contents, accel = self.templates.kit_contents(), choose()
        layers = self._ready_disks(overlay)
        return _made_of(contents, shape, accel)._replace(
            qemu=portable.qemu_version(), layers=portable.digest(layers) if layers else ""
        )

    def _shape_of(self, container_id: str) -> Shape:
        facts = self._containers[container_id].facts
        memory, cpus = facts["shape"]
        return Shape(int(memory), int(cpus))

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
        self._takers.shutdown(wait=False)

    # What can go

    def unused(self, chains: list[Overlay]) -> tidying.Unused:
        """The files that no running machine and none of these chains of layers needs; nothing while
        a machine starts."""
        if self._busy:
            return tidying.Unused([], [], [])
        facts = [container.facts for container in self._containers.values()]
        used = {str(each.get("template", "")) for each in facts}
        wanted = [_on_layers_disk(chain) for chain in chains]
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

    def _hang_up(self, run_dir: str) -> None:
        line = self._lines.pop(run_dir, None)
        if line is not None:
            line.close()

    async def ask(
        self,
        container_id: str,
        op: str,
        *,
        fds: tuple[int, ...] = (),
        seconds: float | None = ANSWER_SECONDS,
        **words: Any,
    ) -> dict[str, Any]:
        """Ask the warden of a running container; Conflict when it does not run, MachineFault when
        the guest does not answer in time. Takes over `fds`."""
        kept = self._containers.get(container_id)
        if kept is None:
            raise Conflict(f"container {container_id} is not running")
        line = self._lines.get(kept.run_dir)
        if line is None or line.closed:
            sock = rundir.connect(kept.run_dir, warden.SOCKET)
            if sock is None:
                raise Conflict(f"container {container_id} is not running")
            line = self._lines[kept.run_dir] = Control(sock, lambda _: None)
        try:
            return await asyncio.wait_for(line.request(op, fds, **words), seconds)
        except TimeoutError:
            raise MachineFault(f"the machine of {container_id} does not answer") from None

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
            return read_rows(answer.get("body"))
        except ValueError:
            raise _senseless(container_id) from None

    async def mirror(self, container_id: str, overlay: Overlay, run_dir: str) -> None:
        """Make `overlay.upper` what the container has written by now.

        Of a container that does not run this is done once, and again only when its disk changed.
        """
        disk = Path(os.path.dirname(overlay.upper), DISK)
        if not disk.exists():
            return
        running = container_id in self._containers
        stamp = disk.with_name(MIRRORED)
        status = disk.stat()
        state = f"{status.st_mtime_ns} {status.st_size}"
        if not running and stamp.exists() and stamp.read_text() == state:
            return
        stamp.unlink(missing_ok=True)
        await self._pack(container_id, overlay, run_dir, overlay.upper)
        if not running:
            status = disk.stat()
            stamp.write_text(f"{status.st_mtime_ns} {status.st_size}")

    async def look(
        self, container_id: str, overlay: Overlay, folder: str, contents: tuple[str, ...]
    ) -> None:
        """Make `folder` what the running container has written by now, but of long files elsewhere
        than at and below `contents` (relative to the root) a hole of their size."""
        if container_id not in self._containers:
            raise Conflict(f"container {container_id} is not running")
        await self._pack(container_id, overlay, "", folder, contents=contents)

    async def _pack(
        self, container_id: str, overlay: Overlay, run_dir: str, folder: str, **more: Any
    ) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        loop = asyncio.get_running_loop()
        taking = loop.run_in_executor(self._takers, mirroring.take, mine, folder)
        request = {"op": "pack", **more}
        try:
            await self._work(container_id, overlay, run_dir, request, theirs.detach())
        except BaseException:
            with suppress(OSError):
                mine.shutdown(socket.SHUT_RDWR)
            with suppress(Exception):
                await taking
            raise
        await taking

    async def unpack(
        self, container_id: str, overlay: Overlay, run_dir: str, archive: Unpacking
    ) -> None:
        """Unpack into the container, running or not."""
        request = {
            "op": "unpack",
            "path": archive.path,
            "keep_kinds": archive.keep_kinds,
            "owner": archive.owner,
        }
        await self._work(container_id, overlay, run_dir, request, os.dup(archive.fd))

    async def _work(
        self, container_id: str, overlay: Overlay, run_dir: str, request: dict[str, Any], fd: int
    ) -> None:
        """Have a machine read or write its container's files; `fd` is taken over."""
        if container_id in self._containers:
            await self.ask(container_id, request.pop("op"), fds=(fd,), seconds=None, **request)
            return
        with self._opening():
            await self._read(container_id, overlay, run_dir, request, fd)

    async def _read(
        self, container_id: str, overlay: Overlay, run_dir: str, request: dict[str, Any], fd: int
    ) -> None:
        shape = shape_for(0, 0, 1)
        try:
            frozen = await self.templates.get(shape)
            layers = await asyncio.to_thread(self._ready_disks, overlay)
            await self.repair(overlay)
            below = frozen_disks(overlay)
            accel = self.templates.accel
            os.makedirs(run_dir, 0o700, exist_ok=True)
            conf = bare(
                container_id, run_dir, frozen.state, f"/proc/{os.getpid()}/fd/{frozen.ram}",
                shape=shape, accel=(accel.name, accel.cpu, accel.tsc_khz), layers=layers,
                writable=os.path.join(os.path.dirname(overlay.upper), DISK),
                below=[str(disk) for disk in below], blank=self.disks.floor(below),
            )  # fmt: skip
            await lean.run("reader", json.dumps([conf, request, os.getpid()]), fd)
        finally:
            os.close(fd)
            shutil.rmtree(run_dir, ignore_errors=True)

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


def read_rows(said: object) -> list[list[str]]:
    """Processes as a guest tells them, with what can be printed only; ValueError."""
    try:
        rows = json.loads(said) if isinstance(said, bytes) else None
    except RecursionError:
        rows = None
    if not isinstance(rows, list):
        raise ValueError("no rows")
    return [
        ["".join(c if c.isprintable() else "?" for c in str(field)[:4096]) for field in row[:8]]
        for row in rows[:4096]
        if isinstance(row, list)
    ]


def read_told(said: object) -> tuple[list[str], bool]:
    """What a guest tells when it is saved: which files a copy must have of its own, and whether
    it has hooks. What makes no sense is nothing."""
    told = said if isinstance(said, dict) else {}
    renew = told.get("renew")
    named = renew if isinstance(renew, list) else []
    return [path for path in identity.RENEWED if path in named], told.get("hooks") is True


def _senseless(container_id: str) -> MachineFault:
    return MachineFault(f"the machine of {container_id} answers without sense")


def _made_of(kit: str, shape: Shape, accel: qemu.Accel) -> portable.MadeOf:
    return portable.MadeOf(kit, accel.name, accel.cpu, accel.tsc_khz, shape.memory, shape.cpus)


def frozen_disks(overlay: Overlay | None) -> list[Path]:
    """The disks of the frozen layers that a container stands on, top-most first."""
    found = []
    for path in overlay.lower if overlay else ():
        disk = Path(os.path.dirname(path), DISK)
        if os.path.basename(path) == "upper" and disk.exists():
            found.append(disk)
    return found


def _on_layers_disk(overlay: Overlay) -> Overlay:
    """The chain without what is on frozen disks, which is not taken from its folder."""
    disks = {str(disk.parent / "upper") for disk in frozen_disks(overlay)}
    return overlay._replace(lower=tuple(path for path in overlay.lower if path not in disks))


def _load_memory(path: str) -> int:
    memory = os.memfd_create("skerry-saved", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            os.ftruncate(memory, size)
            template.copy_sparse(file.fileno(), memory, size)
        template.seal(memory)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _split(raw: int, memory: int, size: int, devices: str) -> None:
    """Take apart what QEMU has written."""
    with open(devices, "xb") as file:
        file.writelines(stream.split(stream.read(raw), memory, size, "ram"))


def _write_out(raw: int, _memory: int, _size: int, devices: str) -> None:
    """What is apart already."""
    with open(devices, "xb") as file:
        file.writelines(stream.read(raw))


def disk_of(task: Task) -> Path:
    """The writable disk: beside the upper folder whose part it plays, so that it lives as long."""
    return Path(os.path.dirname(task.rootfs.upper) if task.rootfs else task.state_dir, DISK)


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
