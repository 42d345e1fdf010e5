"""A client that joined a program's streams, seen from the keeper.

The client holds the other end of a stream socket. It gets output as Docker frames it (a header of
8 bytes: stream number, three zeros, length; then the payload), or raw from a terminal, and sends
raw input.

Back-pressure, as Docker has it: while a client has not taken what was sent to it, the keeper reads
no further output, and the program blocks once its pipe is full. So nothing is lost for a pager or a
stopped terminal. Unlike Docker's, a client that takes nothing at all for `STALL_LIMIT` seconds is
dropped, and the program goes on.
"""

import _socket
import struct
import time
from contextlib import suppress

from skerry.base.isolation import Attach
from skerry.runtime.loop import GONE, READ, WRITE, Loop
from skerry.runtime.streams import STDOUT, Streams

STALL_LIMIT = 600.0
INPUT_CHUNK = 16 * 1024
_FRAME = struct.Struct(">BxxxI")
_LAST_BUFFER = 8 * 1024 * 1024
_VAIN_CHUNK = 256 * 1024
_VAIN_READS = 64
"""More reads than a full buffer needs; a bound against a peer that is not a unix socket."""
# asm-generic/socket.h
_SO_SNDBUFFORCE = 32


class Client:
    """One attached client. `changed` in the keeper is called when it may read again or has gone."""

    def __init__(self, fd: int, how: Attach, streams: Streams, loop: Loop) -> None:
        """Take over `fd`, a connected stream socket."""
        self._socket = _socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._how = how
        self._framed = not streams.terminal
        self._streams = streams
        self._loop = loop
        self._pending = bytearray()
        self._progress = 0.0
        self._input_open = True
        self._hung_up = False
        self.had_input = how.stdin
        """Whether it was attached to standard input."""
        self.input_ended = False
        """The client has said that no more input comes, or has gone."""
        self.gone = False

    @property
    def behind(self) -> bool:
        """Output waits for this client."""
        return bool(self._pending)

    @property
    def deadline(self) -> float:
        """When it is to be dropped, if it is behind and takes nothing until then."""
        return self._progress + STALL_LIMIT

    def send(self, number: int, data: bytes) -> None:
        """Output of stream `number`; kept when the socket is full."""
        wanted = self._how.stdout if number == STDOUT else self._how.stderr
        if self.gone or self._hung_up or not wanted:
            return
        if not self._pending:
            self._progress = time.monotonic()
        if self._framed:
            self._pending += _FRAME.pack(number, len(data))
        self._pending += data
        self._flush()

    def watch(self) -> None:
        """Ask the loop for what this client needs now."""
        if self.gone:
            return
        wants_input = self._input_open and not self._streams.stdin_waits
        if self._hung_up and not wants_input:
            self._loop.drop(self._socket.fileno())
            return
        events = (READ if wants_input else 0) | (WRITE if self._pending else 0)
        self._loop.watch(self._socket.fileno(), events, self.ready)

    def ready(self, _fd: int, events: int) -> None:
        """Serve poll events: take input, send what waits, notice the end."""
        if events & GONE:
            self._hung_up = True
            self._pending.clear()
        elif events & WRITE:
            self._flush()
        if self._input_open and not self._streams.stdin_waits and events & (READ | GONE):
            self._take_input()
        if self._hung_up and not self._input_open:
            self.close()
        else:
            self.watch()

    def _take_input(self) -> None:
        try:
            data = self._socket.recv(INPUT_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            if self._how.stdin:
                self._streams.write(data)
        else:
            self._input_open = False
            self.input_ended = True

    def _flush(self) -> None:
        try:
            while self._pending:
                sent = self._socket.send(self._pending, _socket.MSG_NOSIGNAL)
                del self._pending[:sent]
                self._progress = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            self._pending.clear()
            self._hung_up = True
        self.watch()

    def finish(self) -> bool:
        """The program has ended: hand everything over and close. False while some still waits.

        The socket's buffer is enlarged so that the kernel holds the rest for the client and the
        keeper need not wait for it.
        """
        if self._pending:
            for option in (_SO_SNDBUFFORCE, _socket.SO_SNDBUF):
                try:
                    self._socket.setsockopt(_socket.SOL_SOCKET, option, _LAST_BUFFER)
                    break
                except OSError:
                    continue
            self._flush()
        if not self._pending:
            self.close()
        return self.gone

    def close(self) -> None:
        """Leave the client."""
        if not self.gone:
            self.gone = True
            self.input_ended = True
            self._pending.clear()
            self._loop.drop(self._socket.fileno())
            self._forget_input()
            self._socket.close()

    def _forget_input(self) -> None:
        """Take what the client sent in vain, or its last read is told ECONNRESET, not the end.

        unix(7): a socket closed with unread data resets its peer. Once reading is shut down
        nothing more comes in, so the few reads of a full buffer are enough.
        """
        with suppress(OSError):
            self._socket.shutdown(_socket.SHUT_RD)
            for _ in range(_VAIN_READS):
                if not self._socket.recv(_VAIN_CHUNK):
                    break
