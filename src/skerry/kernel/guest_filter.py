"""nftables expressions that keep what comes out of a machine off the host's own services. Pure.

Theory. A guest chooses its addresses, so only the bridge's port tells that a packet is a guest's.
A port is known to the bridge family alone, addresses and connections to the inet family alone. The
first leaves a mark for the second: a priority (`skb->priority`), which the kernel gives anew to
what is forwarded and nobody reads on the way in. What goes on to the world or to a published port
is forwarded, and does not pass here.
"""

import struct

from skerry.kernel import nft

_PRIORITY = struct.pack("=I", 0x736B7670)
"""Its last four bits are 0: an ordinary packet, wherever it is read all the same."""
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_NEIGHBOURS = (135, 136)
"""Neighbour solicitation and advertisement, RFC 4861: without them no answer finds the way."""


def mark() -> bytes:
    """For the bridge family's hook `input`: this packet is a guest's."""
    return nft.immediate(_PRIORITY) + nft.set_meta("priority")


def rules(*, dhcp: bool = False) -> list[bytes]:
    """For the inet family's hook `input`, in order: of guests' packets only answers and questions
    to the host's resolver, with `dhcp` also for an address, reach the host."""
    guest = nft.meta("priority") + nft.equal(_PRIORITY)
    accept = nft.verdict(nft.ACCEPT)
    found = [guest + nft.answers() + accept]
    services = [(_TCP, 53), (_UDP, 53), *([(_UDP, 67)] if dhcp else [])]
    for protocol, port in services:
        to = nft.meta("l4proto") + nft.equal(bytes((protocol,)))
        to += nft.payload(nft.TRANSPORT_HEADER, 2, 2) + nft.equal(struct.pack(">H", port))
        found.append(guest + to + accept)
    for kind in _NEIGHBOURS:
        of = nft.meta("l4proto") + nft.equal(bytes((_ICMPV6,)))
        of += nft.payload(nft.TRANSPORT_HEADER, 0, 1) + nft.equal(bytes((kind,)))
        found.append(guest + of + accept)
    return [*found, guest + nft.verdict(nft.DROP)]
