"""A network card's name, addresses and route as the kernel is told them (netdevice(7)). Pure.

Both sides of the wall use it: the agent makes the requests, and the host packs them for one that
does not read JSON (`tasks`).
"""

import socket
import struct
from typing import Any

# linux/sockios.h
SIOCADDRT, SIOCDELRT = 0x890B, 0x890C
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
SIOCSIFMTU, SIOCSIFNAME, SIOCSIFHWADDR = 0x8922, 0x8923, 0x8924
_IFF_UP = 1
_IFF_CARD = 0x1003
"""IFF_UP, IFF_BROADCAST, IFF_MULTICAST."""
_ARPHRD_ETHER = 1
_RTF_UP, _RTF_GATEWAY = 1, 2
Request = tuple[int, bytes]
"""The number of an ioctl(2) on an IPv4 socket, and its argument."""


def down(name: str) -> Request:
    """With it go the card's routes and connections."""
    return SIOCSIFFLAGS, _label(name) + struct.pack("h14x", 0)


def up(name: str) -> Request:
    """One that has no settings of its own."""
    return SIOCSIFFLAGS, _label(name) + struct.pack("h14x", _IFF_UP)


def no_address(name: str) -> Request:
    """With it go the routes that it made."""
    return SIOCSIFADDR, _label(name) + _inet(bytes(4))


def renamed(name: str, fresh: str) -> Request:
    """It has to be down."""
    return SIOCSIFNAME, _label(name) + struct.pack("16s", fresh.encode())


def hardware_address(name: str, mac: str) -> Request:
    """`mac` as `02:…`."""
    data = bytes.fromhex(mac.replace(":", ""))
    return SIOCSIFHWADDR, _label(name) + struct.pack("H14s", _ARPHRD_ETHER, data)


def settings(card: dict[str, Any]) -> list[Request]:
    """Hardware address, MTU and IPv4 addresses, of a card that has its name."""
    name = card["name"]
    found = [hardware_address(name, card["mac"])]
    if card.get("mtu"):
        found.append((SIOCSIFMTU, _label(name) + struct.pack("i12x", card["mtu"])))
    found.append((SIOCSIFFLAGS, _label(name) + struct.pack("h14x", _IFF_CARD)))
    for address in card.get("addresses", ()):
        host, _, prefix = address.partition("/")
        if ":" not in host:
            mask = (0xFFFFFFFF << (32 - int(prefix))) & 0xFFFFFFFF
            found.append((SIOCSIFADDR, _label(name) + _inet(socket.inet_aton(host))))
            found.append((SIOCSIFNETMASK, _label(name) + _inet(struct.pack(">I", mask))))
    return found


def default_route(gateway: str, change: int = SIOCADDRT) -> Request:
    """Add or delete it (`SIOCDELRT`)."""
    # struct rtentry (linux/route.h), destination and mask zero.
    nothing = _inet(bytes(4))
    route = struct.pack("Q", 0) + nothing + _inet(socket.inet_aton(gateway)) + nothing
    return change, route + struct.pack(
        "HhQhPhQQH6x", _RTF_UP | _RTF_GATEWAY, 0, 0, 0, 0, 0, 0, 0, 0
    )


def _label(name: str) -> bytes:
    return struct.pack("16s", name.encode())


def _inet(address: bytes) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, address)
