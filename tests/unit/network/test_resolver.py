"""What one container may ask for at a time, with a server that keeps silent until it is told to."""

import socket
import struct
from collections.abc import Iterator

import pytest

from skerry.network import dns_wire as wire
from skerry.network import resolver
from skerry.network.poller import Poller
from skerry.network.resolver import PER_SANDBOX, HostServers, Resolver
from skerry.network.zones import Zones

ASKS = {"upstream": ["127.0.0.1"], "path": "", "forwards": True, "links": []}
QUESTION = b"\x07example\x03org\0\0\1\0\1"


def query(number: int) -> bytes:
    return struct.pack(">HHHHHH", number, 0x100, 1, 0, 0, 0) + QUESTION


def code(answer: bytes) -> int:
    return answer[3] & 15


def answer_one(server: socket.socket) -> None:
    data, peer = server.recvfrom(512)
    server.sendto(data[:2] + b"\x81\x80" + data[4:], peer)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(120)
        monkeypatch.setattr(resolver, "_PORT", sock.getsockname()[1])
        yield sock


def test_more_questions_than_one_container_may_have_are_refused(server: socket.socket) -> None:
    zones = Zones()
    for name in ("greedy", "modest"):
        zones.set_view(name, {"networks": {}, **ASKS})
    poller = Poller()
    asked = Resolver(poller, zones, HostServers("/dev/null"))
    waiting: list[bytes] = []
    for number in range(PER_SANDBOX):
        asked.ask("greedy", query(number), waiting.append, udp=True)
    assert waiting == [], "each is on its way"
    refused: list[bytes] = []
    asked.ask("greedy", query(1000), refused.append, udp=True)
    assert [code(each) for each in refused] == [wire.REFUSED]
    other: list[bytes] = []
    asked.ask("modest", query(1), other.append, udp=True)
    assert other == [], "one container's greed is not another's loss"

    answer_one(server)
    while not waiting:
        poller.turn()
    assert code(waiting[0]) == wire.NOERROR
    asked.ask("greedy", query(1001), refused.append, udp=True)
    assert len(refused) == 1, "an answer makes room for a question"
    for _ in range(PER_SANDBOX + 1):
        answer_one(server)
    while len(waiting) + len(refused) + len(other) < PER_SANDBOX + 3:
        poller.turn()
