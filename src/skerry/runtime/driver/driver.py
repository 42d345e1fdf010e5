"""`RuntimeDriver`: the life cycle of containers and execs, on the event loop."""

import asyncio
import json
import os
import signal as signals
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from skerry.base.errors import Conflict, GuestFault, KernelFault, SkerryError, Unavailable
from skerry.base.isolation import Attach, ExecTask, Exit, LogOptions, Started, Stats, Task
from skerry.base.oci_runtime import Spec
from skerry.kernel import cgroups
from skerry.runtime import bundle, plan, rundir, tiny_init, wire
from skerry.runtime.driver import leftovers, readings
from skerry.runtime.driver.gauges import Gauges
from skerry.runtime.driver.link import Control
from skerry.runtime.driver.oom import OomWatches, Starving
from skerry.runtime.driver.spawning import Spawner
from skerry.runtime.driver.streams import AttachStream, stream_pair
from skerry.runtime.steps import ProcessPlan, process_to_wire

OnExit = Callable[[str, Exit], None]
CONFIG = "config.json"
_RECOVERY_PATIENCE = 5.0
_KILL_PATIENCE = 10.0
_POLL = 0.005
_LOST = "the keeper was killed, and the program with it"


class _Kept(NamedTuple):
    """A running program and the line to its keeper."""

    id: str
    run_dir: str
    control: Control
    started: Started
    facts: dict[str, Any]


class _Known(NamedTuple):
    """What the last exec of a container came to."""

    spec: Spec
    process: bytes
    """The OCI `process`, without its `args`, as JSON."""
    plan: ProcessPlan


def _text(spec: dict[str, Any]) -> bytes:
    """config.json. A name that is not UTF-8 is written in the standard library's way."""
    try:
        return msgspec.json.encode(spec)
    except (UnicodeEncodeError, OverflowError):
        return json.dumps(spec).encode()


def _parsed(spec: dict[str, Any]) -> Spec:
    """`spec`, checked, with the very object for seccomp, by which its program is known."""
    profile = spec["linux"].get("seccomp")
    if not isinstance(profile, dict):
        return bundle.parse(_text(spec))
    rest = {key: value for key, value in spec["linux"].items() if key != "seccomp"}
    parsed = bundle.parse(_text({**spec, "linux": rest}))
    parsed["linux"]["seccomp"] = profile
    return parsed


class RuntimeDriver:
    """Containers of namespaces, cgroups and capabilities on this host."""

    name = "container"

    def __init__(self, *, cgroup_parent: str = "/skerry", spawner: Spawner | None = None) -> None:
        """`cgroup_parent` is where containers go whose configuration names no cgroup."""
        self._cgroup_parent = cgroup_parent.rstrip("/")
        self._spawner = spawner or Spawner()
        self._layout = cgroups.detect()
        self._host_memory = readings.host_memory()
        self._kept: dict[str, _Kept] = {}
        self._containers: dict[str, _Kept] = {}
        self._execs: dict[str, _Known] = {}
        """Of containers that an exec has been started in, as long as they run."""
        self._plans: dict[str, tuple[Task, plan.Plan]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._gauges = Gauges()
        self.on_oom: Callable[[str, bool], None] | None = None
        self._oom = OomWatches(self._starved)

    @property
    def spawner_pid(self) -> int:
        """The spawner's pid, 0 while there is none."""
        return self._spawner.pid

    # Life cycle

    async def create(self, task: Task) -> None:
        """Check and plan, write the bundle; InvalidInput when the spec cannot be run here."""
        self._plans[task.id] = (task, self._plan(task))
        self._spawner.ensure()

    def _plan(self, task: Task) -> plan.Plan:
        given = dict(task.spec)
        root = dict(given.get("root", {}))
        root["path"] = root.get("path") or "rootfs"
        linux = dict(given.get("linux", {}))
        cgroup = linux.get("cgroupsPath") or f"{self._cgroup_parent}/{task.id}"
        linux["cgroupsPath"] = cgroups.container_path(cgroup, task.id, self._layout)
        given.update(root=root, linux=linux)
        if task.init:
            given = tiny_init.with_init(given, tiny_init.find_init())
        text = _text(given)
        made = plan.plan(
            _parsed(given),
            bundle=task.state_dir,
            container_id=task.id,
            layout=self._layout,
            rootfs=task.rootfs,
        )
        _make(task.state_dir)
        leftovers.write_file(task.state_dir, CONFIG, text)
        return made

    def _cgroup_path(self, container_id: str) -> str:
        kept = self._containers.get(container_id)
        return str(kept.facts["cgroup"]) if kept else f"{self._cgroup_parent}/{container_id}"

    async def start(
        self, task: Task, on_exit: OnExit, *, attach: Attach | None = None
    ) -> tuple[Started, AttachStream | None]:
        """Run it; returns once the program was executed. `on_exit(id, exit)` is called once."""
        planned, made = self._plans.pop(task.id, (None, None))
        if made is None or planned != task:
            made = self._plan(task)
        assert made.process is not None
        head = {
            "op": "start",
            "run_dir": task.run_dir,
            "log": task.log,
            "terminal": made.process.terminal,
            "open_stdin": task.open_stdin,
            "stdin_once": task.stdin_once,
            "attach": attach,
            "facts": {
                "id": task.id,
                "container": task.id,
                "cgroup": made.cgroup_path,
                "state_dir": task.state_dir,
            },
        }
        return await self._run(task.id, head, made.to_wire(), on_exit, attach)

    async def exec(
        self, task: ExecTask, on_exit: OnExit, *, attach: Attach | None
    ) -> tuple[Started, AttachStream | None]:
        """Run a further process behind the wall; errors as `start`."""
        container = self._containers.get(task.container_id)
        if container is None:
            raise Conflict(f"container {task.container_id} is not running")
        process = self._plan_exec(task, str(container.facts["state_dir"]))
        head = {
            "op": "exec",
            "run_dir": task.run_dir,
            "log": LogOptions("none"),
            "terminal": process.terminal,
            "open_stdin": task.open_stdin,
            "stdin_once": True,
            "attach": attach,
            "pid": container.started.pid,
            "start_time": container.started.start_time,
            "cgroup": container.facts["cgroup"],
            "facts": {"id": task.id, "container": task.container_id, "exec": True},
        }
        return await self._run(task.id, head, process_to_wire(process), on_exit, attach)

    def _plan_exec(self, task: ExecTask, state_dir: str) -> ProcessPlan:
        """Nothing but the words differs from most execs to the next in a container."""
        words, rest = task.process["args"], _text({**task.process, "args": ["/"]})
        known = self._execs.get(task.container_id)
        if known is None or known.process != rest:
            spec = known.spec if known else bundle.load(state_dir)
            process = plan.plan_process(bundle.parse_process(rest), spec)
            known = self._execs[task.container_id] = _Known(spec, rest, process)
        bundle.check_args(words)
        return known.plan._replace(args=tuple(words))

    async def _run(
        self, id_: str, head: dict[str, Any], body: bytes, on_exit: OnExit, attach: Attach | None
    ) -> tuple[Started, AttachStream | None]:
        """Ask the spawner for a keeper, and wait until the program runs."""
        run_dir = str(head["run_dir"])
        if run_dir in self._kept:
            raise Conflict(f"{id_} is running already")
        _make(run_dir)
        for _ in range(2):
            control, stream = self._request(id_, head, body, on_exit, attach)
            starting = asyncio.ensure_future(self._await_start(id_, head, control))
            try:
                started = await asyncio.shield(starting)
            except asyncio.CancelledError:
                self._in_background(self._stop_unwanted(starting, control, run_dir))
                raise
            except BaseException as error:
                if stream is not None:
                    await stream.close()
                if not isinstance(error, Unavailable) or _begun(head, control):
                    raise
            else:
                control.release()
                return started, stream
        raise Unavailable(
            f"cannot start {id_}: the spawner ends before it takes a request",
            hint="its complaint is in the engine's standard error",
        )

    def _request(
        self, id_: str, head: dict[str, Any], body: bytes, on_exit: OnExit, attach: Attach | None
    ) -> tuple[Control, AttachStream | None]:
        run_dir = str(head["run_dir"])
        head["version"] = wire.VERSION
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds: tuple[int, ...] = (theirs.detach(),)
        stream = None
        if attach is not None:
            stream, end = stream_pair()
            fds = (*fds, end)
        control = Control(mine, lambda end: self._ended(id_, run_dir, head["facts"], on_exit, end))
        self._send(head, body, fds)
        return control, stream

    def _send(self, head: dict[str, Any], body: bytes, fds: tuple[int, ...]) -> None:
        """To whoever becomes the keeper, or makes it. Takes over `fds`."""
        self._spawner.send(head, body, fds)

    async def _await_start(self, id_: str, head: dict[str, Any], control: Control) -> Started:
        run_dir, facts = str(head["run_dir"]), head["facts"]
        try:
            started = await control.started
        except Unavailable:
            if _begun(head, control):
                # The keeper died while it was launching: nobody else will tidy up.
                await asyncio.to_thread(leftovers.end, run_dir, facts)
            control.close()
            raise
        except BaseException:
            control.close()
            raise
        self._remember(_Kept(id_, run_dir, control, started, facts))
        return started

    async def _stop_unwanted(
        self, starting: "asyncio.Future[Started]", control: Control, run_dir: str
    ) -> None:
        """Whoever asked for the program has gone before it ran: end it, and tell nobody."""
        with suppress(SkerryError, GuestFault):
            leftovers.send_signal(await starting, signals.SIGKILL)
            end = await control.ended
            kept = self._forget(run_dir)
            if end is None and kept is not None:
                await asyncio.to_thread(leftovers.settle, run_dir, kept.facts, _LOST)

    def _remember(self, kept: _Kept) -> None:
        self._kept[kept.run_dir] = kept
        if not kept.facts.get("exec"):
            self._containers[kept.id] = kept
            self._oom.watch(kept.id, self._starving(kept.id, kept.run_dir))

    def _forget(self, run_dir: str) -> _Kept | None:
        kept = self._kept.pop(run_dir, None)
        if kept is not None:
            if self._containers.get(kept.id) is kept:
                del self._containers[kept.id]
                self._execs.pop(kept.id, None)
                self._gauges.forget(kept.id)
                self._oom.forget(kept.id)
            kept.control.close()
        return kept

    def _ended(
        self, id_: str, run_dir: str, facts: dict[str, Any], on_exit: OnExit, end: Exit | None
    ) -> None:
        """The keeper told the end, or has gone without a word (None)."""
        self._forget(run_dir)
        if end is not None:
            on_exit(id_, end)
        else:
            self._in_background(self._lost(id_, run_dir, facts, on_exit))

    def _starving(self, container_id: str, _run_dir: str) -> Starving:
        """What tells of a container's lack of memory."""
        return self._cgroup(container_id)

    def _starved(self, container_id: str, earlier: bool) -> None:
        if self.on_oom is not None:
            self.on_oom(container_id, earlier)

    async def _lost(self, id_: str, run_dir: str, facts: dict[str, Any], on_exit: OnExit) -> None:
        on_exit(id_, await asyncio.to_thread(leftovers.settle, run_dir, facts, _LOST))

    async def recover(
        self, container_id: str, run_dir: str, on_exit: OnExit
    ) -> Started | Exit | None:
        """Find a task of an earlier engine: Started when it runs, Exit when it has ended."""
        if run_dir in self._kept:
            return self._kept[run_dir].started
        deadline = asyncio.get_running_loop().time() + _RECOVERY_PATIENCE
        while rundir.keeper_of(run_dir) is not None:
            if asyncio.get_running_loop().time() > deadline:
                await asyncio.to_thread(leftovers.kill_keeper, run_dir)
                break
            sock = rundir.connect(run_dir)
            if sock is None:  # It is about to listen, or about to leave.
                await asyncio.sleep(_POLL)
                continue
            started = await self._rejoin(container_id, run_dir, sock, on_exit)
            if started is not None:
                return started
        return await asyncio.to_thread(
            leftovers.look, run_dir, self._cgroup_path(container_id), _LOST
        )

    async def _rejoin(
        self, id_: str, run_dir: str, sock: socket.socket, on_exit: OnExit
    ) -> Started | None:
        facts: dict[str, Any] = {}
        control = Control(sock, lambda end: self._ended(id_, run_dir, facts, on_exit, end))
        try:
            answer = await asyncio.wait_for(control.request("status"), _RECOVERY_PATIENCE)
        except (Unavailable, TimeoutError):
            control.close()
            return None
        facts.update(json.loads(answer["facts"]))
        started = Started(answer["pid"], answer["start_time"])
        if not control.started.done():
            control.started.set_result(started)
        self._remember(_Kept(id_, run_dir, control, started, facts))
        control.release()
        return started

    async def delete(self, container_id: str, state_dir: str, run_dir: str) -> None:
        """Kill what still runs and remove every trace but the caller's own files."""
        self._plans.pop(container_id, None)
        kept = self._kept.get(run_dir)
        if kept is not None:
            await self._kill(kept)
        facts = dict(kept.facts) if kept else leftovers.facts_of(run_dir, state_dir, CONFIG)
        facts.setdefault("cgroup", self._cgroup_path(container_id))
        if leftovers.is_anything_left(run_dir, facts, self._layout):
            await asyncio.to_thread(leftovers.end, run_dir, facts)
        leftovers.remove_files(run_dir, state_dir, CONFIG)

    async def _kill(self, kept: _Kept) -> None:
        """In good order: the keeper writes the record and tells."""
        with suppress(Conflict):
            await self.signal(kept.id, kept.run_dir, signals.SIGKILL)
        await asyncio.wait([kept.control.ended], timeout=_KILL_PATIENCE)

    async def close(self) -> None:
        """Let go of everything without ending any task."""
        for kept in list(self._kept.values()):
            kept.control.close()
        self._kept.clear()
        self._containers.clear()
        self._execs.clear()
        self._gauges.close()
        self._oom.close()
        for task in list(self._background):
            with suppress(SkerryError):
                await task
        self._spawner.close()

    # What runs

    async def attach(self, container_id: str, run_dir: str, how: Attach) -> AttachStream:
        """Join the streams of a running task or exec."""
        control = self._control(container_id, run_dir)
        stream, end = stream_pair()
        try:
            await control.request("attach", (end,), how=how)
        except BaseException:
            await stream.close()
            raise
        return stream

    async def resize(self, run_dir: str, rows: int, columns: int) -> None:
        """Set the terminal's size. Conflict when there is no terminal."""
        await self._control("the program", run_dir).request("resize", rows=rows, columns=columns)

    def _control(self, id_: str, run_dir: str) -> Control:
        kept = self._kept.get(run_dir)
        if kept is None:
            raise Conflict(f"{id_} is not running")
        return kept.control

    async def signal(self, container_id: str, run_dir: str, signal: int) -> None:
        """Send a signal to the init; with SIGKILL the whole task ends, or an exec's group."""
        kept = self._kept.get(run_dir)
        group = signal == signals.SIGKILL and kept is not None and "cgroup" not in kept.facts
        if kept is None or not leftovers.send_signal(kept.started, signal, group=group):
            raise Conflict(f"cannot signal {container_id or run_dir}: it is not running")
        if signal == signals.SIGKILL and "cgroup" in kept.facts:
            # A frozen process does not die of it before it is thawed.
            cgroup = self._cgroup(kept.id)
            if cgroup.frozen():
                await asyncio.to_thread(cgroup.thaw)

    async def pause(self, container_id: str) -> None:
        """Freeze every process of the task."""
        await asyncio.to_thread(self._running_cgroup(container_id).freeze)

    async def resume(self, container_id: str) -> None:
        """Thaw them."""
        await asyncio.to_thread(self._running_cgroup(container_id).thaw)

    async def update(self, container_id: str, resources: dict[str, object]) -> None:
        """Change limits of a running task; `resources` is OCI `linux.resources`."""
        cgroup = self._running_cgroup(container_id)
        checked = bundle.parse_resources(json.dumps(resources).encode())
        writes = cgroups.plan(cgroup.path, checked, self._layout, devices=False)
        await asyncio.to_thread(cgroup.apply, writes)

    async def stats(self, container_id: str) -> Stats:
        """One reading of the counters."""
        cgroup = self._running_cgroup(container_id)
        pid = self._containers[container_id].started.pid
        return readings.stats(cgroup, pid, self._host_memory, self._gauges.of(container_id))

    async def pids(self, container_id: str) -> list[int]:
        """Every process of the task, in the host's pid namespace."""
        return self._running_cgroup(container_id).pids()

    async def refused_forks(self, container_id: str) -> int:
        """How often a process of the task was refused because of its limit."""
        return self._running_cgroup(container_id).refused_forks()

    def _running_cgroup(self, container_id: str) -> cgroups.Cgroup:
        if container_id not in self._containers:
            raise Conflict(f"container {container_id} is not running")
        return self._cgroup(container_id)

    def _cgroup(self, container_id: str) -> cgroups.Cgroup:
        return cgroups.Cgroup(self._cgroup_path(container_id), self._layout)

    def _in_background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _make(folder: str) -> None:
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
    except OSError as error:
        raise KernelFault(f"make {folder}", error.errno or 0) from None


def _begun(head: dict[str, Any], control: Control) -> bool:
    """Whether a keeper has begun on the request. An exec's tells it by the lock alone."""
    if head["op"] != "exec":
        return control.taken
    return os.path.exists(os.path.join(str(head["run_dir"]), rundir.PID))
