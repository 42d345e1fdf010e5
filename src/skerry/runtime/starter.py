"""The starter: a short-lived process that does for a keeper all that is needed once.

Reading the request, locking the run directory, opening the log, making streams, launching: all this
touches some 2 MB of the interpreter's pages, which a forked process then has for itself. The keeper
lives as long as the program, so it lets a child do the work and gets the descriptors that are to be
kept; the child's pages go with the child. The program's init becomes the keeper's own child,
because the keeper is a child subreaper (prctl(2)). The starter dies with the keeper, and a
half-made container with the starter.

The keeper of an exec is its own starter: most execs are over in milliseconds, of which the second
fork, its page faults and its end took three.

Order, and what breaks when it is changed:

1. say `taken`: from here on the request must not be repeated elsewhere (an exec has a folder of its
   own, where the file of the lock says the same and takes the engine no time);
2. lock the run directory and listen there, *then* look whether the engine that asked still lives.
   The other way round an engine could die after the look, and its successor search the directory
   before there is anything to find;
3. only then forget the last run's record, open the log, make streams, launch;
4. write `task.json`, hand over to the keeper (of an exec both while the process is on its way: the
   keeper would only wait), and only then say `started`: what an engine sends next waits in the
   keeper's sockets. A failure is told from here too, and leaves nothing.
"""

import _socket
import json
import marshal
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from skerry.base.errors import KernelFault, SystemFault, Unavailable
from skerry.base.isolation import Started
from skerry.base.light import Any, NamedTuple
from skerry.kernel.descriptors import send_fds
from skerry.kernel.syscalls import libc
from skerry.runtime import rundir, wire
from skerry.runtime.log import open_log

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_CONSOLE_SECONDS = 10.0


class Ends(NamedTuple):
    """The program's standard streams. `console` is a socket for the terminal's master, else -1."""

    stdin: int
    stdout: int
    stderr: int
    console: int


class Launched(NamedTuple):
    """A running program, and what the keeper must know to tidy up behind it."""

    pid: int
    pidfd: int
    cgroup: str = ""
    """To be emptied and removed after the end; empty when there is none of its own."""
    reap: bool = False
    """Orphans of the program become the keeper's children."""
    poststop: bytes = b""
    """What `Programs.clean_up` needs to run hooks after the end."""


OnCloned = Callable[[Launched], None]


class Programs:
    """What keepers keep: how to launch a program and how to tidy up behind it.

    `skerry.runtime.containers` does this with containers.
    """

    def launch(
        self, head: dict[str, Any], body: bytes, ends: Ends, on_cloned: OnCloned
    ) -> Launched:
        """Run it; raises GuestFault or SkerryError, and then nothing is left.

        `on_cloned` may be told of it while the program is still on its way.
        """
        raise NotImplementedError

    def stand_by(
        self, datagram: bytes, fds: tuple[int, ...]
    ) -> tuple[bytes, tuple[int, ...]] | None:
        """Get ready what a request that is still to come will want, and return that one; None when
        there is nothing to be kept. Takes over `fds`."""
        raise NotImplementedError

    def started(self) -> None:
        """The request was carried out, or failed: what `stand_by` has left can go."""

    def kill_rest(self, cgroup: str) -> bool:
        """Init has gone: end what it left behind. Whether the kernel killed for memory."""
        raise NotImplementedError

    def last_words(self, run_dir: str) -> tuple[bool, str]:
        """What the program's wall has left to say of its end: whether a kernel behind it killed
        for memory, and why it ended if not by the program's own doing."""
        return False, ""

    def clean_up(self, cgroup: str, poststop: bytes) -> None:
        """Remove what the launch made."""
        raise NotImplementedError


class Kept(NamedTuple):
    """What the starter hands to the keeper."""

    pid: int
    start_time: int
    run_dir: str
    facts: str
    """JSON."""
    stdin_once: bool
    attach: tuple[bool, bool, bool] | None
    log: tuple[str, str, int, int, bool]
    """Driver, path, max_size, max_file, whether to compress."""
    cgroup: str
    reap: bool
    poststop: bytes
    fds: tuple[str, ...]
    """Names of the descriptors that come along: `lock`, perhaps `log`, `listener`, `pidfd`, and
    the program's `terminal`, or `stdout`, `stderr` and perhaps `stdin`."""


class Parent(NamedTuple):
    """The keeper that the starter works for."""

    pid: int
    sock: _socket.socket
    """Takes what is handed over."""


HandOver = Callable[[Kept, dict[str, int]], None]
"""Takes what is kept, and the descriptors by their names, of a program that runs. In the keeper's
own process it may be on its way still, and fail."""


def start(datagram: bytes, fds: tuple[int, ...], keeper: Parent, programs: Programs) -> None:
    """In the starter's process: carry out a request and hand over to the keeper."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper.pid:
        return  # It was killed before the line above.

    def hand_over(kept: Kept, kept_fds: dict[str, int]) -> None:
        asked = fds[: 2 if kept.attach else 1]
        send_fds(keeper.sock, _packed(kept, asked), (*asked, *kept_fds.values()))

    _take(datagram, fds, keeper, programs, hand_over)


def start_here(
    datagram: bytes, fds: tuple[int, ...], programs: Programs, hand_over: HandOver
) -> bool:
    """In the keeper's own process; False when it failed, which the engine has been told.

    Descriptors that only the start needed are left open.
    """
    return _take(datagram, fds, None, programs, hand_over)


def _take(
    datagram: bytes,
    fds: tuple[int, ...],
    keeper: Parent | None,
    programs: Programs,
    hand_over: HandOver,
) -> bool:
    control = socket.socket(fileno=os.dup(fds[0]))
    if keeper is not None:
        _say(control, {"event": "taken"})
    try:
        message = wire.unpack(datagram, list(fds))
        _start(message, control, keeper, programs, hand_over)
    except Exception as error:
        _say(control, {"event": "failed", "error": wire.error_to_wire(error)})
        return False
    return True


def _start(
    message: wire.Message,
    control: socket.socket,
    keeper: Parent | None,
    programs: Programs,
    hand_over: HandOver,
) -> None:
    head = message.head
    if head.get("version") != wire.VERSION:
        raise Unavailable(
            f"the spawner speaks version {wire.VERSION}, the engine {head.get('version')}",
            hint="skerry was replaced while the engine ran: restart the engine",
        )
    run_dir = str(head["run_dir"])
    lock = rundir.take_lock(run_dir, keeper.pid if keeper else os.getpid())
    launched = None
    try:
        listening = rundir.listen(run_dir)
        if not _alive(control):
            raise Unavailable("the engine that asked for this program has gone")
        rundir.remove(run_dir, rundir.EXIT, rundir.TASK)
        kept_fds = {"lock": lock}
        driver, path, max_size, max_file, compress = head["log"]
        if driver != "none" and path:
            kept_fds["log"] = open_log(path)
        kept_fds["listener"] = listening.detach()
        ends, console = _streams(head, kept_fds)
        handed: list[Started] = []

        def keep(launched: Launched) -> None:
            started = Started(launched.pid, rundir.start_time(launched.pid))
            rundir.write_task(run_dir, started, head["facts"])
            kept_fds["pidfd"] = launched.pidfd
            kept = Kept(
                *started,
                run_dir,
                json.dumps(head["facts"]),
                bool(head["stdin_once"]),
                head["attach"] and tuple(head["attach"]),
                (driver, path, max_size, max_file, compress),
                launched.cgroup,
                launched.reap,
                launched.poststop,
                tuple(kept_fds),
            )
            hand_over(kept, kept_fds)
            handed.append(started)

        def on_cloned(launched: Launched) -> None:
            if keeper is None and console is None:
                keep(launched)

        launched = programs.launch(head, message.body, ends, on_cloned)
        if console is not None:
            kept_fds["terminal"] = _receive_terminal(console)
        if not handed:
            keep(launched)
        (started,) = handed
    except BaseException:
        if launched is not None:
            _undo(launched, programs)
        rundir.remove(run_dir, rundir.SOCKET, rundir.TASK, rundir.PID)
        raise
    _say(control, {"event": "started", **started._asdict()})


def _packed(kept: Kept, asked: tuple[int, ...]) -> bytes:
    """Three bytes for the keeper to act on before it unpacks the rest: how many of the new
    descriptors come first that cannot be polled, how many of the request's come before them, and
    whether it may sleep."""
    files = sum(name in ("lock", "log") for name in kept.fds)
    first = bytes([files, len(asked), not kept.reap])
    return first + marshal.dumps(tuple(kept))


def _streams(head: dict[str, Any], kept_fds: dict[str, int]) -> tuple[Ends, socket.socket | None]:
    """The program's ends; the keeper's go into `kept_fds`, or come later on the socket."""
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if head["terminal"]:
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            return Ends(null, null, null, theirs.detach()), mine
        stdin = null
        if head["open_stdin"]:
            stdin, kept_fds["stdin"] = os.pipe2(os.O_CLOEXEC)
        kept_fds["stdout"], stdout = os.pipe2(os.O_CLOEXEC)
        kept_fds["stderr"], stderr = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise KernelFault("making the program's streams", error.errno or 0) from None
    for name in ("stdin", "stdout", "stderr"):
        if name in kept_fds:
            os.set_blocking(kept_fds[name], False)
    return Ends(stdin, stdout, stderr, -1), None


def _receive_terminal(console: socket.socket) -> int:
    """The master side of the terminal, from the container's init."""
    console.settimeout(_CONSOLE_SECONDS)
    try:
        _, fds, _, _ = socket.recv_fds(console, 4096, 1)
    except OSError as error:
        raise KernelFault("receiving the terminal", error.errno or 0) from None
    if not fds:
        raise SystemFault("receiving the terminal: the container's init sent none")
    os.set_blocking(fds[0], False)
    return fds[0]


def _undo(launched: Launched, programs: Programs) -> None:
    """End a program that nobody will keep."""
    with suppress(OSError):
        os.kill(launched.pid, signal.SIGKILL)
        os.waitpid(launched.pid, 0)
    programs.kill_rest(launched.cgroup)
    programs.clean_up(launched.cgroup, launched.poststop)


def _say(control: socket.socket, head: dict[str, Any]) -> None:
    with suppress(OSError):
        wire.send(control, head)


def _alive(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
