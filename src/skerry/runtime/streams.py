"""The program's standard streams, the keeper's ends of them: three pipes, or one terminal."""

import errno
import fcntl
import os
import socket
import struct
import termios
from typing import NamedTuple

from skerry.base.errors import Conflict, KernelFault, SystemFault

STDOUT, STDERR = 1, 2
NAMES = {STDOUT: "stdout", STDERR: "stderr"}
CHUNK = 64 * 1024
"""Bytes read at once: what a pipe holds."""


class Ends(NamedTuple):
    """What the program gets. `console` is a socket for the terminal's master side, -1 without."""

    stdin: int
    stdout: int
    stderr: int
    console: int

    def close(self) -> None:
        """Close them in the keeper, once the program has its own."""
        for fd in self:
            if fd >= 0:
                os.close(fd)


class Streams:
    """Keeper's ends. `outputs` maps a descriptor to STDOUT or STDERR; `stdin` is -1 when closed."""

    def __init__(self, *, terminal: bool, open_stdin: bool) -> None:
        """Make the pipes, or the socket that will bring the terminal; KernelFault."""
        self.terminal = terminal
        self.outputs: dict[int, int] = {}
        self.stdin = -1
        self._waiting = bytearray()
        self._close_when_written = False
        self._console: socket.socket | None = None
        try:
            self.ends = self._terminal_ends() if terminal else self._pipe_ends(open_stdin)
        except OSError as error:
            raise KernelFault("making the program's streams", error.errno or 0) from None

    def _terminal_ends(self) -> Ends:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._console = mine
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        return Ends(null, os.dup(null), os.dup(null), theirs.detach())

    def _pipe_ends(self, open_stdin: bool) -> Ends:
        if open_stdin:
            stdin, self.stdin = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.stdin, False)
        else:
            stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        out, stdout = os.pipe2(os.O_CLOEXEC)
        err, stderr = os.pipe2(os.O_CLOEXEC)
        for fd, number in ((out, STDOUT), (err, STDERR)):
            os.set_blocking(fd, False)
            self.outputs[fd] = number
        return Ends(stdin, stdout, stderr, -1)

    def launched(self) -> None:
        """The program runs: take the terminal, let go of the program's ends."""
        self.ends.close()
        if self._console is None:
            return
        with self._console as console:
            console.settimeout(10)
            try:
                _, fds, _, _ = socket.recv_fds(console, 4096, 1)
            except OSError as error:
                raise KernelFault("receiving the terminal", error.errno or errno.EIO) from None
        if not fds:
            raise SystemFault("receiving the terminal: the container's init sent none")
        self._console = None
        (master,) = fds
        os.set_inheritable(master, False)
        os.set_blocking(master, False)
        self.outputs[master] = STDOUT
        self.stdin = master

    def read(self, fd: int) -> bytes | None:
        """Output that waits; None when there is none now, empty when no more will ever come."""
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""  # EIO: every holder of the terminal's other side has gone.

    def close_output(self, fd: int) -> None:
        """The output has ended."""
        del self.outputs[fd]
        if fd == self.stdin:
            self.stdin = -1
            self._waiting.clear()
        os.close(fd)

    @property
    def stdin_waits(self) -> bool:
        """Input was taken that the program has not read yet."""
        return bool(self._waiting)

    def write(self, data: bytes) -> None:
        """Pass input on; what does not fit is kept (`stdin_waits`), lost when stdin is closed."""
        if self.stdin < 0:
            return
        self._waiting += data
        self.flush()

    def flush(self) -> None:
        """Pass on what waits, as far as it goes."""
        try:
            while self._waiting and self.stdin >= 0:
                del self._waiting[: os.write(self.stdin, self._waiting)]
        except BlockingIOError:
            return
        except OSError:  # EPIPE
            self.discard_input()
        if self._close_when_written:
            self._close_stdin()

    def end_input(self) -> None:
        """No more input comes. A terminal stays open: closing it would hang the program up."""
        if not self.terminal:
            self._close_when_written = True
            if not self._waiting:
                self._close_stdin()

    def discard_input(self) -> None:
        """The program does not read any more: whatever comes now is lost, as with a pipe."""
        self._waiting.clear()
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self.stdin >= 0 and not self.terminal:
            os.close(self.stdin)
            self.stdin = -1

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size in characters; Conflict without a terminal."""
        if not self.terminal or not self.outputs:
            raise Conflict("cannot resize: the program has no terminal")
        (master,) = self.outputs
        size = struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0)
        try:
            fcntl.ioctl(master, termios.TIOCSWINSZ, size)
        except OSError as error:
            raise KernelFault("resizing the terminal", error.errno or 0) from None
