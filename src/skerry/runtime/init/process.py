"""What is set on the process itself before the program: limits, identity, privileges, labels."""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable, Iterator

from skerry.base.errors import KernelFault
from skerry.base.light import TYPE_CHECKING
from skerry.kernel import capabilities
from skerry.kernel.descriptors import device_number
from skerry.kernel.syscalls import (
    NR_IOPRIO_SET,
    NR_KEYCTL,
    NR_SCHED_SETATTR,
    Call,
    checked,
    do,
    libc,
    raw,
    syscall,
)
from skerry.runtime.init import settings

if TYPE_CHECKING:
    from skerry.runtime.steps import ProcessPlan

# linux/keyctl.h
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_SETPERM = 5
_KEY_SPEC_SESSION_KEYRING = -3
# Possessor: everything; user: view, read, search.
_KEYRING_PERMISSIONS = 0x3F0B0000
_IOPRIO_WHO_PROCESS = 1
_DEFAULT_UMASK = 0o022
CAP_SYS_ADMIN = 1 << 21
_NULL = (1, 3)


def keyring_calls(name: str) -> tuple[Call, Call]:
    """A session keyring of the container's own, so that the host's keys are out of reach."""
    words = (_KEYCTL_SETPERM, _KEY_SPEC_SESSION_KEYRING, _KEYRING_PERMISSIONS)
    return (
        raw(NR_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, name.encode(), action="join session keyring"),
        raw(NR_KEYCTL, *words, action="set keyring permissions"),
    )


def join_keyring(calls: tuple[Call, Call]) -> None:
    """Make those calls; where keyrings are not to be had there is none to protect."""
    try:
        for call in calls:
            do(call)
    except KernelFault as fault:
        if fault.errno not in (errno.ENOSYS, errno.EPERM):
            raise


def has_limits(process: "ProcessPlan") -> bool:
    """Whether `set_limits` has anything to do."""
    return bool(
        process.rlimits
        or process.scheduler is not None
        or process.io_priority >= 0
        or process.personality >= 0
    )


def set_limits(process: "ProcessPlan") -> None:
    """Resource limits, scheduling, I/O priority, personality."""
    for kind, soft, hard in process.rlimits:
        pair = (ctypes.c_uint64 * 2)(soft, hard)
        checked(
            libc.setrlimit(kind, ctypes.byref(pair)),
            f"error setting rlimit type {kind} to {soft}:{hard}",
        )
    if process.scheduler is not None:
        policy, flags, nice, priority, runtime, deadline, period = process.scheduler
        # struct sched_attr, linux/sched/types.h, SCHED_ATTR_SIZE_VER0
        attr = struct.pack("IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period)
        syscall(NR_SCHED_SETATTR, 0, attr, 0, action="set the scheduling policy")
    if process.io_priority >= 0:
        syscall(
            NR_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, process.io_priority, action="set I/O priority"
        )
    if process.personality >= 0:
        checked(libc.personality(process.personality), "set the personality")


def strange_stdio(fds: Iterable[int], uid: int) -> bool:
    """Whether some of the streams may be another user's, so that `own_stdio` is needed."""
    return any(os.fstat(fd).st_uid != uid for fd in fds)


def own_stdio(uid: int) -> None:
    """Give the streams to the program's user, who could otherwise not open /dev/stdout again.

    Only pipes, sockets and terminals: a regular file is the user's of the runtime, /dev/null the
    host's.
    """
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
            if status.st_uid == uid or stat.S_ISREG(status.st_mode):
                continue
            if (os.major(status.st_rdev), os.minor(status.st_rdev)) == _NULL:
                continue
            os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS, errno.EBADF):
                raise KernelFault(f"give descriptor {fd} to user {uid}", error.errno or 0) from None


def null_devices(fds: Iterable[int]) -> list[int]:
    """Which of the descriptors are a null device."""
    return [number for number, fd in enumerate(fds) if device_number(fd) == _NULL]


def own_null(streams: list[int]) -> None:
    """Take the container's own null device for `streams`, those that are the host's.

    So its path and its label are the container's. When the image's /dev/null is something else the
    stream stays, which the parent has opened through a read-only mount.
    """
    if not streams:
        return
    # Without O_NONBLOCK a FIFO or a terminal in its place would make us wait.
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        own = os.open("/dev/null", flags)
    except OSError:
        return
    if device_number(own) == _NULL:
        os.set_blocking(own, True)
        for fd in streams:
            os.dup2(own, fd, inheritable=True)
    os.close(own)


def become_user(process: "ProcessPlan") -> None:
    """Groups, gid, uid, umask; the permitted capabilities stay for `take_capabilities`."""
    capabilities.keep_on_setuid(True)
    try:
        os.setgroups(process.groups)
    except OSError as error:
        # Without privileges outside, the id map came with "deny" for setgroups: nobody can.
        if process.groups or error.errno != errno.EPERM:
            raise KernelFault(f"set groups {list(process.groups)}", error.errno or 0) from None
    try:
        os.setresgid(process.gid, process.gid, process.gid)
        os.setresuid(process.uid, process.uid, process.uid)
    except OSError as error:
        raise KernelFault(
            f"become user {process.uid}:{process.gid}",
            error.errno or 0,
            hint="in a user namespace the ids must be mapped",
        ) from None
    os.umask(_umask(process))


def user_calls(process: "ProcessPlan") -> Iterator[Call]:
    """`become_user` for who holds all rights outside and has groups to set."""
    uid, gid, count = process.uid, process.gid, len(process.groups)
    yield capabilities.keep_on_setuid_call(True)
    groups = (ctypes.c_uint32 * count)(*process.groups)
    yield libc.setgroups, (count, groups), f"set groups {list(process.groups)}"
    yield libc.setresgid, (gid, gid, gid), f"become user {uid}:{gid}"
    yield libc.setresuid, (uid, uid, uid), f"become user {uid}:{gid}"
    yield libc.umask, (_umask(process),), ""


def _umask(process: "ProcessPlan") -> int:
    return process.umask if process.umask >= 0 else _DEFAULT_UMASK


def take_capabilities(process: "ProcessPlan", admin: bool) -> None:
    """The four sets besides the bounding one."""
    for call in capability_calls(process, admin=admin):
        do(call)


def capability_calls(process: "ProcessPlan", *, admin: bool) -> list[Call]:
    """`take_capabilities`, prepared for what the caller holds now.

    With `admin` CAP_SYS_ADMIN stays in permitted and effective, to load a filter as the very last
    step; execve drops it, since it computes the new sets from inheritable, bounding and ambient.
    """
    sets = capabilities.CapabilitySets(
        process.bounding,
        process.effective,
        process.inheritable,
        process.permitted,
        process.ambient,
    )
    extra = CAP_SYS_ADMIN if admin else 0
    return capabilities.apply_calls(
        sets._replace(effective=sets.effective | extra, permitted=sets.permitted | extra)
    )


class Labels:
    """The labels of an exec: `prepare` while procfs can be mounted, `write` at the end."""

    def __init__(self, process: "ProcessPlan") -> None:
        self._process = process
        self._proc = -1
        self.wanted = bool(process.apparmor or process.selinux)

    def prepare(self) -> None:
        """Open a procfs of its own."""
        self._proc = settings.private_proc()

    def write(self) -> None:
        """Tell the security modules."""
        write_label(self._proc, self._process)


def write_label(proc_fd: int, process: "ProcessPlan") -> None:
    """Tell the security modules what the next execve becomes, through a private procfs."""
    if process.apparmor:
        text = f"exec {process.apparmor}"
        if not _try_write(proc_fd, "thread-self/attr/apparmor/exec", text):
            _write(
                proc_fd, "thread-self/attr/exec", text, f"apply apparmor profile {process.apparmor}"
            )
    if process.selinux:
        _write(
            proc_fd,
            "thread-self/attr/exec",
            process.selinux,
            f"set SELinux label {process.selinux}",
        )


def _try_write(proc_fd: int, path: str, text: str) -> bool:
    try:
        _write(proc_fd, path, text, "")
    except KernelFault as fault:
        if fault.errno == errno.ENOENT:
            return False
        raise
    return True


def _write(proc_fd: int, path: str, text: str, action: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc_fd)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelFault(action, error.errno or 0) from None
