"""A program in the foreground: its terminal relayed to ours, signals passed on, its exit code
ours."""

import _socket
import fcntl
import os
import select
import signal
import struct
import termios
from types import FrameType

from skerry.base.errors import SystemFault
from skerry.kernel.descriptors import recv_fds

_CHUNK = 1 << 16
_KEPT = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGURG,
        signal.SIGWINCH,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGXFSZ,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)


def console_pair() -> tuple[int, _socket.socket]:
    """A socket for the init to send the terminal on, and the end where it arrives."""
    theirs, ours = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return theirs.detach(), ours


def follow(pid: int, console: _socket.socket | None) -> int:
    """Relay until process `pid`, a child, has ended; its exit code, 128 + signal when killed."""

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    for number in signal.valid_signals() - _KEPT:
        if isinstance(number, signal.Signals) and number < signal.SIGRTMIN:
            signal.signal(number, forward)
    if console is None:
        _, status = os.waitpid(pid, 0)
    else:
        _, fds = recv_fds(console, 4096, 1)
        console.close()
        if not fds:
            raise SystemFault("the container has not sent its terminal")
        status = _relay(pid, fds[0])
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _relay(pid: int, master: int) -> int:
    """Copy between our terminal and the container's; the wait status of `pid`."""
    saved = termios.tcgetattr(0) if os.isatty(0) else None

    def resize(*_: object) -> None:
        if saved is not None:
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("8s", size))

    signal.signal(signal.SIGWINCH, resize)
    resize()
    try:
        if saved is not None:
            _make_raw(saved)
        _copy(master)
        _, status = os.waitpid(pid, 0)
        return status
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        os.close(master)


def _make_raw(saved: list[object]) -> None:
    import tty

    tty.setraw(0, termios.TCSANOW)
    raw = termios.tcgetattr(0)
    # Output goes on being processed by the container's terminal alone.
    raw[1] = saved[1]
    termios.tcsetattr(0, termios.TCSANOW, raw)


def _copy(master: int) -> None:
    """Until the last process of the container has closed the terminal."""
    poller = select.poll()
    poller.register(master, select.POLLIN)
    poller.register(0, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            try:
                data = os.read(fd, _CHUNK)
            except OSError:  # EIO: nobody holds the slave any more
                data = b""
            if fd == master:
                if not data:
                    return
                _write_all(1, data)
            elif data:
                _write_all(master, data)
            else:
                poller.unregister(0)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
