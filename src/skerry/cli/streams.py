"""Carry bytes between this process's standard streams and an attached container.

One loop over poll: standard input goes to the socket as fast as the engine takes it, and what
comes back goes to standard output and error. Neither direction can block the other.
"""

from __future__ import annotations

import errno
import os
import select

from skerry.base.errors import Unavailable
from skerry.cli.context import write
from skerry.sdk.frames import STDERR, Demultiplexer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from skerry.cli.terminal import DetachKeys

ENDED, DETACHED, LEFT = "ended", "detached", "left"
_BLOCK = 65536
_SHUT_WR = 1


class Pump:
    """One attached connection, from the hijack to its end."""

    def __init__(
        self,
        connection: _socket.socket,
        first: bytes,
        *,
        tty: bool,
        stdin: int | None,
        keys: DetachKeys | None = None,
    ) -> None:
        """`first` came with the response's head; `stdin` is the descriptor to read input from."""
        self._socket = connection
        self._frames = None if tty else Demultiplexer()
        self._stdin = stdin
        self._keys = keys
        self._pending = b""
        self._open_out = True
        self._leave = False
        self._first = first
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def leave(self) -> None:
        """End `run` at once; may be called from a signal handler."""
        self._leave = True
        self._wake()

    def resume_input(self) -> None:
        """Look at standard input again: back in the fore. May be called from a signal handler."""
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"!")
        except OSError:
            return

    def run(self) -> str:
        """ENDED when the engine closed the streams, DETACHED by keys, LEFT by `leave`."""
        self._socket.setblocking(False)
        try:
            return self._loop()
        finally:
            self._socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _loop(self) -> str:
        self._show(self._first)
        fd, stdin = self._socket.fileno(), self._stdin
        reading = stdin is not None
        shut = stdin is None
        while True:
            poller = select.poll()
            poller.register(self._wake_read, select.POLLIN)
            poller.register(fd, select.POLLIN | (select.POLLOUT if self._pending else 0))
            if reading and not self._pending and stdin is not None:
                poller.register(stdin, select.POLLIN)
            ready = dict(poller.poll())
            if self._leave:
                return LEFT
            if self._wake_read in ready:
                os.read(self._wake_read, 64)
                reading = not shut
            if ready.get(fd, 0) & ~select.POLLOUT and not self._receive():
                return ENDED
            if self._pending:
                self._send(b"")
            elif stdin is not None and stdin in ready:
                data = self._read_input(stdin)
                if data is None:
                    reading = False
                    continue
                if self._keys:
                    data, detached = self._keys.feed(data)
                    if detached:
                        self._send(data)
                        return DETACHED
                    if not data:
                        continue
                if data:
                    self._send(data)
                else:
                    reading = False
                    shut = True
            if shut and not self._pending and self._stdin is not None:
                self._half_close()
                self._stdin = stdin = None

    def _half_close(self) -> None:
        try:
            self._socket.shutdown(_SHUT_WR)
        except OSError:
            return

    def _read_input(self, stdin: int) -> bytes | None:
        """Input; empty at its end; None while it must not be read: SIGTTIN is ignored, so a
        terminal that belongs to another job answers EIO."""
        try:
            return os.read(stdin, _BLOCK)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO and os.isatty(stdin):
                return None
            return b""

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(_BLOCK)
        except BlockingIOError:
            return True
        except (ConnectionResetError, BrokenPipeError):
            return False
        if not data:
            if self._frames and not self._frames.complete:
                raise Unavailable("the engine's stream was cut off")
            return False
        self._show(data)
        return True

    def _show(self, data: bytes) -> None:
        pieces = self._frames.feed(data) if self._frames else [(1, data)]
        for stream, piece in pieces:
            if not self._open_out and stream != STDERR:
                continue
            try:
                if piece:
                    write(2 if stream == STDERR else 1, piece)
            except BrokenPipeError:
                # `skerry run … | head`: the program goes on and its output is dropped, unless it
                # asks: that is how Docker's command line behaves as well.
                self._open_out = False

    def _send(self, data: bytes) -> None:
        data = self._pending + data
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except (BrokenPipeError, ConnectionResetError):
            sent = len(data)
        self._pending = data[sent:]
