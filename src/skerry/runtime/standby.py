"""A keeper that stands by, forked before the request that it will keep, with its starter.

Theory. A fork and the pages that the child must copy, each at its first look, are a third of an
exec and a quarter of a start. So once there was a request, the spawner has one child more, which
does both ahead of time, in the background, and waits (`keeper.keep_ahead`). It is a keeper, which
has to live small for long, and its starter, which owns all its memory and does the work; an exec is
kept by the starter. The next one is made when the program of a start runs, and when an exec is over
or has run for a moment: earlier it would only take a processor away from it. While none stands by
the spawner forks as for any request.

The two hold the ends of a socket pair. The child sees the spawner's end in it and goes; the spawner
sees that the child is done with its exec, or was killed. A request that was handed to a child which
was killed is lost as one is whose keeper was killed: nobody had said `taken`.
The child tells its pid when it waits, so that the spawner can call it to the front.
"""

import _socket
import array
import os
import select
import struct
from collections.abc import Callable
from contextlib import suppress

from skerry.kernel import background
from skerry.kernel.memory import own_pages
from skerry.kernel.syscalls import libc
from skerry.runtime import wire

QUIET = 1
"""Milliseconds without a request after which the next child is made."""
_PR_SET_NAME = 15  # linux/prctl.h
_PID = struct.Struct("=i")
_ROOM_FOR_FDS = _socket.CMSG_SPACE(4 * wire.MAX_FDS)

Receive = Callable[[_socket.socket], tuple[bytes, tuple[int, ...]]]
Keep = Callable[[_socket.socket, Receive], None]
"""What a child does: it waits for a request on the socket by the function, and closes the socket
when the next child may be made."""


class Standby:
    """The spawner's side."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._sock: _socket.socket | None = None
        self._free = False
        self._wanted = False
        self._pid = 0
        self._behind = background.can_return()

    @property
    def fd(self) -> int:
        """To be polled, -1 while there is no child."""
        return -1 if self._sock is None else self._sock.fileno()

    @property
    def due(self) -> bool:
        """Whether a child is to be made as soon as there is time."""
        return self._wanted and self._sock is None

    def give(self, datagram: bytes, fds: tuple[int, ...]) -> bool:
        """Hand over a request; False when nobody stands by. The descriptors stay open."""
        self._wanted = True
        if self._sock is None or not self._free:
            return False
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))
        if self._behind and self._pid:
            # It may be making itself ready still, and would then not get a processor for this.
            background.step_forward(self._pid)
        try:
            self._sock.sendmsg([datagram], [rights], _socket.MSG_NOSIGNAL)
        except OSError:
            return False
        self._free = False
        return True

    def hear(self) -> bool:
        """Take what the child has said; False when it is done, or was killed."""
        told = b""
        if self._sock is not None:
            with suppress(OSError):
                told = self._sock.recv(_PID.size)
        if not told:
            self.gone()
            return False
        (self._pid,) = _PID.unpack(told)
        return True

    def gone(self) -> None:
        """Let go of the child."""
        if self._sock is not None:
            self._sock.close()
        self._sock = None

    def make(self, engine: _socket.socket) -> bool:
        """Fork a child, if that can be; `engine` is the socket that is the spawner's alone."""
        self._wanted = False
        try:
            mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            pid = os.fork()
        except OSError:
            return False
        if pid == 0:
            try:
                engine.close()
                mine.close()
                self._keep(theirs, self._receive)
            finally:
                os._exit(0)
        theirs.close()
        self._sock, self._free, self._pid = mine, True, 0
        return True

    def _receive(self, sock: _socket.socket) -> tuple[bytes, tuple[int, ...]]:
        """In the child: own all memory, and wait; an empty request when the spawner has gone."""
        libc.prctl(_PR_SET_NAME, b"skerry-standby", 0, 0, 0)
        waiting = select.poll()
        waiting.register(sock.fileno(), select.POLLIN)
        if self._behind:
            sock.send(_PID.pack(os.getpid()))
            background.step_back()
        for _ in own_pages():
            if waiting.poll(0):
                break
        if self._behind:
            background.step_forward()
        datagram, ancillary, _, _ = sock.recvmsg(
            wire.DATAGRAM, _ROOM_FOR_FDS, _socket.MSG_CMSG_CLOEXEC
        )
        return datagram, tuple(memoryview(ancillary[0][2]).cast("i")) if datagram else ()
