"""The packet filter of one engine: one nftables table. Pure.

Theory. The rules are written once, when the engine comes up; networks and published ports are
elements of sets and maps that the rules look into. So a bridge or a port costs one element, however
many there are, and the state of an engine that comes back is written in one transaction.

    raw         loopback addresses never come in from a bridge (they would reach host services,
                since bridges have route_localnet so that 127.0.0.1:PORT can be published)
    prerouting  a published port, asked for from anywhere but an internal network: DNAT
    output      the same, asked for by a process of the host
    input       the address of a bridge belongs to that bridge's containers alone; machines reach
                nothing of the host (`kernel.guest_filter`)
    forward     the user's chain first; then what belongs to a known connection passes, containers
                of one network may talk, whatever was published may be reached (by a port of the
                host or, where addresses are routed, by the container's own), containers may
                reach out; everything else that is about our bridges is dropped
    postrouting source addresses: of containers that leave their network, of a container that
                reaches its own network through a published port, and of 127.0.0.1

Accepting here never overrules another table: netfilter asks every base chain of a hook, and one
that drops is enough. So the host's own rules are honoured. Rules in the chain `user` are the
administrator's; the engine never touches them.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from skerry.kernel import guest_filter, nft
from skerry.kernel.netlink import Message

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
NAT, UNPROTECTED, ROUTED, ISOLATED = "nat", "nat-unprotected", "routed", "isolated"
"""Docker's gateway modes: ports of the host lead to containers; these may be reached by their own
addresses too; only so, at published ports, and nothing is translated; the host has no address."""
USER_CHAIN = "user"
ICMP, ICMP6 = 1, 58

_SETS = {
    "bridges": ("ifname", ""),
    "same": ("ifname.ifname", ""),
    "talking": ("ifname.ifname", ""),
    "internal": ("ifname", ""),
    "masqueraded4": ("ifname", ""),
    "masqueraded6": ("ifname", ""),
    "open4": ("ifname", ""),
    "open6": ("ifname", ""),
    "routed4": ("ifname", ""),
    "routed6": ("ifname", ""),
    "isolated4": ("ifname", ""),
    "isolated6": ("ifname", ""),
    "gateways4": ("ipv4", ""),
    "gateways6": ("ipv6", ""),
    "own4": ("ifname.ipv4", ""),
    "own6": ("ifname.ipv6", ""),
    "selves4": ("ifname.ipv4", ""),
    "selves6": ("ifname.ipv6", ""),
    "published4": ("proto.port", "ipv4.port"),
    "published6": ("proto.port", "ipv6.port"),
    "published_at4": ("ipv4.proto.port", "ipv4.port"),
    "published_at6": ("ipv6.proto.port", "ipv6.port"),
    "reachable4": ("ipv4.proto.port", ""),
    "reachable6": ("ipv6.proto.port", ""),
}

_CHAINS = {
    "raw": ("filter", "prerouting", -300),
    "prerouting": ("nat", "prerouting", -100),
    "output": ("nat", "output", -100),
    "input": ("filter", "input", 0),
    "forward": ("filter", "forward", 0),
    "postrouting": ("nat", "postrouting", 100),
}

Elements = dict[str, list[tuple[bytes, bytes]]]
"""Set name to its (key, data)."""


class Guarded(NamedTuple):
    """What the filter has to know of a bridge."""

    bridge: str
    gateways: tuple[str, ...]
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    modes: tuple[str, str] = (NAT, NAT)
    """The gateway modes of IPv4 and IPv6."""


class Published(NamedTuple):
    """A port of the host that leads to a container. `host_ip` is empty for all addresses of the
    container address's family."""

    protocol: str
    host_ip: str
    host_port: int
    address: str
    port: int
    bridge: str = ""
    """The container's bridge."""
    alone: bool = False
    """`host_ip` is empty because 0.0.0.0 or [::] was said, not because nothing was: nothing of the
    other family leads there."""
    direct: bool = False
    """Reached by the container's own address; no port of the host is taken, `host_port` is 0."""


def table_of(root: str) -> nft.Table:
    """The table of the engine with this root."""
    return nft.Table(nft.NFPROTO_INET, f"skerry-{tag(root)}")


def guests_of(root: str) -> nft.Table:
    """The table of the bridges' ports that lead to machines. It is there once there was one."""
    return nft.Table(nft.NFPROTO_BRIDGE, f"skerry-{tag(root)}")


def tag(root: str) -> str:
    """Twelve hex digits that tell this engine's objects in the kernel from another's."""
    return hashlib.sha256(root.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def bridge_elements(network: Guarded) -> Elements:
    """What a bridge adds to the sets."""
    name = nft.ifname(network.bridge)
    found: Elements = {"bridges": [(name, b"")], "same": [(name + name, b"")]}
    if network.icc:
        found["talking"] = [(name + name, b"")]
    if network.internal:
        found["internal"] = [(name, b"")]
    for digit, mode in zip("46", network.modes, strict=True):
        for word, holds in (
            ("isolated", network.internal and mode == ISOLATED),
            ("masqueraded", network.masquerade and not network.internal and mode != ROUTED),
            ("open", not network.internal and mode == UNPROTECTED),
            ("routed", not network.internal and mode == ROUTED),
        ):
            if holds:
                found[f"{word}{digit}"] = [(name, b"")]
    for gateway in network.gateways:
        packed = ipaddress.ip_address(gateway).packed
        digit = "4" if len(packed) == 4 else "6"
        found.setdefault(f"gateways{digit}", []).append((packed, b""))
        found.setdefault(f"own{digit}", []).append((name + packed, b""))
    return found


def port_elements(ports: Iterable[Published]) -> Elements:
    """What published ports add to the maps."""
    found: Elements = {}
    for each in ports:
        if is_mixed(each):
            continue
        target = ipaddress.ip_address(each.address).packed
        digit = "4" if len(target) == 4 else "6"
        if each.direct:
            key = target + nft.proto(PROTOCOLS[each.protocol]) + nft.port(each.port)
            found.setdefault(f"reachable{digit}", []).append((key, b""))
            continue
        key = nft.proto(PROTOCOLS[each.protocol]) + nft.port(each.host_port)
        data = target + nft.port(each.port)
        itself = (nft.ifname(each.bridge) + target, b"")
        if itself not in found.setdefault(f"selves{digit}", []):
            found[f"selves{digit}"].append(itself)
        if each.host_ip:
            key = ipaddress.ip_address(each.host_ip).packed + key
            found.setdefault(f"published_at{digit}", []).append((key, data))
        else:
            found.setdefault(f"published{digit}", []).append((key, data))
    return found


def is_mixed(port: Published) -> bool:
    """An IPv6 address of the host and an IPv4 address of the container: no rule joins these."""
    return ":" in port.host_ip and ":" not in port.address


def guest_elements(ports: Iterable[str]) -> Elements:
    """What links that lead to machines add to the table of guests."""
    found = [(nft.ifname(port), b"") for port in ports if port]
    return {"guests": found} if found else {}


def setup_guests(table: nft.Table, elements: Elements) -> list[Message]:
    """The whole table of guests, in place of what there is."""
    messages = [table.add(), table.delete(), table.add(), table.add_set("guests", "ifname")]
    messages.append(table.add_chain("input", kind="filter", hook="input"))
    rules = guest_filter.marks(nft.meta("iifname") + nft.lookup("guests"))
    messages += [table.add_rule("input", each) for each in rules]
    return messages + add(table, elements)


def merged(parts: Iterable[Elements]) -> Elements:
    """All elements together."""
    result: Elements = {}
    for part in parts:
        for name, elements in part.items():
            result.setdefault(name, []).extend(elements)
    return result


def add(table: nft.Table, elements: Mapping[str, list[tuple[bytes, bytes]]]) -> list[Message]:
    """Messages that add them."""
    return [table.add_elements(name, each) for name, each in elements.items() if each]


def remove(table: nft.Table, elements: Mapping[str, list[tuple[bytes, bytes]]]) -> list[Message]:
    """Messages that take them away."""
    return [table.delete_elements(name, each) for name, each in elements.items() if each]


def setup(table: nft.Table, elements: Elements, *, closed: bool) -> list[Message]:
    """The whole table with all its elements, in place of what there is; the user's chain stays.

    `closed`: the engine itself switched the host's forwarding on, so it sees to it that the host
    does not become a router.
    """
    messages = [table.add(), table.add_chain(USER_CHAIN)]
    for name, (kind, hook, priority) in _CHAINS.items():
        messages.append(table.add_chain(name, kind=kind, hook=hook, priority=priority))
        messages.append(table.flush_chain(name))
    for name, (key, data) in _SETS.items():
        messages.append(table.add_set(name, key, data))
        messages.append(table.flush_set(name))
    messages += [table.add_rule(chain, expressions) for chain, expressions in rules(closed=closed)]
    return messages + add(table, elements)


def rules(*, closed: bool) -> list[tuple[str, bytes]]:
    """The fixed rules: the chain and the expressions."""
    return [*_nat(), *_input(), *_forward(closed=closed), *_postrouting()]


_IPV4 = nft.meta("nfproto") + nft.equal(bytes((nft.NFPROTO_IPV4,)))
_IPV6 = nft.meta("nfproto") + nft.equal(bytes((nft.NFPROTO_IPV6,)))
_BOTH = nft.meta("iifname", 1) + nft.meta("oifname", 2)
_SAME = _BOTH + nft.lookup("same")
_PUBLISHED = nft.redirected()
_ACCEPT, _DROP = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)


_PLAIN = nft.unequal(nft.ifname("bridge"))
CLOSED = nft.meta("iifkind") + _PLAIN + nft.meta("oifkind") + _PLAIN + _DROP
"""Drops what goes from one plain link of the host to another: forwarding was off for them. Bridges
are left alone, whoever they belong to."""


def _from(name: str) -> bytes:
    return nft.meta("iifname") + nft.lookup(name)


def _to(name: str) -> bytes:
    return nft.meta("oifname") + nft.lookup(name)


def _header(offset: int, length: int, register: int = 1) -> bytes:
    return nft.payload(nft.NETWORK_HEADER, offset, length, register)


def _nat() -> Iterator[tuple[str, bytes]]:
    to_loopback = _IPV4 + _header(16, 1) + nft.equal(b"\x7f")
    # The cheap question first: every packet of the host passes here.
    yield "raw", to_loopback + _from("bridges") + _DROP
    yield "prerouting", _from("internal") + nft.verdict(nft.RETURN)
    yield "prerouting", to_loopback + nft.verdict(nft.RETURN)
    # A request from ::1 would get through, masqueraded, but not its answer: turned back to ::1 it
    # comes in by a bridge, and the kernel takes that address from no link but lo (RFC 4291, 2.5.3;
    # IPv6 has no route_localnet). So [::1]:PORT is left to the helper's relay.
    to_loopback6 = _IPV6 + _header(24, 16) + nft.equal(bytes(15) + b"\x01")
    yield "output", to_loopback6 + nft.verdict(nft.RETURN)
    for chain in ("prerouting", "output"):
        for rule in _dnat(nft.NFPROTO_IPV4, "4", 16, 4):
            yield chain, _IPV4 + rule
        for rule in _dnat(nft.NFPROTO_IPV6, "6", 24, 16):
            yield chain, _IPV6 + rule


def _service(offset: int, length: int) -> bytes:
    """Destination, protocol and port, one after the other in registers."""
    word = nft.WORD + length // 4
    key = _header(offset, length) + nft.meta("l4proto", word)
    return key + nft.payload(nft.TRANSPORT_HEADER, 2, 2, word + 1)


def _dnat(family: int, digit: str, offset: int, length: int) -> tuple[bytes, bytes]:
    """To a published port: by the exact address, then by any address of the host."""
    # Where the port follows the address in a map's data.
    word = nft.WORD + length // 4
    at = _service(offset, length)
    at += nft.lookup(f"published_at{digit}", into=1) + nft.dnat(family, 1, word)
    anywhere = nft.to_host()
    anywhere += nft.meta("l4proto") + nft.payload(nft.TRANSPORT_HEADER, 2, 2, nft.WORD + 1)
    anywhere += nft.lookup(f"published{digit}", into=1) + nft.dnat(family, 1, word)
    return at, anywhere


def _input() -> Iterator[tuple[str, bytes]]:
    for digit, guard, offset, length in (("4", _IPV4, 16, 4), ("6", _IPV6, 24, 16)):
        gateway = guard + _header(offset, length) + nft.lookup(f"gateways{digit}")
        other = nft.meta("iifname", 1) + _header(offset, length, 2)
        other += nft.lookup(f"own{digit}", absent=True)
        yield "input", _from("bridges") + gateway + other + _DROP
        yield "input", guard + _from(f"isolated{digit}") + _DROP
    for rule in guest_filter.rules(internal=_from("internal")):
        yield "input", rule


def _forward(*, closed: bool) -> Iterator[tuple[str, bytes]]:
    known = nft.answers()
    for expressions in (
        nft.jump(USER_CHAIN),
        known + _ACCEPT,
        _BOTH + nft.lookup("talking") + _ACCEPT,
        _from("internal") + _DROP,
        _to("internal") + _DROP,
        _to("bridges") + _PUBLISHED + _ACCEPT,
        _SAME + _DROP,
        *_directly(),
        _to("bridges") + _DROP,
        _from("bridges") + _ACCEPT,
        *([CLOSED] if closed else []),
    ):
        yield "forward", expressions


def _directly() -> Iterator[bytes]:
    """What reaches containers by their own addresses."""
    for digit, guard, offset, length, icmp in (
        ("4", _IPV4, 16, 4, ICMP),
        ("6", _IPV6, 24, 16, ICMP6),
    ):
        yield guard + _to(f"open{digit}") + _ACCEPT
        routed = guard + _to(f"routed{digit}")
        yield routed + nft.meta("l4proto") + nft.equal(bytes((icmp,))) + _ACCEPT
        yield routed + _service(offset, length) + nft.lookup(f"reachable{digit}") + _ACCEPT


def _postrouting() -> Iterator[tuple[str, bytes]]:
    # A container that reaches itself through its published port would be answered by itself. With
    # br_netfilter such packets never leave their bridge, and have no incoming link here.
    itself4 = _IPV4 + nft.meta("oifname", 1) + _header(12, 4, 2) + nft.lookup("selves4")
    itself6 = _IPV6 + nft.meta("oifname", 1) + _header(8, 16, 2) + nft.lookup("selves6")
    from_loopback4 = _IPV4 + _header(12, 1) + nft.equal(b"\x7f")
    for expressions in (
        itself4 + _PUBLISHED + nft.masquerade(),
        itself6 + _PUBLISHED + nft.masquerade(),
        _SAME + _PUBLISHED + nft.masquerade(),
        _SAME + _ACCEPT,
        _IPV4 + _from("masqueraded4") + nft.masquerade(),
        _IPV6 + _from("masqueraded6") + nft.masquerade(),
        _to("bridges") + from_loopback4 + nft.masquerade(),
    ):
        yield "postrouting", expressions
