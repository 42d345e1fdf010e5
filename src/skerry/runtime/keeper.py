"""The keeper: one small process that owns a running program's streams, log and exit record.

Theory. The spawner forks a keeper for each start or exec and forgets it; it lives as long as its
program, whatever becomes of the engine. In this order:

1. say `taken`: from here on the request must not be repeated elsewhere;
2. lock the run directory and listen there, *then* look whether the engine that asked still lives.
   The other way round an engine could die after the look, and its successor search the directory
   before there is anything to find;
3. make streams, join the first client, launch. A program's first byte finds its reader attached;
4. record `task.json`, say `started` (or `failed` and leave nothing);
5. copy: output to the log and to the clients, input to the program;
6. when init has gone: kill what is left in the cgroup, drain the pipes into the log, remove the
   cgroup, write `exit.json`, stop listening, unlock, and only then say `exit`. Whoever hears it
   finds the log complete and may start the task again at once.

Controllers (engines) speak messages of `wire` over the socket that came with the request or over
`keeper.sock`; each gets the `exit` message. Requests carry `seq`, answers `reply` with the same
number and perhaps `error`.

A keeper runs as root outside the container, is not dumpable, and treats everything that comes from
the program as bytes to copy.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from skerry.base.errors import InvalidInput, SkerryError, Unavailable
from skerry.base.isolation import Attach, Exit, Started
from skerry.runtime import rundir, wire
from skerry.runtime.attached import Client
from skerry.runtime.log import JsonFileLog
from skerry.runtime.loop import GONE, READ, WRITE, Loop
from skerry.runtime.streams import NAMES, Streams

LINGER = 2.0
"""Seconds to wait for the end of output that a descendant of an ended exec still holds open."""
_DRAIN_READS = 64
"""Reads that surely empty a pipe (at most 1 MB, 64 KB a read) or a terminal that nobody fills."""


class Launched(NamedTuple):
    """A running program: its pid, a pidfd of it and its start time."""

    pid: int
    pidfd: int
    start_time: int


class Program:
    """What a keeper keeps: how to launch it, and what to do once its init has gone.

    `skerry.runtime.programs` has the two kinds, container and exec.
    """

    def launch(self, streams: Streams) -> Launched:
        """Run it; raises GuestFault or SkerryError, and then nothing is left."""
        raise NotImplementedError

    def kill_rest(self) -> bool:
        """Init has gone: end what it left behind. Whether the kernel killed for memory."""
        return False

    def clean_up(self) -> None:
        """Remove what the launch made."""


MakeProgram = Callable[[dict[str, Any], bytes], Program]


class Keeper:
    """State of one keeper; `keep` runs it."""

    def __init__(self, head: dict[str, Any], program: Program, control: socket.socket) -> None:
        self.run_dir = str(head["run_dir"])
        self._head = head
        self._program = program
        self._loop = Loop()
        control.setblocking(False)
        self._controls = {control.fileno(): control}
        self._clients: list[Client] = []
        self._log: JsonFileLog | None = None
        self._listener: socket.socket | None = None
        self._launched = Launched(0, -1, 0)
        self._lock = rundir.take_lock(self.run_dir)
        self._streams: Streams
        self._ended = False

    # Start

    def start(self, client: int) -> None:
        """Steps 2 to 4; raises what prevented it and leaves nothing."""
        try:
            self._listener = rundir.listen(self.run_dir)
            if not any(_alive(sock) for sock in self._controls.values()):
                raise Unavailable("the engine that asked for this program has gone")
            rundir.remove(self.run_dir, rundir.EXIT, rundir.TASK)
            self._open_log()
            self._streams = Streams(
                terminal=bool(self._head["terminal"]), open_stdin=bool(self._head["open_stdin"])
            )
            if client >= 0:
                self._join(client, Attach(*self._head["attach"]))
            self._launched = self._program.launch(self._streams)
            self._streams.launched()
            rundir.write_task(self.run_dir, self._started, self._head["facts"])
        except BaseException:
            self.abandon()
            rundir.remove(self.run_dir, rundir.SOCKET, rundir.TASK, rundir.PID)
            raise
        self._tell({"event": "started", **self._started._asdict()})

    @property
    def _started(self) -> Started:
        return Started(self._launched.pid, self._launched.start_time)

    def _open_log(self) -> None:
        driver, path, max_size, max_file = self._head["log"]
        if driver == "json-file" and path:
            self._log = JsonFileLog(path, max_size, max_file)

    def abandon(self) -> None:
        """End the program, if it runs, because it cannot be kept."""
        if self._launched.pid:
            with suppress(OSError):
                os.kill(self._launched.pid, signal.SIGKILL)
                os.waitpid(self._launched.pid, 0)
            self._program.kill_rest()
            self._program.clean_up()

    # Copy

    def run(self) -> None:
        """Steps 5 and 6; returns when nothing is left to do."""
        self._loop.watch(self._launched.pidfd, READ, self._exited)
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), READ, self._accept)
        for fd in self._controls:
            self._loop.watch(fd, READ, self._serve)
        self._arrange()
        while not self._ended:
            self._loop.turn(min((c.deadline for c in self._clients if c.behind), default=None))
            self._arrange()
        self._leave()

    def _arrange(self) -> None:
        """Read output only while every client keeps up; offer input while some waits."""
        self._look_after_clients()
        streams = self._streams
        behind = any(client.behind for client in self._clients)
        for fd in streams.outputs:
            waits = fd == streams.stdin and streams.stdin_waits
            if not behind:
                self._loop.watch(fd, READ | WRITE if waits else READ, self._output_ready)
            elif waits:
                self._loop.watch(fd, WRITE, self._output_ready)
            else:
                self._loop.drop(fd)
        if streams.stdin >= 0 and streams.stdin not in streams.outputs:
            # Watching for nothing still tells when the program closes its end.
            self._loop.watch(streams.stdin, WRITE if streams.stdin_waits else 0, self._input_ready)

    def _look_after_clients(self) -> None:
        if not self._clients:
            return
        now = time.monotonic()
        for client in self._clients:
            if client.behind and client.deadline < now:
                client.close()
            if client.had_input and client.input_ended:
                client.had_input = False
                if self._head["stdin_once"]:
                    self._end_input()
        self._clients = [client for client in self._clients if not client.gone]

    def _end_input(self) -> None:
        stdin = self._streams.stdin
        if not self._streams.terminal and not self._streams.stdin_waits:
            self._loop.drop(stdin)
        self._streams.end_input()

    def _output_ready(self, fd: int, events: int) -> None:
        if events & WRITE:
            self._input_ready(fd, events & ~GONE)
        if events & (READ | GONE):
            self._copy(fd)

    def _input_ready(self, fd: int, events: int) -> None:
        if events & GONE:
            self._loop.drop(fd)
            self._streams.discard_input()
        else:
            self._streams.flush()
            if self._streams.stdin < 0:
                self._loop.drop(fd)
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
        if self._log:
            self._log.write(NAMES[number], data)
        for client in self._clients:
            client.send(number, data)
        return True

    def _join(self, fd: int, how: Attach) -> None:
        client = Client(fd, how, self._streams, self._loop)
        self._clients.append(client)
        client.watch()

    # Controllers

    def _accept(self, _fd: int, _events: int) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        self._controls[sock.fileno()] = sock
        self._loop.watch(sock.fileno(), READ, self._serve)

    def _serve(self, fd: int, _events: int) -> None:
        sock = self._controls[fd]
        try:
            message = wire.receive(sock)
        except BlockingIOError:
            return
        except (OSError, SkerryError):
            message = None
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
        _say(sock, answer)

    def _answer(self, message: wire.Message) -> dict[str, Any]:
        head = message.head
        match head.get("op"):
            case "status":
                return {**self._started._asdict(), "facts": self._head["facts"]}
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
        for sock in self._controls.values():
            _say(sock, head)

    # End

    def _exited(self, pidfd: int, _events: int) -> None:
        _, status = os.waitpid(self._launched.pid, 0)
        finished_at = time.time()
        self._loop.drop(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(status)
        oom_killed = self._program.kill_rest()
        for fd in list(self._streams.outputs):
            for _ in range(_DRAIN_READS):
                if not self._copy(fd):
                    break
        if self._log:
            self._log.close()
            self._log = None
        self._program.clean_up()
        self.record(Exit(code if code >= 0 else 128 - code, oom_killed, finished_at), max(0, -code))

    def record(self, end: Exit, killed_by: int = 0) -> None:
        """Write down the end, let go of the run directory, tell every controller."""
        try:
            rundir.write_exit(self.run_dir, end, killed_by)
            rundir.remove(self.run_dir, rundir.SOCKET, rundir.TASK)
        except SkerryError as error:
            end = end._replace(error=error.message)
        if self._listener is not None:
            self._loop.drop(self._listener.fileno())
            self._listener.close()
            self._listener = None
        os.close(self._lock)
        self._tell({"event": "exit", **end._asdict()})
        self._ended = True

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


def keep(message: wire.Message, make_program: MakeProgram) -> None:
    """The life of a keeper, in its own process; returns when it is over.

    The message's descriptors: the control socket of the engine that asked, then perhaps the stream
    socket of a client that joins from the start.
    """
    control = socket.socket(fileno=message.fds[0])
    _say(control, {"event": "taken"})
    try:
        program = make_program(message.head, message.body)
        keeper = Keeper(message.head, program, control)
        keeper.start(message.fds[1] if len(message.fds) > 1 else -1)
    except Exception as error:
        _say(control, {"event": "failed", "error": wire.error_to_wire(error)})
        return
    try:
        keeper.run()
    except Exception as error:
        # Nobody would read the program's output any more; say why instead of leaving a riddle.
        keeper.abandon()
        reason = f"the keeper failed: {type(error).__name__}: {error}"
        keeper.record(Exit(137, False, time.time(), reason), signal.SIGKILL)


def _say(sock: socket.socket, head: dict[str, Any]) -> None:
    """Tell a controller; one that has gone or does not listen finds the record on disk instead."""
    with suppress(OSError):
        wire.send(sock, head)


def _alive(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
