"""The files by which a keeper can be found again: the task's run directory.

    keeper.pid   the keeper's pid and start time; locked (fcntl) for as long as the keeper lives
    keeper.sock  where the keeper listens while the program runs
    task.json    what runs: init's pid and start time, cgroup, bundle; written once it runs
    exit.json    how it ended; written before anybody is told

The lock is what tells a living keeper from a dead one: the kernel drops it with the process, so a
pid that was left behind and used again cannot mislead. All files are replaced
atomically; sockets are reached through the directory's descriptor, because a socket's path may not
exceed 107 bytes.
"""

import fcntl
import json
import os
import socket
import struct

from skerry.base.errors import Conflict, KernelFault, SystemFault
from skerry.base.isolation import Exit, Started
from skerry.base.light import Any
from skerry.kernel import processes

PID = "keeper.pid"
SOCKET = "keeper.sock"
TASK = "task.json"
EXIT = "exit.json"
VERSION = 1
_LIMIT = 256 * 1024
# struct flock on 64-bit Linux (fcntl.h): type, whence, start, len, pid.
_FLOCK = struct.Struct("hhqqi4x")
_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def take_lock(run_dir: str, keeper: int) -> int:
    """Lock `run_dir` for the process `keeper`: the pid file's descriptor, to be held by it.

    The lock belongs to the open file (F_OFD_SETLK), so it can be taken by one process and held by
    another; it ends with the last descriptor. Conflict when another keeper lives.
    """
    path = os.path.join(run_dir, PID)
    try:
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
            except BlockingIOError:
                os.close(fd)
                raise Conflict(f"{run_dir} already has a keeper that lives") from None
            if os.fstat(fd).st_nlink:
                break
            os.close(fd)  # Removed by a `delete` between open and lock.
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d %d\n" % (keeper, start_time(keeper)), 0)
    except OSError as error:
        raise KernelFault(f"locking {path}", error.errno or 0) from None
    return fd


def keeper_of(run_dir: str) -> Started | None:
    """The keeper that holds the lock, None when none lives.

    Its pid is 0 for the moment between locking and writing. While a keeper that was killed leaves a
    half-made container behind, the lock is held until that has died too.
    """
    try:
        fd = os.open(os.path.join(run_dir, PID), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        kind = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE))[0]
        if kind == fcntl.F_UNLCK:
            return None
        words = os.pread(fd, 64, 0).split()
    finally:
        os.close(fd)
    return Started(int(words[0]), int(words[1])) if len(words) == 2 else Started(0, 0)


def listen(run_dir: str, name: str = SOCKET) -> socket.socket:
    """The keeper's listening socket, SOCK_SEQPACKET, reachable by the same user only."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove(run_dir, name)
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(f"/proc/self/fd/{directory}/{name}")
        finally:
            os.close(directory)
        sock.listen(64)
    except OSError as error:
        sock.close()
        raise KernelFault(f"listening on {run_dir}/{name}", error.errno or 0) from None
    return sock


def connect(run_dir: str, name: str = SOCKET) -> socket.socket | None:
    """A connection to the keeper of `run_dir`, None when nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{name}")
        finally:
            os.close(directory)
    except OSError:
        sock.close()
        return None
    return sock


def write_json(directory: str, name: str, value: dict[str, Any]) -> None:
    """Replace a file atomically (temporary file, then rename); KernelFault."""
    path = os.path.join(directory, name)
    fresh = f"{path}.new"
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(json.dumps(value, separators=(",", ":")).encode())
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(fresh, path)
    except OSError as error:
        raise KernelFault(f"writing {path}", error.errno or 0) from None


def read_json(directory: str, name: str) -> dict[str, Any] | None:
    """A file's object, None when there is no such file; SystemFault when it is damaged."""
    path = os.path.join(directory, name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KernelFault(f"reading {path}", error.errno or 0) from None
    try:
        data = os.read(fd, _LIMIT)
    finally:
        os.close(fd)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise SystemFault(f"{path} is damaged or of another version")
    return value


def write_exit(run_dir: str, record: Exit, signal: int = 0) -> None:
    """Record how the task ended."""
    write_json(run_dir, EXIT, {"version": VERSION, "signal": signal, **record._asdict()})


def read_exit(run_dir: str) -> Exit | None:
    """How the task ended, None when that is not recorded."""
    value = read_json(run_dir, EXIT)
    return None if value is None else exit_from(value)


def exit_from(value: dict[str, Any]) -> Exit:
    """An Exit from a record or a message."""
    return Exit(
        int(value["code"]),
        bool(value["oom_killed"]),
        float(value["finished_at"]),
        str(value.get("error", "")),
    )


def write_task(run_dir: str, started: Started, facts: dict[str, Any]) -> None:
    """Record what runs, with the `facts` that a later engine needs (cgroup, bundle, ...)."""
    write_json(run_dir, TASK, {**facts, "version": VERSION, **started._asdict()})


def remove(run_dir: str, *names: str) -> None:
    """Remove files that may not be there; KernelFault for any other reason."""
    for name in names:
        path = os.path.join(run_dir, name)
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise KernelFault(f"removing {path}", error.errno or 0) from None


def start_time(pid: int) -> int:
    """The process's start time in clock ticks since boot; 0 when there is no such process."""
    found = processes.facts(pid)
    return found[1] if found else 0
