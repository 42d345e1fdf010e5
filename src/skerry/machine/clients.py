"""Whoever asks a warden something: the engine, and the clients of execs, at `machine.sock`."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress

from skerry.base.errors import GuestFault, SkerryError
from skerry.machine import said
from skerry.runtime import rundir, wire
from skerry.runtime.loop import READ, Loop

SOCKET = "machine.sock"


class Clients:
    """Their connections. `request` serves a message or raises, `waits` says whether it has to wait
    (until `go_on`), `left` hears of one that has gone."""

    def __init__(
        self,
        loop: Loop,
        run_dir: str,
        request: Callable[[socket.socket, int, wire.Message], None],
        waits: Callable[[], bool],
        left: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._listener = rundir.listen(run_dir, SOCKET)
        self._request = request
        self._waits = waits
        self._left = left
        self._socks: dict[int, socket.socket] = {}
        self._deferred: list[tuple[socket.socket, wire.Message]] = []
        loop.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self, _fd: int, _events: int) -> None:
        with suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            self._socks[sock.fileno()] = sock
            self._loop.watch(sock.fileno(), READ, self._serve)

    def _serve(self, fd: int, _events: int) -> None:
        sock = self._socks[fd]
        try:
            message = wire.hear(sock)
        except BlockingIOError:
            return
        if message is None:
            self._hang_up(fd, sock)
            return
        if self._waits():
            self._deferred.append((sock, message))
        else:
            self._handle(sock, message)

    def _handle(self, sock: socket.socket, message: wire.Message) -> None:
        seq = int(message.head.get("seq", 0))
        try:
            self._request(sock, seq, message)
        except (SkerryError, GuestFault, ValueError, TypeError, KeyError, OSError) as error:
            said.say(sock, {"reply": seq, "error": wire.error_to_wire(error)})
        finally:
            for extra in message.fds:
                os.close(extra)

    def go_on(self) -> None:
        """Serve what had to wait."""
        deferred, self._deferred = self._deferred, []
        for asker, asked in deferred:
            self._handle(asker, asked)

    def _hang_up(self, fd: int, sock: socket.socket) -> None:
        self._loop.drop(fd)
        del self._socks[fd]
        for fd in (fd for asker, asked in self._deferred if asker is sock for fd in asked.fds):
            os.close(fd)
        self._deferred = [each for each in self._deferred if each[0] is not sock]
        self._left(sock)
        sock.close()
