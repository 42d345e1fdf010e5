"""The network helper: a small process beside each engine that outlives it.

Theory. Three things must go on while the engine is down: names are resolved, published ports stay
reserved on the host, and those that the packet filter cannot forward are relayed (`relay`). All
hang on sockets, so a process holds them: this one. It listens on
`<run-root>/net/helper.sock` (SOCK_SEQPACKET); the engine connects, also a later one, and speaks
JSON datagrams, some with descriptors. Every message is absolute, so the engine can say everything
again after a crash of either:

    {"op": "hold", "key": K, "kind": "dns" | "port"} + descriptors   keep; replaces K
    {"op": "hold", "key": K, "kind": "relay", "target": [address, port]} + a descriptor
    {"op": "drop", "keys": [K, ...]}                close
    {"op": "view", "sandbox": S, ...}               what a sandbox sees (`zones.View`)
    {"op": "join", "network", "endpoint", "names", "addresses"}   and {"op": "leave", ...}
    {"op": "fresh"}                                 forget names; what follows replaces them
    {"op": "settled"}                               ... now
    {"op": "list"}                                  answered with {"keys": [...]}
    {"op": "ping"}                                  the same without keys: all before is done
    {"op": "quit"}                                  end

Privileges: root with the host's namespaces, since it opens sockets in containers' namespaces for
`--dns` servers. It reads hostile bytes in `dns_wire.parse_query` alone; relayed ones it only
passes on.

It ends when it is told to, or when no engine has been there for a while and it holds nothing, or
its socket's file is no longer the one it listens on.
"""

import _socket
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys

from skerry.base.light import Any
from skerry.kernel.syscalls import libc
from skerry.network.poller import Poller
from skerry.network.relay import Relay
from skerry.network.resolver import HostServers, Resolver
from skerry.network.zones import Zones

DATAGRAM = 1 << 17
MAX_FDS = 8
LONELY = 30.0
"""Seconds between looks at whether anybody still needs it."""
_ROOM_FOR_FDS = socket.CMSG_SPACE(4 * MAX_FDS)
_PR_SET_NAME = 15  # linux/prctl.h
_PR_SET_DUMPABLE = 4


class Helper:
    """The process."""

    def __init__(self, listener: socket.socket, path: str) -> None:
        self._listener = listener
        self._path = path
        self._inode = os.stat(path).st_ino
        self._engine: socket.socket | None = None
        self._held: dict[str, tuple[str, list[socket.socket]]] = {}
        self._relays: dict[str, Relay] = {}
        self._zones = Zones()
        self._fresh: Zones | None = None
        self._poller = Poller()
        self._resolver = Resolver(self._poller, self._zones, HostServers())
        self._poller.watch(listener, select.EPOLLIN, lambda _: self._accept())
        self._poller.after(LONELY, self._look)
        self.running = True

    def run(self) -> None:
        """Until the end."""
        while self.running:
            self._poller.turn()

    def _look(self) -> None:
        try:
            ours = os.stat(self._path).st_ino == self._inode
        except OSError:
            ours = False
        if not ours or (self._engine is None and not self._held):
            self.running = False
        self._poller.after(LONELY, self._look)

    def _accept(self) -> None:
        engine, _ = self._listener.accept()
        self._hang_up()
        self._engine = engine
        self._poller.watch(engine, select.EPOLLIN, lambda _: self._message(engine))

    def _hang_up(self) -> None:
        if self._engine is not None:
            self._poller.forget(self._engine)
            self._engine.close()
            self._engine = None

    def _message(self, engine: socket.socket) -> None:
        try:
            data, ancillary, flags, _ = engine.recvmsg(
                DATAGRAM, _ROOM_FOR_FDS, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            data, ancillary, flags = b"", [], 0
        fds = list(memoryview(ancillary[0][2]).cast("i")) if ancillary else []
        if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            self._hang_up()
            for fd in fds:
                os.close(fd)
            return
        self._do(json.loads(data), fds, engine)

    def _do(self, message: dict[str, Any], fds: list[int], engine: socket.socket) -> None:
        zones = self._fresh or self._zones
        match message["op"]:
            case "hold":
                socks = [socket.socket(fileno=fd) for fd in fds]
                self._hold(message["key"], message["kind"], socks, message.get("target"))
            case "drop":
                for key in message["keys"]:
                    self._drop(key)
            case "view":
                zones.set_view(message["sandbox"], message)
            case "join":
                zones.join(
                    message["network"], message["endpoint"], message["names"], message["addresses"]
                )
            case "leave":
                zones.leave(message["network"], message["endpoint"])
            case "fresh":
                self._fresh = Zones()
            case "settled":
                if self._fresh is not None:
                    self._zones.become(self._fresh)
                    self._fresh = None
            case "list" | "ping" as what:
                keys = sorted(self._held) if what == "list" else []
                answer = json.dumps({"keys": keys}).encode()
                engine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(answer) + 65536)
                with contextlib.suppress(OSError):
                    engine.send(answer)
            case "quit":
                self.running = False

    def _hold(
        self, key: str, kind: str, socks: list[socket.socket], target: list[Any] | None
    ) -> None:
        self._drop(key)
        self._held[key] = (kind, socks)
        if kind == "dns":
            udp, tcp = socks
            self._resolver.serve(key.removeprefix("dns/"), udp, tcp)
        elif kind == "relay" and target is not None:
            # A port that cannot be listened on is reserved all the same.
            with contextlib.suppress(OSError):
                self._relays[key] = Relay(self._poller, socks[0], (target[0], target[1]))

    def _drop(self, key: str) -> None:
        kind, socks = self._held.pop(key, ("", []))
        if kind == "dns":
            sandbox = key.removeprefix("dns/")
            self._resolver.end(sandbox, *socks)
            self._zones.drop_view(sandbox)
        relay = self._relays.pop(key, None)
        if relay is not None:
            relay.close()
        for sock in socks:
            sock.close()


def main(fd: int, path: str) -> None:
    """The helper's process; `fd` is the listening socket at `path`."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    libc.prctl(_PR_SET_NAME, b"skerry-net", 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.set_inheritable(fd, False)
    gc.freeze()
    Helper(socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, fileno=fd), path).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
