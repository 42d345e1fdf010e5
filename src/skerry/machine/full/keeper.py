"""The keeper of a machine: QEMU's parent, and the one who always reads its serial port.

Theory. The engine starts a keeper for each machine and forgets it. The keeper

1. opens what QEMU shall inherit, at the numbers that the plan says, and starts the helpers
   (virtiofsd, swtpm), each joined by a socket that already exists;
2. forks QEMU (`confine`) and says on standard output that it runs, or why not;
3. copies the serial port into a log that keeps the last one to two MiB, and to whoever is attached;
4. when QEMU has gone: kills what is left in the control group, removes it, writes `exit.json`.

It lives as long as QEMU. If it is killed QEMU runs on, and another keeper *adopts* it: the serial
port is a listening socket, so it can be joined again; only the exit code cannot be learned then.

A client of `console.sock` sends one line, how many bytes of the past it wants, then raw input
(`serial`).

Lean: standard library without asyncio; see docs/architecture.md.
"""

import errno
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress

from skerry.base.errors import SkerryError
from skerry.kernel import processes, taps
from skerry.kernel.cgroups import Cgroup, detect
from skerry.kernel.descriptors import pidfd_open
from skerry.kernel.namespaces import CLONE_NEWPID, clone3
from skerry.machine.full import confine, detours, fence
from skerry.machine.full.detours import Detour
from skerry.machine.full.serial import CHUNK, Console, Log, connect_to, listen_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict
else:
    from typing import TypedDict

TASK, EXIT = "task.json", "exit.json"
QMP = "qmp.sock"
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
    readonly: str
    """A folder that a helper may only read."""
    wall: confine.Confined
    """Around a helper; none for one that brings its own."""


class Plan(TypedDict, total=False):
    """All that a keeper is told. `adopt` is (pid, start time) of a QEMU that runs already."""

    run_dir: str
    console_log: str
    qemu_log: str
    openings: list[Opening]
    confined: confine.Confined
    cgroup: str
    fence: str
    """The nftables tables that keep the guest off the host's services; empty for none."""
    detours: "list[list[Any]]"
    """As `detours.Detour`, for the filter; of an adopted QEMU without the port that it leads to."""
    bridges: list[str]
    """Removed at the end when nothing else is plugged into them."""
    adopt: list[int]


def write_whole(path: str, value: "Any") -> None:
    """A small JSON file, whole or not at all."""
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.rename(part, path)


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
        if opening.get("readonly"):
            wanted["readonly"] = opening["readonly"]
        if "wall" in opening:
            wanted.update(opening["wall"])
            os.makedirs(wanted["root"], 0o700, exist_ok=True)
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
    owned = confine.claimed(wanted)
    read, write = os.pipe2(os.O_CLOEXEC)
    # What sees /proc sees its own processes only.
    pid, pidfd = clone3(CLONE_NEWPID if wanted.get("proc") else 0)
    if pid == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.dup2(stderr, 2)
            confine.execute(wanted, owned)
        except BaseException as error:
            os.write(write, f"{wanted['argv'][0]}: {error}".encode()[:4000])
        os._exit(127)
    for fd in (write, pidfd, *owned.values()):
        os.close(fd)
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
    data = os.read(source, CHUNK)
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
    pid = 0
    try:
        if adopted:
            pid = adopted[0]
        else:
            os.truncate(plan["qemu_log"], 0)
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(run_dir, EXIT))
            if plan["fence"]:
                plugged = [each for each in plan["openings"] if each["kind"] == "tap"]
                taps_ = [(each["path"], each["ours"]) for each in plugged]
                around = [Detour(*each) for each in plan.get("detours", [])]
                fence.build(plan["fence"], plan["confined"]["uid"], taps_, around)
            for opening in plan["openings"]:
                _open(opening, helpers, say)
            keep = [opening["fd"] for opening in plan["openings"]]
            plan["confined"]["keep"] = keep
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
        held = detours.hold(plan.get("detours", []))
    except (OSError, SkerryError) as error:
        if pid and not adopted:
            # Nobody would know of it.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
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
    for each in held:
        each.close()
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
