"""What keeps a guest behind NAT from the host's own services.

QEMU's user network opens the guest's connections as QEMU itself, and what the guest sends to
10.0.2.2 goes to the host's loopback. So a rule drops what the machine's user sends to any address
of the host, unless it is an answer (a forwarded port) or a question for the host's resolver.

One nftables table for each machine, made before QEMU starts and removed after it. Lean.
"""

import hashlib
import struct

from skerry.kernel import nft

_LOCAL = struct.pack("=I", 2)
"""RTN_LOCAL, linux/rtnetlink.h."""
_ESTABLISHED_RELATED = 0x6
_PREFIX = "skvm-"
_RESOLVER = struct.pack(">H", 53)


def name(root: str, machine: str) -> str:
    """The table of a machine of the engine with this root."""
    return f"{prefix(root)}{machine[:16]}"


def prefix(root: str) -> str:
    """Of all of an engine's tables."""
    return f"{_PREFIX}{hashlib.sha256(root.encode()).hexdigest()[:8]}-"


def rules(uid: int) -> list[bytes]:
    """In order. Pure."""
    mine = nft.meta("skuid") + nft.equal(struct.pack("=I", uid))
    local = nft.address_type() + nft.equal(_LOCAL)
    answer = nft.conntrack("state") + nft.any_bit(_ESTABLISHED_RELATED)
    resolver = nft.payload(nft.TRANSPORT_HEADER, 2, 2) + nft.equal(_RESOLVER)
    return [
        mine + answer + nft.verdict(nft.ACCEPT),
        mine + local + resolver + nft.verdict(nft.ACCEPT),
        mine + local + nft.verdict(nft.DROP),
    ]


def build(title: str, uid: int) -> None:
    """Make the table, in place of one that is there."""
    table = nft.Table(nft.NFPROTO_INET, title)
    messages = [table.add(), table.delete(), table.add()]
    messages.append(table.add_chain("output", kind="filter", hook="output"))
    messages += [table.add_rule("output", each) for each in rules(uid)]
    with nft.Nft() as kernel:
        kernel.commit(messages)


def remove(title: str) -> None:
    """Idempotent."""
    with nft.Nft() as kernel:
        table = nft.Table(nft.NFPROTO_INET, title)
        if table in kernel.tables():
            kernel.commit([table.delete()])


def sweep(root: str, kept: set[str]) -> None:
    """Remove this engine's tables but for those named."""
    with nft.Nft() as kernel:
        found = [each for each in kernel.tables() if each.name.startswith(prefix(root))]
    for table in found:
        if table.name not in kept:
            remove(table.name)
