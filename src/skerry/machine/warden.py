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
that do not go on are given up (`packing`). All of it is a `MachineFault`: what goes wrong in
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

from skerry.base.errors import Conflict, GuestFault, InvalidInput, MachineFault, SkerryError
from skerry.base.light import Any
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.machine import (
    cabling,
    clients,
    daemon,
    growing,
    packing,
    qemu,
    said,
    saving,
    starving,
    tasks,
    terminal,
)
from skerry.machine.asking import MAIN, Guest, Waiting
from skerry.machine.channel import MOST_FROM_GUEST, WINDOW, Line, Message, Sink, wait_readable
from skerry.machine.clone import Cloned, clone, identity
from skerry.machine.conf import Conf
from skerry.machine.dns import Forwarder
from skerry.machine.execs import Execs
from skerry.machine.pausing import Pause
from skerry.machine.saver import Saver, clock
from skerry.runtime import rundir, wire
from skerry.runtime.loop import READ, Loop
from skerry.runtime.starter import Ends

LAST_WORDS = "last-words.json"
START_SECONDS = 60.0
KILL_SECONDS = 5.0
_LOST = 255
_MOST_SAID = 4096
_DYING_SECONDS = 1.0


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
        machine = cloned.machine
        self._conf = conf
        self._cards = cabling.Cards(machine, cards, cloned.cards)
        self._machine = machine
        self._loop = Loop()
        self._line = Line(
            self._loop, machine.agent, self._heard, self._line_lost, most_message=MOST_FROM_GUEST
        )
        self._guest = Guest(self._line)
        self._execs = Execs(self._guest)
        self._works = packing.Works(self._guest)
        self._pause = Pause(machine.monitor, self._guest)
        self._size = growing.Size(machine.monitor, conf.shape[1], cloned.more)
        self._clients = clients.Clients(
            self._loop, conf.run_dir, self._request, lambda: self._saver.current is not None,
            self._left,
        )  # fmt: skip
        self._saver = Saver(
            conf, cloned, disk, self._guest, self._size, self._clients.go_on, self._fail
        )
        self._sinks: list[Sink] = []
        self._dns = Forwarder(self._loop)
        self._starved = starving.Starved(conf.run_dir, copied=conf.saved)
        self._end: dict[str, Any] | None = None
        self._failure = ""
        self._said = b""
        self._deadline: float | None = None
        self._loop.watch(machine.pidfd, READ, self._qemu_gone)
        self._loop.watch(machine.stderr, READ, self._drain_stderr)
        self._loop.watch(machine.monitor.sock.fileno(), READ, self._monitor_said)

    # The container

    def start(self, plan: bytes, ends: Ends) -> None:
        """Connect the streams and have the guest run the container; raises its error."""
        conf = self._conf
        if conf.terminal:
            slave = terminal.open_terminal(ends.console, conf.size)
            self._watch_size(slave, lambda size: self._resize(MAIN, size))
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
            "id": MAIN,
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
        body = tasks.pack(self._guest.next_seq, None if conf.shares else tasks.wake(head))
        waiting = self._await(head, body).get("waiting")
        for stream, count in waiting.items() if isinstance(waiting, dict) else ():
            if stream in ("1", "2", "3"):
                self._line.spend(int(stream), said.number(count, WINDOW))

    def _await(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Ask the guest, with nothing else to do meanwhile; raises its error."""
        answer: list[dict[str, Any]] = []
        self._guest.ask(head, body, Waiting(None, 0, answer.append))
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
            if self._saver.current is not None:
                self._saver.current.step()
            self._works.end_late()
            if self._pause.due is not None and time.monotonic() > self._pause.due:
                self._pause.stop()
            self._size.look()
            if self._deadline and time.monotonic() > self._deadline:
                self._fail("the guest did not end the container when it was killed")
        self._execs.all_killed()
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
        now = time.monotonic()
        soon = [due for due in (self._deadline, self._pause.due) if due]
        if self._saver.current is not None:
            soon.append(now + saving.POLL_SECONDS)
        if len(self._works):
            soon.append(now + packing.LOOK_SECONDS)
        if self._size.is_changing:
            soon.append(now + growing.LOOK_SECONDS)
        return min(soon, default=None)

    def close(self) -> None:
        """End the machine, in good order if its QEMU still listens: whatever the guest does, what
        QEMU has of its disks comes to them."""
        rundir.remove(self._conf.run_dir, clients.SOCKET)
        self._loop.close()
        if self._machine.quit():
            self._saver.close_disks()

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
        self._guest.tell(head)

    # The guest's side

    def _heard(self, message: Message) -> None:
        head = message.head
        if head.get("event") == "dns":
            self._forward(head, message.body)
        elif head.get("event") == starving.OP:
            self._starved.heard(head)
        elif head.get("event") == "worked":
            self._works.worked(head)
        elif "reply" in head:
            self._guest.replied(message)
        elif head.get("event") == "exit":
            if head.get("id") == MAIN:
                self._end = self._end or head
            else:
                self._execs.ended(head.get("id"), head)

    def _forward(self, head: dict[str, Any], query: bytes) -> None:
        number = said.number(head.get("number"), 1 << 62)

        def answer(data: bytes) -> None:
            if self._line.congested:
                return  # As a resolver drops what nobody takes.
            self._line.say({"op": "dns", "number": number, "seq": 0}, data)

        self._dns.ask(query, head.get("tcp") is True, answer)

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason

    def _line_lost(self, reason: str) -> None:
        """The guest broke the protocol, or the line ended because QEMU did."""
        if wait_readable(self._machine.pidfd, _DYING_SECONDS):
            self._qemu_gone(self._machine.pidfd, READ)
        self._fail(f"the guest's line is lost: {reason}")

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

    def _left(self, sock: socket.socket) -> None:
        self._guest.forget(sock)
        self._execs.forget(sock)
        self._starved.part(sock)

    def _request(self, sock: socket.socket, seq: int, message: wire.Message) -> None:
        head = message.head
        mine = Waiting(sock, seq, None)
        match head.get("op"):
            case "exec":
                self._check_awake()
                self._execs.start(sock, seq, message)
            case "resize":
                self._guest.ask(dict(head), b"", mine)
            case "signal":
                self._signal(str(head["id"]), int(head["signal"]), mine)
            case "pause":
                if not self._pause.is_paused:
                    self._check_awake()
                    self._pause.begin(sock, seq)
                else:
                    said.say(sock, {"reply": seq})
            case "resume":
                self._pause.end(let_go=self._saver.current is None)
                self._guest.tell(clock())
                said.say(sock, {"reply": seq})
            case starving.OP:
                self._starved.join(sock)
                self._guest.ask(dict(head), b"", Waiting(None, 0, self._starved.heard))
            case "stats":
                self._pause.stats(mine)
            case "status":
                paused = self._pause.is_paused
                said.say(sock, {"reply": seq, "paused": paused, "qemu": self._machine.pid})
            case "save":
                self._check_awake()
                if self._pause.due is not None:
                    raise Conflict("the machine is being paused")
                self._saver.save(sock, seq, message.fds)
            case "pack" | "unpack":
                self._check_awake()
                self._works.start(sock, seq, message)
            case "rewire":
                self._check_awake()
                about = {**head, "op": "network", "cards": self._cards.rewire()}
                self._guest.ask(about, b"", mine)
            case "memory":
                self._check_awake()
                self._size.resize_memory(sock, seq, int(head["size"]))
            case "processors":
                self._check_awake()
                self._size.plug_processors(int(head["count"]))
                self._guest.ask(dict(head), b"", mine)
            case "update" | "files" | "sync" | "processes":
                self._check_awake()
                self._guest.ask(dict(head), message.body, mine)
            case "qmp":
                given = head.get("arguments") or {}
                found = self._machine.monitor.execute(str(head["command"]), **given)
                said.say(sock, {"reply": seq, "return": found})
            case other:
                raise InvalidInput(f"a warden cannot {other!r}")

    def _check_awake(self) -> None:
        if self._pause.is_paused:
            raise Conflict("the machine is paused")
        if self._saver.current is not None:
            raise Conflict("the machine is being saved")

    def _signal(self, id_: str, number: int, mine: Waiting) -> None:
        if number == signal.SIGKILL:
            if self._pause.is_paused:
                self._pause.end()
            if id_ == MAIN and self._deadline is None:
                self._deadline = time.monotonic() + KILL_SECONDS
        self._check_awake()
        self._guest.ask({"op": "signal", "id": id_, "signal": number}, b"", mine)


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
