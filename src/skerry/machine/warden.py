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

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from skerry.base.errors import (
    Conflict,
    GuestFault,
    InvalidInput,
    MachineFault,
    SkerryError,
    SystemFault,
)
from skerry.base.light import Any, NamedTuple
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.machine import (
    cabling,
    daemon,
    orderly,
    qemu,
    room,
    said,
    saving,
    shares,
    tasks,
    terminal,
)
from skerry.machine.channel import (
    MOST_FROM_GUEST,
    WINDOW,
    Line,
    Message,
    Sink,
    Source,
    wait_readable,
)
from skerry.machine.clone import Cloned, clone, identity
from skerry.machine.conf import Conf
from skerry.machine.dns import Forwarder
from skerry.machine.memory import copy_extents
from skerry.machine.patience import waited
from skerry.runtime import rundir, wire
from skerry.runtime.loop import READ, Loop
from skerry.runtime.starter import Ends

SOCKET = "machine.sock"
LAST_WORDS = "last-words.json"
START_SECONDS = 60.0
KILL_SECONDS = 5.0
WORK_SECONDS = 300.0
"""How long files may stand still on their way while it is the guest's turn."""
WORK_RATE = 4096
"""Bytes a second that a guest has to manage over time."""
_MAIN = "main"
_MOST_WAITING = 4096
_MOST_QUEUED = 8 << 20
_LOOK_SECONDS = 1.0
_GROW_SECONDS = 0.02
"""Between two looks at how much memory a guest has taken."""
_PAUSE_SECONDS = 2.0
"""How long a machine that is to be paused may take to tell its counters before."""
# linux/prctl.h
_PR_SET_NAME = 15
_LOST = 255
_MOST_SAID = 4096
_DYING_SECONDS = 1.0


class Waiting(NamedTuple):
    """Somebody who waits for the guest's answer."""

    sock: socket.socket | None
    seq: int
    then: Callable[[dict[str, Any]], None] | None


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
        machine, self._ram, self._sharer, plugged, self._more = cloned
        self._conf = conf
        self._cards = cabling.Cards(machine, cards, plugged)
        self._cpus = conf.shape[1]
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
        self._growing: tuple[float, int, socket.socket, int] | None = None
        """Until when the guest may take how much more memory, and who asked for it."""
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
            slave = terminal.open_terminal(ends.console, conf.size)
            self._watch_size(slave, lambda size: self._resize(_MAIN, size))
            self._line.source(3, os.dup(slave))
            self._sinks = [self._line.sink(1, slave)]
        else:
            if conf.open_stdin:
                self._line.source(3, terminal.unblocked(ends.stdin))
            self._sinks = [
                self._line.sink(1, terminal.unblocked(ends.stdout)),
                self._line.sink(2, terminal.unblocked(ends.stderr)),
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
            "disk": conf.disk,
            "identity": identity(conf.hostname),
            "files": conf.files,
            "cards": self._cards.told,
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
            "cards": self._cards.told,
            "renew": conf.renew,
            "generation": secrets.token_hex(16),
        }
        body = tasks.pack(self._seq + 1, None if conf.shares else tasks.wake(head))
        waiting = self._await(head, body).get("waiting")
        for stream, count in waiting.items() if isinstance(waiting, dict) else ():
            if stream in ("1", "2", "3"):
                self._line.spend(int(stream), said.number(count, WINDOW))

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
            raise said.guests_error(answer[0]["error"])
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
            if self._growing is not None:
                self._look_at_growth(*self._growing)
            if self._deadline and time.monotonic() > self._deadline:
                self._fail("the guest did not end the container when it was killed")
        for exec_ in self._execs.values():
            said.say(exec_.sock, {"event": "exit", "code": 0, "signal": int(signal.SIGKILL)})
        if self._end is None:
            code = -int(signal.SIGKILL) if self._deadline else _LOST
            if not self._deadline:
                self.last_words(self._failure)
            return code
        number = said.number(self._end.get("signal"), 64)
        if self._end.get("oom") is True:
            _write_words(self._conf.run_dir, oom=True, error="")
        return -number if number else said.number(self._end.get("code"), 255)

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
        if self._growing is not None:
            soon.append(time.monotonic() + _GROW_SECONDS)
        return min(soon, default=None)

    def close(self) -> None:
        """End the machine, in good order if its QEMU still listens: whatever the guest does, what
        QEMU has of its disks comes to them."""
        rundir.remove(self._conf.run_dir, SOCKET)
        self._loop.close()
        if self._machine.quit():
            for disk in self._disks:
                orderly.close(disk)

    def _watch_size(self, slave: int, tell: Callable[[tuple[int, int]], None]) -> None:
        """Have every change of the terminal's size told."""
        wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        terminal.follow_size(slave, waker)

        def woken(fd: int, _events: int) -> None:
            with suppress(BlockingIOError):
                os.read(fd, 64)
            with suppress(OSError):
                tell(terminal.window_size(slave))

        self._loop.watch(wake, READ, woken)

    def _resize(self, id_: str, size: tuple[int, int]) -> None:
        head = {"op": "resize", "id": id_, "rows": size[0], "columns": size[1]}
        self._tell(head)

    # The guest's side

    def _tell(self, head: dict[str, Any]) -> None:
        """Say something whose answer nobody waits for."""
        if self._line.queued < _MOST_QUEUED:
            self._line.say({**head, "seq": 0})

    def _check_room(self, streams: int = 0) -> None:
        """Whether the guest can be asked, and be given so many more streams."""
        if len(self._waiting) >= _MOST_WAITING or self._line.queued >= _MOST_QUEUED:
            raise MachineFault("the guest does not answer")
        if not self._line.has_room(streams):
            raise MachineFault("the machine has too many streams")

    def _ask(self, head: dict[str, Any], body: bytes, waiting: Waiting) -> None:
        self._check_room()
        self._seq += 1
        self._waiting[self._seq] = waiting
        self._line.say({**head, "seq": self._seq}, body)

    def _heard(self, message: Message) -> None:
        head = message.head
        if head.get("event") == "dns":
            self._forward(head, message.body)
        elif head.get("event") == "worked":
            work = self._working.get(said.number(head.get("number"), 1 << 62))
            if work is not None:
                work.over(head)
        elif "reply" in head:
            waiting = self._waiting.pop(said.number(head["reply"], 1 << 62), None)
            if waiting is None:
                return
            if waiting.then is not None:
                waiting.then(head)
            elif waiting.sock is not None:
                said.answer(waiting.sock, waiting.seq, head, message.body)
        elif head.get("event") == "exit":
            self._program_ended(head)

    def _forward(self, head: dict[str, Any], query: bytes) -> None:
        number = said.number(head.get("number"), 1 << 62)

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
        code, number = said.number(head.get("code"), 255), said.number(head.get("signal"), 64)
        said.say(exec_.sock, {"event": "exit", "code": code, "signal": number})

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
        last = self._last_said()
        self._fail(f"QEMU has ended{': ' if last else ''}{last[-500:]}")

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
            said.say(sock, {"reply": seq, "error": wire.error_to_wire(error)})
        finally:
            for extra in message.fds:
                os.close(extra)

    def _hang_up(self, fd: int, sock: socket.socket) -> None:
        self._loop.drop(fd)
        del self._clients[fd]
        for seq, waiting in list(self._waiting.items()):
            if waiting.sock is sock:
                del self._waiting[seq]
        for fd in (fd for asker, asked in self._deferred if asker is sock for fd in asked.fds):
            os.close(fd)
        self._deferred = [each for each in self._deferred if each[0] is not sock]
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
                said.say(sock, {"reply": seq})
            case "stats":
                self._stats(mine)
            case "status":
                paused = self._paused
                said.say(sock, {"reply": seq, "paused": paused, "qemu": self._machine.pid})
            case "save":
                self._save(sock, seq, message)
            case "pack" | "unpack":
                self._files(sock, seq, message)
            case "rewire":
                self._check_awake()
                self._ask({**head, "op": "network", "cards": self._cards.rewire()}, b"", mine)
            case "memory":
                self._check_awake()
                self._resize_memory(sock, seq, int(head["size"]))
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
                said.say(sock, {"reply": seq, "return": found})
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
        if self._growing is not None:
            raise Conflict("the machine's memory is being changed")
        if self._pausing is not None:
            raise Conflict("the machine is being paused")
        conf = self._conf
        disk, *target = [os.dup(fd) for fd in message.fds]
        orderly.mark(disk)
        self._disks.append(os.dup(disk))
        self._saved += 1
        told: dict[str, Any] = {}
        shared, still_since = bool(conf.shares and target), 0.0

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
                self._line.say({"op": "go", "seq": 0}, tasks.pack(0, tasks.go(time.time_ns())))
                stood(found)
            self._tell(_clock())
            if not shared:
                over({}, found, error)
            # Whether the guest ever says that it goes on is of no matter to these.
            deferred, self._deferred = self._deferred, []
            for asker, asked in deferred:
                self._handle(asker, asked)

        def stood(found: dict[str, Any] | None) -> None:
            if found and still_since:
                found["pause_ms"] = round((time.monotonic() - still_since) * 1000, 1)

        def over(
            answer: dict[str, Any],
            found: dict[str, Any] | None,
            error: SkerryError | GuestFault | None,
        ) -> None:
            if "error" in answer:
                fault = said.guests_error(answer["error"])
                self._fail(f"the host's folders did not come back after it was saved: {fault}")
            if shared:
                stood(found)
            if error is not None:
                said.say(sock, {"reply": seq, "error": wire.error_to_wire(error)})
            else:
                about = {"guest": told, "qemu": version, "cpus": self._cpus, "more": 0}
                said.answer(sock, seq, {**about, **(found or {})}, b"")

        def held(answer: dict[str, Any]) -> None:
            nonlocal still_since
            if self._saving is not work:
                return
            try:
                if "error" in answer:
                    raise said.guests_error(answer["error"])
                if not target:
                    work.only_disk(disk)
                    return
                told.update({key: answer.get(key) for key in ("renew", "hooks")})
                if freeze:
                    # At most since it was asked, whatever the guest says.
                    now, frozen = time.monotonic(), said.number(answer.get("frozen_us"), 1 << 40)
                    still_since = max(asked, now - frozen / 1e6)
                if shared:
                    shares.unplug(self._machine.monitor, self._sharer)
                    self._sharer = -1
                (base, state), (devices, memory) = self._came_from, target
                base = self._ram if own else base
                files = saving.Files(
                    self._machine.pid, base, state, conf.shape[0], memory, devices, own,
                    self._more,
                )  # fmt: skip
                if live:
                    work.begin(devices, disk, files)
                else:
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
        major = said.number(version["qemu"]["major"], 1000)
        own = self._ram >= 0
        live = not own and saving.copies_live(conf.accel[0], major)
        work = saving.Saving(self._machine.monitor, self._disk, self._saved, done)
        freeze = shared or not live
        if target and not live:
            # While the guest goes on.
            try:
                os.ftruncate(target[1], conf.shape[0])
                if not own:
                    copy_extents(self._came_from[0], target[1], conf.shape[0])
            except (SkerryError, OSError) as fault:
                work.give_up(SystemFault(f"cannot copy the machine's memory: {fault}"))
                return
        asked = time.monotonic()
        pid = self._machine.pid
        work.wait_for_guest(lambda: waited(pid), saves_memory=bool(target))
        self._saving = work
        if target:
            hold = {"op": "hold", "shares": shared, "freeze": freeze}
            self._ask(hold, b"", Waiting(None, 0, held))
            # Nothing goes out after that: when the answer comes, nothing is on the way.
            self._line.hold()
        else:
            # What programs have written so far lies in the guest's memory.
            self._ask({"op": "sync"}, b"", Waiting(None, 0, held))

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

    def _resize_memory(self, sock: socket.socket, seq: int, size: int) -> None:
        """Have the guest get so much beside its own memory; answered when it has it, and at once
        when it is to give some back."""
        if self._growing is not None:
            raise Conflict("the machine's memory is being changed")
        monitor = self._machine.monitor
        if self._more < 0 and size:
            self._more = room.plug(monitor)
        if self._more >= 0:
            room.ask(monitor, size)
            if size > room.taken(monitor):
                self._growing = time.monotonic() + room.SECONDS, size, sock, seq
                return
        said.say(sock, {"reply": seq})

    def _look_at_growth(self, due: float, size: int, sock: socket.socket, seq: int) -> None:
        answer: dict[str, Any] = {"reply": seq}
        try:
            taken = room.taken(self._machine.monitor)
            if taken < size:
                if time.monotonic() < due:
                    return
                room.ask(self._machine.monitor, taken)
                raise MachineFault("the guest's kernel does not take more memory")
        except (SkerryError, GuestFault) as error:
            answer["error"] = wire.error_to_wire(error)
        self._growing = None
        said.say(sock, answer)

    def _share_again(self) -> None:
        if self._sharer >= 0:
            return
        conf = self._conf
        try:
            self._sharer = shares.plug(
                self._machine.monitor, conf.shares, conf.run_dir, cabling.SHARES_PORT
            )
        except SkerryError as error:
            self._fail(f"the host's folders did not come back after it was saved: {error}")

    def _exec(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        self._check_awake()
        self._check_room(streams=2)
        head = message.head
        id_, on_terminal = str(head["id"]), bool(head["terminal"])
        first = self._next_stream
        self._next_stream += 3
        streams = {"stdout": first, "stderr": first + 1}
        fds = [terminal.unblocked(fd) for fd in message.fds]
        message.fds.clear()
        source = None
        if on_terminal:
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
            said.answer(sock, seq, answer, b"")

        self._execs[id_] = Exec(sock, sinks, source)
        request = {"op": "exec", "id": id_, "streams": streams}
        self._ask(request, message.body, Waiting(None, 0, then))

    def _files(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        """Packing or unpacking: a stream of its own; answered when it is over."""
        self._check_awake()
        self._check_room(streams=1)
        stream, fd = self._next_stream, terminal.unblocked(message.fds.pop())
        self._next_stream += 3
        if message.head["op"] == "pack":
            end: Sink | Source = self._line.sink(stream, fd)
        else:
            end = self._line.source(stream, fd)

        def over(head: dict[str, Any]) -> None:
            result = said.result(head)
            if isinstance(end, Sink) and not end.done and not result:
                end.on_end = lambda: finish(result)  # What has come is still being written.
            else:
                finish(result)

        def finish(result: dict[str, Any]) -> None:
            if self._working.pop(number, None) is not None:
                end.on_end = None
                end.finish() if isinstance(end, Source) else end.close()
                said.answer(sock, seq, result, b"")

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
            said.answer(mine.sock, mine.seq, self._last_stats, b"")
            return

        def then(answer: dict[str, Any]) -> None:
            if "error" not in answer:
                self._last_stats = answer
            if mine.sock is not None:
                said.answer(mine.sock, mine.seq, answer, b"")

        self._ask({"op": "stats"}, b"", Waiting(None, 0, then))

    def _pause(self, sock: socket.socket, seq: int) -> None:
        """Stop the machine, after a last reading of its counters."""
        if self._paused:
            said.say(sock, {"reply": seq})
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
                said.say(sock, {"reply": seq, "error": wire.error_to_wire(error)})
                return
            self._paused = True
            said.say(sock, {"reply": seq})

        if self._pausing is not None:
            raise Conflict("the machine is being paused")
        self._pausing = time.monotonic() + _PAUSE_SECONDS, stop
        with suppress(MachineFault):
            self._ask({"op": "stats"}, b"", Waiting(None, 0, then))


def _clock() -> dict[str, Any]:
    """A guest's clock stands while its machine is stopped; what it is asked next sees it right."""
    return {"op": "clock", "time_ns": time.time_ns()}


def keep(conf: Conf, plan: bytes, ends: Ends, report: int, layout: Layout) -> None:
    """The warden's process, from its fork to its end; never returns.

    `report` is a pipe that hears how the start went: nothing but `.`, or the error as JSON.
    """
    daemon.become_daemon(ends, report)
    try:
        Cgroup(conf.cgroup, layout).join_self()
        cabling.enter_network(conf.network)
        cards = cabling.cards_here()
        warden = Warden(conf, clone(conf, cards), cards)
    except BaseException as error:
        os.write(report, json.dumps(wire.error_to_wire(error)).encode())
        os._exit(_LOST)
    live(warden, plan, ends, report)


def live(warden: Warden, plan: bytes, ends: Ends, report: int) -> None:
    """The rest of a warden's life; see `keep`."""
    code = _LOST
    try:
        warden.start(plan, ends)
        daemon.close_ends(ends)
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
    daemon.die_as(code)


def _write_words(run_dir: str, *, oom: bool, error: str) -> None:
    with suppress(SkerryError):
        rundir.write_json(
            run_dir, LAST_WORDS, {"version": rundir.VERSION, "oom": oom, "error": error}
        )
