"""The container's terminal: made from its own devpts, handed out, and bound to /dev/console."""

import _socket
import errno
import fcntl
import os
import struct
import termios

from skerry.base.errors import KernelFault, SystemFault
from skerry.kernel import mounts as k
from skerry.kernel.descriptors import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    device_number,
    make_directories,
    open_in_root,
    openat2,
    send_fds,
)

# asm-generic/ioctls.h
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_TIOCGPTPEER = 0x5441
_PTMX = (5, 2)


def open_pair(root_fd: int) -> tuple[int, int, str]:
    """(master, slave, slave's path in the container).

    The slave comes out of the master by ioctl, so no path of the image is followed to it, and the
    master is checked to be the terminal multiplexer.
    """
    try:
        master = open_in_root(root_fd, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    except KernelFault as fault:
        raise KernelFault(
            "open the container's /dev/pts/ptmx",
            fault.errno,
            hint="a terminal needs a devpts mount on /dev/pts in the configuration",
        ) from None
    if device_number(master) != _PTMX:
        os.close(master)
        raise SystemFault("/dev/pts/ptmx in the container is not the terminal multiplexer")
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, b"\0\0\0\0"))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        os.close(master)
        raise KernelFault("open the container's terminal", error.errno or 0) from None
    return master, slave, f"/dev/pts/{number}"


def hand_out(console: int, master: int, name: str) -> None:
    """Send the master over the unix socket `console`, with the slave's name, and close it."""
    sock = _socket.socket(fileno=console)
    try:
        send_fds(sock, name.encode(), [master])
    except OSError as error:
        raise KernelFault("send the terminal over the console socket", error.errno or 0) from None
    finally:
        sock.detach()
        os.close(master)


def set_size(fd: int, rows: int, columns: int) -> None:
    """Set the window size of a terminal, in characters."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def bind_console(root_fd: int, slave: int) -> None:
    """Show the terminal as /dev/console, from its descriptor."""
    dev = make_directories(root_fd, "/dev")
    try:
        # Not by make_file, which follows links: no link of the image chooses the place.
        target = _console_file(dev)
    finally:
        os.close(dev)
    try:
        tree = k.open_tree("", dirfd=slave)
        try:
            k.move_mount(tree, target)
        finally:
            os.close(tree)
    finally:
        os.close(target)


def _console_file(dev: int) -> int:
    flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
    rules = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    try:
        return openat2(dev, "console", os.O_PATH, resolve=rules)
    except KernelFault as fault:
        if fault.errno != errno.ENOENT:
            raise
    os.close(openat2(dev, "console", flags | os.O_EXCL, 0o600, resolve=rules))
    return openat2(dev, "console", os.O_PATH, resolve=rules)


def take_as_controlling(fd: int) -> None:
    """Make `fd` the controlling terminal of the session that the caller leads."""
    try:
        fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
    except OSError as error:
        raise KernelFault("take the terminal as controlling terminal", error.errno or 0) from None
