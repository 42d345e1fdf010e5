"""The keeper's ends of a program's standard streams: three pipes, or one terminal."""

import fcntl
import os
import struct
import termios

from skerry.base.errors import Conflict, KernelFault

STDOUT, STDERR = 1, 2
NAMES = {STDOUT: "stdout", STDERR: "stderr"}
CHUNK = 64 * 1024
"""Bytes read at once: what a pipe holds."""


class Streams:
    """`outputs` maps a descriptor to STDOUT or STDERR; `stdin` is -1 when closed."""

    def __init__(self, fds: dict[str, int]) -> None:
        """Take over `terminal`, or `stdout`, `stderr` and perhaps `stdin`; all non-blocking."""
        master = fds.get("terminal", -1)
        self.terminal = master >= 0
        if self.terminal:
            self.outputs = {master: STDOUT}
            self.stdin = master
        else:
            self.outputs = {fds["stdout"]: STDOUT, fds["stderr"]: STDERR}
            self.stdin = fds.get("stdin", -1)
        self._waiting = bytearray()
        self._ending = False

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

    @property
    def stdin_over(self) -> bool:
        """Standard input is to be closed: all was written, or the program does not read it."""
        return self._ending and not self._waiting and self.stdin >= 0 and not self.terminal

    def write(self, data: bytes) -> None:
        """Pass input on; what does not fit is kept (`stdin_waits`), lost when stdin is closed."""
        if self.stdin >= 0:
            self._waiting += data
            self.flush()

    def flush(self) -> None:
        """Pass on what waits, as far as it goes."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self.stdin, self._waiting)]
        except BlockingIOError:
            return
        except OSError:  # EPIPE
            self.discard_input()

    def end_input(self) -> None:
        """No more input comes. A terminal stays open: closing it would hang the program up."""
        self._ending = True

    def discard_input(self) -> None:
        """The program does not read any more: whatever comes is lost, as with a pipe."""
        self._waiting.clear()
        self._ending = True

    def close_stdin(self) -> None:
        """Close it, once nobody watches it any more."""
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
