"""What makes a copied container a particular one: files inside it, its hostname, who is told.

The container is hostile to the agent: its files are opened beneath its root (openat2), and only
regular ones that are there and not empty are replaced.
"""

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from skerry.base.errors import SkerryError
from skerry.kernel import descriptors, mounts, namespaces

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
_TOLD = "/run/generation"
_FRESH = ".generation"
_MOST = 64 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


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
    if not contents:
        return
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


def prepare(pid: int) -> int:
    """Before the machine is saved: the folder that `tell` will write to in its copies, -1 where the
    container has no place for it or does not let us (a read-only root). Where it can be had it is a
    folder of the agent's that the container sees: to make a file on the container's disk takes a
    fresh copy five times as long."""
    above, folder, _ = GENERATION
    root = _root(pid)
    opened = [root]
    try:
        with suppress(SkerryError, OSError):
            opened.append(descriptors.open_in_root(root, above, _FOLDER))
            at = _subfolder(opened[-1], folder)
            opened.append(at)
            if os.fstat(at).st_dev != os.fstat(root).st_dev:
                return os.dup(at)  # It has a tmpfs there.
            os.makedirs(_TOLD, 0o755, exist_ok=True)
            opened.append(mounts.open_tree(_TOLD))
            attributes = mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
            mounts.mount_setattr(opened[-1], attr_set=attributes | mounts.ATTR_RDONLY)
            with inside(pid, "mnt", "mount"):
                mounts.move_mount(opened[-1], at)
            return os.open(_TOLD, _FOLDER)
        return -1
    finally:
        for fd in opened:
            os.close(fd)


def make_fresh(folder: int) -> int:
    """The empty file that `tell` fills, made before the machine is saved: to make one takes a fresh
    copy longer than all the rest of telling."""
    with suppress(FileNotFoundError):
        os.unlink(_FRESH, dir_fd=folder)
    creating = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(_FRESH, creating, 0o644, dir_fd=folder)


def tell(folder: int, fresh: int, generation: str) -> None:
    """Put the number of this copy where its programs look for it; renamed over the former one, so
    that they read one or the other. `fresh` is of `make_fresh`, or -1, and is closed."""
    if fresh < 0:
        fresh = make_fresh(folder)
    try:
        os.write(fresh, f"{generation}\n".encode())
    finally:
        os.close(fresh)
    os.rename(_FRESH, GENERATION[2], src_dir_fd=folder, dst_dir_fd=folder)


def _subfolder(above: int, name: str) -> int:
    """A folder in another one, made if it is not there."""
    flags = _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=above)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=above)
        return os.open(name, flags, dir_fd=above)


def share_hostname(pid: int) -> None:
    """Join the container's namespace of the hostname for good: a copy then has one name to set."""
    theirs = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(theirs, namespaces.FLAGS["uts"])
    finally:
        os.close(theirs)


@contextmanager
def inside(pid: int, name: str, flag: str) -> Iterator[None]:
    """In another namespace of this process for a moment: the agent has one thread, and a fork
    takes a fresh copy of a machine a hundred milliseconds."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    own = os.open(f"/proc/self/ns/{name}", flags)
    try:
        theirs = os.open(f"/proc/{pid}/ns/{name}", flags)
        try:
            namespaces.setns(theirs, namespaces.FLAGS[flag])
        finally:
            os.close(theirs)
        try:
            yield
        finally:
            namespaces.setns(own, namespaces.FLAGS[flag])
    finally:
        os.close(own)


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
