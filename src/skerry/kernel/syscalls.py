"""System calls through ctypes: one small wrapper per call, errno kept, the object named.

This module and its neighbours are imported by processes that fork containers, so they stay lean:
ctypes and os, nothing heavier. Constants cite the kernel header that defines them.
"""

import ctypes
import os

from skerry.base.errors import KernelFault

TYPE_CHECKING = False  # `typing` would cost a command line 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

    from skerry.base.light import Any

    Call = tuple[Callable[..., Any], tuple[Any, ...], str]
else:
    Call = tuple
"""A call of libc with its arguments, and what it does in words, to be made later by `do`.
Without words it is a function of Python that raises its own errors."""

libc = ctypes.CDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long

# asm/unistd_64.h; the calls above 423 have the same number on every architecture.
_MACHINE = os.uname().machine
_SLOT = {"x86_64": 0, "aarch64": 1}.get(_MACHINE, 2)
NR_RT_SIGACTION = (13, 134, -1)[_SLOT]
NR_PIVOT_ROOT = (155, 41, -1)[_SLOT]
NR_KEYCTL = (250, 219, -1)[_SLOT]
NR_IOPRIO_SET = (251, 30, -1)[_SLOT]
NR_SCHED_SETATTR = (314, 274, -1)[_SLOT]
NR_RENAMEAT2 = (316, 276, -1)[_SLOT]
NR_EXECVEAT = (322, 281, -1)[_SLOT]
NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_FSOPEN = 430
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_PIDFD_OPEN = 434
NR_CLONE3 = 435
NR_CLOSE_RANGE = 436
NR_OPENAT2 = 437
NR_MOUNT_SETATTR = 442
NR_QUOTACTL_FD = 443


def syscall(number: int, *args: "Any", action: str) -> int:
    """Make a raw system call; KernelFault with `action` when it returns -1.

    Integers are passed as C longs, so a caller may give 64-bit flags without a cast.
    """
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result: int = _syscall(ctypes.c_long(number), *words)
    if result == -1:
        raise KernelFault(action, ctypes.get_errno())
    return result


def raw(number: int, *args: "Any", action: str) -> Call:
    """A raw system call, prepared; arguments as of `syscall`."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return _syscall, (ctypes.c_long(number), *words), action


def do(call: Call) -> None:
    """Make a prepared call; KernelFault when it returns -1."""
    function, arguments, action = call
    if function(*arguments) == -1 and action:
        raise KernelFault(action, ctypes.get_errno())


def checked(result: int, action: str) -> int:
    """`result` of a libc function, or KernelFault when it is -1."""
    if result == -1:
        raise KernelFault(action, ctypes.get_errno())
    return result
