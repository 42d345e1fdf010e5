"""UDP flows that are older than the port they are sent to.

The kernel asks the rules about a flow's first packet only. A client that kept sending while nobody
listened, or to the container that had the port before, would stay where it was for as long as it
goes on; so what is tracked for a port is forgotten when the port is published.
"""

import logging
import socket
from collections.abc import Iterable
from functools import cache

from skerry.base.errors import KernelFault
from skerry.kernel import conntrack
from skerry.network.firewall import PROTOCOLS, Published

log = logging.getLogger(__name__)


def forget(ports: Iterable[Published]) -> None:
    """Forget tracked flows to these ports of the host, UDP alone. A kernel that cannot is left be:
    the ports work for new flows."""
    for family in (socket.AF_INET, socket.AF_INET6):
        wanted = {
            (_packed(family, each.host_ip), each.host_port)
            for each in ports
            if each.protocol == "udp"
            and not each.direct
            and (":" in each.address) == (family == socket.AF_INET6)
        }
        if wanted:
            _forget(family, wanted)


def _forget(family: int, wanted: set[tuple[bytes, int]]) -> None:
    """Addresses are packed; an empty one is any of the host's."""

    @cache
    def is_local(address: bytes) -> bool:
        return _is_local(family, address)

    def ours(protocol: int, address: bytes, port: int) -> bool:
        if protocol != PROTOCOLS["udp"]:
            return False
        return (address, port) in wanted or ((b"", port) in wanted and is_local(address))

    try:
        conntrack.forget(family, ours)
    except KernelFault as fault:
        log.info("flows to published ports are not forgotten: %s", fault)


def _packed(family: int, address: str) -> bytes:
    return socket.inet_pton(family, address) if address else b""


def _is_local(family: int, address: bytes) -> bool:
    """Whether it is the host's: flows that only pass through to the same port stay."""
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind((socket.inet_ntop(family, address), 0))
        except OSError:
            return False
    return True
