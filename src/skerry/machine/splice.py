"""A machine's cards in a network namespace: what is there is found out, and joined to taps.

The engine makes the namespace as for a container: interfaces with addresses and routes. Of each,
the guest's card gets hardware address, addresses and routes; and whatever comes in on the interface
goes out on the tap and the other way round, below the namespace's own IP, which hears nothing any
more (tc ingress, u32 that matches all, mirred redirect). So published ports, other containers and
the resolver see a container like any other.

Sources: tc(8), tc-mirred(8), linux/rtnetlink.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h,
proc_pid_net(5).
"""

import fcntl
import socket
import struct
from contextlib import suppress

from skerry.base.errors import KernelFault
from skerry.base.light import Any
from skerry.kernel import netlink
from skerry.kernel.netlink import Message

_RTM_NEWLINK, _RTM_NEWQDISC, _RTM_DELQDISC, _RTM_NEWTFILTER = 16, 36, 37, 44
_TC_H_INGRESS, _INGRESS_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_U32_SEL, _TCA_U32_ACT, _U32_TERMINAL = 5, 7, 1
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 1, 2, 2
_TC_ACT_STOLEN, _EGRESS_REDIRECT = 4, 1
_ETH_P_ALL = 0x0003
_IFF_UP = 1
# linux/sockios.h
_SIOCGIFADDR, _SIOCGIFNETMASK, _SIOCGIFMTU, _SIOCGIFHWADDR = 0x8915, 0x891B, 0x8921, 0x8927
_RTF_GATEWAY = 2


def cards() -> list[dict[str, Any]]:
    """The interfaces of the caller's network namespace but `lo` and taps, by name: `name`, `mac`,
    `mtu`, `addresses`, `gateway`, `gateway6`."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in sorted(socket.if_nameindex()):
            if name == "lo" or name.startswith("skerry-tap"):
                continue
            mac = _ask(sock, _SIOCGIFHWADDR, name)
            if mac is None or struct.unpack_from("H", mac, 16)[0] != 1:
                continue
            mtu = _ask(sock, _SIOCGIFMTU, name)
            found.append(
                {
                    "name": name,
                    "mac": ":".join(f"{byte:02x}" for byte in mac[18:24]),
                    "mtu": struct.unpack_from("i", mtu, 16)[0] if mtu else 0,
                    "addresses": [*_addresses(sock, name), *_addresses6(name)],
                    "gateway": _gateway(name),
                    "gateway6": _gateway6(name),
                }
            )
    return found


def _ask(sock: socket.socket, request: int, name: str) -> bytes | None:
    try:
        return fcntl.ioctl(sock, request, struct.pack("16s24x", name.encode()))
    except OSError:
        return None


def _addresses(sock: socket.socket, name: str) -> list[str]:
    address, mask = _ask(sock, _SIOCGIFADDR, name), _ask(sock, _SIOCGIFNETMASK, name)
    if address is None or mask is None:
        return []
    prefix = int.from_bytes(mask[20:24], "big").bit_count()
    return [f"{socket.inet_ntoa(address[20:24])}/{prefix}"]


def _lines(path: str) -> list[list[str]]:
    try:
        with open(path) as file:
            return [line.split() for line in file]
    except OSError:
        return []


def _addresses6(name: str) -> list[str]:
    found = []
    for row in _lines("/proc/thread-self/net/if_inet6"):
        if len(row) == 6 and row[5] == name:
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0]))
            if not address.startswith("fe80"):
                found.append(f"{address}/{int(row[2], 16)}")
    return found


def _gateway(name: str) -> str:
    for row in _lines("/proc/thread-self/net/route"):
        default = len(row) > 7 and row[0] == name and row[1] == row[7] == "00000000"
        if default and int(row[3], 16) & _RTF_GATEWAY:
            return socket.inet_ntoa(struct.pack("=I", int(row[2], 16)))
    return ""


def _gateway6(name: str) -> str:
    for row in _lines("/proc/thread-self/net/ipv6_route"):
        if len(row) == 10 and row[9] == name and row[1] == "00" and int(row[4], 16):
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[4]))
    return ""


def messages(interface: int, tap: int) -> list[Message]:
    """The requests that join two interfaces, by index. Pure."""
    up = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, tap, _IFF_UP, _IFF_UP)
    return [
        Message(_RTM_NEWLINK, 0, up, "bring the tap up"),
        *_redirect(interface, tap),
        *_redirect(tap, interface),
    ]


def part(tap: str) -> None:
    """Let a tap lead nowhere. Idempotent."""
    index = socket.if_nametoindex(tap)
    queue = struct.pack("=BxxxiIII", 0, index, _INGRESS_HANDLE, _TC_H_INGRESS, 0)
    message = Message(_RTM_DELQDISC, 0, queue, "part a tap from its interface")
    with netlink.Netlink(netlink.NETLINK_ROUTE) as route, suppress(KernelFault):
        route.request([message])


def _redirect(source: int, target: int) -> list[Message]:
    queue = struct.pack("=BxxxiIII", 0, source, _INGRESS_HANDLE, _TC_H_INGRESS, 0)
    queue += netlink.text(_TCA_KIND, "ingress")
    information = 1 << 16 | socket.htons(_ETH_P_ALL)
    head = struct.pack("=BxxxiIII", 0, source, 0, _INGRESS_HANDLE, information)
    # struct tc_u32_sel with one key that every packet has: value 0 under mask 0.
    selector = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0)
    selector += struct.pack("=IIii", 0, 0, 0, 0)
    redirect = struct.pack("=IIiiiiI", 0, 0, _TC_ACT_STOLEN, 0, 0, _EGRESS_REDIRECT, target)
    action = netlink.nested(
        1,
        netlink.text(_TCA_ACT_KIND, "mirred"),
        netlink.nested(_TCA_ACT_OPTIONS, netlink.attribute(_TCA_MIRRED_PARMS, redirect)),
    )
    options = netlink.nested(
        _TCA_OPTIONS,
        netlink.attribute(_TCA_U32_SEL, selector),
        netlink.nested(_TCA_U32_ACT, action),
    )
    flags = netlink.NLM_F_CREATE
    return [
        Message(_RTM_NEWQDISC, flags, queue, "prepare an interface for a machine"),
        Message(
            _RTM_NEWTFILTER,
            flags | netlink.NLM_F_EXCL,
            head + netlink.text(_TCA_KIND, "u32") + options,
            "join an interface with a machine's tap",
        ),
    ]


def join(name: str, tap: str) -> None:
    """Join an interface and a tap of the caller's namespace; KernelFault."""
    with netlink.Netlink(netlink.NETLINK_ROUTE) as route:
        route.request(messages(socket.if_nametoindex(name), socket.if_nametoindex(tap)))
