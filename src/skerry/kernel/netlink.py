"""Netlink: packing messages, sending many at once, reading acknowledgements and dumps (netlink(7)).

A request is one `sendmsg` with as many messages as fit one another's order; the kernel handles them
one by one and acknowledges each. Integers are in the host's byte order unless said otherwise.
"""

import _socket
import errno
import struct

from skerry.base.errors import KernelFault
from skerry.base.light import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Message(NamedTuple):
    """A request. `action` is for the error, `fine` are error numbers that are none."""

    kind: int
    flags: int
    body: bytes
    action: str
    fine: tuple[int, ...] = ()


# linux/netlink.h
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300
NLA_F_NESTED = 0x8000
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_DUMP_INTR = 0x10
_SOL_NETLINK = 270
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_NETLINK_CAP_ACK = 10
_NETLINK_GET_STRICT_CHK = 12
# linux/netfilter/nfnetlink.h
_NFNL_MSG_BATCH_BEGIN = 16
_NFNL_MSG_BATCH_END = 17
_HEADER = struct.Struct("=IHHII")
_ROOM = 1 << 17
_TIMEOUT = struct.pack("ll", 10, 0)


def attribute(kind: int, value: bytes) -> bytes:
    """struct nlattr: length, type, value, padded to four bytes."""
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + b"\0" * (-size % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def u8(kind: int, value: int) -> bytes:
    """A byte."""
    return attribute(kind, struct.pack("B", value))


def u16(kind: int, value: int) -> bytes:
    """16 bits, the host's byte order."""
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    """32 bits, the host's byte order."""
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """32 bits, big-endian: netfilter's order."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> "dict[int, bytes]":
    """Attributes by type, flags taken off; a malformed rest is left out."""
    return dict(attribute_list(data))


def attribute_list(data: bytes) -> "Iterator[tuple[int, bytes]]":
    """As `attributes`, for lists in which a type repeats."""
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4 or at + size > len(data):
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


class Netlink:
    """A netlink socket in the network namespace that the thread is in when it is made."""

    def __init__(self, protocol: int) -> None:
        try:
            self._socket = _socket.socket(
                _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol
            )
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _TIMEOUT)
            self._socket.bind((0, 0))
        except OSError as error:
            raise KernelFault("open a netlink socket", error.errno or 0) from None
        if protocol == NETLINK_ROUTE:
            # Dumps then honour the filter in the request's header.
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._sequence = 0

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def request(self, messages: "Sequence[Message]") -> None:
        """Send all, wait for every acknowledgement; KernelFault for the first that failed.

        Those after a failed one have been carried out as well.
        """
        if not messages:
            return
        first, data = self._pack(messages, NLM_F_ACK)
        self._send(data, messages[0].action)
        waiting = len(messages)
        fault: KernelFault | None = None
        while waiting:
            for kind, _, sequence, body in self._receive(messages[0].action):
                place = sequence - first
                if kind != _NLMSG_ERROR or not 0 <= place < len(messages):
                    continue
                waiting -= 1
                code = -struct.unpack_from("=i", body)[0]
                message = messages[place]
                if code and code not in message.fine and fault is None:
                    fault = KernelFault(message.action, code)
        if fault is not None:
            raise fault

    def batch(self, begin: bytes, messages: "Sequence[Message]", end: bytes) -> None:
        """Netfilter's transaction: all or nothing. `begin` and `end` are bodies of its brackets."""
        if not messages:
            return
        whole = [
            Message(_NFNL_MSG_BATCH_BEGIN, 0, begin, messages[0].action),
            *messages[:-1],
            messages[-1]._replace(flags=messages[-1].flags | NLM_F_ACK),
            Message(_NFNL_MSG_BATCH_END, 0, end, messages[-1].action),
        ]
        first, data = self._pack(whole, 0)
        self._send(data, messages[0].action)
        fault: KernelFault | None = None
        last = len(whole) - 2
        done = False
        while not done:
            for kind, _, sequence, body in self._receive(messages[0].action):
                place = sequence - first
                if kind != _NLMSG_ERROR or not 0 <= place < len(whole):
                    continue
                code = -struct.unpack_from("=i", body)[0]
                if code and fault is None:
                    fault = KernelFault(whole[place].action, code)
                done = done or place == last or (place == 0 and code != 0)
        if fault is not None:
            raise fault

    def dump(self, kind: int, body: bytes, action: str) -> "list[tuple[int, bytes]]":
        """All objects of a kind: (message type, body). Repeated while changes disturb it."""
        for _ in range(8):
            found, whole = self._dump(kind, body, action)
            if whole:
                return found
        raise KernelFault(action, errno.EAGAIN)

    def _dump(self, kind: int, body: bytes, action: str) -> "tuple[list[tuple[int, bytes]], bool]":
        first, data = self._pack([Message(kind, NLM_F_DUMP, body, action)], 0)
        self._send(data, action)
        found: list[tuple[int, bytes]] = []
        whole = True
        while True:
            for type_, flags, sequence, content in self._receive(action):
                if sequence != first:
                    continue
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if type_ == _NLMSG_DONE:
                    return found, whole
                if type_ == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    if code == errno.EINTR:
                        return [], False
                    raise KernelFault(action, code)
                found.append((type_, content))

    def _pack(self, messages: "Iterable[Message]", extra: int) -> "tuple[int, bytes]":
        parts = []
        first = self._sequence + 1
        for message in messages:
            self._sequence += 1
            size = 16 + len(message.body)
            flags = message.flags | NLM_F_REQUEST | extra
            parts.append(_HEADER.pack(size, message.kind, flags, self._sequence, 0))
            parts.append(message.body)
            parts.append(b"\0" * (-size % 4))
        return first, b"".join(parts)

    def _send(self, data: bytes, action: str) -> None:
        try:
            if len(data) > _ROOM:
                self._socket.setsockopt(_socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data))
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            raise KernelFault(action, error.errno or 0) from None

    def _receive(self, action: str) -> "list[tuple[int, int, int, bytes]]":
        try:
            data = self._socket.recv(_ROOM)
        except OSError as error:
            code = errno.ETIMEDOUT if error.errno == errno.EAGAIN else error.errno or 0
            raise KernelFault(action, code) from None
        found = []
        at = 0
        while at + 16 <= len(data):
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if size < 16 or at + size > len(data):
                break
            found.append((kind, flags, sequence, data[at + 16 : at + size]))
            at += (size + 3) & ~3
        return found
