"""nftables without its library: tables, chains, sets, rules as nfnetlink messages (nft(8)).

A *batch* is atomic: either every message of it takes effect, in one instant, or none. Numbers in
attributes are big-endian. Expressions work on registers: 1 to 4 hold 16 bytes each, `WORD + n` is
the n-th group of 4 bytes in the same memory. The key of a concatenated set lies in consecutive
words, each part padded to 4 bytes.

Constants: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

import errno
import socket
import struct

from skerry.base.light import NamedTuple
from skerry.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Message,
    Netlink,
    attribute,
    attribute_list,
    attributes,
    be32,
    nested,
    text,
)

_SUBSYSTEM = 10
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _GETRULE, _DELRULE = 0, 1, 2, 3, 6, 7, 8
_NEWSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 9, 12, 13, 14
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 7, 10
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
WORD = 8
"""NFT_REG32_00."""
LINK_HEADER, NETWORK_HEADER, TRANSPORT_HEADER = 0, 1, 2
DROP, ACCEPT, RETURN = 0, 1, -5
_JUMP = -3
_RTN_LOCAL = struct.pack("=I", 2)  # linux/rtnetlink.h
_SET_MAP = 8

TYPES = {"ipv4": (7, 4), "ipv6": (8, 16), "ether": (9, 8), "proto": (12, 4), "port": (13, 4)}
TYPES["ifname"] = (41, 16)
"""Words for parts of a set's key: libnftables' number, which its listings need, and the length in a
concatenation."""


class Table(NamedTuple):
    """A table by family (NFPROTO_…) and name."""

    family: int
    name: str

    def _message(
        self, kind: int, flags: int, *attrs: bytes, action: str, fine: tuple[int, ...] = ()
    ) -> Message:
        head = struct.pack(">BBH", self.family, 0, 0)
        return Message(_SUBSYSTEM << 8 | kind, flags, head + b"".join(attrs), action, fine)

    def add(self) -> Message:
        """Make it, unless it is there."""
        return self._message(
            _NEWTABLE,
            NLM_F_CREATE,
            text(1, self.name),
            action=f"add the nftables table {self.name}",
        )

    def delete(self) -> Message:
        """Remove it with everything in it."""
        return self._message(
            _DELTABLE, 0, text(1, self.name), action=f"delete the nftables table {self.name}"
        )

    def add_chain(self, name: str, *, kind: str = "", hook: str = "", priority: int = 0) -> Message:
        """A chain, a base chain when it has a hook (policy accept)."""
        attrs = [text(1, self.name), text(3, name)]
        if hook:
            attrs.append(nested(4, be32(1, HOOKS[hook]), be32(2, priority)))
            attrs += [be32(5, ACCEPT), text(7, kind)]
        return self._message(
            _NEWCHAIN, NLM_F_CREATE, *attrs, action=f"add the nftables chain {self.name} {name}"
        )

    def flush_chain(self, name: str) -> Message:
        """Remove its rules."""
        return self._message(
            _DELRULE,
            0,
            text(1, self.name),
            text(2, name),
            action=f"flush the nftables chain {self.name} {name}",
        )

    def add_rule(self, chain: str, *expressions: bytes) -> Message:
        """Append a rule."""
        return self._message(
            _NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            text(1, self.name),
            text(2, chain),
            nested(4, *expressions),
            action=f"add a rule to the nftables chain {self.name} {chain}",
        )

    def add_set(self, name: str, key: str, data: str = "") -> Message:
        """A set, or with `data` a map. `key` and `data` are words of TYPES joined by a dot."""
        kind, size = _type_of(key)
        flags = be32(3, _SET_MAP if data else 0)
        attrs = [text(1, self.name), text(2, name), flags, be32(4, kind), be32(5, size)]
        if data:
            kind, size = _type_of(data)
            attrs += [be32(6, kind), be32(7, size)]
        # Only looked at for anonymous sets, and still required.
        attrs.append(be32(10, 1))
        if key == "ifname":
            # libnftables' own note (NFTNL_UDATA_SET_KEYBYTEORDER: host), or listings show nothing.
            attrs.append(attribute(13, struct.pack("=BBI", 0, 4, 1)))
        return self._message(
            _NEWSET, NLM_F_CREATE, *attrs, action=f"add the nftables set {self.name} {name}"
        )

    def flush_set(self, name: str) -> Message:
        """Remove its elements."""
        return self._message(
            _DELSETELEM,
            0,
            text(1, self.name),
            text(2, name),
            action=f"flush the nftables set {self.name} {name}",
            fine=(errno.ENOENT,),
        )

    def add_elements(self, name: str, elements: "list[tuple[bytes, bytes]]") -> Message:
        """Add (key, data) to a set; data is empty for sets. An equal element is fine, another one
        with the same key fails with EEXIST."""
        return self._elements(_NEWSETELEM, NLM_F_CREATE, name, elements, "add")

    def delete_elements(self, name: str, elements: "list[tuple[bytes, bytes]]") -> Message:
        """Take elements away; ENOENT when one is not there."""
        return self._elements(_DELSETELEM, 0, name, elements, "remove")

    def _elements(
        self, kind: int, flags: int, name: str, elements: "list[tuple[bytes, bytes]]", verb: str
    ) -> Message:
        listed = []
        for key, data in elements:
            parts = [nested(1, attribute(1, key))]
            if data:
                parts.append(nested(2, attribute(1, data)))
            listed.append(nested(1, *parts))
        return self._message(
            kind,
            flags,
            text(1, self.name),
            text(2, name),
            nested(3, *listed),
            action=f"{verb} elements of the nftables set {self.name} {name}",
        )


def _type_of(words: str) -> tuple[int, int]:
    kind = size = 0
    parts = words.split(".")
    for word in parts:
        number, length = TYPES[word]
        kind, size = kind << 6 | number, size + length
    if len(parts) == 1:
        # A single part is not padded.
        size = {"ether": 6, "proto": 1, "port": 2}.get(words, size)
    return kind, size


# Keys and data


def ifname(name: str) -> bytes:
    """A link's name as a part of a key."""
    return name.encode().ljust(16, b"\0")


def proto(number: int) -> bytes:
    """An IP protocol as a part of a key."""
    return bytes((number, 0, 0, 0))


def port(number: int) -> bytes:
    """A port as a part of a key."""
    return struct.pack(">HH", number, 0)


# Expressions


def _expression(name: str, *attrs: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *attrs))


_ESTABLISHED_RELATED = 0x6
_DNAT = 0x20
"""IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h."""
_META = {"priority": 2, "iifname": 6, "oifname": 7, "skuid": 10, "nfproto": 15, "l4proto": 16}
_META |= {"iifkind": 26, "oifkind": 27}


def meta(key: str, register: int = 1) -> bytes:
    """Load priority, iifname, oifname, skuid (the sender's user), nfproto, l4proto, or iifkind and
    oifkind (the link's type)."""
    number = _META[key]
    return _expression("meta", be32(1, register), be32(2, number))


def set_meta(key: str, register: int = 1) -> bytes:
    """Give the packet the priority in the register."""
    return _expression("meta", be32(2, _META[key]), be32(3, register))


def payload(base: int, offset: int, length: int, register: int = 1) -> bytes:
    """Load bytes of the packet."""
    return _expression(
        "payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, length)
    )


def set_port(offset: int, checksum: int, register: int = 1) -> bytes:
    """Write a port at `offset` of the transport header, whose checksum is at `checksum`."""
    where = [be32(5, register), be32(2, TRANSPORT_HEADER), be32(3, offset), be32(4, 2)]
    return _expression("payload", *where, be32(6, 1), be32(7, checksum))


def conntrack(key: str, register: int = 1) -> bytes:
    """Load state, direction or status."""
    number = {"state": 0, "direction": 1, "status": 2}[key]
    return _expression("ct", be32(1, register), be32(2, number))


def answers() -> bytes:
    """Go on when the packet belongs to a connection that is known, or to one that such a one
    needs."""
    return conntrack("state") + any_bit(_ESTABLISHED_RELATED)


def redirected() -> bytes:
    """Go on when the connection was sent elsewhere than its client said: to a published port."""
    return conntrack("status") + any_bit(_DNAT)


def to_host() -> bytes:
    """Go on when the destination is an address of the host's own."""
    of_destination, its_type = 2, 3  # NFTA_FIB_F_DADDR, NFT_FIB_RESULT_ADDRTYPE
    kind = _expression("fib", be32(1, 1), be32(2, its_type), be32(3, of_destination))
    return kind + equal(_RTN_LOCAL)


def equal(value: bytes, register: int = 1) -> bytes:
    """Go on when the register holds `value`."""
    return _expression("cmp", be32(1, register), be32(2, 0), nested(3, attribute(1, value)))


def unequal(value: bytes, register: int = 1) -> bytes:
    """Go on when it does not."""
    return _expression("cmp", be32(1, register), be32(2, 1), nested(3, attribute(1, value)))


def any_bit(mask: int, register: int = 1) -> bytes:
    """Go on when a bit of `mask`, in the host's byte order, is set."""
    both = [be32(1, register), be32(2, register), be32(3, 4)]
    both.append(nested(4, attribute(1, struct.pack("=I", mask))))
    both.append(nested(5, attribute(1, b"\0\0\0\0")))
    return _expression("bitwise", *both) + unequal(b"\0\0\0\0", register)


def lookup(name: str, register: int = 1, *, absent: bool = False, into: int = 0) -> bytes:
    """Go on when the key is in the set (or is not); `into` is the register for a map's data."""
    attrs = [text(1, name), be32(2, register)]
    if into:
        attrs.append(be32(3, into))
    if absent:
        attrs.append(be32(5, 1))
    return _expression("lookup", *attrs)


def verdict(code: int) -> bytes:
    """DROP, ACCEPT or RETURN."""
    return _expression("immediate", be32(1, 0), nested(2, nested(2, be32(1, code))))


def jump(chain: str) -> bytes:
    """Call another chain."""
    return _expression(
        "immediate", be32(1, 0), nested(2, nested(2, be32(1, _JUMP), text(2, chain)))
    )


def immediate(value: bytes, register: int = 1) -> bytes:
    """Load a constant."""
    return _expression("immediate", be32(1, register), nested(2, attribute(1, value)))


def dnat(family: int, address: int, port_register: int) -> bytes:
    """Send it to the address and port in these registers."""
    attrs = [be32(1, 1), be32(2, family), be32(3, address), be32(5, port_register)]
    # NF_NAT_RANGE_MAP_IPS and _PROTO_SPECIFIED follow from the registers.
    return _expression("nat", *attrs)


def dnat_port(family: int, port_register: int) -> bytes:
    """Send it to the port in this register, at the address that it has."""
    return _expression("nat", be32(1, 1), be32(2, family), be32(5, port_register))


def snat(family: int, address: int) -> bytes:
    """Let it come from the address in this register."""
    return _expression("nat", be32(1, 0), be32(2, family), be32(3, address))


def masquerade() -> bytes:
    """Let it come from the outgoing link's address."""
    return _expression("masq")


class Nft:
    """A door to nftables in the thread's network namespace."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)
        self._bracket = struct.pack(">BBH", socket.AF_UNSPEC, 0, _SUBSYSTEM)

    def close(self) -> None:
        """Close it."""
        self._netlink.close()

    def __enter__(self) -> "Nft":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def commit(self, messages: list[Message]) -> None:
        """All of them in one transaction."""
        self._netlink.batch(self._bracket, messages, self._bracket)

    def tables(self) -> list[Table]:
        """Every table of the namespace."""
        head = struct.pack(">BBH", 0, 0, 0)
        kind = _SUBSYSTEM << 8 | _GETTABLE
        return [
            Table(body[0], _string(attributes(body[4:]).get(1, b"")))
            for _, body in self._netlink.dump(kind, head, "list nftables tables")
        ]

    def count_rules(self, table: Table, chain: str) -> int:
        """How many rules a chain has; 0 when it does not exist."""
        body = struct.pack(">BBH", table.family, 0, 0) + text(1, table.name) + text(2, chain)
        kind = _SUBSYSTEM << 8 | _GETRULE
        try:
            found = self._netlink.dump(kind, body, "list nftables rules")
        except Exception:
            return 0
        return sum(
            _string(fields.get(1, b"")) == table.name and _string(fields.get(2, b"")) == chain
            for fields in (attributes(each[4:]) for _, each in found)
        )

    def elements(self, table: Table, name: str) -> list[tuple[bytes, bytes]]:
        """(key, data) of every element of a set."""
        body = struct.pack(">BBH", table.family, 0, 0) + text(1, table.name) + text(2, name)
        kind = _SUBSYSTEM << 8 | _GETSETELEM
        found = []
        for _, each in self._netlink.dump(kind, body, f"list the nftables set {name}"):
            listed = attributes(each[4:]).get(3, b"")
            for _, element in attribute_list(listed):
                fields = attributes(element)
                found.append((_value(fields.get(1, b"")), _value(fields.get(2, b""))))
        return found


def _value(data: bytes) -> bytes:
    return attributes(data).get(1, b"")


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
