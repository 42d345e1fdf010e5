"""The agent: process 1 of the guest. It runs the container by the same `runtime` code as the host.

Theory. The kernel starts it from the initramfs. It loads the module of its port, says `ready`, and
then does what the warden on the other side asks for, one message after the other; what takes long
(a program, a stream of files) goes on beside, on one epoll loop. A template is frozen between two
messages, so everything a clone needs anew (seed, clock, disks, addresses) comes with `start`.

Messages from the host carry `op` and `seq`; answers `reply` with the same number and perhaps
`error`. Unasked it says `{"event": "exit", ...}`, once the program's output has been sent.

It trusts the host, which sees all of its memory anyway. The container does not reach the agent: it
has namespaces of its own, and the port's node is not in its /dev.
"""

import _socket
import gc
import importlib
import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from skerry.base.errors import Conflict, InvalidInput, KernelFault, SkerryError
from skerry.kernel.cgroups import Cgroup, Layout, Write, detect
from skerry.machine.channel import MOST_FROM_HOST, Line, Message, Sink, Source
from skerry.machine.guest import files, identity, system
from skerry.machine.guest.dns import Resolver
from skerry.runtime import launch, wire
from skerry.runtime.loop import READ, Loop
from skerry.runtime.steps import Plan, process_from_wire

# termios.h
_TIOCSWINSZ = 0x5414
_CONSOLE_SECONDS = 10.0
_MOST_QUERIES = 256
_SOON = (
    "skerry.kernel.cgroups_v2",
    "skerry.kernel.bpf_devices",
    "skerry.kernel.overlay_options",
    "skerry.runtime.null_device",
    "skerry.runtime.init.process",
    "skerry.runtime.init.mounting",
    "skerry.runtime.init.root",
)
"""Modules that a start would load; the template has them already."""


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


class Agent:
    """State of the agent; `main` runs it."""

    def __init__(self, port: int) -> None:
        self._loop = Loop()
        self._layout: Layout | None = None
        self._programs: dict[str, Program] = {}
        self._main: Program | None = None
        self._group: Cgroup | None = None
        self._told = -1
        """The folder of `identity.tell`."""
        self._number = 0
        self._workers: set[int] = set()
        self._ended: dict[str, dict[str, Any]] = {}
        self._queries: dict[int, Callable[[bytes], None]] = {}
        self._resolver = Resolver(self._loop, self._ask_host)
        self._line = Line(self._loop, port, self._take, self._lost, most_message=MOST_FROM_HOST)

    def run(self) -> None:
        """For ever."""
        self._line.say({"event": "ready"})
        while True:
            self._loop.turn(None)

    def _lost(self, reason: str) -> None:
        raise SystemExit(f"the line to the host is lost: {reason}")

    def _take(self, message: Message) -> None:
        answer: dict[str, Any] = {"reply": message.head.get("seq", 0)}
        try:
            answer.update(self._answer(message.head, message.body))
        except Exception as error:
            # Whatever it was, the host hears of it; an agent that ends takes the machine along.
            answer["error"] = wire.error_to_wire(error)
        self._line.say(answer)
        if message.head.get("op") == "hold":
            self._line.hold()

    def _answer(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        match head.get("op"):
            case "prepare":
                return self._prepare(head)
            case "identity":
                return self._identity(head)
            case "start":
                return self._start(head, body)
            case "exec":
                return self._exec(head, body)
            case "signal":
                return self._signal(str(head["id"]), int(head["signal"]))
            case "resize":
                return self._resize(str(head["id"]), int(head["rows"]), int(head["columns"]))
            case "stats":
                return self._stats()
            case "update":
                self._running_group().apply([Write(*row) for row in head["writes"]])
                return {}
            case "dns":
                if taker := self._queries.pop(int(head["number"]), None):
                    taker(body)
                return {}
            case "files":
                system.write_files(head["files"])
                return {}
            case "network":
                for card in head["cards"]:
                    system.configure_network(card)
                return {}
            case "attach":
                system.attach_disks(str(head["layers"]), str(head["writable"]))
                files.mount_root()
                return {}
            case "detach":
                files.unmount_root()
                system.detach_disks()
                return {}
            case "pack":
                fd, work = files.pack_upper()
                return self._work(head, self._line.source(int(head["stream"]), fd), work)
            case "unpack":
                init = self._main.pid if self._main else 0
                fd, work = files.unpack(init, head)
                return self._work(head, self._line.sink(int(head["stream"]), fd), work)
            case "processes":
                return {"rows": files.processes(self._running_group().pids())}
            case "sync":
                os.sync()
                return {}
            case "hold":
                return self._hold()
            case "go":
                self._line.release()
                return {}
            case "clock":
                system.set_clock(int(head["time_ns"]))
                return {}
            case "wake":
                return self._wake(head)
        raise InvalidInput(f"the agent cannot {head.get('op')!r}")

    def _ask_host(self, query: bytes, tcp: bool, answer: Callable[[bytes], None]) -> None:
        """Pass a query of the container's on; unanswered ones are forgotten, oldest first."""
        self._number += 1
        while len(self._queries) >= _MOST_QUERIES:
            del self._queries[next(iter(self._queries))]
        self._queries[self._number] = answer
        self._line.say({"event": "dns", "number": self._number, "tcp": tcp}, query)

    # Coming to life

    def _prepare(self, head: dict[str, Any]) -> dict[str, Any]:
        """The rest of the boot, before the template is frozen."""
        system.load_modules(list(head["modules"]))
        system.mount_rest()
        system.loopback()
        self._resolver.start()
        self._layout = detect()
        for name in _SOON:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()
        return {"layout": self._layout.mode}

    def _identity(self, head: dict[str, Any]) -> dict[str, Any]:
        """What no two clones may share. The clock comes along."""
        system.reseed(bytes.fromhex(head["seed"]))
        system.set_clock(int(head["time_ns"]))
        if head.get("hostname"):
            socket.sethostname(str(head["hostname"]))
        return {}

    # Being frozen and copied

    def _hold(self) -> dict[str, Any]:
        """Before the machine is saved: after the answer nothing is on the way in either direction.

        Tells which files a copy needs to have of its own.
        """
        if self._main is None:
            raise Conflict("the container is not running")
        if self._told < 0:
            self._told = identity.prepare(self._main.pid)
        return identity.found(self._main.pid)

    def _wake(self, head: dict[str, Any]) -> dict[str, Any]:
        """In a copy of the machine, whose warden knows the main program's streams only.

        Further programs go on without their clients, as those of a client that has left.
        """
        main = self._main
        if main is None:
            raise Conflict("the container is not running")
        self._identity(head["identity"])
        kept = {each.stream for each in main.sources} | {each.stream for each in main.sinks}
        waiting = self._line.begin_anew(kept)
        system.write_files(head["files"])
        system.cut_off({card["name"] for card in head["cards"]})
        for card in head["cards"]:
            system.reconfigure_network(card)
        if head["identity"].get("hostname"):
            identity.rename(main.pid, str(head["identity"]["hostname"]))
        identity.renew(main.pid, dict(head["renew"]))
        if self._told >= 0:
            with suppress(OSError):  # The container may have filled its tmpfs.
                identity.tell(self._told, str(head["generation"]))
        self._line.release()
        return {"waiting": waiting}

    # Programs

    def _start(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        if self._main is not None:
            raise Conflict("the container runs already")
        plan = Plan.from_wire(body)
        self._identity(head["identity"])
        system.attach_disks(str(head["layers"]), str(head["writable"]))
        system.write_files(head["files"])
        if head["shares"]:
            system.attach_shares()
        for card in head["cards"]:
            system.configure_network(card)
        self._group = Cgroup(plan.cgroup_path, self._host_layout())

        own: dict[str, str] = head["renew"]

        def start(stdin: int, stdout: int, stderr: int, console: int) -> launch.Created:
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
        self._main = self._launch(head, start, terminal=terminal, main=True)
        return {"pid": self._main.pid}

    def _exec(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        init = self._main
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

    def _host_layout(self) -> Layout:
        if self._layout is None:
            self._layout = detect()
        return self._layout

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
            self._main = None
            if self._group is not None:
                with suppress(SkerryError):
                    self._group.remove()
            system.detach_disks()
        self._line.say(end)

    def _work(self, head: dict[str, Any], end: Source | Sink, work: files.Work) -> dict[str, Any]:
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
        return {}

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

    def _signal(self, id_: str, number: int) -> dict[str, Any]:
        program = self._program(id_)
        if program.main and number == signal.SIGKILL and self._group is not None:
            self._group.kill_all()
        else:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(program.pidfd, number)
        return {}

    def _resize(self, id_: str, rows: int, columns: int) -> dict[str, Any]:
        import fcntl
        import struct

        program = self._program(id_)
        if program.terminal < 0:
            raise Conflict("cannot resize: the program has no terminal")
        size = struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0)
        fcntl.ioctl(program.terminal, _TIOCSWINSZ, size)
        return {}

    def _running_group(self) -> Cgroup:
        if self._group is None or self._main is None:
            raise Conflict("the container is not running")
        return self._group

    def _stats(self) -> dict[str, Any]:
        return {
            "stats": self._running_group().stats(),
            "network": system.net_counters(),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        }


def _receive_terminal(sock: socket.socket) -> int:
    sock.settimeout(_CONSOLE_SECONDS)
    _, fds, _, _ = socket.recv_fds(sock, 4096, 1)
    if not fds:
        raise KernelFault("receiving the terminal: the container's init sent none", 0)
    return fds[0]


def main() -> None:
    """The guest's init."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.environ.clear()
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        system.mount_basics()
        with open("/modules/early") as file:
            system.load_modules(file.read().split())
        Agent(system.open_port()).run()
    except BaseException as error:
        import traceback

        with open("/dev/kmsg", "w") as log:
            for line in traceback.format_exception(error):
                log.write(f"<0>skerry agent: {line}")
                log.flush()
        # Rather than leave, which would have the kernel print a panic over these words.
        system.power_off()


_ = (_socket, json)  # Loaded here, so that the kit carries them.
