"""Start an engine when none listens.

The engine runs in a session of its own, so that Ctrl-C in this terminal does not reach it, with its
standard error in `<run-root>/engine.log`. A lock in the run folder lets one of several command
lines start it while the others wait for the socket.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from skerry.base.errors import Forbidden, SystemFault, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skerry.sdk.client import Client

PATIENCE = 30.0
"""Seconds until a starting engine must listen."""
_TAIL = 8
_LARGEST_LOG = 1 << 20


def start_engine(root: str, run_root: str, host: str, client: Client) -> None:
    """Start it and connect `client`. Unavailable, with the log's last lines, when it does not
    come up."""
    log = os.path.join(run_root, "engine.log")
    try:
        os.makedirs(run_root, mode=0o711, exist_ok=True)
        lock = os.open(
            os.path.join(run_root, "start.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
        )
    except PermissionError:
        raise Forbidden(
            f"no engine listens at {client.path}, and {run_root} is not yours to start one in",
            hint="run it as root, or give a folder of your own: --run-root DIR --root DIR",
        ) from None
    except OSError as error:
        raise SystemFault(f"cannot prepare {run_root}: {error.strerror}") from None
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if _connected(client) or time.monotonic() > deadline:
                    break
                time.sleep(0.02)
        if not _connected(client):
            pid = _spawn(root, run_root, host, log)
            _wait(client, pid, log, deadline)
    finally:
        os.close(lock)


def _connected(client: Client) -> bool:
    try:
        client.ensure()
    except Unavailable:
        return False
    return True


def _spawn(root: str, run_root: str, host: str, log: str) -> int:
    words = [sys.executable, "-m", "skerry", "engine", "--root", root, "--run-root", run_root]
    words += ["--host", host]
    try:
        if os.path.getsize(log) > _LARGEST_LOG:
            os.replace(log, f"{log}.1")
    except OSError:
        pass  # there is none yet
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(log_fd)
        os.close(null)
        return pid
    try:
        os.setsid()
        os.chdir("/")
        os.dup2(null, 0)
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.closerange(3, 1024)
        os.execv(words[0], words)
    finally:
        os._exit(127)


def _wait(client: Client, pid: int, log: str, deadline: float) -> None:
    """Until the socket answers. An engine that ended because another one was first is fine."""
    pause = 0.005
    while not _connected(client):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended and not _connected(client):
            code = os.waitstatus_to_exitcode(status)
            raise Unavailable(f"the engine ended with code {code} as it started", hint=_tail(log))
        if ended:
            return
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the engine does not listen at {client.path} after {PATIENCE:.0f} s",
                hint=_tail(log),
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def _tail(log: str) -> str:
    """The last lines of the engine's log, for an error's hint."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return f"its log {log} cannot be read"
    lines = [line for line in lines if line.strip()][-_TAIL:]
    return "\n".join([f"the end of {log}:", *(f"  {line}" for line in lines)])
