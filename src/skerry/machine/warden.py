"""The warden: the process that has a container's machine, between its keeper and its guest.

Theory. To the keeper the warden is the program: it has the program's standard streams, and it ends
as the guest's program ended, with the same code or by the same signal. QEMU is its child and dies
with it; both are in the container's control group, so whoever empties that ends them.

It clones a template, starts the container in it, and then only copies: streams and messages between
the guest's port and

* its own standard streams (the container's);
* the streams that execs bring over `machine.sock`;
* whoever asks something there (the engine): answers of the guest go back to whoever asked.

The guest is hostile. `channel` bounds what it may send; what it says is used as numbers and bytes,
never as names of host things; a guest that breaks the protocol, dies or does not end when it is
killed is ended here, and `last-words.json` says why. One that does not answer costs whoever asked
their patience and nobody else anything: questions that wait are bounded in number and bytes, files
that do not go on are given up (`WORK_SECONDS`). All of it is a `MachineFault`: what goes wrong in
the guest is never told as a fault of the engine.

Lean and single-threaded: it forks QEMU, and there is one for each machine.
"""

import _socket
import fcntl
import json
import marshal
import os
import secrets
import signal
import socket
import struct
import termios
import time
import tty
from collections.abc import Callable
from contextlib import suppress

from skerry.base.errors import (
    Conflict,
    Forbidden,
    GuestFault,
    InvalidInput,
    KernelFault,
    MachineFault,
    NotFound,
    SkerryError,
    SystemFault,
    Unsupported,
)
from skerry.base.light import Any, NamedTuple
from skerry.kernel import namespaces
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.syscalls import libc
from skerry.machine import hypervisor, orderly, qemu, saving, shares, splice, tasks, template
from skerry.machine.channel import (
    MOST_FROM_GUEST,
    WINDOW,
    Line,
    Message,
    Sink,
    Source,
    wait_readable,
)
from skerry.machine.dns import Forwarder
from skerry.machine.memory import copy_extents
from skerry.machine.qemu import Accel
from skerry.machine.shape import Shape
from skerry.machine.stream import cards as saved_cards
from skerry.machine.stream import read as read_state
from skerry.machine.tap import open_tap
from skerry.runtime import rundir, wire
from skerry.runtime.loop import READ, Loop
from skerry.runtime.starter import Ends

SOCKET = "machine.sock"
LAST_WORDS = "last-words.json"
SHARES_PORT = f"port{qemu.PORTS - 1}"
MOST_CARDS = qemu.PORTS
"""The first is in no port, and the last port is the shares'."""
START_SECONDS = 60.0
KILL_SECONDS = 5.0
WORK_SECONDS = 300.0
"""How long files may stand still on their way while it is the guest's turn."""
WORK_RATE = 4096
"""Bytes a second that a guest has to manage over time."""
_MAIN = "main"
_MOST_WAITING = 4096
_MOST_QUEUED = 8 << 20
_MOST_TEXT = 1000
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 2.0
"""How long a machine that is to be paused may take to tell its counters before."""
# linux/prctl.h
_PR_SET_NAME = 15
_LOST = 255
_MOST_SAID = 4096
_DYING_SECONDS = 1.0


class Conf(NamedTuple):
    """Everything a warden needs, decided by the driver. Builtin types only (marshal)."""

    id: str
    run_dir: str
    cgroup: str
    jail: str
    """An empty folder, for QEMU's root."""
    ram: str
    """Where the template's memory can be opened: the engine's descriptor."""
    share: bool
    """Whether `ram` is this machine's own, to be written to."""
    state: str
    saved: bool
    """`ram` and `state` are of a machine that ran this container: it goes on."""
    renew: dict[str, str]
    """Files of a copy that are its own: path in the container to hexadecimal contents."""
    layers: str
    writable: str
    below: list[str]
    """Frozen disks between `writable` and `blank`, top-most first."""
    blank: str
    """Empty when the last of `below` stands on nothing."""
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
    layers: str, writable: str, below: list[str], blank: str,
) -> Conf:  # fmt: skip
    """A machine with disks and nothing else, that runs no container of its own."""
    return Conf(
        id=id_,
        run_dir=run_dir,
        cgroup="",
        jail=os.path.join(run_dir, "jail"),
        ram=ram,
        share=False,
        state=state,
        saved=False,
        renew={},
        layers=layers,
        writable=writable,
        below=below,
        blank=blank,
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


class Waiting(NamedTuple):
    """Somebody who waits for the guest's answer."""

    sock: socket.socket | None
    seq: int
    then: Callable[[dict[str, Any]], None] | None


class Cloned(NamedTuple):
    """A machine that runs, and with shares (else -1) its own memory and its virtiofsd, and how many
    cards it has from the file."""

    machine: hypervisor.Hypervisor
    ram: int
    sharer: int
    cards: int


class Work:
    """Files on their way between a client and the guest."""

    def __init__(self, end: Sink | Source, over: Callable[[dict[str, Any]], None]) -> None:
        self.end = end
        self.over = over
        self.due = time.monotonic() + WORK_SECONDS
        self._moved = 0

    def is_late(self, now: float) -> bool:
        """Whether the guest has had its time: it gets more for every byte that it moves, and while
        it waits for the host."""
        moved, self._moved = self.end.moved - self._moved, self.end.moved
        latest = now + WORK_SECONDS
        self.due = latest if self.end.hosts_turn else min(latest, self.due + moved / WORK_RATE)
        return now > self.due


class Exec(NamedTuple):
    """A further process of the container and its client."""

    sock: socket.socket
    sinks: list[Sink]
    source: Source | None


class Warden:
    """State of one warden; `run` is its life after the start."""

    def __init__(
        self,
        conf: Conf,
        cloned: Cloned,
        cards: list[dict[str, Any]],
        disk: str = qemu.WRITABLE_SERIAL,
    ) -> None:
        """`disk` is the node of the writable disk."""
        machine, self._ram, self._sharer, plugged = cloned
        self._plugged = max(plugged, len(cards))
        """How many cards the machine has."""
        self._conf = conf
        self._cards = cards
        self._cpus = conf.shape[1]
        self._joined = {at: _index(card) for at, card in enumerate(cards)}
        """Which interface each card is joined to."""
        self._machine = machine
        self._loop = Loop()
        self._line = Line(
            self._loop, machine.agent, self._heard, self._line_lost, most_message=MOST_FROM_GUEST
        )
        self._listener = rundir.listen(conf.run_dir, SOCKET)
        self._clients: dict[int, socket.socket] = {}
        self._waiting: dict[int, Waiting] = {}
        self._execs: dict[str, Exec] = {}
        self._seq = 0
        self._next_stream = 16
        self._sinks: list[Sink] = []
        self._working: dict[int, Work] = {}
        self._dns = Forwarder(self._loop)
        self._end: dict[str, Any] | None = None
        self._failure = ""
        self._said = b""
        self._paused = False
        self._pausing: tuple[float, Callable[[], None]] | None = None
        """When the machine is stopped whether the guest has answered or not, and by what."""
        self._last_stats: dict[str, Any] = {}
        self._deadline: float | None = None
        self._saving: saving.Saving | None = None
        self._saved = 0
        self._deferred: list[tuple[socket.socket, wire.Message]] = []
        """What was asked while the machine was being saved."""
        self._disk = disk
        self._disks = [os.open(conf.writable, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)]
        """Every disk that QEMU has written to; a folder may have been exchanged since."""
        reading = os.O_RDONLY | os.O_CLOEXEC
        self._came_from = os.open(conf.ram, reading), os.open(conf.state, reading)
        """The files of memory and state that the machine was started with."""
        self._loop.watch(machine.pidfd, READ, self._qemu_gone)
        self._loop.watch(self._listener.fileno(), READ, self._accept)
        self._loop.watch(machine.stderr, READ, self._drain_stderr)
        self._loop.watch(machine.monitor.sock.fileno(), READ, self._monitor_said)

    # The container

    def start(self, plan: bytes, ends: Ends) -> None:
        """Connect the streams and have the guest run the container; raises its error."""
        conf = self._conf
        if conf.terminal:
            slave = _terminal(ends.console, conf.size)
            self._watch_size(slave, lambda size: self._resize(_MAIN, size))
            self._line.source(3, os.dup(slave))
            self._sinks = [self._line.sink(1, slave)]
        else:
            if conf.open_stdin:
                self._line.source(3, _unblocked(ends.stdin))
            self._sinks = [
                self._line.sink(1, _unblocked(ends.stdout)),
                self._line.sink(2, _unblocked(ends.stderr)),
            ]
        streams = {"stdout": 1, "stderr": 2}
        if conf.open_stdin or conf.terminal:
            streams["stdin"] = 3
        if conf.saved:
            self._wake()
            return
        head = {
            "op": "start",
            "id": _MAIN,
            "layers": qemu.LAYERS_SERIAL if conf.layers else "",
            "writable": qemu.WRITABLE_SERIAL,
            "identity": identity(conf.hostname),
            "files": conf.files,
            "cards": self._cards,
            "shares": bool(conf.shares),
            "streams": streams,
            "renew": conf.renew,
        }
        self._await(head, plan)

    def _wake(self) -> None:
        """The guest runs the container already: it gets what is its own."""
        conf = self._conf
        head = {
            "op": "wake",
            "identity": identity(conf.hostname),
            "files": conf.files,
            "cards": self._cards,
            "renew": conf.renew,
            "generation": secrets.token_hex(16),
        }
        body = tasks.pack(self._seq + 1, None if conf.shares else tasks.wake(head))
        waiting = self._await(head, body).get("waiting")
        for stream, count in waiting.items() if isinstance(waiting, dict) else ():
            if stream in ("1", "2", "3"):
                self._line.spend(int(stream), _number(count, WINDOW))

    def _await(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Ask the guest, with nothing else to do meanwhile; raises its error."""
        answer: list[dict[str, Any]] = []
        self._ask(head, body, Waiting(None, 0, answer.append))
        deadline = time.monotonic() + START_SECONDS
        while not answer:
            if self._failure:
                raise MachineFault(f"the machine has ended: {self._last_said() or self._failure}")
            if time.monotonic() > deadline:
                raise MachineFault("the guest does not start the container in time")
            self._loop.turn(deadline)
        if "error" in answer[0]:
            raise guests_error(answer[0]["error"])
        return answer[0]

    def run(self) -> int:
        """Copy until the container has ended: its exit code, negative for a signal."""
        while not self._failure:
            if self._end is not None and all(sink.done for sink in self._sinks):
                break
            self._loop.turn(self._next_turn())
            if self._saving is not None:
                self._saving.step()
            self._end_late_work()
            if self._pausing is not None and time.monotonic() > self._pausing[0]:
                self._pausing[1]()
            if self._deadline and time.monotonic() > self._deadline:
                self._fail("the guest did not end the container when it was killed")
        for exec_ in self._execs.values():
            _say(exec_.sock, {"event": "exit", "code": 0, "signal": int(signal.SIGKILL)})
        if self._end is None:
            code = -int(signal.SIGKILL) if self._deadline else _LOST
            if not self._deadline:
                self.last_words(self._failure)
            return code
        number = _number(self._end.get("signal"), 64)
        if self._end.get("oom") is True:
            _write_words(self._conf.run_dir, oom=True, error="")
        return -number if number else _number(self._end.get("code"), 255)

    def last_words(self, error: str) -> None:
        """Why it ends, if not by the program's own doing."""
        _write_words(self._conf.run_dir, oom=False, error=error)

    def _next_turn(self) -> float | None:
        soon = [self._deadline] if self._deadline else []
        if self._saving is not None:
            soon.append(time.monotonic() + saving.POLL_SECONDS)
        if self._working:
            soon.append(time.monotonic() + _LOOK_SECONDS)
        if self._pausing is not None:
            soon.append(self._pausing[0])
        return min(soon, default=None)

    def close(self) -> None:
        """End the machine: in good order when the container has ended."""
        rundir.remove(self._conf.run_dir, SOCKET)
        self._loop.close()
        if self._end is not None and not self._paused:
            if self._machine.quit():
                for disk in self._disks:
                    orderly.clear(disk)
        else:
            self._machine.end()

    def _watch_size(self, slave: int, tell: Callable[[tuple[int, int]], None]) -> None:
        """Have every change of the terminal's size told."""
        wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        follow_size(slave, waker)

        def woken(fd: int, _events: int) -> None:
            with suppress(BlockingIOError):
                os.read(fd, 64)
            with suppress(OSError):
                tell(window_size(slave))

        self._loop.watch(wake, READ, woken)

    def _resize(self, id_: str, size: tuple[int, int]) -> None:
        head = {"op": "resize", "id": id_, "rows": size[0], "columns": size[1]}
        self._tell(head)

    # The guest's side

    def _tell(self, head: dict[str, Any]) -> None:
        """Say something whose answer nobody waits for."""
        if self._line.queued < _MOST_QUEUED:
            self._line.say({**head, "seq": 0})

    def _ask(self, head: dict[str, Any], body: bytes, waiting: Waiting) -> None:
        if len(self._waiting) >= _MOST_WAITING or self._line.queued >= _MOST_QUEUED:
            raise MachineFault("the guest does not answer")
        self._seq += 1
        self._waiting[self._seq] = waiting
        self._line.say({**head, "seq": self._seq}, body)

    def _heard(self, message: Message) -> None:
        head = message.head
        if head.get("event") == "dns":
            self._forward(head, message.body)
        elif head.get("event") == "worked":
            work = self._working.get(_number(head.get("number"), 1 << 62))
            if work is not None:
                work.over(head)
        elif "reply" in head:
            waiting = self._waiting.pop(_number(head["reply"], 1 << 62), None)
            if waiting is None:
                return
            if waiting.then is not None:
                waiting.then(head)
            elif waiting.sock is not None:
                _answer(waiting.sock, waiting.seq, head, message.body)
        elif head.get("event") == "exit":
            self._program_ended(head)

    def _forward(self, head: dict[str, Any], query: bytes) -> None:
        number = _number(head.get("number"), 1 << 62)

        def answer(data: bytes) -> None:
            if self._line.congested:
                return  # As a resolver drops what nobody takes.
            self._line.say({"op": "dns", "number": number, "seq": 0}, data)

        self._dns.ask(query, head.get("tcp") is True, answer)

    def _program_ended(self, head: dict[str, Any]) -> None:
        id_ = head.get("id")
        if id_ == _MAIN:
            self._end = self._end or head
        elif isinstance(id_, str) and id_ in self._execs:
            self._try_exec_end(id_, head)

    def _try_exec_end(self, id_: str, head: dict[str, Any]) -> None:
        """Tell an exec's client once all output has been written to its keeper."""
        exec_ = self._execs.get(id_)
        if exec_ is None:
            return
        waits = [sink for sink in exec_.sinks if not sink.done]
        if waits:
            waits[0].on_end = lambda: self._try_exec_end(id_, head)
            return
        del self._execs[id_]
        code, number = _number(head.get("code"), 255), _number(head.get("signal"), 64)
        _say(exec_.sock, {"event": "exit", "code": code, "signal": number})

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason

    def _line_lost(self, reason: str) -> None:
        """The guest broke the protocol, or the line ended because QEMU did."""
        if wait_readable(self._machine.pidfd, _DYING_SECONDS):
            self._qemu_gone(self._machine.pidfd, READ)
        self._fail(f"the guest's line is lost: {reason}")

    def _end_late_work(self) -> None:
        now = time.monotonic()
        for work in list(self._working.values()):
            if work.is_late(now):
                late = MachineFault("the guest does not go on with the files")
                work.over({"error": wire.error_to_wire(late)})

    def _qemu_gone(self, pidfd: int, _events: int) -> None:
        self._loop.drop(pidfd)
        said = self._last_said()
        self._fail(f"QEMU has ended{': ' if said else ''}{said[-500:]}")

    def _drain_stderr(self, fd: int, _events: int) -> None:
        with suppress(OSError):
            data = os.read(fd, _MOST_SAID)
            self._said = (self._said + data)[-_MOST_SAID:]
            if not data:
                self._loop.drop(fd)

    def _last_said(self) -> str:
        """What QEMU and the guest's kernel have said of late."""
        wait_readable(self._machine.pidfd, _DYING_SECONDS)
        self._drain_stderr(self._machine.stderr, 0)
        return self._said.decode("utf-8", "replace").strip()

    def _monitor_said(self, fd: int, _events: int) -> None:
        try:
            for event in self._machine.monitor.take_events():
                if event.get("event") == "GUEST_PANICKED":
                    self._fail("the guest's kernel panicked")
        except SkerryError as error:
            self._loop.drop(fd)
            self._fail(error.message)

    # Whoever asks

    def _accept(self, _fd: int, _events: int) -> None:
        with suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            self._clients[sock.fileno()] = sock
            self._loop.watch(sock.fileno(), READ, self._serve)

    def _serve(self, fd: int, _events: int) -> None:
        sock = self._clients[fd]
        try:
            message = wire.receive(sock)
        except BlockingIOError:
            return
        except (OSError, SkerryError):
            message = None
        if message is None:
            self._hang_up(fd, sock)
            return
        if self._saving is not None:
            self._deferred.append((sock, message))
        else:
            self._handle(sock, message)

    def _handle(self, sock: socket.socket, message: wire.Message) -> None:
        seq = int(message.head.get("seq", 0))
        try:
            self._request(sock, seq, message)
        except (SkerryError, GuestFault, ValueError, TypeError, KeyError, OSError) as error:
            _say(sock, {"reply": seq, "error": wire.error_to_wire(error)})
        finally:
            for extra in message.fds:
                os.close(extra)

    def _hang_up(self, fd: int, sock: socket.socket) -> None:
        self._loop.drop(fd)
        del self._clients[fd]
        for seq, waiting in list(self._waiting.items()):
            if waiting.sock is sock:
                del self._waiting[seq]
        for id_, exec_ in list(self._execs.items()):
            if exec_.sock is sock:
                del self._execs[id_]
                # Its keeper has died: nobody would hear of the end, or take more of its output.
                self._tell({"op": "signal", "id": id_, "signal": 9})
                for sink in exec_.sinks:
                    sink.close()
                if exec_.source is not None:
                    exec_.source.finish()
        sock.close()

    def _request(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        head = message.head
        mine = Waiting(sock, seq, None)
        match head.get("op"):
            case "exec":
                self._exec(sock, seq, message)
            case "resize":
                self._ask(dict(head), b"", mine)
            case "signal":
                self._signal(str(head["id"]), int(head["signal"]), mine)
            case "pause":
                self._pause(sock, seq)
            case "resume":
                if self._saving is None:
                    self._machine.monitor.execute("cont")
                self._paused = False
                self._tell(_clock())
                _say(sock, {"reply": seq})
            case "stats":
                self._stats(mine)
            case "status":
                paused = self._paused
                _say(sock, {"reply": seq, "paused": paused, "qemu": self._machine.pid})
            case "save":
                self._save(sock, seq, message)
            case "pack" | "unpack":
                self._files(sock, seq, message)
            case "rewire":
                self._check_awake()
                self._ask({**head, "op": "network", "cards": self._rewire()}, b"", mine)
            case "processors":
                self._check_awake()
                self._plug_processors(int(head["count"]))
                self._ask(dict(head), b"", mine)
            case "update" | "files" | "sync" | "processes":
                self._check_awake()
                self._ask(dict(head), message.body, mine)
            case "qmp":
                given = head.get("arguments") or {}
                found = self._machine.monitor.execute(str(head["command"]), **given)
                _say(sock, {"reply": seq, "return": found})
            case other:
                raise InvalidInput(f"a warden cannot {other!r}")

    def _check_awake(self) -> None:
        if self._paused:
            raise Conflict("the machine is paused")
        if self._saving is not None:
            raise Conflict("the machine is being saved")

    def _save(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        """Save the machine: descriptors are the new overlay and, unless only the disk is wanted,
        files for its devices and its memory. The answer says whether they are `apart`, or the
        first has a stream of both."""
        self._check_awake()
        conf = self._conf
        disk, *target = [os.dup(fd) for fd in message.fds]
        orderly.mark(disk)
        self._disks.append(os.dup(disk))
        self._saved += 1
        told: dict[str, Any] = {}
        shared, began = bool(conf.shares and target), time.monotonic()

        def done(found: dict[str, Any] | None, error: SkerryError | GuestFault | None) -> None:
            for fd in (disk, *target):
                os.close(fd)
            self._disk = work.node
            self._saving = None
            if shared:
                self._share_again()
            if target:
                self._line.release()
            if target and shared:
                try:
                    then = Waiting(None, 0, lambda answer: over(answer, found, error))
                    self._ask({"op": "go"}, b"", then)
                except MachineFault as fault:
                    over({}, None, error or fault)
            elif target:
                self._line.say({"op": "go", "seq": 0})
            self._tell(_clock())
            if not shared:
                over({}, found, error)
            # Whether the guest ever says that it goes on is of no matter to these.
            deferred, self._deferred = self._deferred, []
            for asker, asked in deferred:
                self._handle(asker, asked)

        def over(
            answer: dict[str, Any],
            found: dict[str, Any] | None,
            error: SkerryError | GuestFault | None,
        ) -> None:
            if "error" in answer:
                fault = guests_error(answer["error"])
                self._fail(f"the host's folders did not come back after it was saved: {fault}")
            if shared and found:
                # Its programs stood all the while.
                found["pause_ms"] = round((time.monotonic() - began) * 1000, 1)
            if error is not None:
                _say(sock, {"reply": seq, "error": wire.error_to_wire(error)})
            else:
                said = {"guest": told, "qemu": version, "cpus": self._cpus}
                _answer(sock, seq, {**said, **(found or {})}, b"")

        def held(answer: dict[str, Any]) -> None:
            if self._saving is not work:
                return
            try:
                if "error" in answer:
                    raise guests_error(answer["error"])
                if not target:
                    work.only_disk(disk)
                    return
                told.update({key: answer.get(key) for key in ("renew", "hooks")})
                if shared:
                    shares.unplug(self._machine.monitor, self._sharer)
                    self._sharer = -1
                if live:
                    work.begin(target[0], disk)
                else:
                    (base, state), (devices, memory) = self._came_from, target
                    pid, size = self._machine.pid, conf.shape[0]
                    base = self._ram if shared else base
                    files = saving.Files(pid, base, state, size, memory, devices, shared)
                    work.stand(files, disk)
            except (SkerryError, GuestFault) as fault:
                text = f"cannot save the machine: {fault.message}"
                if "error" not in answer:
                    work.give_up(SystemFault(text))
                elif isinstance(fault, Conflict):
                    work.give_up(Conflict(fault.message, hint=fault.hint))
                else:
                    work.give_up(MachineFault(text, hint=fault.hint))
            except OSError as fault:
                work.give_up(SystemFault(f"cannot save the machine: {fault}"))

        version = self._machine.monitor.execute("query-version")
        major = _number(version["qemu"]["major"], 1000)
        live = not shared and saving.copies_live(conf.accel[0], major)
        work = saving.Saving(self._machine.monitor, self._disk, self._saved, done)
        self._saving = work
        if target:
            self._ask({"op": "hold", "shares": shared}, b"", Waiting(None, 0, held))
            # Nothing goes out after that: when the answer comes, nothing is on the way.
            self._line.hold()
            if not live:
                # While the guest gets ready.
                try:
                    os.ftruncate(target[1], conf.shape[0])
                    if not shared:
                        copy_extents(self._came_from[0], target[1], conf.shape[0])
                except (SkerryError, OSError) as fault:
                    work.give_up(SystemFault(f"cannot copy the machine's memory: {fault}"))
        else:
            # What programs have written so far lies in the guest's memory.
            self._ask({"op": "sync"}, b"", Waiting(None, 0, held))

    def _rewire(self) -> list[dict[str, Any]]:
        """Join cards to the interfaces that the container has by now, and return those cards. One
        whose interface has gone stays, for the next: those of a machine are its first ports."""
        found = {_index(card): card for card in splice.cards()}
        self._joined = {at: index for at, index in self._joined.items() if index in found}
        for index in found.keys() - self._joined.values():
            at = next(at for at in range(len(self._joined) + 1) if at not in self._joined)
            if at >= MOST_CARDS:
                raise Conflict(f"a machine has at most {MOST_CARDS} networks")
            if at >= self._plugged:
                _plug_cards(self._machine, range(self._plugged, at + 1))
                self._plugged = at + 1
            splice.part(tap_of(at))
            splice.join(found[index]["name"], tap_of(at))
            self._joined[at] = index
        self._cards = [
            {**found[index], "slot": _slot(at)} for at, index in sorted(self._joined.items())
        ]
        return self._cards

    def _plug_processors(self, count: int) -> None:
        """Have so many, if there are fewer; they are never taken out."""
        monitor = self._machine.monitor
        places = monitor.execute("query-hotpluggable-cpus")
        free = [each for each in places if "qom-path" not in each]
        free.sort(key=lambda each: sorted(each["props"].items()))
        for place in free[: max(0, count - self._cpus)]:
            where = {key.replace("-", "_"): value for key, value in place["props"].items()}
            monitor.execute("device_add", driver=place["type"], id=f"cpu{self._cpus}", **where)
            self._cpus += 1

    def _share_again(self) -> None:
        if self._sharer >= 0:
            return
        conf = self._conf
        try:
            self._sharer = shares.plug(
                self._machine.monitor, conf.shares, conf.run_dir, SHARES_PORT
            )
        except SkerryError as error:
            self._fail(f"the host's folders did not come back after it was saved: {error}")

    def _exec(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        self._check_awake()
        head = message.head
        id_, terminal = str(head["id"]), bool(head["terminal"])
        first = self._next_stream
        self._next_stream += 3
        streams = {"stdout": first, "stderr": first + 1}
        fds = [_unblocked(fd) for fd in message.fds]
        message.fds.clear()
        source = None
        if terminal:
            streams["stdin"] = first + 2
            source = self._line.source(first + 2, os.dup(fds[0]))
            sinks = [self._line.sink(first, fds[0])]
        else:
            sinks = [self._line.sink(first, fds[0]), self._line.sink(first + 1, fds[1])]
            if len(fds) > 2:
                streams["stdin"] = first + 2
                source = self._line.source(first + 2, fds[2])

        def then(answer: dict[str, Any]) -> None:
            if "error" in answer:
                self._execs.pop(id_, None)
                if source is not None:
                    source.finish()
                for sink in sinks:
                    sink.close()
                    self._line.forget_sink(sink.stream)
            _answer(sock, seq, answer, b"")

        self._execs[id_] = Exec(sock, sinks, source)
        request = {"op": "exec", "id": id_, "streams": streams}
        self._ask(request, message.body, Waiting(None, 0, then))

    def _files(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        """Packing or unpacking: a stream of its own; answered when it is over."""
        self._check_awake()
        stream, fd = self._next_stream, _unblocked(message.fds.pop())
        self._next_stream += 3
        if message.head["op"] == "pack":
            end: Sink | Source = self._line.sink(stream, fd)
        else:
            end = self._line.source(stream, fd)

        def over(head: dict[str, Any]) -> None:
            result = _result(head)
            if isinstance(end, Sink) and not end.done and not result:
                end.on_end = lambda: finish(result)  # What has come is still being written.
            else:
                finish(result)

        def finish(result: dict[str, Any]) -> None:
            if self._working.pop(number, None) is not None:
                end.on_end = None
                end.finish() if isinstance(end, Source) else end.close()
                _answer(sock, seq, result, b"")

        def then(answer: dict[str, Any]) -> None:
            if "error" in answer:
                finish({"error": answer["error"]})

        self._ask({**message.head, "stream": stream}, b"", Waiting(None, 0, then))
        number = self._seq
        self._working[number] = Work(end, over)

    def _signal(self, id_: str, number: int, mine: Waiting) -> None:
        if number == signal.SIGKILL:
            if self._paused:
                self._machine.monitor.execute("cont")
                self._paused = False
            if id_ == _MAIN and self._deadline is None:
                self._deadline = time.monotonic() + KILL_SECONDS
        self._check_awake()
        self._ask({"op": "signal", "id": id_, "signal": number}, b"", mine)

    def _stats(self, mine: Waiting) -> None:
        if self._paused and mine.sock is not None:
            _answer(mine.sock, mine.seq, self._last_stats, b"")
            return

        def then(answer: dict[str, Any]) -> None:
            if "error" not in answer:
                self._last_stats = answer
            if mine.sock is not None:
                _answer(mine.sock, mine.seq, answer, b"")

        self._ask({"op": "stats"}, b"", Waiting(None, 0, then))

    def _pause(self, sock: socket.socket, seq: int) -> None:
        """Stop the machine, after a last reading of its counters."""
        if self._paused:
            _say(sock, {"reply": seq})
            return
        self._check_awake()

        def then(answer: dict[str, Any]) -> None:
            if "error" not in answer:
                self._last_stats = answer
            stop()

        def stop() -> None:
            if self._pausing is None or self._pausing[1] is not stop:
                return
            self._pausing = None
            try:
                self._machine.monitor.execute("stop")
            except SkerryError as error:
                _say(sock, {"reply": seq, "error": wire.error_to_wire(error)})
                return
            self._paused = True
            _say(sock, {"reply": seq})

        if self._pausing is not None:
            raise Conflict("the machine is being paused")
        self._pausing = time.monotonic() + _PAUSE_SECONDS, stop
        with suppress(MachineFault):
            self._ask({"op": "stats"}, b"", Waiting(None, 0, then))


def identity(hostname: str) -> dict[str, Any]:
    """What a clone must not share with another; `seed` is 64 bytes of the host's randomness."""
    return {"seed": secrets.token_hex(64), "time_ns": time.time_ns(), "hostname": hostname}


def _clock() -> dict[str, Any]:
    """A guest's clock stands while its machine is stopped; what it is asked next sees it right."""
    return {"op": "clock", "time_ns": time.time_ns()}


def enter_network(path: str) -> None:
    """Join the container's network namespace for good, or make an empty one: taps are made there,
    and the resolver is asked there."""
    if path:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(fd, namespaces.FLAGS["network"], path)
        os.close(fd)
    else:
        namespaces.unshare(namespaces.FLAGS["network"])


def clone(conf: Conf, cards: list[dict[str, Any]]) -> Cloned:
    """Start QEMU on the template's memory and this container's disks, its cards joined to those of
    the network namespace that the caller is in; the guest runs on return."""
    fds: list[int] = []
    names: list[str] = []
    own, sharer = -1, -1

    def give(name: str, fd: int) -> None:
        names.append(name)
        fds.append(fd)

    try:
        ram = os.open(conf.ram, os.O_RDWR | os.O_CLOEXEC)
        give("ram", own_memory(ram, conf.shape[0]) if conf.shares else ram)
        own = os.dup(fds[-1]) if conf.shares else -1
        give("tap", open_tap(tap_of(0)))
        give("state", os.open(conf.state, os.O_RDONLY | os.O_CLOEXEC))
        opened: list[int] = []
        try:
            disks = open_disks(conf, opened)
        finally:
            for fd in opened:
                give(f"disk{fd}", fd)
        lines = hypervisor.numbers(names)
        at = lines.more
        found = qemu.Disks(
            at.get(f"disk{disks.layers}", -1),
            at[f"disk{disks.writable}"],
            at.get(f"disk{disks.blank}", -1),
            tuple(at[f"disk{fd}"] for fd in disks.below),
        )
        arguments = [
            *template.devices(
                lines, Shape(*conf.shape), Accel(*conf.accel),
                ram=at["ram"], share=conf.share or bool(conf.shares), tap=at["tap"],
            ),
            *qemu.disks(found),
            *qemu.INCOMING,
        ]  # fmt: skip
        machine = hypervisor.start(arguments, fds, id_=conf.id, root=conf.jail)
    finally:
        for fd in fds:
            os.close(fd)
    try:
        monitor = machine.monitor
        capabilities = [{"capability": "x-ignore-shared", "state": True}]
        monitor.execute("migrate-set-capabilities", capabilities=capabilities)
        # Nobody knew the addresses that the card was frozen with: it is given others at once.
        monitor.execute("migrate-set-parameters", **{"announce-rounds": 0})
        saved = 0
        if conf.saved:
            with open(conf.state, "rb") as file:
                saved = saved_cards(read_state(file.fileno()), qemu.PORTS - 1)
            _plug_cards(machine, range(1, saved))
        monitor.execute("migrate-incoming", uri=f"fd:{at['state']}")
        template.await_migration(machine)
        join_cards(machine, cards, first=max(saved, 1))
        if conf.shares:
            sharer = shares.plug(monitor, conf.shares, conf.run_dir, SHARES_PORT)
        monitor.execute("cont")
    except BaseException:
        machine.end()
        raise
    return Cloned(machine, own, sharer, max(saved, 1))


def open_disks(conf: Conf, opened: list[int]) -> qemu.Disks:
    """A container's disks; descriptors are added to `opened` as they come, and the caller's."""

    def take(path: str, flags: int) -> int:
        opened.append(os.open(path, flags | os.O_CLOEXEC))
        return opened[-1]

    writable = take(conf.writable, os.O_RDWR | os.O_NOFOLLOW)
    orderly.mark(writable)
    blank = take(conf.blank, os.O_RDONLY) if conf.blank else -1
    below = tuple(take(path, os.O_RDONLY | os.O_NOFOLLOW) for path in conf.below)
    layers = take(conf.layers, os.O_RDONLY) if conf.layers else -1
    return qemu.Disks(layers, writable, blank, below)


def join_cards(machine: hypervisor.Hypervisor, cards: list[dict[str, Any]], *, first: int) -> None:
    """Plug in the cards from number `first` on, and join all with the taps."""
    _plug_cards(machine, range(first, len(cards)))
    for number, card in enumerate(cards):
        splice.join(card["name"], tap_of(number))


def own_memory(ram: int, size: int) -> int:
    """A copy of the template's memory that can be shared with others; `ram` is closed."""
    copy = os.memfd_create("skerry-ram", os.MFD_CLOEXEC)
    try:
        os.ftruncate(copy, size)
        copy_extents(ram, copy, size)
    finally:
        os.close(ram)
    return copy


def _plug_cards(machine: hypervisor.Hypervisor, numbers: range) -> None:
    """Plug in cards beside the first, which the template has."""
    for at in numbers:
        tap = tap_of(at)
        fd = open_tap(tap)
        machine.monitor.give_fd(tap, fd)
        os.close(fd)
        machine.monitor.execute("netdev_add", type="tap", id=f"net{at}", fd=tap)
        machine.monitor.execute(
            "device_add", driver="virtio-net-pci", id=f"card{at}", netdev=f"net{at}",
            mac=_slot(at), bus=f"port{at - 1}", romfile="",
        )  # fmt: skip


def _index(card: dict[str, Any]) -> int:
    return socket.if_nametoindex(card["name"])


def tap_of(number: int) -> str:
    return f"skerry-tap{number}"


def _slot(number: int) -> str:
    """The address that a card boots with, by which the guest finds it."""
    return f"{qemu.SLOT_MAC[:-2]}{0x56 + number:02x}"


def keep(conf: Conf, plan: bytes, ends: Ends, report: int, layout: Layout) -> None:
    """The warden's process, from its fork to its end; never returns.

    `report` is a pipe that hears how the start went: nothing but `.`, or the error as JSON.
    """
    become_daemon(ends, report)
    try:
        Cgroup(conf.cgroup, layout).join_self()
        enter_network(conf.network)
        cards = cards_here()
        warden = Warden(conf, clone(conf, cards), cards)
    except BaseException as error:
        os.write(report, json.dumps(wire.error_to_wire(error)).encode())
        os._exit(_LOST)
    live(warden, plan, ends, report)


def cards_here() -> list[dict[str, Any]]:
    """The cards for the network namespace that the caller is in, with their slots."""
    return [{**card, "slot": _slot(at)} for at, card in enumerate(splice.cards())]


def live(warden: Warden, plan: bytes, ends: Ends, report: int) -> None:
    """The rest of a warden's life; see `keep`."""
    code = _LOST
    try:
        warden.start(plan, ends)
        _close_ends(ends)
        os.write(report, b".")
        os.close(report)
        code = warden.run()
    except BaseException as error:
        with suppress(OSError):
            os.write(report, json.dumps(wire.error_to_wire(error)).encode())
        if not isinstance(error, GuestFault | SkerryError):
            warden.last_words(f"the warden failed: {error!r:.500}")
    finally:
        with suppress(Exception):
            warden.close()
    die_as(code)


def become_daemon(ends: Ends, report: int) -> None:
    """A session of its own, and no descriptor of the keeper, whose end others must hear."""
    os.setsid()
    libc.prctl(_PR_SET_NAME, b"skerry-warden", 0, 0, 0)
    keeping = {0, 1, 2, report, *(fd for fd in ends if fd >= 0)}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keeping:
            with suppress(OSError):
                os.close(int(name))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _close_ends(ends: Ends) -> None:
    """Streams have taken over the others; the console's socket is left."""
    if ends.console >= 0:
        with suppress(OSError):
            os.close(ends.console)


def die_as(code: int) -> None:
    """End with this code, or by this signal when it is negative."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (9, 19) else None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
        os._exit(128 - code)
    os._exit(code)


def _terminal(console: int, size: tuple[int, int]) -> int:
    """A terminal whose master goes to the keeper; its slave, raw and non-blocking: the guest's
    terminal does what a terminal does."""
    master, slave = os.openpty()
    tty.setraw(slave)
    if any(size):
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with socket.socket(fileno=os.dup(console)) as sock:
        socket.send_fds(sock, [b"terminal"], [master])
    os.close(master)
    os.set_blocking(slave, False)
    return slave


def follow_size(slave: int, waker: int) -> None:
    """Make the terminal the session's own, so that a change of its size is signalled, and wake."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGWINCH, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)


def window_size(slave: int) -> tuple[int, int]:
    """Rows and columns."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(slave, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, columns


def _unblocked(fd: int) -> int:
    os.set_blocking(fd, False)
    return fd


def _number(value: object, most: int) -> int:
    """A number that a guest says, within bounds; 0 for anything else."""
    return value if type(value) is int and 0 <= value <= most else 0


def guests_error(value: object) -> SkerryError | GuestFault:
    """The failure that a guest reports. Whatever it says: its kernel's refusals and its troubles
    are not the engine's, and its words are short, and printable."""
    if not isinstance(value, dict):
        return MachineFault("the guest reports a failure without a word")
    try:
        found = wire.error_from_wire(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        return MachineFault("the guest reports a failure that makes no sense")
    text, hint = _words(found.message), _words(found.hint)
    if isinstance(found, KernelFault):
        return MachineFault(text, hint=hint)
    blames = (InvalidInput, NotFound, Conflict, Forbidden, Unsupported, GuestFault)
    kind = type(found) if isinstance(found, blames) else MachineFault
    return kind(text, hint=hint)


def _words(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text[:_MOST_TEXT])


def _result(head: dict[str, Any]) -> dict[str, Any]:
    """How a guest's work went, as an answer."""
    error = head.get("error")
    return {} if error is None else {"error": error}


def _answer(sock: socket.socket, seq: int, head: dict[str, Any], body: bytes) -> None:
    """Pass on what the guest says."""
    words = {name: value for name, value in head.items() if name not in ("reply", "seq", "memfd")}
    if "error" in words:
        words = {"error": wire.error_to_wire(guests_error(words["error"]))}
    try:
        wire.send(sock, {**words, "reply": seq}, body)
    except SkerryError:
        # Whoever waits must hear something all the same.
        fault = MachineFault("the guest says more than it may")
        _say(sock, {"reply": seq, "error": wire.error_to_wire(fault)})
    except OSError:
        return


def _say(sock: _socket.socket, head: dict[str, Any], body: bytes = b"") -> None:
    with suppress(OSError, SkerryError):
        wire.send(sock, head, body)  # type: ignore[arg-type]


def _write_words(run_dir: str, *, oom: bool, error: str) -> None:
    with suppress(SkerryError):
        rundir.write_json(
            run_dir, LAST_WORDS, {"version": rundir.VERSION, "oom": oom, "error": error}
        )


def pack_conf(conf: Conf, plan: bytes) -> bytes:
    """For the starter, whose process is of the same version."""
    return marshal.dumps((tuple(conf), plan))


def unpack_conf(data: bytes) -> tuple[Conf, bytes]:
    """What `pack_conf` packed."""
    fields, plan = marshal.loads(data)
    return Conf(*fields), plan
