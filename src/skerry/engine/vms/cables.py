"""Where a machine's network cards and shared folders lead: names of taps and bridges, addresses
that were given, and what of the host has to be there or free.

An internal network is a bridge without an address that exists while a machine is plugged in. Its
name is made of the engine's root and the network's name, so engines side by side share nothing.
"""

import hashlib
import os
import re
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from skerry.base.errors import Conflict, NotFound
from skerry.engine.vms.record import Machine
from skerry.kernel import taps
from skerry.machine.full.spec import Hardware

_ADDRESS = re.compile(r"\b10\.0\.2\.[0-9]{1,3}\b")
SLIRP_FIRST = "10.0.2.15"
"""What QEMU's user network gives the first guest that asks by DHCP."""


def prefix(root: str) -> str:
    """Of all internal networks of an engine."""
    return "ski" + hashlib.sha256(root.encode()).hexdigest()[:4]


def internal_bridge(root: str, network: str) -> str:
    """The bridge of an internal network: 15 characters."""
    return prefix(root) + hashlib.sha256(network.encode()).hexdigest()[:8]


def cables(root: str, record: Machine, bridges: dict[str, str]) -> dict[int, tuple[str, str, bool]]:
    """Number of the network card to (tap, bridge, whether the bridge is made when missing).

    `bridges` are the engine's networks by name; other names are bridges of the host. NotFound.
    """
    found = {}
    for at, nic in enumerate(record.hardware.nics):
        if nic.kind == "internal":
            bridge, ours = internal_bridge(root, nic.network), True
        elif nic.kind == "bridge":
            bridge, ours = bridges.get(nic.network, nic.network), False
            if not taps.is_bridge(bridge):
                raise NotFound(f"no such bridge: {nic.network}")
        else:
            continue
        found[at] = (f"skv{record.id[:9]}{at:x}", bridge, ours)
    return found


def check_ports(
    record: Machine,
    running: Iterable[Machine],
    wanted: Iterable[tuple[str, int, str]] | None = None,
) -> None:
    """Conflict when somebody has a port of the host that this machine wants: QEMU would end.
    `wanted`: (address, port, protocol), when they are not all that it has."""
    owners = {port: other.name for other in running for port in _ports(other.hardware)}
    for port in _ports(record.hardware) if wanted is None else wanted:
        address, number, protocol = port
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as probe:
            if protocol == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, number))
            except OSError as error:
                owner = f"machine {owners[port]} has it" if port in owners else error.strerror
                raise Conflict(
                    f"machine {record.name} cannot have port {number}/{protocol} "
                    f"of {address}: {owner}",
                    hint=f"stop what has it, or give the machine another one: "
                    f"skerry vm edit {record.name}",
                ) from None


def _ports(hardware: Hardware) -> Iterator[tuple[str, int, str]]:
    """Addresses of the host that QEMU will listen at: forwarded ports, then the screen's."""
    yield from forwards(hardware)
    if hardware.video != "none" and hardware.vnc != "unix":
        address, _, display = hardware.vnc.rpartition(":")
        yield address, 5900 + int(display), "tcp"


def forwards(hardware: Hardware) -> Iterator[tuple[str, int, str]]:
    """(Address, port, protocol) of the host for each forwarded port."""
    for nic in hardware.nics:
        for each in nic.forwards:
            yield each.host_ip, each.host_port, each.protocol


def check_shares(hardware: Hardware) -> None:
    """NotFound when a folder that is shared is not there."""
    for share in hardware.shares:
        if not os.path.isdir(share.path):
            raise NotFound(f"no such folder to share: {share.path}")


def check_discs(record: Machine) -> None:
    """NotFound when a disc is gone."""
    for drive in record.hardware.cdroms:
        if drive.path and not os.path.isfile(drive.path):
            raise NotFound(
                f"the disc in {drive.name} is gone: {drive.path}",
                hint=f"take it out: skerry vm edit {record.name} --disc {drive.name}=",
            )


def sweep(root: str) -> None:
    """Remove this engine's bridges into which nothing is plugged."""
    for name in os.listdir("/sys/class/net"):
        if name.startswith(prefix(root)) and taps.is_bridge(name):
            taps.remove_empty_bridge(name)


def addresses(hardware: Hardware, usernet: str, arp: str) -> list[dict[str, Any]]:
    """What is known of each card. `usernet` is QEMU's table of connections, `arp` proc(5)'s."""
    by_mac: dict[str, list[str]] = {}
    for line in arp.splitlines()[1:]:
        words = line.split()
        if len(words) >= 4:
            by_mac.setdefault(words[3].lower(), []).append(words[0])
    seen = [each for each in _ADDRESS.findall(usernet) if each not in ("10.0.2.2", "10.0.2.3")]
    found = []
    for at, nic in enumerate(hardware.nics):
        given = by_mac.get(nic.mac, [])
        if nic.kind == "nat":
            given = sorted(set(seen)) or [SLIRP_FIRST]
        forwards = [
            f"{each.host_ip}:{each.host_port}->{each.guest_port}/{each.protocol}"
            for each in nic.forwards
        ]
        found.append(
            {
                "nic": f"net{at}",
                "kind": nic.kind,
                "network": nic.network,
                "mac": nic.mac,
                "addresses": given,
                "forwards": forwards,
            }
        )
    return found
