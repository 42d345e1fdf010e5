"""What keeps a guest off the host's own services, and off other bridges than its own.

*Behind NAT* QEMU opens the guest's connections itself, from the host's network: what the guest
sends to 10.0.2.2 goes to the host's loopback. So rules look at the machine's user. What it sends
to an address of the host is dropped, unless it is an answer (a forwarded port) or a question for
the host's resolver; and what it sends out by a bridge, unless that is an answer, goes to a
published port, or the bridge is a way to the world: one that has the default route or a port
other than containers' and machines' (veth, tun). The rest are others' networks, which Docker's
containers do not reach from their own either.

*Plugged into a bridge* the guest sends frames. What comes up from its tap to the host is dropped
as a whole on an internal network, and held to answers, the resolver and DHCP on any other
(`kernel.guest_filter`).

Two nftables tables of one name (families inet and bridge) for each machine, made before QEMU
starts and removed after it. Lean.
"""

import hashlib
import struct
from collections.abc import Iterable

from skerry.kernel import guest_filter, links, netlink, nft
from skerry.kernel.netlink import Message
from skerry.machine.full import detours
from skerry.machine.full.detours import Detour

_PREFIX = "skvm-"
_RESOLVER = struct.pack(">H", 53)
_INSIDE = ("veth", "tun")
_ACCEPT, _DROP = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)


def name(root: str, machine: str) -> str:
    """The tables of a machine of the engine with this root."""
    return f"{prefix(root)}{machine[:16]}"


def prefix(root: str) -> str:
    """Of all of an engine's tables."""
    return f"{_PREFIX}{hashlib.sha256(root.encode()).hexdigest()[:8]}-"


def rules(uid: int) -> list[bytes]:
    """For what the machine's user sends, in order; the set `ways` has bridges to the world."""
    mine = nft.meta("skuid") + nft.equal(struct.pack("=I", uid))
    local = nft.to_host()
    resolver = nft.payload(nft.TRANSPORT_HEADER, 2, 2) + nft.equal(_RESOLVER)
    bridge = nft.meta("oifkind") + nft.equal(nft.ifname("bridge"))
    elsewhere = nft.meta("oifname") + nft.lookup("ways", absent=True)
    return [
        mine + nft.answers() + _ACCEPT,
        mine + local + resolver + _ACCEPT,
        mine + local + _DROP,
        mine + nft.redirected() + _ACCEPT,
        mine + bridge + elsewhere + _DROP,
    ]


def ways(found: Iterable[links.Link], default: Iterable[int]) -> set[str]:
    """The bridges that lead to the world. `default`: links with a default route. Pure."""
    every = list(found)
    leading = {link.master for link in every if link.kind not in _INSIDE} | set(default)
    return {link.name for link in every if link.kind == "bridge" and link.number in leading}


def build(
    title: str, uid: int, taps: Iterable[tuple[str, bool]] = (), around: Iterable[Detour] = ()
) -> None:
    """Make the tables, in place of those that are there. `taps`: name, and whether it is of an
    internal network. `around`: ports below 1024 that are forwarded."""
    with netlink.Netlink(netlink.NETLINK_ROUTE) as route:
        known = ways(links.list_links(route), links.default_links(route))
    table = nft.Table(nft.NFPROTO_INET, title)
    messages = [table.add(), table.delete(), table.add(), table.add_set("ways", "ifname")]
    if known:
        elements = [(nft.ifname(each), b"") for each in sorted(known)]
        messages.append(table.add_elements("ways", elements))
    messages.append(table.add_chain("output", kind="filter", hook="output"))
    messages += [table.add_rule("output", each) for each in rules(uid)]
    messages += _detours(table, list(around))
    plugged = list(taps)
    if plugged:
        messages.append(table.add_chain("input", kind="filter", hook="input"))
        messages += [table.add_rule("input", each) for each in guest_filter.rules(dhcp=True)]
        ports = nft.Table(nft.NFPROTO_BRIDGE, title)
        messages += [ports.add(), ports.delete(), ports.add()]
        messages.append(ports.add_chain("input", kind="filter", hook="input"))
        for tap, internal in plugged:
            mine = nft.meta("iifname") + nft.equal(nft.ifname(tap))
            does = [mine + _DROP] if internal else guest_filter.marks(mine)
            messages += [ports.add_rule("input", each) for each in does]
    with nft.Nft() as kernel:
        kernel.commit(messages)


def _detours(table: nft.Table, around: list[Detour]) -> list[Message]:
    messages = []
    if around:
        for chain, hook in detours.CHAINS:
            messages.append(
                table.add_chain(chain, kind="nat", hook=hook, priority=detours.PRIORITY)
            )
    for each in around:
        messages += [table.add_rule(*rule) for rule in detours.rules(each).items()]
    return messages


def remove(title: str) -> None:
    """Idempotent."""
    with nft.Nft() as kernel:
        found = [table for table in kernel.tables() if table.name == title]
        if found:
            kernel.commit([table.delete() for table in found])


def sweep(root: str, kept: set[str]) -> None:
    """Remove this engine's tables but for those named."""
    with nft.Nft() as kernel:
        found = {each.name for each in kernel.tables() if each.name.startswith(prefix(root))}
    for title in sorted(found - kept):
        remove(title)
