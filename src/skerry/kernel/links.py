"""Network links, addresses and routes as rtnetlink messages (rtnetlink(7)).

Each function makes one message for `Netlink.request`, or reads the answer of a dump. Addresses are
packed: 4 bytes are IPv4, 16 are IPv6.
"""

import errno
import socket
import struct

from skerry.base.light import NamedTuple
from skerry.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Netlink,
    attribute,
    attributes,
    nested,
    text,
    u8,
    u16,
    u32,
)

# linux/rtnetlink.h
_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_RTM_GETLINK = 18
_RTM_NEWADDR = 20
_RTM_DELADDR = 21
_RTM_GETADDR = 22
_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25
_RTM_GETROUTE = 26
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RTN_UNICAST = 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
# linux/if_link.h
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 1, 3, 4, 5
_IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 10, 18, 20, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_IFLA_BR_FORWARD_DELAY, _IFLA_BR_STP_STATE = 1, 5
_IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 4, 33
_IFLA_MACVLAN_MODE = 1
_IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS = 1, 2
_IFLA_VLAN_ID = 1
_VETH_INFO_PEER = 1
# linux/if_addr.h
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x02
# linux/if.h
_IFF_UP = 1

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


class Link(NamedTuple):
    """A link as a dump shows it. `alias` is free text that its maker left."""

    number: int
    name: str
    kind: str
    alias: str
    mac: bytes
    mtu: int
    master: int
    up: bool


class Route(NamedTuple):
    """A destination of the main table: packed address and prefix length."""

    address: bytes
    prefix: int
    link: int


def _ifinfo(index: int = 0, *, up: bool = False) -> bytes:
    flag = _IFF_UP if up else 0
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flag, flag)


def _new(name: str, kind: str, data: bytes, *attrs: bytes, up: bool = False) -> Message:
    info = text(_IFLA_INFO_KIND, kind)
    if data:
        info += nested(_IFLA_INFO_DATA, data)
    body = _ifinfo(up=up) + text(_IFLA_IFNAME, name) + b"".join(attrs)
    return Message(
        _RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        body + nested(_IFLA_LINKINFO, info),
        f"make the {kind} interface {name}",
    )


def set_alias(name: str, alias: str) -> Message:
    """Leave a word on a link that tells whose it is. The kernel takes none while it makes one."""
    body = _ifinfo() + text(_IFLA_IFNAME, name) + attribute(_IFLA_IFALIAS, alias.encode())
    return Message(_RTM_NEWLINK, 0, body, f"mark the interface {name}")


def add_bridge(name: str, *, mac: bytes, mtu: int = 0) -> Message:
    """A bridge, up, without spanning tree or forwarding delay."""
    data = u32(_IFLA_BR_FORWARD_DELAY, 0) + u32(_IFLA_BR_STP_STATE, 0)
    attrs = [attribute(_IFLA_ADDRESS, mac)]
    if mtu:
        attrs.append(u32(_IFLA_MTU, mtu))
    return _new(name, "bridge", data, *attrs, up=True)


def add_veth(
    name: str, peer: str, peer_namespace: int, *, mac: bytes, master: int, mtu: int = 0
) -> Message:
    """A pair: `name` here, up and in the bridge `master`; `peer` in the namespace behind the
    descriptor, still down, with the address `mac`."""
    size = u32(_IFLA_MTU, mtu) if mtu else b""
    other = _ifinfo() + text(_IFLA_IFNAME, peer) + u32(_IFLA_NET_NS_FD, peer_namespace)
    other += attribute(_IFLA_ADDRESS, mac) + size
    return _new(
        name, "veth", nested(_VETH_INFO_PEER, other), u32(_IFLA_MASTER, master), size, up=True
    )


def add_macvlan(
    name: str, parent: int, namespace: int, *, mac: bytes, mode: str, mtu: int = 0
) -> Message:
    """A macvlan on `parent`, made inside the namespace behind the descriptor."""
    attrs = [u32(_IFLA_LINK, parent), u32(_IFLA_NET_NS_FD, namespace)]
    attrs.append(attribute(_IFLA_ADDRESS, mac))
    if mtu:
        attrs.append(u32(_IFLA_MTU, mtu))
    return _new(name, "macvlan", u32(_IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]), *attrs)


def add_ipvlan(
    name: str, parent: int, namespace: int, *, mode: str, flag: str, mtu: int = 0
) -> Message:
    """An ipvlan on `parent`, made inside the namespace behind the descriptor."""
    attrs = [u32(_IFLA_LINK, parent), u32(_IFLA_NET_NS_FD, namespace)]
    if mtu:
        attrs.append(u32(_IFLA_MTU, mtu))
    data = u16(_IFLA_IPVLAN_MODE, IPVLAN_MODES[mode]) + u16(_IFLA_IPVLAN_FLAGS, IPVLAN_FLAGS[flag])
    return _new(name, "ipvlan", data, *attrs)


def add_vlan(name: str, parent: int, number: int) -> Message:
    """A VLAN interface (802.1Q) on `parent`, up."""
    return _new(name, "vlan", u16(_IFLA_VLAN_ID, number), u32(_IFLA_LINK, parent), up=True)


def add_dummy(name: str) -> Message:
    """An interface to nowhere, up: the parent of a macvlan or ipvlan that has none."""
    return _new(name, "dummy", b"", up=True)


def set_port(name: str, *, isolated: bool, hairpin: bool) -> Message:
    """How a bridge treats a port: one that is isolated talks to the bridge itself only, not to
    other isolated ones; with hairpin, frames may leave where they came in."""
    info = text(_IFLA_INFO_SLAVE_KIND, "bridge")
    data = u8(_IFLA_BRPORT_ISOLATED, isolated) + u8(_IFLA_BRPORT_MODE, hairpin)
    info += nested(_IFLA_INFO_SLAVE_DATA, data)
    body = _ifinfo() + text(_IFLA_IFNAME, name) + nested(_IFLA_LINKINFO, info)
    return Message(_RTM_NEWLINK, 0, body, f"set up the bridge port {name}")


def delete_link(index: int, name: str) -> Message:
    """Remove a link; one that has gone is fine."""
    return Message(_RTM_DELLINK, 0, _ifinfo(index), f"remove the interface {name}", (errno.ENODEV,))


def set_up(index: int, name: str) -> Message:
    """Bring it up."""
    return Message(_RTM_NEWLINK, 0, _ifinfo(index, up=True), f"bring up {name}")


def add_address(index: int, address: bytes, prefix: int) -> Message:
    """An address with its network's prefix length; one that is there already is fine."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, prefix, 0, 0, index)
    body += attribute(_IFA_LOCAL, address) + attribute(_IFA_ADDRESS, address)
    if family == socket.AF_INET and prefix < 31:
        whole = int.from_bytes(address, "big") | ((1 << (32 - prefix)) - 1)
        body += attribute(_IFA_BROADCAST, whole.to_bytes(4, "big"))
    if family == socket.AF_INET6:
        # Nobody else can have it: the engine gives them out. Detection would take seconds.
        body += u32(_IFA_FLAGS, _IFA_F_NODAD)
    return Message(
        _RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_EXCL,
        body,
        f"add the address {_shown(address)}/{prefix}",
        (errno.EEXIST,),
    )


def delete_address(index: int, address: bytes, prefix: int) -> Message:
    """Remove an address; one that has gone is fine."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, prefix, 0, 0, index) + attribute(_IFA_LOCAL, address)
    return Message(
        _RTM_DELADDR,
        0,
        body,
        f"remove the address {_shown(address)}/{prefix}",
        (errno.EADDRNOTAVAIL, errno.ENODEV),
    )


def _shown(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def add_default_route(index: int, gateway: bytes | None, *, ipv6: bool = False) -> Message:
    """The default route through `gateway`, or straight out of the link when there is none."""
    family = socket.AF_INET6 if ipv6 or (gateway and len(gateway) == 16) else socket.AF_INET
    scope = 0 if gateway else 253
    body = struct.pack(
        "=BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST, 0
    )
    body += u32(_RTA_OIF, index)
    if gateway:
        body += attribute(_RTA_GATEWAY, gateway)
    return Message(
        _RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_EXCL,
        body,
        "add the default route",
        (errno.EEXIST,),
    )


def delete_default_route(*, ipv6: bool) -> Message:
    """Remove the default route; none is fine."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_MAIN, 0, 255, 0, 0)
    return Message(
        _RTM_DELROUTE,
        0,
        body,
        "remove the default route",
        (errno.ESRCH, errno.ENOENT, errno.ENETUNREACH),
    )


def list_links(sock: Netlink) -> list[Link]:
    """Every link of the socket's namespace."""
    found = []
    for kind, body in sock.dump(_RTM_GETLINK, _ifinfo(), "list network interfaces"):
        if kind != _RTM_NEWLINK or len(body) < 16:
            continue
        index, flags = struct.unpack_from("=iI", body, 4)
        attrs = attributes(body[16:])
        info = attributes(attrs.get(_IFLA_LINKINFO, b""))
        found.append(
            Link(
                index,
                _text(attrs.get(_IFLA_IFNAME, b"")),
                _text(info.get(_IFLA_INFO_KIND, b"")),
                _text(attrs.get(_IFLA_IFALIAS, b"")),
                attrs.get(_IFLA_ADDRESS, b""),
                _number(attrs.get(_IFLA_MTU, b"")),
                _number(attrs.get(_IFLA_MASTER, b"")),
                bool(flags & _IFF_UP),
            )
        )
    return found


def list_addresses(sock: Netlink) -> list[tuple[int, bytes, int]]:
    """Every address of the socket's namespace: link index, packed address, prefix length."""
    request = struct.pack("=BBBBI", 0, 0, 0, 0, 0)
    found = []
    for kind, body in sock.dump(_RTM_GETADDR, request, "list addresses"):
        if kind != _RTM_NEWADDR or len(body) < 8:
            continue
        prefix, index = struct.unpack_from("=xBxxI", body)
        attrs = attributes(body[8:])
        address = attrs.get(_IFA_LOCAL) or attrs.get(_IFA_ADDRESS)
        if address:
            found.append((index, address, prefix))
    return found


def list_routes(sock: Netlink) -> list[Route]:
    """Destinations of the main routing tables, default routes left out."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        for kind, body in sock.dump(_RTM_GETROUTE, request, "list routes"):
            if kind != _RTM_NEWROUTE or len(body) < 12 or body[4] != _RT_TABLE_MAIN:
                continue
            attrs = attributes(body[12:])
            destination = attrs.get(_RTA_DST)
            if destination and body[1]:
                found.append(Route(destination, body[1], _number(attrs.get(_RTA_OIF, b""))))
    return found


def default_links(sock: Netlink) -> set[int]:
    """Indexes of the links that a default route of the main tables leads out by."""
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        request = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        for kind, body in sock.dump(_RTM_GETROUTE, request, "list routes"):
            known = kind == _RTM_NEWROUTE and len(body) >= 12
            if known and not body[1] and body[4] == _RT_TABLE_MAIN:
                found.add(_number(attributes(body[12:]).get(_RTA_OIF, b"")))
    return found - {0}


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")


def _number(value: bytes) -> int:
    return int(struct.unpack("=I", value)[0]) if len(value) == 4 else 0


def index_of(name: str) -> int:
    """The index of a link in the thread's namespace, 0 when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
