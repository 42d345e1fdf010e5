"""The container's programs: started, connected to streams of the line, ended.

By the same `runtime` code as on the host. A module of its own, so that an agent answers before it
has loaded all that.
"""

import fcntl
import json
import os
import signal
import socket
import struct
import time
from contextlib import suppress
from typing import Any, NamedTuple

from skerry.base.errors import Conflict, KernelFault, SkerryError
from skerry.kernel import capabilities, namespaces
from skerry.kernel.cgroups import Cgroup, Write, detect
from skerry.kernel.cgroups_group import OomWatch
from skerry.machine.channel import Line, Sink, Source
from skerry.machine.guest import files, identity, system, volumes
from skerry.runtime import early, launch
from skerry.runtime.loop import READ, Loop
from skerry.runtime.steps import Plan, process_from_wire

# termios.h
_TIOCSWINSZ = 0x5414
_CONSOLE_SECONDS = 10.0
_FREEZE_SECONDS = 8.0
"""A program may wait for a disk of a busy host; less than `saving.HOLD_SECONDS`, so that whoever
saves hears the reason."""


class Program(NamedTuple):
    """A running program of the container."""

    id: str
    pid: int
    pidfd: int
    main: bool
    terminal: int
    """The master side, -1 without one; the streams have copies of their own."""
    sources: list[Source]
    sinks: list[Sink]

    @property
    def streams(self) -> set[int]:
        """Their numbers."""
        return {each.stream for each in self.sources} | {each.stream for each in self.sinks}


class Programs:
    """All of them. There is one container in a machine."""

    def __init__(self, loop: Loop, line: Line) -> None:
        self._loop = loop
        self._line = line
        self._layout = detect()
        self._programs: dict[str, Program] = {}
        self._group: Cgroup | None = None
        self._workers: set[int] = set()
        # Of each further program the kernel would be asked again, at an emulated processor's speed.
        capabilities.remember_bounding()
        namespaces.remember_own()
        self._ended: dict[str, dict[str, Any]] = {}
        self._sources: dict[str, str] = {}
        """Where the container has what of /volumes."""
        self._taken_out: list[volumes.Gone] | None = None
        self._early: early.Early | None = None
        self._oom_watch: OomWatch | None = None
        self._like: Plan | None = None
        """Of the container that ran last."""
        self.freezer = -1
        """cgroup.freeze of a container that stands still."""
        self.main: Program | None = None
        """The container's first program while it runs."""

    @property
    def layout(self) -> str:
        """How control groups are mounted."""
        return self._layout.mode

    def start(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Run the container; its disks and cards are there already."""
        plan = Plan.from_wire(body)
        self._group = Cgroup(plan.cgroup_path, self._layout)
        own: dict[str, str] = head["renew"]
        self._sources = {
            step.target: os.path.normpath(f"{step.source}/{step.subpath}")
            for step in plan.mounts
            if step.source.startswith("/volumes/")
        }

        waiting, self._early = self._early, None
        if waiting is not None and not early.fits(waiting, plan, body):
            early.end(waiting)
            waiting = None
        self._like = plan

        def start(stdin: int, stdout: int, stderr: int, console: int) -> launch.Created:
            if waiting is not None:
                created = early.create(
                    waiting, plan, body, stdin, stdout, stderr,
                    console=console, wait_for_start=bool(own),
                )  # fmt: skip
            else:
                created = launch.create(
                    plan, stdin, stdout, stderr,
                    console=console, wait_for_start=bool(own), layout=self._layout,
                )  # fmt: skip
            if not own:
                return created
            try:
                identity.renew(created.pid, own)
            except BaseException:
                created.close()
                raise
            return launch.start(created, plan)

        terminal = plan.process is not None and plan.process.terminal
        self.main = self._launch(head, start, terminal=terminal, main=True)
        return {"pid": self.main.pid}

    def expect(self) -> None:
        """Have an init wait for a container like the last one."""
        like, self._like = self._like, None
        if like is not None and self._early is None:
            self._early = early.make(like, self._layout)

    def stand_still(self, *, shares: bool) -> int:
        """Freeze the container until `go_on`, and with `shares` take the host's folders out of it
        (`volumes`). How long that took, in microseconds."""
        group = self.running_group()
        began = time.monotonic()
        group.freeze(_FREEZE_SECONDS)
        try:
            if shares and self.main is not None:
                self._taken_out = volumes.take_out(self.main.pid, group, self._sources)
            path = f"{group.directory_of('freezer')}/cgroup.freeze"
            self.freezer = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except BaseException:
            group.thaw()
            raise
        return int((time.monotonic() - began) * 1_000_000)

    def go_on(self) -> None:
        """Give it those folders again, whose device is coming, if they were taken out, and have it
        run."""
        gone, self._taken_out = self._taken_out, None
        freezer, self.freezer = self.freezer, -1
        try:
            if gone is not None and self.main is not None:
                system.attach_shares()
                volumes.put_back(self.main.pid, gone)
        finally:
            if freezer >= 0:
                with suppress(OSError):  # It may have been killed.
                    os.write(freezer, b"0")
                os.close(freezer)

    def exec(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Run a further program in it."""
        init = self.main
        if init is None or self._group is None:
            raise Conflict("the container is not running")
        process = process_from_wire(body)
        group = self._group

        def start(stdin: int, stdout: int, stderr: int, console: int) -> launch.Created:
            return launch.exec_into(
                init.pid, process, stdin, stdout, stderr,
                cgroup_path=group.path, console=console, layout=self._layout,
            )  # fmt: skip

        program = self._launch(head, start, terminal=process.terminal, main=False)
        return {"pid": program.pid}

    def _launch(self, head: dict[str, Any], start: Any, *, terminal: bool, main: bool) -> Program:
        """Make the streams, run the program, connect both."""
        ids: dict[str, int] = head["streams"]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        theirs: list[int] = [null]
        mine: dict[str, int] = {}
        console, sock = -1, None
        try:
            stdin = stdout = stderr = null
            if terminal:
                sock, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                console = other.detach()
                theirs.append(console)
            else:
                if "stdin" in ids:
                    stdin, mine["stdin"] = os.pipe2(os.O_CLOEXEC)
                    theirs.append(stdin)
                mine["stdout"], stdout = os.pipe2(os.O_CLOEXEC)
                mine["stderr"], stderr = os.pipe2(os.O_CLOEXEC)
                theirs += [stdout, stderr]
            created = start(stdin, stdout, stderr, console)
            if sock is not None:
                mine["terminal"] = _receive_terminal(sock)
        except BaseException:
            for fd in mine.values():
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
            if sock is not None:
                sock.close()
        for fd in (created.start_fd, created.status_fd):
            if fd >= 0:
                os.close(fd)
        return self._connect(str(head["id"]), created, mine, ids, main=main)

    def _connect(
        self, id_: str, created: launch.Created, mine: dict[str, int], ids: dict[str, int],
        *, main: bool,
    ) -> Program:  # fmt: skip
        sources, sinks = [], []
        for fd in mine.values():
            os.set_blocking(fd, False)
        if "terminal" in mine:
            master = mine["terminal"]
            sources.append(self._line.source(ids["stdout"], os.dup(master)))
            sinks.append(self._line.sink(ids["stdin"], os.dup(master)))
        else:
            if "stdin" in mine:
                sinks.append(self._line.sink(ids["stdin"], mine["stdin"]))
            sources += [self._line.source(ids[name], mine[name]) for name in ("stdout", "stderr")]
        program = Program(
            id_, created.pid, created.pidfd, main, mine.get("terminal", -1), sources, sinks
        )
        self._programs[id_] = program
        for source in sources:
            source.on_end = lambda: self._tell_end(program)
        self._loop.watch(created.pidfd, READ, lambda *_: self._exited(program))
        return program

    def _exited(self, program: Program) -> None:
        _, status = os.waitpid(program.pid, 0)
        self._loop.drop(program.pidfd)
        os.close(program.pidfd)
        code = os.waitstatus_to_exitcode(status)
        oom = False
        if program.main and self._group is not None:
            with suppress(SkerryError):
                if self._group.pids():
                    self._group.kill_all()
            with suppress(SkerryError):
                oom = self._group.oom_kills() > 0
        self._ended[program.id] = {
            "event": "exit", "id": program.id, "code": max(code, 0), "signal": max(-code, 0),
            "oom": oom,
        }  # fmt: skip
        for source in program.sources:
            source.drain()
        self._reap_orphans()
        self._tell_end(program)

    def _tell_end(self, program: Program) -> None:
        """Once the program has ended and its output was sent."""
        if program.id not in self._ended or any(source.fd >= 0 for source in program.sources):
            return
        end = self._ended.pop(program.id)
        del self._programs[program.id]
        for sink in program.sinks:
            sink.close()
        if program.terminal >= 0:
            os.close(program.terminal)
        if program.main:
            self.main = None
            if self._group is not None:
                with suppress(SkerryError):
                    self._group.remove()
            system.detach_disks()
        self._line.say(end)

    def about_files(self, head: dict[str, Any]) -> dict[str, Any]:
        """Whoever asks from the host for files or processes."""
        match head["op"]:
            case "attach":
                system.attach_disks(str(head["layers"]), str(head["writable"]))
                files.mount_root()
            case "detach":
                files.unmount_root()
                system.detach_disks()
            case "pack":
                fd, work = files.pack_upper(head.get("contents"))
                self._work(head, self._line.source(int(head["stream"]), fd), work)
            case "unpack":
                fd, work = files.unpack(self.main.pid if self.main else 0, head)
                self._work(head, self._line.sink(int(head["stream"]), fd), work)
            case _:
                return {"body": files.pack_rows(files.processes(self.running_group().pids()))}
        return {}

    def _work(self, head: dict[str, Any], end: Source | Sink, work: files.Work) -> None:
        """A child packs or unpacks; how that went is told as another event, when it has ended."""
        self._workers.add(work.pid)

        def ended(fd: int, _events: int) -> None:
            said = os.read(fd, 8192)
            self._loop.drop(fd)
            os.close(fd)
            os.waitpid(work.pid, 0)
            self._workers.discard(work.pid)
            if isinstance(end, Sink):
                end.close()
            error = json.loads(said) if said else None
            self._line.say({"event": "worked", "number": head["seq"], "error": error})

        self._loop.watch(work.report, READ, ended)

    def _reap_orphans(self) -> None:
        known = {program.pid for program in self._programs.values()} | self._workers
        with suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in known:
                    return
                os.waitpid(ended.si_pid, 0)

    def _program(self, id_: str) -> Program:
        program = self._programs.get(id_)
        if program is None or id_ in self._ended:
            raise Conflict(f"{id_} is not running")
        return program

    def signal(self, id_: str, number: int) -> None:
        """Send a signal; SIGKILL to the first program ends all, to another its process group."""
        program = self._program(id_)
        if program.main and number == signal.SIGKILL and self._group is not None:
            self._group.kill_all()
            return
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                # Not reaped before `_exited`, so the number is still its own.
                os.killpg(program.pid, number)
            signal.pidfd_send_signal(program.pidfd, number)

    def resize(self, id_: str, rows: int, columns: int) -> None:
        """Set the size of a program's terminal."""
        program = self._program(id_)
        if program.terminal < 0:
            raise Conflict("cannot resize: the program has no terminal")
        size = struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0)
        fcntl.ioctl(program.terminal, _TIOCSWINSZ, size)

    def running_group(self) -> Cgroup:
        """The container's control group; Conflict when it does not run."""
        if self._group is None or self.main is None:
            raise Conflict("the container is not running")
        return self._group

    def update(self, writes: list[list[Any]]) -> None:
        """Change its limits."""
        self.running_group().apply([Write(*row) for row in writes])

    def starved(self) -> dict[str, Any]:
        """How many the kernel has killed for lack of memory; it is told whenever that changes."""
        group = self.running_group()
        if self._oom_watch is None:
            watch = self._oom_watch = group.watch_oom()

            def woken(_fd: int, _events: int) -> None:
                watch.clear()
                with suppress(SkerryError):
                    self._line.say({"event": "starved", "kills": group.oom_kills()})

            self._loop.watch(watch.fd, watch.mask, woken)
        return {"kills": group.oom_kills()}

    def stats(self) -> dict[str, Any]:
        """Its counters, as the host reads them."""
        return {
            "stats": self.running_group().stats(whole=False),
            "network": system.net_counters(),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        }


def _receive_terminal(sock: socket.socket) -> int:
    sock.settimeout(_CONSOLE_SECONDS)
    _, fds, _, _ = socket.recv_fds(sock, 4096, 1)
    if not fds:
        raise KernelFault("receiving the terminal: the container's init sent none", 0)
    return fds[0]
