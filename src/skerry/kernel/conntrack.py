"""Connections that the kernel tracks: listing and forgetting (nfnetlink_conntrack.h)."""

import errno
import struct

from skerry.kernel.netlink import (
    NETLINK_NETFILTER,
    Message,
    Netlink,
    attribute,
    attributes,
    nested,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SUBSYSTEM = 1
_GET, _DELETE = 1, 2
_TUPLE_ORIG, _ID = 1, 12
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_DST = (2, 4)
"""CTA_IP_V4_DST, CTA_IP_V6_DST."""
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_KIND = _SUBSYSTEM << 8


def destination(body: bytes) -> tuple[int, bytes, int] | None:
    """Where a tracked flow was sent to at first: protocol, packed address, port; None when the
    message does not say."""
    whole = attributes(attributes(body[4:]).get(_TUPLE_ORIG, b""))
    ip = attributes(whole.get(_TUPLE_IP, b""))
    proto = attributes(whole.get(_TUPLE_PROTO, b""))
    address = next((ip[kind] for kind in _IP_DST if kind in ip), b"")
    number, port = proto.get(_PROTO_NUM, b""), proto.get(_PROTO_DST_PORT, b"")
    if len(address) not in (4, 16) or len(number) != 1 or len(port) != 2:
        return None
    return number[0], address, int.from_bytes(port, "big")


def forget(family: int, which: "Callable[[int, bytes, int], bool]") -> int:
    """Forget the flows of a family (AF_INET, AF_INET6) whose `destination` is wanted; how many.

    In the thread's network namespace. The next packet of such a flow is looked at as a first one.
    """
    head = struct.pack(">BBH", family, 0, 0)
    messages = []
    with Netlink(NETLINK_NETFILTER) as door:
        for _, body in door.dump(_KIND | _GET, head, "list tracked connections"):
            found = destination(body)
            if found is not None and which(*found):
                parts = attributes(body[4:])
                # With its id: another flow may have got the same addresses and ports meanwhile.
                wanted = nested(_TUPLE_ORIG, parts[_TUPLE_ORIG])
                wanted += attribute(_ID, parts[_ID]) if _ID in parts else b""
                messages.append(
                    Message(
                        _KIND | _DELETE, 0, head + wanted, "forget a connection", (errno.ENOENT,)
                    )
                )
        for at in range(0, len(messages), 256):
            door.request(messages[at : at + 256])
    return len(messages)
