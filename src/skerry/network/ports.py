"""Ports of the host: choosing them and keeping others off.

A published port is forwarded by the packet filter, so no program listens on it. A bound socket
reserves it all the same: whoever binds it later gets EADDRINUSE, and so do we when it is taken.
"""

import errno
import random
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

from skerry.base.errors import Conflict, KernelFault
from skerry.network import firewall
from skerry.network.firewall import PROTOCOLS, Published

LOOPBACK6 = "::1"
RELAYED = ("tcp", "udp")
TRIES = 64
EPHEMERAL = (49153, 65535)
_KINDS = {
    "tcp": socket.SOCK_STREAM,
    "udp": socket.SOCK_DGRAM,
    "sctp": socket.SOCK_STREAM,
}


class Wanted(NamedTuple):
    """A port to publish. `low` and `high` are the host's range, both 0 for any."""

    name: str
    """`80/tcp`."""
    protocol: str
    port: int
    address: str
    """The container's."""
    host_ip: str
    low: int
    high: int
    bridge: str = ""
    """The container's bridge."""
    twin: bool = False
    """The IPv6 half of the one before: it has to get the same number."""
    alone: bool = False
    """As `Published.alone`."""
    direct: bool = False
    """As `Published.direct`."""


class PortTaken(Conflict):
    """Another program, or another container, has it."""


def choose(wanted: Wanted) -> tuple[Published, list[socket.socket]]:
    """A free port of the range with the sockets that reserve it; PortTaken when there is none."""
    port = Published(
        wanted.protocol,
        wanted.host_ip,
        0,
        wanted.address,
        wanted.port,
        wanted.bridge,
        wanted.alone,
        wanted.direct,
    )
    if wanted.direct:
        return port, []
    tries = range(wanted.low, wanted.high + 1) if wanted.low else (0 for _ in range(TRIES))
    for number in tries:
        port = port._replace(host_port=number)
        try:
            socks = reserve(port)
        except PortTaken:
            continue
        if not number:
            # Without a socket (SCTP) the filter's map says later whether it is free.
            free = socks[0].getsockname()[1] if socks else random.randint(*EPHEMERAL)
            port = port._replace(host_port=free)
        return port, socks
    shown = wanted.host_ip or ("::" if ":" in wanted.address else "0.0.0.0")
    if wanted.low == wanted.high:
        where = f"[{shown}]" if ":" in shown else shown
        raise PortTaken(f"Bind for {where}:{wanted.low} failed: port is already allocated")
    raise PortTaken("all ports are allocated")


class Reserved:
    """Ports that were chosen for a sandbox, kept from others by open sockets until the helper has
    them. A context manager that closes what was not handed on; PortTaken when one is not free."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self._held: list[tuple[str, Published, list[socket.socket]]] = []
        last = 0
        try:
            for each in wanted:
                if each.twin and last:
                    # Both halves of a pair get the same number.
                    each = each._replace(low=last, high=last)
                port, socks = choose(each)
                last = port.host_port
                self._held.append((each.name, port, socks))
        except BaseException:
            self.__exit__()
            raise

    @property
    def ports(self) -> tuple[tuple[str, Published], ...]:
        """As `Sandbox.ports`."""
        return tuple((name, port) for name, port, _ in self._held)

    def __enter__(self) -> Self:
        return self

    def __iter__(self) -> Iterator[tuple[str, Published, list[socket.socket]]]:
        return iter(self._held)

    def __exit__(self, *exc: object) -> None:
        for _, _, socks in self._held:
            for sock in socks:
                sock.close()


def held(listed: Iterable[tuple[str, Published]]) -> list[tuple[str, Published]]:
    """All that the helper holds for a sandbox's ports: each of them, and [::1] beside a port on all
    addresses for a container without IPv6."""
    ports = [(name, port) for name, port in listed if not port.direct]
    six = {(port.protocol, port.host_port) for _, port in ports if is_ipv6(port)}
    return ports + [
        (name, port._replace(host_ip=LOOPBACK6))
        for name, port in ports
        if not (port.host_ip or port.alone)
        and port.protocol in RELAYED
        and (port.protocol, port.host_port) not in six
    ]


def is_ipv6(port: Published) -> bool:
    """Whether it is an IPv6 address of the host that is published."""
    return ":" in (port.host_ip or port.address)


def relayed(port: Published) -> bool:
    """Whether the helper carries it, or the part of it that is for [::1]: the filter cannot."""
    return (
        port.protocol in RELAYED
        and is_ipv6(port)
        and (port.host_ip in ("", "::", LOOPBACK6) or firewall.is_mixed(port))
    )


def reserve(port: Published) -> list[socket.socket]:
    """Sockets that hold the port, port 0 for any; PortTaken when somebody has it.

    No socket when this kernel does not know the protocol (SCTP): the filter still forwards it.
    """
    ipv6 = is_ipv6(port)
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    kind = _KINDS[port.protocol]
    try:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, PROTOCOLS[port.protocol])
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT):
            return []
        raise KernelFault("open a socket to reserve a port", error.errno or 0) from None
    listens = kind == socket.SOCK_STREAM and relayed(port)
    try:
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if listens:
            # Ended connections of the relay hold the port for a minute else (TIME_WAIT). While it
            # listens nobody shares it all the same.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((port.host_ip or ("::" if ipv6 else "0.0.0.0"), port.host_port))
        if ipv6 and not port.host_ip:
            # The filter has the other addresses. After the bind, so that the socket goes on
            # keeping others off the port on every link.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        if listens:
            sock.listen(128)
    except OSError as error:
        sock.close()
        shown = port.host_ip or ("::" if ipv6 else "0.0.0.0")
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"{shown}:{port.host_port} is in use") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise Conflict(
                f"failed to bind host port {shown}:{port.host_port}/{port.protocol}: "
                "cannot assign requested address"
            ) from None
        raise KernelFault(
            f"reserve {shown}:{port.host_port}/{port.protocol}", error.errno or 0
        ) from None
    return [sock]
