"""One engine as a process: its pid file, the service manager, inherited sockets.

The store's lock makes an engine the only one of its root; the pid file is for people and scripts.
Protocols: sd_notify(3), sd_listen_fds(3).
"""

import os
import socket
import stat
import time
from contextlib import suppress

from skerry.base.errors import Conflict, SystemFault

FIRST_INHERITED = 3
"""SD_LISTEN_FDS_START of sd-daemon.h."""
_LEAVING = 2.0
"""Seconds that a killed engine's socket may still answer."""


def write_pid_file(run_root: str) -> None:
    """`<run-root>/engine.pid`, replaced in one step."""
    path = os.path.join(run_root, "engine.pid")
    fresh = f"{path}.new"
    with open(fresh, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(fresh, path)


def remove_pid_file(run_root: str) -> None:
    """Remove it when it is still ours."""
    path = os.path.join(run_root, "engine.pid")
    try:
        with open(path, encoding="ascii") as file:
            if file.read(32).strip() == str(os.getpid()):
                os.unlink(path)
    except OSError:
        return


def notify(state: str) -> None:
    """Tell the service manager, when there is one: `READY=1`, `STOPPING=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            return


def inherited_sockets() -> list[socket.socket]:
    """Listening sockets from the service manager (socket activation); usually none.

    The variables are taken away so that no child believes they are meant for it.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for fd in range(FIRST_INHERITED, FIRST_INHERITED + int(count)):
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise SystemFault(f"inherited descriptor {fd} is no unix stream socket")
        sockets.append(sock)
    return sockets


def listen(path: str) -> socket.socket:
    """A listening unix socket at `path`, for root and the socket's group (mode 0660).

    Made beside and moved into place, so that nobody ever meets it with other rights. A stale
    socket is replaced. Conflict when somebody listens there (an engine of another root), or when
    it is no socket.
    """
    _check_free(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    fresh = f"{path}.{os.getpid()}"
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o711, exist_ok=True)
        # A path in a unix address ends at 107 bytes; through the folder's descriptor it is short.
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            old = os.umask(0o117)
            try:
                sock.bind(f"/proc/self/fd/{fd}/{os.path.basename(fresh)}")
            finally:
                os.umask(old)
        finally:
            os.close(fd)
        sock.listen(512)
        os.rename(fresh, path)
    except OSError as error:
        sock.close()
        with suppress(OSError):
            os.unlink(fresh)
        raise SystemFault(f"cannot listen on {path}: {error.strerror or error}") from None
    sock.setblocking(False)
    return sock


def _check_free(path: str) -> None:
    # One that was just killed may still be on its way out.
    deadline = time.monotonic() + _LEAVING
    while _taken(path):
        if time.monotonic() > deadline:
            raise Conflict(
                f"cannot listen on {path}: another engine does", hint="choose another --host"
            )
        time.sleep(0.02)


def _taken(path: str) -> bool:
    """Whether somebody listens there; Conflict for what is no socket."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # Nothing is there, or the next step says what is wrong.
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise Conflict(f"cannot listen on {path}: there is something that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as peer:
            peer.setblocking(False)
            peer.connect(f"/proc/self/fd/{fd}")
    except BlockingIOError:
        return True  # Its queue is full.
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
