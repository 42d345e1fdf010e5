"""The keeper: one small process that owns a running program's streams, log and exit record.

Theory. The spawner forks a keeper for each start or exec and forgets it; it lives as long as its
program, whatever becomes of the engine. It

1. forks the `starter`, which does everything that is needed once, and takes over from it (for an
   exec it does that itself). Nobody else has read the program's pipes, so its first byte finds the
   first client attached;
2. sleeps until anything happens;
3. copies: output to the log and to the clients, input to the program;
4. when init has gone: kills what is left in the cgroup, drains the pipes into the log, removes the
   cgroup, writes `exit.json`, stops listening, unlocks, and only then says `exit`. Whoever hears it
   finds the log complete and may start the task again at once.

Controllers (engines) speak messages of `wire` over the socket that came with the request or over
`keeper.sock`; each gets the `exit` message. Requests carry `seq`, answers `reply` with the same
number and perhaps `error`.

Memory. Forked pages are shared until somebody writes to them, and a Python process writes to every
object that it so much as looks at. What a keeper does while its program sleeps is therefore done
with few objects: `_socket` and libc in place of the wrappers `socket` and `signal`, JSON left to
the starter, and no object of ours before there is something to do. A program that has been silent
since its start costs 0.55 MB (PSS), another one 1.1.

A keeper runs as root outside the container, is not dumpable, and treats everything that comes from
the program as bytes to copy.
"""

import _socket
import marshal
import os
import select
import signal
import socket
import time
from contextlib import suppress

from skerry.base.errors import InvalidInput, SkerryError
from skerry.base.isolation import Attach, Exit
from skerry.base.light import TYPE_CHECKING, Any
from skerry.kernel import background
from skerry.kernel.syscalls import libc
from skerry.runtime import rundir, starter, wire
from skerry.runtime.attached import Client
from skerry.runtime.log import FORMATS, JsonFileLog
from skerry.runtime.loop import GONE, READ, WRITE, Loop
from skerry.runtime.starter import Kept, Programs
from skerry.runtime.streams import NAMES, Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Receive = Callable[[_socket.socket], tuple[bytes, tuple[int, ...]]]

LINGER = 2.0
"""Seconds to wait for the end of output that a descendant of an ended exec still holds open."""
_DRAIN_READS = 64
"""Reads that surely empty a pipe (at most 1 MB, 64 KB a read) or a terminal that nobody fills."""
EXEC, SPARE, START = b'{"op":"exec"', b'{"op":"spare"', b'{"op":"start"'
"""How the heads of requests begin: of an exec's, of one to stand by for a start's, of a start's."""
_MOMENT = 0.02
"""Seconds after which an exec is one that runs for long."""
_HANDOVER = 64 * 1024
_MAX_FDS = 10
_MAX_FD = (1 << 31) - 1
_c_signal, _prctl = libc.signal, libc.prctl
_SIGCHLD, _SIGKILL = int(signal.SIGCHLD), int(signal.SIGKILL)
_NAME = b"skerry-keeper"
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


class Keeper:
    """State of one keeper; `keep` runs it."""

    def __init__(
        self, kept: Kept, fds: dict[str, int], asked: "Sequence[int]", programs: Programs
    ) -> None:
        """`asked` are the descriptors of the request that are kept, as of `keep`."""
        control = _socket.socket(fileno=asked[0])
        control.setblocking(False)
        self._client = asked[1] if kept.attach else -1
        self._prepared = False
        self._kept = kept
        self._programs = programs
        self._loop = Loop()
        self._controls: dict[int, _socket.socket] = {control.fileno(): control}
        self._clients: list[Client] = []
        self._pidfd = fds["pidfd"]
        self._lock = fds["lock"]
        self._listener = fds["listener"]
        self._log_fd = fds.get("log", -1)
        self._log: JsonFileLog | None = None
        self._streams = Streams(fds)
        self._ended = False

    def fileno(self) -> int:
        """What it waits with."""
        return self._loop.fileno()

    # Copy

    def prepare(self) -> None:
        """All of step 3 that waits for no event; at once for a program that is on its way."""
        kept = self._kept
        self._prepared = True
        if kept.attach:
            self._join(self._client, Attach(*kept.attach))
        if kept.reap:
            self._reap_orphans()
        self._loop.watch(self._pidfd, READ, self._exited)
        self._loop.watch(self._listener, READ, self._accept)
        for fd in self._controls:
            self._loop.watch(fd, READ, self._serve)
        self._arrange()

    def run(self, done: int = -1) -> None:
        """Steps 3 and 4; returns when nothing is left to do. `done` as of `keep`."""
        if not self._prepared:
            self.prepare()
        if done >= 0:
            self._loop.turn(time.monotonic() + _MOMENT)
            os.close(done)
            self._arrange()
        while not self._ended:
            self._loop.turn(self._deadline() if self._clients else None)
            self._arrange()
        self._leave()

    def _deadline(self) -> float | None:
        return min((client.deadline for client in self._clients if client.behind), default=None)

    def _arrange(self) -> None:
        """Read output only while every client keeps up; offer input while some waits."""
        if self._clients:
            self._look_after_clients()
        streams = self._streams
        behind = False
        for client in self._clients:
            behind = behind or client.behind
        for fd in streams.outputs:
            waits = fd == streams.stdin and streams.stdin_waits
            if not behind:
                self._loop.watch(fd, READ | WRITE if waits else READ, self._output_ready)
            elif waits:
                self._loop.watch(fd, WRITE, self._output_ready)
            else:
                self._loop.drop(fd)
        if streams.stdin_over:
            self._loop.drop(streams.stdin)
            streams.close_stdin()
        if streams.stdin >= 0 and not streams.terminal:
            # Watching for nothing still tells when the program closes its end.
            self._loop.watch(streams.stdin, WRITE if streams.stdin_waits else 0, self._input_ready)

    def _look_after_clients(self) -> None:
        now = time.monotonic()
        for client in self._clients:
            if client.behind and client.deadline < now:
                client.close()
            if client.had_input and client.input_ended:
                client.had_input = False
                if self._kept.stdin_once:
                    self._streams.end_input()
        self._clients = [client for client in self._clients if not client.gone]

    def _output_ready(self, fd: int, events: int) -> None:
        if events & WRITE:
            self._input_ready(fd, events & ~GONE)
        if events & (READ | GONE):
            self._copy(fd)

    def _input_ready(self, _fd: int, events: int) -> None:
        if events & GONE:
            self._streams.discard_input()
        else:
            self._streams.flush()
        if not self._streams.stdin_waits:
            for client in self._clients:
                client.watch()

    def _copy(self, fd: int) -> bool:
        """One read; False when nothing waits there now."""
        data = self._streams.read(fd)
        if data is None:
            return False
        number = self._streams.outputs[fd]
        if not data:
            self._loop.drop(fd)
            self._streams.close_output(fd)
            if self._log:
                self._log.finish(NAMES[number])
            return False
        if self._log_fd >= 0:
            if self._log is None:
                kept = self._kept.log
                self._log = FORMATS[kept[0]](*kept[1:], self._log_fd)
            self._log.write(NAMES[number], data)
        for client in self._clients:
            client.send(number, data)
        return True

    def _join(self, fd: int, how: Attach) -> None:
        client = Client(fd, how, self._streams, self._loop)
        self._clients.append(client)
        client.watch()

    def _reap_orphans(self) -> None:
        """Reap, from now on, every child but init, whose status is taken in `_exited`."""
        init = self._kept.pid

        def reap(*_: object) -> None:
            with suppress(ChildProcessError):
                while True:
                    # Look first: taking init's status here would lose the exit code.
                    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    if ended is None or ended.si_pid == init:
                        return
                    os.waitpid(ended.si_pid, 0)

        signal.signal(signal.SIGCHLD, reap)
        reap()

    # Controllers

    def _accept(self, listener: int, _events: int) -> None:
        try:
            with socket.socket(fileno=os.dup(listener)) as listening:
                sock, _ = listening.accept()
        except OSError:
            return
        sock.setblocking(False)
        self._controls[sock.fileno()] = sock
        self._loop.watch(sock.fileno(), READ, self._serve)

    def _serve(self, fd: int, _events: int) -> None:
        sock = self._controls[fd]
        try:
            message = wire.hear(sock)
        except BlockingIOError:
            return
        if message is None:
            self._loop.drop(fd)
            del self._controls[fd]
            sock.close()
            return
        answer: dict[str, Any] = {"reply": message.head.get("seq", 0)}
        try:
            answer.update(self._answer(message))
        except (SkerryError, ValueError, TypeError, KeyError) as error:
            answer["error"] = wire.error_to_wire(error)
        finally:
            for extra in message.fds:
                os.close(extra)
        _say([sock], answer)

    def _answer(self, message: wire.Message) -> dict[str, Any]:
        head = message.head
        match head.get("op"):
            case "status":
                kept = self._kept
                return {"pid": kept.pid, "start_time": kept.start_time, "facts": kept.facts}
            case "attach":
                if not message.fds:
                    raise InvalidInput("attach needs a socket")
                self._join(message.fds.pop(), Attach(*head["how"]))
                return {}
            case "resize":
                self._streams.resize(int(head["rows"]), int(head["columns"]))
                return {}
        raise InvalidInput(f"a keeper cannot {head.get('op')!r}")

    def _tell(self, head: dict[str, Any]) -> None:
        _say(self._controls.values(), head)

    # End

    def _exited(self, pidfd: int, _events: int) -> None:
        _, status = os.waitpid(self._kept.pid, 0)
        finished_at = time.time()
        self._loop.drop(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(status)
        oom_killed = self._programs.kill_rest(self._kept.cgroup)
        for fd in list(self._streams.outputs):
            for _ in range(_DRAIN_READS):
                if not self._copy(fd):
                    break
        if self._log:
            self._log.close()
            self._log = None
        self._log_fd = -1
        self._programs.clean_up(self._kept.cgroup, self._kept.poststop)
        oom_behind, error = self._programs.last_words(self._kept.run_dir)
        end = Exit(code if code >= 0 else 128 - code, oom_killed or oom_behind, finished_at, error)
        self._record(end, max(0, -code))

    def _record(self, end: Exit, killed_by: int = 0) -> None:
        """Write down the end, let go of the run directory, tell every controller."""
        run_dir = self._kept.run_dir
        try:
            rundir.write_exit(run_dir, end, killed_by)
            rundir.remove(run_dir, rundir.SOCKET, rundir.TASK)
        except SkerryError as error:
            end = end._replace(error=error.message)
        self._loop.drop(self._listener)
        os.close(self._listener)
        os.close(self._lock)
        self._tell({"event": "exit", **end._asdict()})
        self._ended = True

    def abandon(self, reason: str) -> None:
        """End the program because it cannot be kept, and write down why."""
        with suppress(OSError):
            os.kill(self._kept.pid, _SIGKILL)
            os.waitpid(self._kept.pid, 0)
        self._programs.kill_rest(self._kept.cgroup)
        self._programs.clean_up(self._kept.cgroup, self._kept.poststop)
        self._record(Exit(128 + _SIGKILL, False, time.time(), reason), _SIGKILL)

    def _leave(self) -> None:
        """Give the clients what they have not taken yet, and what descendants still write."""
        deadline = time.monotonic() + LINGER
        while self._clients and self._streams.outputs and time.monotonic() < deadline:
            self._loop.turn(deadline)
            self._arrange()
        for client in self._clients:
            client.finish()
        while waiting := [client for client in self._clients if not client.gone]:
            deadline = min(client.deadline for client in waiting)
            if deadline < time.monotonic():
                return
            self._loop.turn(deadline)
            for client in waiting:
                client.finish()


def keep(datagram: bytes, fds: tuple[int, ...], programs: Programs, *, done: int = -1) -> None:
    """The life of a keeper, in its own process; returns when it is over.

    An exec closes `done` when it is over or has run for a moment.

    The descriptors of the request: the control socket of the engine that asked, then perhaps the
    stream socket of a client that joins from the start, then perhaps a memfd with the body.
    """
    _begin(_NAME)
    if datagram.startswith(SPARE, wire.HEADER):
        given = programs.stand_by(datagram, fds)
        if given is None:
            return
        datagram, fds = given
        _prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
    if datagram.startswith(EXEC, wire.HEADER):
        ready: list[tuple[Keeper, set[int]]] = []

        def take(kept: Kept, named: dict[str, int]) -> None:
            used = fds[: 2 if kept.attach else 1]
            keeper = Keeper(kept, named, used, programs)
            keeper.prepare()
            ready.append((keeper, {*used, *named.values(), keeper.fileno()}))

        if starter.start_here(datagram, fds, programs, take):
            ((keeper, wanted),) = ready
            _close_all_but(wanted | ({done} if done >= 0 else set()))
            os.dup2(0, 2)
            _run(keeper, done)
        return
    mine, pid = _fork_starter(lambda parent: starter.start(datagram, fds, parent, programs))
    for fd in fds:
        os.close(fd)  # What is to be kept comes back; the plan would stay in memory.
    _take_over(mine, pid, programs)


def keep_ahead(sock: _socket.socket, receive: "Receive", programs: Programs) -> None:
    """As `keep`, of a process that was forked before there was a request.

    Its starter waits for one at `sock`, by `receive`, and has the memory of a whole life already;
    the keeper stays small. An exec's keeper is the starter, and the keeper goes. `sock` is closed
    when the program of a start runs, or as `done` of `keep`.
    """
    _begin(b"skerry-standby")

    def begin(parent: starter.Parent) -> None:
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        datagram, fds = receive(sock)
        if datagram.startswith(EXEC, wire.HEADER):
            _prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
            parent.sock.close()
            keep(datagram, fds, programs, done=sock.detach())
        elif datagram:
            starter.start(datagram, fds, parent, programs)

    mine, pid = _fork_starter(begin)
    sock.close()
    _take_over(mine, pid, programs)


def _fork_starter(begin: "Callable[[starter.Parent], None]") -> tuple[_socket.socket, int]:
    """Where the keeper hears of its starter, and the starter's pid; it begins, and ends there."""
    mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    own = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            mine.close()
            begin(starter.Parent(own, theirs))
        finally:
            os._exit(0)
    theirs.close()
    return mine, pid


def _begin(name: bytes) -> None:
    os.setsid()
    _c_signal(_SIGCHLD, None)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _prctl(_PR_SET_NAME, name, 0, 0, 0)


def _take_over(mine: _socket.socket, pid: int, programs: Programs) -> None:
    """Wait for what the starter `pid` hands over, and keep it."""
    os.dup2(0, 2)  # The engine's standard error, whose reader may wait for its end.
    data, ancillary, _, _ = mine.recvmsg(
        _HANDOVER, _socket.CMSG_SPACE(4 * _MAX_FDS), _socket.MSG_CMSG_CLOEXEC
    )
    mine.close()
    if data:
        os.waitpid(pid, 0)
    programs.started()
    if not data:
        background.step_back()
        return  # It has told the engine why, or keeps an exec itself.
    _prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
    received = memoryview(ancillary[0][2]).cast("i")
    asked, named = received[: data[1]], received[data[1] :]
    if data[2]:
        _sleep(named[data[0] :], asked)
    kept = Kept(*marshal.loads(data[3:]))
    _run(Keeper(kept, dict(zip(kept.fds, named, strict=True)), asked, programs))


def _close_all_but(wanted: set[int]) -> None:
    """The plan, the program's ends of its streams, whatever else the start has opened."""
    above = 3
    for fd in sorted(wanted):
        os.closerange(above, fd)
        above = fd + 1
    os.closerange(above, _MAX_FD)


def _run(keeper: Keeper, done: int = -1) -> None:
    try:
        keeper.run(done)
        # Whoever was told goes first: giving the memory back takes a millisecond.
        background.step_back()
    except Exception as error:
        # Nobody would read the program's output any more; say why instead of leaving a riddle.
        keeper.abandon(f"the keeper failed: {type(error).__name__}: {error}")


def _sleep(*groups: "Iterable[int]") -> None:
    """Wait for the first event of any kind."""
    poll = select.poll()
    for fds in groups:
        for fd in fds:
            poll.register(fd, select.POLLIN)
    poll.poll()


def _say(socks: "Iterable[_socket.socket]", head: dict[str, Any]) -> None:
    """Tell controllers; one that has gone or does not listen finds the record on disk instead."""
    datagram, _ = wire.pack(head)
    for sock in socks:
        with suppress(OSError):
            sock.send(datagram, _socket.MSG_NOSIGNAL)
