"""The resolver's address in the guest: 127.0.0.11, as in every container on a network of its own.

What is asked here is passed on to the warden, which asks the real resolver in the container's
network namespace on the host. Messages of RFC 1035; over TCP each has its length in front.
"""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from skerry.runtime.loop import READ, Loop

ADDRESS = "127.0.0.11"
MOST = 65535
_MOST_OPEN = 256
Ask = Callable[[bytes, bool, Callable[[bytes], None]], None]
"""Pass a query on: the bytes, whether over TCP, who takes the answer."""


class Resolver:
    """Listens from `start` on; `ask` passes a query on."""

    def __init__(self, loop: Loop, ask: Ask) -> None:
        self._loop = loop
        self._ask = ask
        self._tcp: dict[int, tuple[socket.socket, bytearray]] = {}
        self._sockets: list[socket.socket] = []

    def start(self) -> None:
        """Bind both sockets."""
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        udp.bind((ADDRESS, 53))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((ADDRESS, 53))
        tcp.listen(64)
        self._sockets = [udp, tcp]
        self._loop.watch(udp.fileno(), READ, lambda *_: self._datagram(udp))
        self._loop.watch(tcp.fileno(), READ, lambda *_: self._accept(tcp))

    def _datagram(self, udp: socket.socket) -> None:
        try:
            query, asker = udp.recvfrom(MOST)
        except OSError:
            return

        def answer(data: bytes) -> None:
            with suppress(OSError):
                udp.sendto(data, asker)

        self._ask(query, False, answer)

    def _accept(self, tcp: socket.socket) -> None:
        try:
            sock, _ = tcp.accept()
        except OSError:
            return
        if len(self._tcp) >= _MOST_OPEN:
            sock.close()
            return
        sock.setblocking(False)
        self._tcp[sock.fileno()] = (sock, bytearray())
        self._loop.watch(sock.fileno(), READ, self._readable)

    def _readable(self, fd: int, _events: int) -> None:
        sock, waiting = self._tcp[fd]
        try:
            data = sock.recv(MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.drop(fd)
            del self._tcp[fd]
            sock.close()
            return
        waiting += data
        while len(waiting) >= 2:
            (length,) = struct.unpack_from(">H", waiting)
            if len(waiting) < 2 + length:
                return
            query = bytes(waiting[2 : 2 + length])
            del waiting[: 2 + length]
            self._ask(query, True, lambda data: self._answer(fd, sock, data))

    def _answer(self, fd: int, sock: socket.socket, data: bytes) -> None:
        if self._tcp.get(fd, (None,))[0] is sock:
            with suppress(OSError):
                sock.sendall(struct.pack(">H", len(data)) + data)
