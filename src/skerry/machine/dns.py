"""Queries that the guest passes on: asked of the resolver in the container's network namespace.

The warden is in that namespace. A query is opaque here; its length, the number that wait and the
time are bounded.
"""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from skerry.base.light import NamedTuple
from skerry.runtime.loop import READ, Loop

ADDRESS = ("127.0.0.11", 53)
_MOST = 65535
_MOST_WAITING = 256
_SECONDS = 10.0


class _Query(NamedTuple):
    sock: socket.socket
    tcp: bool
    answer: Callable[[bytes], None]
    waiting: bytearray
    deadline: float


class Forwarder:
    """Asks; `answer` is called with the answer's bytes, or never."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._queries: dict[int, _Query] = {}

    def ask(self, query: bytes, tcp: bool, answer: Callable[[bytes], None]) -> None:
        """Pass a query on; it is dropped when too many wait, as a resolver would."""
        self._expire()
        if not 0 < len(query) <= _MOST or len(self._queries) >= _MOST_WAITING:
            return
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET, kind)
        try:
            sock.settimeout(0.5)  # It is the loopback device: either at once or never.
            sock.connect(ADDRESS)
            sock.sendall(struct.pack(">H", len(query)) + query if tcp else query)
            sock.setblocking(False)
        except OSError:
            sock.close()
            return
        fd = sock.fileno()
        self._queries[fd] = _Query(sock, tcp, answer, bytearray(), time.monotonic() + _SECONDS)
        self._loop.watch(fd, READ, self._ready)

    def _ready(self, fd: int, _events: int) -> None:
        query = self._queries[fd]
        try:
            data = query.sock.recv(_MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if query.tcp and data:
            query.waiting.extend(data)
            if len(query.waiting) < 2:
                return
            (length,) = struct.unpack_from(">H", query.waiting)
            if len(query.waiting) < 2 + length:
                return
            data = bytes(query.waiting[2 : 2 + length])
        self._close(fd)
        if data:
            query.answer(data)

    def _expire(self) -> None:
        now = time.monotonic()
        for fd, query in list(self._queries.items()):
            if query.deadline < now:
                self._close(fd)

    def _close(self, fd: int) -> None:
        query = self._queries.pop(fd)
        self._loop.drop(fd)
        with suppress(OSError):
            query.sock.close()
