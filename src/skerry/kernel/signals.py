"""Dispositions of signals that a process inherits.

What is ignored stays so across fork and execve (signal(7)), and a shell without job control starts
what it puts into the background with SIGINT and SIGQUIT ignored. An engine started that way would
hand it on to every container.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # The C module under `signal`: the latter wraps each number in an enum, 3 ms at start-up.
    import _signal as signal

_OF_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""The interpreter ignores these, whatever it has inherited."""
_LAST = 64


def heed() -> None:
    """Give what the caller has inherited as ignored its default action back."""
    for number in range(1, _LAST + 1):
        if number not in _OF_PYTHON and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
