"""Bytes through a relay: whole, both ways, with their end, and with an error where there is one."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from skerry.network import ports
from skerry.network.firewall import Published
from skerry.network.poller import Poller
from skerry.network.relay import Relay

pytestmark = pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
PATIENCE = 60


class Turning:
    """A poller that turns in a thread, as in the helper."""

    def __init__(self) -> None:
        self.poller = Poller()
        self._near, self._far = socket.socketpair()
        self._running = True
        self.relays: list[Relay] = []
        self.poller.watch(self._far, 1, lambda _: self._end())
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def _end(self) -> None:
        self._running = False

    def _run(self) -> None:
        while self._running:
            self.poller.turn()

    def close(self) -> None:
        self._near.send(b"x")
        self._thread.join(PATIENCE)
        self._near.close()
        self._far.close()
        for each in self.relays:
            each.close()


@pytest.fixture
def turning() -> Iterator[Turning]:
    each = Turning()
    yield each
    each.close()


def bound(kind: socket.SocketKind, family: socket.AddressFamily, address: str) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.bind((address, 0))
    sock.settimeout(PATIENCE)
    return sock


def relay(turning: Turning, kind: socket.SocketKind, target: tuple[str, int]) -> int:
    sock = bound(kind, socket.AF_INET6, "::1")
    port = sock.getsockname()[1]
    if kind == socket.SOCK_STREAM:
        sock.listen()
    turning.relays.append(Relay(turning.poller, sock, target))
    return int(port)


def test_a_stream_arrives_whole_and_ends_each_way_by_itself(turning: Turning) -> None:
    with bound(socket.SOCK_STREAM, socket.AF_INET, "127.0.0.1") as server:
        server.listen()
        port = relay(turning, socket.SOCK_STREAM, server.getsockname())
        turning.start()
        sent = os.urandom(3 << 20)
        got = bytearray()

        def echo() -> None:
            # Reads everything first, so the relay meets a reader that is slower than it.
            there, _ = server.accept()
            with there:
                while data := there.recv(1 << 16):
                    got.extend(data)
                there.sendall(got)

        thread = threading.Thread(target=echo)
        thread.start()
        with socket.create_connection(("::1", port), PATIENCE) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            back = bytearray()
            while data := client.recv(1 << 16):
                back.extend(data)
        thread.join(PATIENCE)
        assert bytes(got) == sent
        assert bytes(back) == sent


def test_who_cannot_be_reached_is_an_error_not_an_end(turning: Turning) -> None:
    with bound(socket.SOCK_STREAM, socket.AF_INET, "127.0.0.1") as closed:
        port = relay(turning, socket.SOCK_STREAM, closed.getsockname())
        turning.start()
        # Perhaps before the client has seen that it was connected.
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("::1", port), PATIENCE) as client,
        ):
            client.recv(1)


def test_datagrams_come_back_to_their_sender(turning: Turning) -> None:
    with (
        bound(socket.SOCK_DGRAM, socket.AF_INET, "127.0.0.1") as server,
        bound(socket.SOCK_DGRAM, socket.AF_INET6, "::1") as one,
        bound(socket.SOCK_DGRAM, socket.AF_INET6, "::1") as two,
    ):
        port = relay(turning, socket.SOCK_DGRAM, server.getsockname())
        turning.start()
        for client, word in ((one, b"one"), (two, b"two")):
            client.sendto(word, ("::1", port))
            data, peer = server.recvfrom(99)
            assert data == word
            server.sendto(data * 2, peer)
        assert one.recv(99) == b"oneone"
        assert two.recv(99) == b"twotwo"


def published(host_ip: str, address: str, protocol: str = "tcp") -> Published:
    return Published(protocol, host_ip, 8080, address, 80)


@pytest.mark.parametrize(
    ("listed", "more"),
    [
        ([published("", "172.17.0.2")], ["::1"]),
        ([published("", "172.17.0.2"), published("", "fd00::2")], []),
        ([published("127.0.0.1", "172.17.0.2")], []),
        ([published("", "172.17.0.2", "sctp")], []),
        ([published("", "172.17.0.2"), published("::1", "172.17.0.2")], []),
    ],
)
def test_the_loopback_beside_a_port(listed: list[Published], more: list[str]) -> None:
    held = ports.held([("80", each) for each in listed])
    assert [port for _, port in held[: len(listed)]] == listed
    assert [port.host_ip for _, port in held[len(listed) :]] == more


@pytest.mark.parametrize(
    ("port", "wanted"),
    [
        (published("", "172.17.0.2"), False),
        (published("::1", "172.17.0.2"), True),
        (published("fd99::1", "172.17.0.2"), True),
        (published("", "fd00::2"), True),
        (published("fd99::1", "fd00::2"), False),
        (published("", "fd00::2", "sctp"), False),
    ],
)
def test_what_is_relayed(port: Published, wanted: bool) -> None:
    assert ports.relayed(port) == wanted
