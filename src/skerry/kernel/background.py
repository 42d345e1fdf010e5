"""Work that shall take a processor only while nobody else wants it: SCHED_IDLE, sched(7).

What is woken goes before a process of this class at once, also on the processor it runs on.
"""

import os

from skerry.kernel import capabilities

_CAP_SYS_NICE = 1 << 23  # linux/capability.h


def step_back() -> None:
    """The caller works in the background from now on. There is not always a way back."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        # Or whoever waits for this processor does so until the next tick.
        os.sched_yield()
    except OSError:
        return  # It is a favour to others, no more.


def step_forward(pid: int = 0) -> None:
    """Undo it, for another process or for the caller."""
    try:
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        return


def can_return() -> bool:
    """Whether the caller could undo it."""
    return bool(capabilities.current().effective & _CAP_SYS_NICE)
