"""Carries what comes to a published port on [::1] on to its container.

Theory. The packet filter cannot: the kernel takes ::1 from the link `lo` alone, so a container's
answer to such a packet is dropped on its way back (RFC 4291, 2.5.3; IPv6 has no route_localnet).
The same relay serves an IPv6 address of the host that was published for a container with IPv4
only. Bytes are passed on as they are, and everything hangs on the helper's one poller: nothing
blocks, a reader waits for whoever is slower, and flows are bounded in number.
"""

import contextlib
import select
import socket
from collections.abc import Callable
from functools import partial

from skerry.network.poller import Poller

FLOWS = 1024
"""Connections, or senders of datagrams, of one port."""
ROOM = 1 << 18
"""Bytes that wait for a slow reader, each way."""
SILENCE = 90.0
"""Seconds until a sender of datagrams is forgotten."""
_RETRY = 1.0
_BURST = 64


class Relay:
    """A published port: `kind` is SOCK_STREAM or SOCK_DGRAM, `sock` is bound to the port, and
    a stream listens."""

    def __init__(self, poller: Poller, sock: socket.socket, target: tuple[str, int]) -> None:
        self._poller = poller
        self._socket = sock
        self._target = target
        self._family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        self._streams: set[_Stream] = set()
        self._senders: dict[object, _Sender] = {}
        self._open = True
        sock.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if self._open:
            stream = self._socket.type == socket.SOCK_STREAM
            call = self._accept if stream else self._datagrams
            self._poller.watch(self._socket, select.EPOLLIN, lambda _: call())

    def _rest(self) -> None:
        """Out of descriptors: look again a little later."""
        self._poller.forget(self._socket)
        self._poller.after(_RETRY, self._listen)

    def _connect(self, kind: int) -> socket.socket:
        sock = socket.socket(self._family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(BlockingIOError):
                sock.connect(self._target)
        except BaseException:
            sock.close()
            raise
        return sock

    def _accept(self) -> None:
        try:
            client, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            self._rest()
            return
        client.setblocking(False)
        if len(self._streams) >= FLOWS:
            _reset(client)
            return
        try:
            server = self._connect(socket.SOCK_STREAM)
        except OSError:
            _reset(client)
            return
        self._streams.add(_Stream(self._poller, client, server, self._streams.discard))

    def _datagrams(self) -> None:
        for _ in range(_BURST):
            try:
                data, peer = self._socket.recvfrom(65535)
            except OSError:
                return
            sender = self._senders.get(peer)
            if sender is None:
                if len(self._senders) >= FLOWS:
                    continue
                try:
                    server = self._connect(socket.SOCK_DGRAM)
                except OSError:
                    continue
                gone = partial(self._senders.pop, peer, None)
                sender = _Sender(self._poller, server, partial(self._reply, peer), gone)
                self._senders[peer] = sender
            sender.send(data)

    def _reply(self, peer: tuple[str, int], data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendto(data, peer)

    def close(self) -> None:
        """The port goes, and what goes through it."""
        self._open = False
        self._poller.forget(self._socket)
        self._socket.close()
        for stream in list(self._streams):
            stream.close()
        for sender in list(self._senders.values()):
            sender.close()


class _Half:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.waiting = bytearray()
        self.ended = False
        self.told = False

    def read(self) -> None:
        if self.ended or len(self.waiting) >= ROOM:
            return
        try:
            data = self.source.recv(ROOM)
        except BlockingIOError:
            return
        self.waiting += data
        self.ended = not data

    def write(self) -> None:
        if self.waiting:
            with contextlib.suppress(BlockingIOError):
                del self.waiting[: self.sink.send(self.waiting)]
        if self.ended and not self.waiting and not self.told:
            self.told = True
            self.sink.shutdown(socket.SHUT_WR)


class _Stream:
    """A connection with its other half at the container."""

    def __init__(
        self,
        poller: Poller,
        client: socket.socket,
        server: socket.socket,
        gone: "Callable[[_Stream], None]",
    ) -> None:
        self._poller = poller
        self._client, self._server = client, server
        self._halves = _Half(client, server), _Half(server, client)
        self._gone = gone
        self._open = True
        self._watched: dict[socket.socket, int] = {}
        # Nothing is read before the container has accepted: who cannot be reached says nothing.
        poller.watch(server, select.EPOLLOUT, lambda _: self._connected())

    def _connected(self) -> None:
        if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close()
            return
        self._watched[self._server] = select.EPOLLOUT
        self._wait()

    def _turn(self, sock: socket.socket, events: int) -> None:
        try:
            for half in self._halves:
                if half.source is sock and events & ~select.EPOLLOUT:
                    half.read()
                half.write()
        except OSError:
            self.close()
            return
        if all(half.told for half in self._halves):
            self.close()
        else:
            self._wait()

    def _wait(self) -> None:
        """Watch for what can go on, and for nothing else: a hang-up repeats itself."""
        there, back = self._halves
        for sock, reads, writes in ((self._client, there, back), (self._server, back, there)):
            wanted = 0
            if not reads.ended and len(reads.waiting) < ROOM:
                wanted |= select.EPOLLIN
            if writes.waiting:
                wanted |= select.EPOLLOUT
            if wanted == self._watched.get(sock, 0):
                continue
            self._watched[sock] = wanted
            if wanted:
                self._poller.watch(sock, wanted, partial(self._turn, sock))
            else:
                self._poller.forget(sock)

    def close(self) -> None:
        """Both ends; with a reset unless both have said all."""
        if not self._open:
            return
        self._open = False
        whole = all(half.told for half in self._halves)
        for sock in (self._client, self._server):
            self._poller.forget(sock)
            if whole:
                sock.close()
            else:
                _reset(sock)
        self._gone(self)


class _Sender:
    """Datagrams of one sender, with a socket of their own at the container."""

    def __init__(
        self,
        poller: Poller,
        server: socket.socket,
        reply: Callable[[bytes], None],
        gone: Callable[[], object],
    ) -> None:
        self._poller = poller
        self._server = server
        self._reply = reply
        self._gone = gone
        self._open = True
        self._silent = False
        poller.watch(server, select.EPOLLIN, lambda _: self._answers())
        poller.after(SILENCE, self._look)

    def send(self, data: bytes) -> None:
        """On to the container; lost when it does not listen, as datagrams are."""
        self._silent = False
        with contextlib.suppress(OSError):
            self._server.send(data)

    def _answers(self) -> None:
        for _ in range(_BURST):
            try:
                data = self._server.recv(65535)
            except OSError:
                return
            self._silent = False
            self._reply(data)

    def _look(self) -> None:
        if self._silent:
            self.close()
        elif self._open:
            self._silent = True
            self._poller.after(SILENCE, self._look)

    def close(self) -> None:
        """Forget it."""
        if self._open:
            self._open = False
            self._poller.forget(self._server)
            self._server.close()
            self._gone()


def _reset(sock: socket.socket) -> None:
    """Close it so that the other end sees an error, not an end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
