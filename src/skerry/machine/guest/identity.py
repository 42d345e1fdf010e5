"""What makes a copied container a particular one: files inside it, its hostname, who is told.

The container is hostile to the agent: its files are opened beneath its root (openat2), and only
regular ones that are there and not empty are replaced.
"""

import os
import signal
import stat
from contextlib import suppress
from typing import Any

from skerry.base.errors import SkerryError
from skerry.kernel import descriptors, namespaces

RENEWED = (
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    *(f"/etc/ssh/ssh_host_{kind}_key{end}"
      for kind in ("ed25519", "ecdsa", "rsa") for end in ("", ".pub")),
)  # fmt: skip
"""Files that no two systems may share."""
HOOKS = "/etc/skerry/after-fork.d"
GENERATION = ("/run", "skerry", "generation")
"""Where programs see that they go on in another copy, as vmgenid tells a kernel: 32 hexadecimal
digits and a newline, replaced whenever the machine comes out of a file."""
_MOST = 64 * 1024


def found(pid: int) -> dict[str, Any]:
    """Which of those files the container of this init has, and whether it has hooks."""
    root = _root(pid)
    try:
        renew = []
        for path in RENEWED:
            fd = _open(root, path, os.O_RDONLY)
            if fd >= 0:
                renew.append(path)
                os.close(fd)
        hooks = False
        with suppress(SkerryError, OSError):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            folder = descriptors.open_in_root(root, HOOKS, flags)
            hooks = bool(os.listdir(folder))
            os.close(folder)
        return {"renew": renew, "hooks": hooks}
    finally:
        os.close(root)


def renew(pid: int, contents: dict[str, str]) -> None:
    """Replace files by hexadecimal contents; an SSH server that runs reads its new keys."""
    root = _root(pid)
    keys = False
    try:
        for path, text in contents.items():
            if path not in RENEWED or len(text) > 2 * _MOST:
                continue
            fd = _open(root, path, os.O_RDWR)
            if fd < 0:
                continue
            try:
                os.ftruncate(fd, 0)
                os.write(fd, bytes.fromhex(text))
                keys = keys or path.startswith("/etc/ssh/")
            finally:
                os.close(fd)
    finally:
        os.close(root)
    if keys:
        _tell_ssh()


def tell(pid: int, generation: str) -> None:
    """Put the number of this copy where its programs look for it; renamed over the former one, so
    that they read one or the other. A container that does not let us (a read-only root) has none.
    """
    above, folder, name = GENERATION
    root = _root(pid)
    opened = [root]
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        with suppress(SkerryError, OSError):
            opened.append(descriptors.open_in_root(root, above, flags))
            with suppress(FileExistsError):
                os.mkdir(folder, 0o755, dir_fd=opened[-1])
            opened.append(os.open(folder, flags | os.O_NOFOLLOW, dir_fd=opened[-1]))
            at, fresh = opened[-1], f".{name}"
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=at)
            creating = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(fresh, creating, 0o644, dir_fd=at)
            with os.fdopen(fd, "w") as file:
                file.write(f"{generation}\n")
            os.rename(fresh, name, src_dir_fd=at, dst_dir_fd=at)
    finally:
        for fd in opened:
            os.close(fd)


def rename(pid: int, hostname: str) -> None:
    """The hostname inside the container, whose namespace of it is its own."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            fd = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
            namespaces.setns(fd, namespaces.FLAGS["uts"])
            import socket

            socket.sethostname(hostname)
        os._exit(0)
    os.waitpid(child, 0)


def _root(pid: int) -> int:
    return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _open(root: int, path: str, flags: int) -> int:
    """A descriptor of a regular file with something in it, else -1."""
    try:
        fd = descriptors.open_in_root(root, path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except (SkerryError, OSError):
        return -1
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _MOST:
        return fd
    os.close(fd)
    return -1


def _tell_ssh() -> None:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError), open(f"/proc/{name}/comm") as file:
            if file.read().strip() == "sshd":
                os.kill(int(name), signal.SIGHUP)
