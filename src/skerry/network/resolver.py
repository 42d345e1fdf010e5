"""Answers the DNS questions of containers: local names from the zones, others from real servers.

Theory. Each sandbox has two sockets at 127.0.0.11:53 of its own namespace, so an asker is known by
the socket and cannot pretend to be another. Others' names are asked of the servers in the host's
/etc/resolv.conf, read again whenever it changes, from the host's namespace; servers given with
--dns are asked from the container's own. An asker may have some questions under way; more are
refused. Nothing blocks: everything hangs on one poller and a list of deadlines.
"""

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from functools import partial

from skerry.base.errors import KernelFault
from skerry.kernel.namespaces import CLONE_NEWNET, open_namespace, setns
from skerry.network import dns_wire as wire
from skerry.network.poller import Poller
from skerry.network.zones import Zones

PER_SANDBOX = 128
"""Forwarded questions under way."""
CONNECTIONS = 32
"""TCP connections of one sandbox."""
PATIENCE = 2.0
"""Seconds that a server gets."""
IDLE = 10.0
"""Seconds that a TCP connection may be silent."""
SERVERS = 3
"""As MAXNS of resolv.h."""
RESOLV_CONF = "/etc/resolv.conf"
_BURST = 64
_PORT = 53


class HostServers:
    """The name servers of resolv.conf(5), read again when the file has changed."""

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers: tuple[str, ...] = ()

    def get(self) -> tuple[str, ...]:
        """Addresses in order."""
        try:
            status = os.stat(self._path)
            now = (status.st_ino, status.st_mtime_ns, status.st_size)
            if now != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._servers = parse_servers(file.read(1 << 16))
                self._seen = now
        except OSError:
            self._seen, self._servers = None, ()
        return self._servers


def parse_servers(text: str) -> tuple[str, ...]:
    """The `nameserver` lines' addresses."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            family = socket.AF_INET6 if ":" in words[1] else socket.AF_INET
            try:
                socket.inet_pton(family, words[1].partition("%")[0])
            except OSError:
                continue
            found.append(words[1])
    return tuple(found[:SERVERS])


class Resolver:
    """Serves every sandbox of one engine."""

    def __init__(self, poller: Poller, zones: Zones, servers: HostServers) -> None:
        self._poller = poller
        self._zones = zones
        self._servers = servers
        self._busy: dict[str, int] = {}
        self._connections: dict[str, set[Connection]] = {}
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def serve(self, sandbox: str, udp: socket.socket, tcp: socket.socket) -> None:
        """Answer on these sockets."""
        self._poller.watch(udp, select.EPOLLIN, lambda _: self._datagrams(sandbox, udp))
        self._poller.watch(tcp, select.EPOLLIN, lambda _: self._accept(sandbox, tcp))

    def end(self, sandbox: str, *socks: socket.socket) -> None:
        """The sandbox goes; its sockets are closed."""
        for sock in socks:
            self._poller.forget(sock)
            sock.close()
        for connection in list(self._connections.get(sandbox, ())):
            connection.close()

    def _datagrams(self, sandbox: str, udp: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                data, asker = udp.recvfrom(wire.MAX_SIZE)
            except OSError:
                return

            def reply(answer: bytes, asker: tuple[str, int] = asker) -> None:
                try:
                    udp.sendto(answer, asker)
                except OSError:
                    return

            self.ask(sandbox, data, reply, udp=True)

    def _accept(self, sandbox: str, tcp: socket.socket) -> None:
        try:
            sock, _ = tcp.accept()
        except OSError:
            return
        known = self._connections.setdefault(sandbox, set())
        if len(known) >= CONNECTIONS:
            sock.close()
            return
        connection = Connection(self._poller, sock, self, sandbox, known.discard)
        known.add(connection)

    def ask(self, sandbox: str, data: bytes, reply: Callable[[bytes], None], *, udp: bool) -> None:
        """Answer one message, now or later, or not at all when it is no query."""
        try:
            query = wire.parse_query(data)
        except wire.Malformed as fault:
            if fault.id is not None:
                reply(wire.refuse(fault.id, fault.code))
            return
        found = self._local(sandbox, query)
        if found is not None:
            reply(wire.answer(query, found, udp=udp))
            return
        view = self._zones.views.get(sandbox)
        given = view.upstream if view else ()
        servers = given or self._servers.get()
        if view is None or not view.forwards or not servers:
            reply(wire.answer(query, [], wire.SERVFAIL, udp=udp))
        elif self._busy.get(sandbox, 0) >= PER_SANDBOX:
            reply(wire.answer(query, [], wire.REFUSED, udp=udp))
        else:
            self._busy[sandbox] = self._busy.get(sandbox, 0) + 1
            path = view.path if given else ""
            Forward(self, sandbox, query, data, servers, path, reply, udp=udp).next()

    def _local(self, sandbox: str, query: wire.Query) -> list[tuple[int, bytes]] | None:
        """Records of a name that we know; None when others have to be asked."""
        if query.class_ != wire.IN:
            return None
        if query.type == wire.PTR:
            name = self._zones.reverse(sandbox, wire.reverse_address(query.name))
            try:
                return [(wire.PTR, wire.encode_name(name))] if name else None
            except wire.Malformed:
                return None
        addresses = self._zones.find(sandbox, query.name)
        if addresses is None:
            return None
        found = []
        for address in addresses:
            kind = wire.AAAA if ":" in address else wire.A
            if query.type in (kind, wire.ANY):
                family = socket.AF_INET6 if kind == wire.AAAA else socket.AF_INET
                found.append((kind, socket.inet_pton(family, address)))
        return found

    def done(self, sandbox: str) -> None:
        """A forwarded question is over."""
        left = self._busy.get(sandbox, 0) - 1
        if left > 0:
            self._busy[sandbox] = left
        else:
            self._busy.pop(sandbox, None)

    def socket_in(self, path: str, family: int, kind: int) -> socket.socket:
        """A socket of the host's namespace, or of the one pinned at `path`."""
        if not path:
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        there = open_namespace(path, CLONE_NEWNET)
        try:
            setns(there, CLONE_NEWNET, path)
            try:
                return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            finally:
                setns(self._home, CLONE_NEWNET)
        finally:
            os.close(there)

    @property
    def poller(self) -> Poller:
        """What everything hangs on."""
        return self._poller


class Forward:
    """One question on its way to real servers, one after the other."""

    def __init__(
        self,
        resolver: Resolver,
        sandbox: str,
        query: wire.Query,
        data: bytes,
        servers: tuple[str, ...],
        path: str,
        reply: Callable[[bytes], None],
        *,
        udp: bool,
    ) -> None:
        self._resolver = resolver
        self._sandbox = sandbox
        self._query = query
        self._data = data
        self._servers = list(servers)
        self._path = path
        self._reply = reply
        self._udp = udp
        self._socket: socket.socket | None = None
        self._id = 0
        self._got = b""
        self._over = False
        self._try = 0

    def next(self) -> None:
        """Ask the next server; SERVFAIL when there is none left."""
        self._put_away()
        while self._servers:
            server = self._servers.pop(0)
            self._try += 1
            attempt = self._try
            self._got = b""
            try:
                self._ask(server)
            except (OSError, KernelFault):
                self._put_away()
                continue
            self._resolver.poller.after(PATIENCE, partial(self._late, attempt))
            return
        self._finish(wire.answer(self._query, [], wire.SERVFAIL, udp=self._udp))

    def _ask(self, server: str) -> None:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        kind = socket.SOCK_DGRAM if self._udp else socket.SOCK_STREAM
        sock = self._socket = self._resolver.socket_in(self._path, family, kind)
        # A fresh port and a fresh id for every question (RFC 5452).
        self._id = int.from_bytes(os.urandom(2), "big")
        host, _, zone = server.partition("%")
        where = (host, _PORT, 0, socket.if_nametoindex(zone)) if zone else (host, _PORT)
        if self._udp:
            sock.connect(where)
            sock.send(wire.with_id(self._data, self._id))
            self._resolver.poller.watch(sock, select.EPOLLIN, lambda _: self._datagram())
        else:
            with contextlib.suppress(BlockingIOError):
                sock.connect(where)
            self._resolver.poller.watch(sock, select.EPOLLOUT, lambda _: self._connected())

    def _datagram(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65535)
        except OSError:
            self.next()
            return
        if wire.is_answer_to(data, self._id, self._query.question):
            self._take(data)

    def _connected(self) -> None:
        assert self._socket is not None
        message = wire.with_id(self._data, self._id)
        try:
            self._socket.send(struct.pack(">H", len(message)) + message)
        except OSError:
            self.next()
            return
        self._resolver.poller.watch(self._socket, select.EPOLLIN, lambda _: self._stream())

    def _stream(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65537)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.next()
            return
        self._got += data
        if len(self._got) < 2:
            return
        (size,) = struct.unpack_from(">H", self._got)
        if len(self._got) >= 2 + size:
            whole = self._got[2 : 2 + size]
            if wire.is_answer_to(whole, self._id, self._query.question):
                self._take(whole)
            else:
                self.next()

    def _take(self, data: bytes) -> None:
        # A server that is broken or will not talk to us: perhaps the next one does.
        if data[3] & 0xF in (wire.SERVFAIL, wire.REFUSED, wire.NOTIMP) and self._servers:
            self.next()
        else:
            self._finish(wire.with_id(data, self._query.id))

    def _late(self, attempt: int) -> None:
        if not self._over and attempt == self._try:
            self.next()

    def _put_away(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            self._resolver.poller.forget(sock)
            sock.close()

    def _finish(self, answer: bytes) -> None:
        if not self._over:
            self._over = True
            self._put_away()
            self._resolver.done(self._sandbox)
            self._reply(answer)


class Connection:
    """A TCP connection of an asker: messages with their length in front (RFC 7766)."""

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        resolver: Resolver,
        sandbox: str,
        gone: "Callable[[Connection], None]",
    ) -> None:
        self._poller = poller
        self._socket = sock
        self._resolver = resolver
        self._sandbox = sandbox
        self._gone = gone
        self._got = b""
        self._to_send = b""
        self._open = True
        self._last = time.monotonic()
        sock.setblocking(False)
        poller.watch(sock, select.EPOLLIN, self._ready)
        poller.after(IDLE, self._look)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if not events & ~select.EPOLLOUT or not self._open:
            return
        try:
            data = self._socket.recv(65537)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._last = time.monotonic()
        self._got += data
        while self._open and len(self._got) >= 2:
            (size,) = struct.unpack_from(">H", self._got)
            if size > wire.MAX_SIZE:
                self.close()
                return
            if len(self._got) < 2 + size:
                return
            message, self._got = self._got[2 : 2 + size], self._got[2 + size :]
            self._resolver.ask(self._sandbox, message, self._reply, udp=False)

    def _reply(self, answer: bytes) -> None:
        if not self._open:
            return
        self._to_send += struct.pack(">H", len(answer)) + answer
        if len(self._to_send) > 1 << 20:
            # It asks and does not listen.
            self.close()
            return
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._to_send) if self._to_send else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._to_send = self._to_send[sent:]
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._to_send else 0)
        self._poller.watch(self._socket, wanted, self._ready)

    def _look(self) -> None:
        if not self._open:
            return
        if time.monotonic() - self._last >= IDLE:
            self.close()
        else:
            self._poller.after(IDLE, self._look)

    def close(self) -> None:
        """End it."""
        if self._open:
            self._open = False
            self._poller.forget(self._socket)
            self._socket.close()
            self._gone(self)
