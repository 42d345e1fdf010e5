"""Descriptors: opening beneath a root, closing ranges, passing them on, sealing memory.

Everything opened here is close-on-exec.
"""

import _socket
import array
import ctypes
import errno
import fcntl
import os
import select
import stat
import time

from skerry.base.errors import KernelFault, SystemFault
from skerry.kernel.syscalls import (
    NR_CLOSE_RANGE,
    NR_OPENAT2,
    NR_PIDFD_OPEN,
    Call,
    checked,
    libc,
    raw,
    syscall,
)

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# linux/close_range.h
CLOSE_RANGE_CLOEXEC = 1 << 2

# linux/memfd.h
_MFD_CLOEXEC = 0x1
_MFD_ALLOW_SEALING = 0x2
_MFD_EXEC = 0x10
_PR_SET_DUMPABLE = 4
_MAX_FDS = 253  # SCM_MAX_FD, include/net/scm.h


class _OpenHow(ctypes.Structure):
    """struct open_how, linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, *, resolve: int = 0) -> int:
    """Open `path` from `dirfd` under the RESOLVE_ rules; KernelFault with its errno otherwise.

    A lookup that meets a concurrent rename is restricted by the kernel with EAGAIN and tried again.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    name = os.fsencode(path)
    for _ in range(64):
        try:
            return syscall(
                NR_OPENAT2,
                dirfd,
                name,
                ctypes.byref(how),
                ctypes.sizeof(how),
                action=f"open {path}",
            )
        except KernelFault as fault:
            if fault.errno not in (errno.EAGAIN, errno.EINTR):
                raise
    raise KernelFault(f"open {path}", errno.EAGAIN)


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as a process whose root is `root_fd` would: links and `..` never lead out.

    /proc's magic links are refused (ELOOP).
    """
    return openat2(root_fd, path, flags, mode, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def make_directories(root_fd: int, path: str, mode: int = 0o755) -> int:
    """An O_PATH descriptor of the directory `path` in `root_fd`, made with its parents if missing.

    Existing symbolic links are followed inside the root; dangling ones are an error, since making
    what they point to would let an image choose the place.
    """
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    except KernelFault as fault:
        if fault.errno != errno.ENOENT:
            raise
    here = os.dup(root_fd)
    done = ""
    try:
        for part in path.split("/"):
            if part in ("", "."):
                continue
            done = f"{done}/{part}"
            try:
                below = open_in_root(root_fd, done, os.O_PATH | os.O_DIRECTORY)
            except KernelFault as fault:
                if fault.errno != errno.ENOENT or part == "..":
                    raise
                try:
                    os.mkdir(part, mode, dir_fd=here)
                except FileExistsError:
                    pass
                except OSError as error:
                    raise KernelFault(f"make directory {done}", error.errno or 0) from None
                below = openat2(here, part, os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
            os.close(here)
            here = below
        result, here = here, -1
        return result
    finally:
        if here >= 0:
            os.close(here)


def make_file(root_fd: int, path: str, mode: int = 0o644) -> int:
    """An O_PATH descriptor of the file `path` in `root_fd`, made empty if missing, parents too."""
    try:
        return open_in_root(root_fd, path, os.O_PATH)
    except KernelFault as fault:
        if fault.errno != errno.ENOENT:
            raise
    parent, _, name = path.rstrip("/").rpartition("/")
    directory = make_directories(root_fd, parent or "/")
    try:
        fd = openat2(
            directory,
            name,
            os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW,
            mode,
            resolve=RESOLVE_BENEATH,
        )
        os.close(fd)
        return openat2(directory, name, os.O_PATH, resolve=RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
    finally:
        os.close(directory)


def exchange(first: str, second: str) -> None:
    """Let two paths change places in one step (renameat2(2), RENAME_EXCHANGE)."""
    checked(
        libc.renameat2(-100, os.fsencode(first), -100, os.fsencode(second), 2),
        f"exchange {first} and {second}",
    )


def close_range(first: int, last: int = 0x7FFFFFFF, *, cloexec: bool = False) -> None:
    """Close descriptors `first` to `last`, or mark them close-on-exec (close_range(2))."""
    flags = CLOSE_RANGE_CLOEXEC if cloexec else 0
    syscall(NR_CLOSE_RANGE, first, last, flags, action=f"close descriptors from {first}")


def close_range_call(first: int, last: int = 0x7FFFFFFF) -> Call:
    """`close_range`, prepared."""
    return raw(NR_CLOSE_RANGE, first, last, 0, action=f"close descriptors from {first}")


def pidfd_open(pid: int) -> int:
    """A descriptor of process `pid` (pidfd_open(2)); KernelFault ESRCH when it is gone."""
    return syscall(NR_PIDFD_OPEN, pid, 0, action=f"open process {pid}")


def send_fds(sock: _socket.socket, data: bytes, fds: tuple[int, ...] | list[int]) -> None:
    """Send `data` (at least one byte) and descriptors in one message."""
    sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))])


def recv_fds(sock: _socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    """One message of at most `size` bytes and `count` descriptors; no data at the end.

    A message that was cut short is refused, and what came with it closed.
    """
    room = _socket.CMSG_SPACE(min(count, _MAX_FDS) * 4)
    data, ancillary, flags, _ = sock.recvmsg(size, room, _socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if flags & (_socket.MSG_CTRUNC | _socket.MSG_TRUNC):
        for fd in fds:
            os.close(fd)
        raise SystemFault(f"message cut short: more than {size} bytes or {count} descriptors")
    return data, list(fds)


def memfd_sealed(name: str, data: bytes, *, executable: bool = False) -> int:
    """A descriptor of memory that holds `data` and that nobody can change any more."""
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | (_MFD_EXEC if executable else 0))
    except OSError:  # before Linux 6.3 there is no MFD_EXEC, and all are executable
        fd = os.memfd_create(name, flags)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_within(fd: int, seconds: float) -> bytes:
    """What a pipe says until its end, or within so many seconds."""
    # select(2) knows no descriptor from 1024 on, which a busy engine has.
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    deadline = time.monotonic() + seconds
    said = b""
    while (left := deadline - time.monotonic()) > 0 and ready.poll(left * 1000):
        piece = os.read(fd, 65536)
        if not piece:
            break
        said += piece
    return said


def set_dumpable(allowed: bool) -> None:
    """Whether others of the same user may trace this process and open its /proc links."""
    libc.prctl(_PR_SET_DUMPABLE, int(allowed), 0, 0, 0)


def file_system_magic(fd: int) -> int:
    """The type of the file system that `fd` is on, as statfs(2) and linux/magic.h number it."""
    # struct statfs begins with f_type, a long; the whole has 120 bytes on 64-bit machines.
    buffer = (ctypes.c_long * 32)()
    checked(libc.fstatfs(fd, buffer), f"look at the file system of descriptor {fd}")
    return int(buffer[0])


def device_number(fd: int) -> tuple[int, int] | None:
    """(major, minor) when `fd` is a character device, else None."""
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode):
        return None
    return os.major(status.st_rdev), os.minor(status.st_rdev)
