"""nftables expressions that keep what comes out of a machine off the host's own services. Pure.

Theory. A guest chooses its addresses, so only the bridge's port tells that a packet is a guest's.
A port is known to the bridge family alone, addresses and connections to the inet family alone. The
first leaves a mark for the second: a priority (`skb->priority`), which the kernel gives anew to
what is forwarded and nobody reads on the way in. What goes on to the world or to a published port
is forwarded, and does not pass here.

Frames with a tag (IEEE 802.1Q, 802.1ad) could reach a link of the host that stands on the bridge,
and lose the mark on the way: only plain IPv4, IPv6 and ARP come as far as the mark.
"""

import struct

from skerry.kernel import nft

_PRIORITY = struct.pack("=I", 0x736B7670)
"""Its last four bits are 0: an ordinary packet, wherever it is read all the same."""
_ETHERTYPES = (b"\x08\x00", b"\x86\xdd", b"\x08\x06")
"""IPv4, IPv6, ARP."""
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_NEIGHBOURS = (135, 136)
"""Neighbour solicitation and advertisement, RFC 4861: without them no answer finds the way."""


def marks(guest: bytes) -> list[bytes]:
    """For the bridge family's hook `input`, in order; `guest` goes on when the frame is a
    guest's."""
    other = guest + nft.payload(nft.LINK_HEADER, 12, 2)
    other += b"".join(nft.unequal(each) for each in _ETHERTYPES)
    marked = guest + nft.immediate(_PRIORITY) + nft.set_meta("priority")
    return [other + nft.verdict(nft.DROP), marked]


def rules(*, dhcp: bool = False, internal: bytes = b"") -> list[bytes]:
    """For the inet family's hook `input`, in order: of guests' packets only answers and questions
    to the host's resolver, with `dhcp` also for an address, reach the host. Where `internal` goes
    on, no question does."""
    guest = nft.meta("priority") + nft.equal(_PRIORITY)
    accept, drop = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP)
    found = [guest + nft.answers() + accept]
    for kind in _NEIGHBOURS:
        of = nft.meta("l4proto") + nft.equal(bytes((_ICMPV6,)))
        of += nft.payload(nft.TRANSPORT_HEADER, 0, 1) + nft.equal(bytes((kind,)))
        found.append(guest + of + accept)
    if internal:
        found.append(guest + internal + drop)
    services = [(_TCP, 53), (_UDP, 53), *([(_UDP, 67)] if dhcp else [])]
    for protocol, port in services:
        to = nft.meta("l4proto") + nft.equal(bytes((protocol,)))
        to += nft.payload(nft.TRANSPORT_HEADER, 2, 2) + nft.equal(struct.pack(">H", port))
        found.append(guest + to + accept)
    return [*found, guest + drop]
