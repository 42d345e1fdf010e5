"""Dispositions of signals that a process inherits.

What is ignored stays so across fork and execve (signal(7)), and a shell without job control starts
what it puts into the background with SIGINT and SIGQUIT ignored. An engine started that way would
hand it on to every container.
"""

import ctypes

from skerry.base.errors import KernelFault
from skerry.kernel.syscalls import NR_RT_SIGACTION, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # The C module under `signal`: the latter wraps each number in an enum, 3 ms at start-up.
    import _signal as signal

_OF_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""The interpreter ignores these, whatever it has inherited."""
_LAST = 64
_OF_LIBC = (32, 33)
"""glibc keeps these to itself, and what its posix_spawn starts, as make does, has both ignored."""
_SET_SIZE = 8
"""Bytes of the kernel's sigset_t."""


def heed() -> None:
    """Give what the caller has inherited as ignored its default action back."""
    for number in range(1, _LAST + 1):
        if number not in _OF_PYTHON and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in _OF_LIBC:
        _heed_libcs(number)


def _heed_libcs(number: int) -> None:
    # struct sigaction of the kernel: handler, flags, restorer, mask.
    held = (ctypes.c_ulong * 4)()
    try:
        syscall(NR_RT_SIGACTION, number, None, held, _SET_SIZE, action="read a disposition")
        if held[0] == signal.SIG_IGN:
            fresh = (ctypes.c_ulong * 4)()
            syscall(NR_RT_SIGACTION, number, fresh, None, _SET_SIZE, action="set a disposition")
    except KernelFault:
        return  # An architecture whose number is not known here.
