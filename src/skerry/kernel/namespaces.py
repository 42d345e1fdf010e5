"""Namespaces: making, joining, id maps, clock offsets, the loopback interface.

`clone3` here is a plain fork with flags: memory is copied, never shared. A child that shared the
parent's memory would let a container with CAP_SYS_PTRACE read the engine's.
"""

import _socket
import ctypes
import errno
import fcntl
import os
import signal
import struct
from collections.abc import Iterable, Sequence

from skerry.base.errors import KernelFault, Unsupported
from skerry.kernel.syscalls import NR_CLONE3, Call, checked, do, libc, syscall

# linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_PIDFD = 0x00001000
_CLONE_INTO_CGROUP = 0x200000000

FLAGS: dict[str, int] = {
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "user": CLONE_NEWUSER,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}
"""The OCI names of the kinds."""

FILES: dict[int, str] = {
    CLONE_NEWUSER: "user",
    CLONE_NEWIPC: "ipc",
    CLONE_NEWUTS: "uts",
    CLONE_NEWNET: "net",
    CLONE_NEWPID: "pid",
    CLONE_NEWNS: "mnt",
    CLONE_NEWCGROUP: "cgroup",
    CLONE_NEWTIME: "time",
}
"""Names below /proc/PID/ns. User comes first: joining it gives the right to join the others."""

CLOCKS = {"monotonic": 1, "boottime": 7}
"""linux/time.h numbers of the clocks that a time namespace shifts."""

# linux/sockios.h, linux/if.h
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


_CLONE_ARGS = (
    "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup"
)


class _CloneArgs(ctypes.Structure):
    """struct clone_args, linux/sched.h, up to `cgroup` (CLONE_ARGS_SIZE_VER2)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in _CLONE_ARGS.split())


def clone3(flags: int, *, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork into new namespaces: (pid, pidfd) in the parent, (0, -1) in the child.

    `cgroup_fd` is a cgroup v2 directory for the child to start in. The caller has one thread only.
    With CLONE_PARENT the child is the caller's sibling.
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs(
        flags=flags | _CLONE_PIDFD | (_CLONE_INTO_CGROUP if cgroup_fd >= 0 else 0),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=0 if flags & CLONE_PARENT else signal.SIGCHLD,
        cgroup=max(cgroup_fd, 0),
    )
    try:
        pid = syscall(
            NR_CLONE3, ctypes.byref(args), ctypes.sizeof(args), action="clone a container's process"
        )
    except KernelFault as fault:
        raise _explained(fault, flags) from None
    if pid == 0:
        # glibc caches nothing of the pid, but Python runs its own bookkeeping after a fork.
        return 0, -1
    return pid, pidfd.value


def _explained(fault: KernelFault, flags: int) -> KernelFault:
    if fault.errno == errno.EPERM and flags & CLONE_NEWUSER:
        hint = "user namespaces may be switched off: see /proc/sys/user/max_user_namespaces"
    elif fault.errno in (errno.ENOSPC, errno.EUSERS):
        hint = "a limit of /proc/sys/user is reached, or user namespaces are nested too deeply"
    elif fault.errno == errno.EPERM:
        hint = "namespaces need root or a user namespace"
    else:
        return fault
    return KernelFault(fault.action, fault.errno, hint=hint)


def unshare(flags: int) -> None:
    """Leave the namespaces of these kinds for new ones (unshare(2))."""
    checked(libc.unshare(flags), f"unshare {_names(flags)} namespace")


def setns(fd: int, flags: int, what: str = "") -> None:
    """Join the namespace behind `fd`; with a pidfd every kind in `flags` at once (setns(2))."""
    do(setns_call(fd, flags, what))


def setns_call(fd: int, flags: int, what: str = "") -> Call:
    """`setns`, to be made later."""
    return libc.setns, (fd, flags), f"join {_names(flags)} namespace {what}".rstrip()


def _names(flags: int) -> str:
    return "+".join(name for name, flag in FLAGS.items() if flags & flag) or "any"


def open_namespace(path: str, flag: int) -> int:
    """A descriptor of the namespace file `path`; KernelFault when it is missing."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelFault(f"open {_names(flag)} namespace {path}", error.errno or 0) from None


def remember_own() -> None:
    """Look once at the caller's namespaces, for `differing` here and in processes forked from it.
    Who calls this does not leave them."""
    global _own
    _own = {name: _identity(f"/proc/self/ns/{name}") for name in FILES.values() if _has(name)}


def _has(name: str) -> bool:
    return os.path.exists(f"/proc/self/ns/{name}")


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


_own: dict[str, tuple[int, int]] = {}


def differing(pid: int) -> int:
    """The kinds in which process `pid` is in another namespace than the caller."""
    flags = 0
    for flag, name in FILES.items():
        try:
            theirs = _identity(f"/proc/{pid}/ns/{name}")
        except FileNotFoundError:
            if not os.path.exists(f"/proc/{pid}"):
                raise KernelFault(f"look at the namespaces of process {pid}", errno.ESRCH) from None
            continue
        except OSError as error:
            raise KernelFault(
                f"look at the namespaces of process {pid}", error.errno or 0
            ) from None
        if theirs != (_own.get(name) or _identity(f"/proc/self/ns/{name}")):
            flags |= flag
    return flags


def write_id_maps(
    pid: int, uid_map: Sequence[tuple[int, int, int]], gid_map: Sequence[tuple[int, int, int]]
) -> None:
    """Map the ids of `pid`'s user namespace, from outside; rows are (inside, outside, size).

    Without privileges only the caller's own ids can be mapped directly; longer maps then go through
    newuidmap and newgidmap (shadow-utils, uidmap package).
    """
    if os.geteuid() != 0:
        _write_as_user(pid, uid_map, gid_map)
        return
    for name, rows in (("uid_map", uid_map), ("gid_map", gid_map)):
        write_file(f"/proc/{pid}/{name}", _rows(rows))


def _write_as_user(
    pid: int, uid_map: Sequence[tuple[int, int, int]], gid_map: Sequence[tuple[int, int, int]]
) -> None:
    for name, rows, own, tool in (
        ("uid_map", uid_map, os.geteuid(), "newuidmap"),
        ("gid_map", gid_map, os.getegid(), "newgidmap"),
    ):
        if len(rows) == 1 and rows[0][1:] == (own, 1):
            if name == "gid_map":
                write_file(f"/proc/{pid}/setgroups", "deny")
            write_file(f"/proc/{pid}/{name}", _rows(rows))
            continue
        words = [str(number) for row in rows for number in row]
        try:
            child = os.posix_spawnp(tool, [tool, str(pid), *words], dict(os.environ))
        except FileNotFoundError:
            raise Unsupported(
                f"cannot map more than one id as a user: {tool} is missing",
                hint="install the package uidmap",
            ) from None
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            raise KernelFault(
                f"{tool} for process {pid}", errno.EPERM, hint="see /etc/subuid and /etc/subgid"
            )


def _rows(rows: Iterable[tuple[int, int, int]]) -> str:
    return "".join(f"{inside} {outside} {size}\n" for inside, outside, size in rows)


def write_file(path: str, text: str) -> None:
    """Write a file of /proc in one go; KernelFault says what was written where."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFault(f"write {text.strip()!r} to {path}", error.errno or 0) from None


def write_time_offsets(offsets: Iterable[tuple[str, int, int]]) -> None:
    """Shift the clocks of the time namespace that the caller's children will be in.

    Rows are (clock name, seconds, nanoseconds). Only before anyone is in it (time_namespaces(7)).
    """
    text = "".join(f"{CLOCKS[name]} {secs} {nanosecs}\n" for name, secs, nanosecs in offsets)
    write_file("/proc/self/timens_offsets", text)


def user_namespace_fd(
    uid_map: Sequence[tuple[int, int, int]], gid_map: Sequence[tuple[int, int, int]]
) -> int:
    """A descriptor of a fresh user namespace with these maps, for an idmapped mount."""
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = clone3(CLONE_NEWUSER)
    if pid == 0:
        # Wait for the end of file, which also comes when the parent is killed.
        os.close(ready_write)
        os.read(ready_read, 1)
        os._exit(0)
    try:
        write_id_maps(pid, uid_map, gid_map)
        return open_namespace(f"/proc/{pid}/ns/user", CLONE_NEWUSER)
    finally:
        os.close(ready_read)
        os.close(ready_write)
        os.close(pidfd)
        os.waitpid(pid, 0)


def loopback_up() -> None:
    """Bring up `lo` in the caller's network namespace (netdevice(7))."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = fcntl.ioctl(sock.fileno(), _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        (flags,) = struct.unpack_from("h", request, 16)
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    except OSError as error:
        raise KernelFault("bring up the loopback interface", error.errno or 0) from None
    finally:
        sock.close()
