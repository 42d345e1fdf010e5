"""Forwarded ports that only root may listen at (ip(7): those below `ip_unprivileged_port_start`).

Theory. QEMU has no capability over the host's network, so it listens at a *detour*, a high port of
the same address. The packet filter sends there what comes to the low one, and the keeper holds the
low one by a bound socket, so that nobody listens in vain. The address stays as it was; what is
forwarded at 127.0.0.1 cannot come in from outside, and what another machine sends there is dropped
as everything else that it sends to the host (`fence`).

Lean.
"""

import random
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress

from skerry.base.errors import Conflict
from skerry.base.light import NamedTuple
from skerry.kernel import nft

_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_HIGH = range(20000, 32768)
"""Below those that the kernel gives to clients, `ip_local_port_range`."""
_TRIES = 64
_NUMBERS = {"tcp": 6, "udp": 17}
ANY = "0.0.0.0"
CHAINS = (("came", "prerouting"), ("sent", "output"))
PRIORITY = -100
"""NF_IP_PRI_NAT_DST."""


class Detour(NamedTuple):
    """A port of the host, and the one that QEMU listens at in its place."""

    host_ip: str
    port: int
    protocol: str
    to: int


def first_free() -> int:
    """The lowest port that everybody may listen at."""
    try:
        with open(_START, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def choose(ports: "Iterable[tuple[str, int, str]]") -> list[Detour]:
    """Detours of those (address, port, protocol) that need one. Conflict when none is free."""
    limit = first_free()
    return [Detour(*each, _free(each[0], each[2])) for each in ports if each[1] < limit]


def _free(address: str, protocol: str) -> int:
    for _ in range(_TRIES):
        number = random.choice(_HIGH)
        with _socket(protocol) as probe, suppress(OSError):
            probe.bind((address, number))
            return number
    raise Conflict(f"no free port of {address} was found for a detour")


def _socket(protocol: str) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    return socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)


def hold(ports: "Iterable[Sequence[object]]") -> list[socket.socket]:
    """Sockets that keep others off the (address, port, protocol, …) for as long as they are open.
    One that the last minute's connections still have is not held."""
    held = []
    for address, number, protocol, *_ in ports:
        sock = _socket(str(protocol))
        try:
            sock.bind((address, number))
        except OSError:
            sock.close()
        else:
            held.append(sock)
    return held


def rules(detour: Detour) -> "dict[str, bytes]":
    """Chain to its rule, for the inet family's hooks prerouting and output. Pure."""
    to = nft.meta("nfproto") + nft.equal(bytes((nft.NFPROTO_IPV4,)))
    to += nft.meta("l4proto") + nft.equal(bytes((_NUMBERS[detour.protocol],)))
    to += nft.payload(nft.TRANSPORT_HEADER, 2, 2) + nft.equal(struct.pack(">H", detour.port))
    if detour.host_ip == ANY:
        to += nft.to_host()
    else:
        address = socket.inet_aton(detour.host_ip)
        to += nft.payload(nft.NETWORK_HEADER, 16, 4) + nft.equal(address)
    to += nft.immediate(struct.pack(">H", detour.to)) + nft.dnat_port(nft.NFPROTO_IPV4, 1)
    return {chain: to for chain, _ in CHAINS}
