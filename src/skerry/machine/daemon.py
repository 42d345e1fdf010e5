"""How a warden's process begins and ends."""

import os
import signal
from contextlib import suppress

from skerry.kernel import signals
from skerry.kernel.syscalls import libc
from skerry.runtime.starter import Ends

# linux/prctl.h
_PR_SET_NAME = 15
_AS_THEY_ARE = (signal.SIGKILL, signal.SIGSTOP, 32, 33)
"""Signals whose handling cannot be set: the last two the C library keeps to itself (signal(7))."""


def become_daemon(ends: Ends, report: int) -> None:
    """A session of its own, and no descriptor of the keeper, whose end others must hear."""
    os.setsid()
    libc.prctl(_PR_SET_NAME, b"skerry-warden", 0, 0, 0)
    keeping = {0, 1, 2, report, *(fd for fd in ends if fd >= 0)}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keeping:
            with suppress(OSError):
                os.close(int(name))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def close_ends(ends: Ends) -> None:
    """Streams have taken over the others; the console's socket is left."""
    if ends.console >= 0:
        with suppress(OSError):
            os.close(ends.console)


def die_as(code: int) -> None:
    """End with this code, or by this signal when it is negative."""
    if code < 0:
        signals.heed()
        if -code not in _AS_THEY_ARE:
            signal.signal(-code, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
        os._exit(128 - code)
    os._exit(code)
