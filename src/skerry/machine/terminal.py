"""A program's terminal on this side of the wall: it carries bytes and its size, nothing else."""

import fcntl
import os
import signal
import socket
import struct
import termios
import tty


def open_terminal(console: int, size: tuple[int, int]) -> int:
    """A terminal whose master goes to the keeper; its slave, raw and non-blocking: the guest's
    terminal does what a terminal does."""
    master, slave = os.openpty()
    tty.setraw(slave)
    if any(size):
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with socket.socket(fileno=os.dup(console)) as sock:
        socket.send_fds(sock, [b"terminal"], [master])
    os.close(master)
    os.set_blocking(slave, False)
    return slave


def follow_size(slave: int, waker: int) -> None:
    """Make the terminal the session's own, so that a change of its size is signalled, and wake."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGWINCH, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)


def window_size(slave: int) -> tuple[int, int]:
    """Rows and columns."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(slave, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, columns


def unblocked(fd: int) -> int:
    """The descriptor, non-blocking from now on."""
    os.set_blocking(fd, False)
    return fd
