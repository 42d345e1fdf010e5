"""The keeper of a machine: QEMU's parent, and the one who always reads its serial port.

Theory. The engine starts a keeper for each machine and forgets it. The keeper

1. opens what QEMU shall inherit, at the numbers that the plan says, and starts the helpers
   (virtiofsd, swtpm), each joined by a socket that already exists;
2. forks QEMU (`confine`) and says on standard output that it runs, or why not;
3. copies the serial port into a log that keeps the last one to two MiB, and to whoever is attached;
4. when QEMU has gone: kills what is left in the control group, removes it, writes `exit.json`.

It lives as long as QEMU. If it is killed QEMU runs on, and another keeper *adopts* it: the serial
port is a listening socket, so it can be joined again; only the exit code cannot be learned then.

A client of `console.sock` sends one line, how many bytes of the past it wants, then raw input.
The guest is hostile: what it writes is bytes to copy, at most so many as the log keeps.

Lean: standard library without asyncio; see docs/architecture.md.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

from skerry.base.errors import SkerryError
from skerry.kernel import processes, taps
from skerry.kernel.cgroups import Cgroup, detect
from skerry.kernel.descriptors import pidfd_open
from skerry.machine.full import confine, fence
from skerry.machine.jail import seccomp_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict
else:
    from typing import TypedDict

TASK, EXIT = "task.json", "exit.json"
QMP, SERIAL, CONSOLE = "qmp.sock", "serial.sock", "console.sock"
LOG_BYTES = 1 << 20
"""After so many the log is rotated; one older part is kept."""
_CHUNK = 65536
_CLIENT_BYTES = 1 << 20
"""Output that a client may lag behind before it is dropped."""
_INPUT_BYTES = 65536
_MAX_CLIENTS = 32
_COMPLAINT_BYTES = 256 * 1024
"""Of QEMU's standard error in its log; a guest can make QEMU complain for ever."""


class Opening(TypedDict, total=False):
    """A descriptor that QEMU inherits as number `fd`."""

    fd: int
    kind: str
    """listen (a unix socket), read (a file), helper (a socket joined to a program), tap."""
    path: str
    """Of a tap its name."""
    bridge: str
    """What a tap is plugged into; made when it is missing and `ours`."""
    ours: bool
    argv: list[str]
    """Of a helper; `{fd}` is replaced by its end of the socket, which listens when `listens`."""
    listens: bool


class Plan(TypedDict, total=False):
    """All that a keeper is told. `adopt` is (pid, start time) of a QEMU that runs already."""

    run_dir: str
    console_log: str
    qemu_log: str
    openings: list[Opening]
    confined: confine.Confined
    cgroup: str
    fence: str
    """The nftables table that keeps the guest off the host's services; empty for none."""
    filter: bool
    """Forbid QEMU the system calls of `machine.jail`, but for sockets: NAT and the screen need
    them."""
    bridges: list[str]
    """Removed at the end when nothing else is plugged into them."""
    adopt: list[int]


def listen_at(path: str) -> socket.socket:
    """A listening unix socket, reachable by the same user only; a long path is no hindrance."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        sock.listen(16)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return sock


def connect_to(path: str) -> socket.socket:
    """Connected to a unix socket; OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return sock


def write_whole(path: str, value: "Any") -> None:
    """A small JSON file, whole or not at all."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.rename(part, path)


class Log:
    """The serial port's output: the file and its one older part."""

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append; a full disk loses output, not the machine."""
        with suppress(OSError):
            os.write(self._fd, data)
        self._size += len(data)
        if self._size > LOG_BYTES:
            os.close(self._fd)
            os.rename(self.path, f"{self.path}.1")
            self.__init__(self.path)  # type: ignore[misc]

    def tail(self, count: int) -> bytes:
        """The last `count` bytes."""
        return tail(self.path, count)


def tail(path: str, count: int) -> bytes:
    """The last `count` bytes of a log and its older part."""
    data = b""
    for name in (path, f"{path}.1"):
        if len(data) < count:
            with suppress(FileNotFoundError), open(name, "rb") as file:
                data = file.read(2 * LOG_BYTES) + data
    return data[-count:] if count > 0 else b""


class Client:
    """Somebody at the console. `past` is None until the first line has come."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.out = bytearray()
        self.head = bytearray()
        self.joined = False


class Console:
    """Copies between one serial port and many clients. `turn` waits for something to do."""

    def __init__(self, run_dir: str, log: Log) -> None:
        self._serial = connect_to(os.path.join(run_dir, SERIAL))
        self._serial.setblocking(False)
        self._door = listen_at(os.path.join(run_dir, CONSOLE))
        self._door.setblocking(False)
        self._log = log
        self._input = bytearray()
        self._clients: dict[int, Client] = {}
        self._poll = select.poll()

    def turn(self, others: "tuple[int, ...]") -> set[int]:
        """Serve what is ready; the descriptors among `others` that are."""
        poll = select.poll()
        for fd in others:
            poll.register(fd, select.POLLIN)
        if self._serial.fileno() >= 0:
            wanted = select.POLLOUT if self._input else 0
            poll.register(self._serial, select.POLLIN | wanted)
        poll.register(self._door, select.POLLIN)
        for fd, client in self._clients.items():
            wanted = select.POLLOUT if client.out else 0
            # Input waits with the client while the guest does not take what is here.
            poll.register(fd, wanted | (select.POLLIN if len(self._input) < _INPUT_BYTES else 0))
        ready = set()
        for fd, events in poll.poll():
            if fd in others:
                ready.add(fd)
            elif fd == self._door.fileno():
                self._accept()
            elif fd == self._serial.fileno():
                self._serve_serial(events)
            elif fd in self._clients:
                self._serve(self._clients[fd], events)
        return ready

    def _accept(self) -> None:
        with suppress(OSError):
            sock, _ = self._door.accept()
            if len(self._clients) >= _MAX_CLIENTS:
                sock.close()
                return
            self._clients[sock.fileno()] = Client(sock)

    def _serve_serial(self, events: int) -> None:
        if events & select.POLLOUT and self._input:
            self._send_input()
        if events & ~select.POLLOUT:
            self.read_serial()

    def _send_input(self) -> None:
        with suppress(OSError):
            del self._input[: self._serial.send(self._input)]

    def read_serial(self) -> bool:
        """One piece of the guest's output; whether there was any."""
        try:
            data = self._serial.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._serial.close()
            return False
        self._log.write(data)
        for client in list(self._clients.values()):
            if client.joined:
                self._give(client, data)
        return True

    def _give(self, client: Client, data: bytes) -> None:
        client.out += data
        try:
            del client.out[: client.sock.send(client.out)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if len(client.out) > _CLIENT_BYTES + 2 * LOG_BYTES:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        client.sock.close()

    def _serve(self, client: Client, events: int) -> None:
        if events & select.POLLOUT and client.out:
            self._give(client, b"")
        if not events & ~select.POLLOUT or client.sock.fileno() < 0:
            return
        try:
            data = client.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        if not client.joined:
            data = self._join(client, data)
        self._input += data
        self._send_input()

    def _join(self, client: Client, data: bytes) -> bytes:
        client.head += data
        line, end, rest = bytes(client.head).partition(b"\n")
        if not end or not line.isdigit() or len(line) > 9:
            if end or len(client.head) > 16:
                self._drop(client)
            return b""
        client.joined = True
        self._give(client, self._log.tail(int(line)))
        return rest

    def close(self) -> None:
        """The rest of the output, then everybody is let go."""
        if self._serial.fileno() >= 0:
            while self.read_serial():
                pass
        for client in list(self._clients.values()):
            with suppress(OSError):
                client.sock.setblocking(True)
                client.sock.settimeout(1.0)
                client.sock.sendall(client.out)
            self._drop(client)
        self._door.close()


class Helpers:
    """What QEMU needs beside itself; ended with it."""

    def __init__(self, cgroup: str) -> None:
        self._cgroup = cgroup
        self._pids: list[int] = []

    def start(self, opening: Opening, qemu_log: int) -> socket.socket:
        """QEMU's end of the socket that joins it to the helper."""
        if opening.get("listens"):
            path = opening["path"]
            theirs = listen_at(path)
            ours = connect_to(path)
            os.unlink(path)
        else:
            ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        argv = [word.replace("{fd}", str(fd)) for word in opening["argv"]]
        wanted: confine.Confined = {"argv": argv, "cgroup": self._cgroup, "keep": [fd]}
        self._pids.append(_fork(wanted, qemu_log))
        theirs.close()
        return ours

    def end(self) -> None:
        """Kill what still runs, and reap."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _fork(wanted: "confine.Confined", stderr: int) -> int:
    """Start a program behind its wall; SkerryError when it could not be started."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.dup2(stderr, 2)
            confine.execute(wanted)
        except BaseException as error:
            os.write(write, f"{wanted['argv'][0]}: {error}".encode()[:4000])
        os._exit(127)
    os.close(write)
    try:
        said = b""
        while part := os.read(read, 4096):
            said += part
    finally:
        os.close(read)
    if said:
        os.waitpid(pid, 0)
        raise SkerryError(said.decode("utf-8", "replace"))
    return pid


def _open(opening: Opening, helpers: Helpers, qemu_log: int) -> None:
    """Make the descriptor and move it to its number."""
    kind = opening["kind"]
    if kind == "listen":
        fd = listen_at(opening["path"]).detach()
    elif kind == "read":
        fd = os.open(opening["path"], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(fd, True)
    elif kind == "tap":
        if opening["ours"]:
            taps.add_bridge(opening["bridge"])
        fd = taps.open_tap(opening["path"])
        try:
            taps.join(opening["bridge"], opening["path"])
        except BaseException:
            os.close(fd)
            raise
    else:
        fd = helpers.start(opening, qemu_log).detach()
    os.dup2(fd, opening["fd"], inheritable=False)
    os.close(fd)


def _complain(source: int, log: int, written: int) -> int:
    """Copy QEMU's complaints, as far as there is room; bytes so far, -1 at their end."""
    data = os.read(source, _CHUNK)
    if not data:
        return -1
    with suppress(OSError):
        os.write(log, data[: max(0, _COMPLAINT_BYTES - written)])
    return written + len(data)


def run(plan: Plan) -> None:
    """The keeper's whole life; what it says on standard output is for the engine."""
    run_dir, cgroup = plan["run_dir"], plan.get("cgroup", "")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    qemu_log = os.open(plan["qemu_log"], flags, 0o600)
    said, say = os.pipe2(os.O_CLOEXEC)
    helpers = Helpers(cgroup)
    adopted = plan.get("adopt")
    try:
        if adopted:
            pid = adopted[0]
        else:
            os.truncate(plan["qemu_log"], 0)
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(run_dir, EXIT))
            if plan["fence"]:
                fence.build(plan["fence"], plan["confined"]["uid"])
            for opening in plan["openings"]:
                _open(opening, helpers, say)
            keep = [opening["fd"] for opening in plan["openings"]]
            plan["confined"]["keep"] = keep
            if plan["filter"]:
                plan["confined"]["seccomp"] = seccomp_program(sockets=True)
            pid = _fork(plan["confined"], say)
            for fd in keep:
                os.close(fd)
        pidfd = pidfd_open(pid)
        found = processes.facts(pid)
        start = found[1] if found else 0
        if adopted and start != adopted[1]:
            raise SkerryError("the process has gone")
        me = os.getpid()
        mine = processes.facts(me)
        write_whole(
            os.path.join(run_dir, TASK),
            {"version": 1, "qemu": [pid, start], "keeper": [me, mine[1] if mine else 0]},
        )
        console = Console(run_dir, Log(plan["console_log"]))
    except (OSError, SkerryError) as error:
        helpers.end()
        _answer({"error": str(error)})
        raise SystemExit(1) from None
    os.close(say)
    _answer({"pid": pid, "start": start})
    written = 0
    others: tuple[int, ...] = (pidfd, said)
    while True:
        ready = console.turn(others)
        if said in ready:
            written = _complain(said, qemu_log, written)
            if written < 0:
                others = (pidfd,)
        if pidfd in ready:
            break
    _end(plan, pid, bool(adopted), helpers)
    console.close()


def _end(plan: Plan, pid: int, adopted: bool, helpers: Helpers) -> None:
    status = None
    if not adopted:
        _, status = os.waitpid(pid, 0)
    helpers.end()
    starved = 0
    if plan.get("cgroup"):
        group = Cgroup(plan["cgroup"], detect())
        with suppress(SkerryError):
            starved = group.oom_kills()
            group.kill_all()
            group.remove()
    if plan["fence"]:
        with suppress(SkerryError, OSError):
            fence.remove(plan["fence"])
    for bridge in plan.get("bridges", []):
        with suppress(SkerryError, OSError):
            taps.remove_empty_bridge(bridge)
    value = {"version": 1, "time": time.time(), "code": None, "signal": 0, "oom_kills": starved}
    if status is not None:
        value["code"] = os.waitstatus_to_exitcode(status)
        value["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    write_whole(os.path.join(plan["run_dir"], EXIT), value)


def _answer(value: "dict[str, Any]") -> None:
    """One line to the engine, which may have died meanwhile."""
    try:
        os.write(1, json.dumps(value).encode() + b"\n")
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def main() -> None:
    """Read the plan from standard input, then keep."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    plan: Plan = json.load(sys.stdin)
    os.chdir("/")
    run(plan)
