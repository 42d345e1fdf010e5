"""What keepers keep here: a warden with its machine, or the client of an exec in one."""

import os
import select
import signal
import socket
import termios
from contextlib import suppress
from typing import Any

from skerry.base.errors import (
    Conflict,
    InvalidInput,
    MachineFault,
    SkerryError,
    SystemFault,
    Unavailable,
)
from skerry.kernel import cgroups
from skerry.kernel.cgroups import Cgroup, Layout
from skerry.kernel.descriptors import pidfd_open
from skerry.kernel.syscalls import libc
from skerry.machine import clients, daemon, spare, terminal, warden
from skerry.machine.conf import Conf, unpack
from skerry.runtime import rundir, wire
from skerry.runtime.containers import Containers
from skerry.runtime.starter import Ends, Launched, OnCloned

EXEC_SECONDS = 120.0
_PR_SET_NAME = 15
_ = termios


class Machines(Containers):
    """Launches machines. A request's `op` is `start` (the body is `conf.pack`'s) or `exec`
    (a ProcessPlan for the guest)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._layout = layout
        self._spare: spare.Spare | None = None

    def stand_by(
        self, datagram: bytes, fds: tuple[int, ...]
    ) -> tuple[bytes, tuple[int, ...]] | None:
        """See Programs.stand_by: with a machine that is ready."""
        found = spare.stand_by(datagram, fds, self._layout)
        if found is None:
            return None
        self._spare, request, received = found
        return request, received

    def started(self) -> None:
        """See Programs.started."""
        if self._spare is not None:
            self._spare.clear()
            self._spare = None

    def launch(
        self, head: dict[str, Any], body: bytes, ends: Ends, on_cloned: OnCloned
    ) -> Launched:
        """Run the program in its machine; errors as `launch.create`, and the machine's own."""
        match head.get("op"):
            case "start":
                return self._start_machine(head, body, ends)
            case "exec":
                return _exec(head, body, ends)
        raise InvalidInput(f"a keeper cannot {head.get('op')!r}")

    def _start_machine(self, head: dict[str, Any], body: bytes, ends: Ends) -> Launched:
        conf, plan = unpack(body)
        rundir.remove(conf.run_dir, warden.LAST_WORDS, clients.SOCKET)
        group = Cgroup(conf.cgroup, self._layout)
        limits = cgroups.plan(conf.cgroup, head.get("limits"), self._layout, devices=False)
        group.create(limits)
        try:
            pid = 0
            if self._spare is not None:
                pid = _adopted(self._spare, body, ends)
            given_back = self._spare is not None and not pid
            if not pid:
                pid = self._fork_warden(conf, plan, ends)
            # The keeper is the parent of a spare's warden that could not take the container.
            return Launched(pid, pidfd_open(pid), cgroup=conf.cgroup, reap=given_back)
        except BaseException:
            with suppress(SkerryError):
                group.kill_all()
                group.remove()
            raise

    def _fork_warden(self, conf: Conf, plan: bytes, ends: Ends) -> int:
        listening, telling = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                os.close(listening)
                warden.keep(conf, plan, ends, telling, self._layout)
            finally:
                os._exit(255)
        os.close(telling)
        try:
            _hear(listening)
        except BaseException:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        finally:
            os.close(listening)
        return pid

    def last_words(self, run_dir: str) -> tuple[bool, str]:
        """See Programs.last_words."""
        with suppress(SkerryError):
            if words := rundir.read_json(run_dir, warden.LAST_WORDS):
                return bool(words.get("oom")), str(words.get("error", ""))
        return False, ""


def _adopted(waiting: spare.Spare, body: bytes, ends: Ends) -> int:
    """The pid of a spare's warden that has started the container; 0 when it could not take it."""
    listening = -1
    try:
        listening = waiting.adopt(body, ends)
        return waiting.pid if _hear(listening) else 0
    except Unavailable:
        if listening < 0:
            return 0
        raise
    finally:
        if listening >= 0:
            os.close(listening)


def _hear(fd: int) -> bool:
    """How a warden's start went; raises what it reports. False when it gave the container back."""
    import json

    said = b""
    while data := os.read(fd, 65536):
        said += data
        if said in (b".", spare.GIVEN_BACK):
            return said == b"."
    if not said:
        raise SystemFault("the machine's warden died while it was starting")
    raise wire.error_from_wire(json.loads(said))


def _exec(head: dict[str, Any], body: bytes, ends: Ends) -> Launched:
    sock = rundir.connect(str(head["machine"]), clients.SOCKET)
    if sock is None:
        raise Conflict("the container's machine is not running")
    slave = -1
    if ends.console >= 0:
        slave = terminal.open_terminal(ends.console, tuple(head["size"]))
        fds: tuple[int, ...] = (os.dup(slave),)
    else:
        fds = (ends.stdout, ends.stderr)
        if head["open_stdin"]:
            fds = (*fds, ends.stdin)
    request = {"op": "exec", "seq": 1, "id": str(head["id"]), "terminal": slave >= 0}
    sock.settimeout(EXEC_SECONDS)
    try:
        wire.send(sock, request, body, fds)
        if slave >= 0:
            os.close(fds[0])
        answer = wire.receive(sock)
    except TimeoutError:
        raise MachineFault("the guest does not start the program in time") from None
    sock.settimeout(None)
    if answer is None:
        raise Conflict("the container's machine has ended")
    if "error" in answer.head:
        raise wire.error_from_wire(answer.head["error"])
    pid = os.fork()
    if pid == 0:
        try:
            _wait_for_end(sock, slave, str(head["id"]))
        finally:
            os._exit(128 + signal.SIGKILL)
    sock.close()
    if slave >= 0:
        os.close(slave)
    return Launched(pid, pidfd_open(pid))


def _wait_for_end(sock: socket.socket, slave: int, id_: str) -> None:
    """The exec's client: ends as the guest's program ends; tells changes of the terminal's size."""
    os.setsid()
    libc.prctl(_PR_SET_NAME, b"skerry-exec", 0, 0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    keeping = {0, 1, 2, sock.fileno(), slave}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keeping:
            with suppress(OSError):
                os.close(int(name))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    wake = -1
    if slave >= 0:
        wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        terminal.follow_size(slave, waker)
        poll.register(wake, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if wake in ready:
            os.read(wake, 64)
            rows, columns = terminal.window_size(slave)
            wire.send(sock, {"op": "resize", "id": id_, "rows": rows, "columns": columns})
        if sock.fileno() in ready:
            message = wire.receive(sock)
            if message is None:
                daemon.die_as(-int(signal.SIGKILL))
            elif message.head.get("event") == "exit":
                number = int(message.head["signal"])
                daemon.die_as(-number if number else int(message.head["code"]))
