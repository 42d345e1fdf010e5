"""QEMU's wall, as data: its user and its system calls.

The filter is a list of what QEMU does: files that are open or lie in its root, memory, threads,
clocks, the sockets that it was given. All else answers ENOSYS, as on a kernel that has no such
call. Three things need an argument looked at:

* `clone` makes threads of this process and nothing else (`clone3`, whose flags no filter can see,
  is not there, and C libraries fall back);
* `socket` makes only the families that the machine's devices need, and no raw ones;
* the one program is started by its descriptor, whose number lies at the limit of open files: it
  closes at execve, and no later descriptor can have that number, so nothing can be executed again.

QEMU adds its own filter (`-sandbox`), which ends it where ours refuses.
Sources: seccomp(2), clone(2), execveat(2), getrlimit(2).
"""

import functools
import hashlib
import socket

from skerry.base.light import Any
from skerry.kernel import seccomp

_FIRST_USER, _USERS = 0x70000000, 0x0F000000
"""A range that no distribution gives to anybody; below 2**31, which some tools take for signed."""
FILES = 1000
"""How many files may be open, and the number of the descriptor that the program is started by."""

_NEEDED = (
    # Files, as far as the root has them.
    "access close close_range copy_file_range dup dup2 dup3 faccessat faccessat2 fadvise64 "
    "fallocate fchdir fcntl fdatasync flock fstat fstatfs fsync ftruncate getcwd getdents "
    "getdents64 ioctl lseek lstat newfstatat open openat pipe pipe2 pread64 preadv preadv2 "
    "pwrite64 pwritev pwritev2 read readlink readlinkat readv stat statfs statx sync_file_range "
    "umask unlink unlinkat write writev "
    # Memory.
    "brk madvise membarrier memfd_create mincore mmap mprotect mremap msync munmap "
    # Waiting, clocks, signals of its own threads.
    "clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait "
    "epoll_pwait2 epoll_wait eventfd eventfd2 futex futex_requeue futex_wait futex_waitv "
    "futex_wake gettimeofday nanosleep pause poll ppoll pselect6 restart_syscall rt_sigaction "
    "rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait select sigaltstack "
    "signalfd signalfd4 tgkill time timer_create timer_delete timer_getoverrun timer_gettime "
    "timer_settime timerfd_create timerfd_gettime timerfd_settime times "
    # What it is.
    "arch_prctl capget exit exit_group get_robust_list getcpu getegid geteuid getgid getgroups "
    "getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage "
    "getsid gettid getuid prctl prlimit64 rseq sched_get_priority_max sched_get_priority_min "
    "sched_getaffinity sched_getparam sched_getscheduler sched_setaffinity sched_yield seccomp "
    "set_robust_list set_tid_address sysinfo uname wait4 waitid "
    # Sockets that are there.
    "accept accept4 getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg "
    "sendmsg sendto "
    "setsockopt shutdown"
)
_JOINING = "bind connect"
_SHARING = (
    "chmod chown fchmod fchmodat fchmodat2 fchown fchownat fgetxattr flistxattr fremovexattr "
    "fsetxattr getxattr lchown lgetxattr link linkat listxattr llistxattr lremovexattr lsetxattr "
    "mkdir mkdirat mknod mknodat removexattr rename renameat renameat2 rmdir setxattr symlink "
    "symlinkat truncate utimensat"
)
_ENOSYS = 38
_ALLOW = "SCMP_ACT_ALLOW"
# linux/sched.h: a thread of this process, in its namespaces.
_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020000
_AT_EMPTY_PATH = 0x1000
_KIND = 0xF


def user_for(id_: str) -> int:
    """A user that no other machine is likely to have; user and group are the same number."""
    digest = hashlib.sha256(id_.encode()).digest()
    return _FIRST_USER + int.from_bytes(digest[:4], "big") % _USERS


def _argument(index: int, value: int, mask: int = 0) -> dict[str, Any]:
    if mask:
        return {"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value}
    return {"index": index, "op": "SCMP_CMP_EQ", "value": value}


def _rule(names: str, *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names.split(), "action": _ALLOW, "args": list(arguments)}


@functools.cache
def seccomp_program(families: tuple[int, ...] = (), *, shares: bool = False) -> bytes:
    """The filter, compiled: `families` of sockets that may be made; `shares`: QEMU itself serves
    folders (9p)."""
    rules = [
        _rule(_NEEDED),
        _rule("clone", _argument(0, _THREAD, _THREAD | _NEW_NAMESPACES)),
        _rule("execveat", _argument(0, FILES), _argument(4, _AT_EMPTY_PATH)),
        _rule("socketpair", _argument(0, socket.AF_UNIX)),
    ]
    rules += [
        _rule("socket", _argument(0, family), _argument(1, kind, _KIND))
        for family in families
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    ]
    if families:
        rules.append(_rule(_JOINING))
    if shares:
        rules.append(_rule(_SHARING))
    return seccomp.compile_profile(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": _ENOSYS,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": rules,
        }
    )
