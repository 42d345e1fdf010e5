"""DNS messages, as much of RFC 1035 as a resolver for containers needs. Pure; input is hostile.

A query is read strictly: one question, names within their limits, no compression in the question
(nobody compresses the first name of a message). Answers of other servers are only compared by id
and question and passed on as they came.
"""

import struct

from skerry.base.light import NamedTuple

A, NS, CNAME, SOA, PTR, AAAA, OPT, ANY = 1, 2, 5, 6, 12, 28, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
PLAIN_SIZE = 512
"""Bytes of an answer over UDP to who did not ask for more (RFC 1035, 4.2.1)."""
MAX_SIZE = 4096
TTL = 600
"""Seconds, as Docker's."""
_HEADER = struct.Struct(">HHHHHH")
_QR, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010


class Malformed(ValueError):
    """Not a query; `id` is its id when at least that could be read."""

    def __init__(self, why: str, id_: int | None = None, code: int = FORMERR) -> None:
        super().__init__(why)
        self.id = id_
        self.code = code


class Query(NamedTuple):
    """A question. `name` is in lower case without the last dot; `question` are its bytes."""

    id: int
    flags: int
    name: str
    type: int
    class_: int
    question: bytes
    size: int
    """Bytes that the asker takes over UDP."""
    edns: bool


def parse_query(data: bytes) -> Query:
    """Read a query; Malformed otherwise."""
    if len(data) < _HEADER.size:
        raise Malformed("shorter than a header")
    id_, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _QR:
        # An answer is never answered: two resolvers would talk for ever.
        raise Malformed("an answer")
    if flags >> 11 & 0xF:
        raise Malformed("not a standard query", id_, NOTIMP)
    if questions != 1 or answers or authorities or additional > 2:
        raise Malformed("not exactly one question", id_)
    name, at = _name(data, 12, id_)
    if at + 4 > len(data):
        raise Malformed("question cut short", id_)
    type_, class_ = struct.unpack_from(">HH", data, at)
    at += 4
    size, edns = PLAIN_SIZE, False
    question = data[12:at]
    for _ in range(additional):
        if at < len(data) and data[at] == 0 and at + 11 <= len(data):
            kind, length = struct.unpack_from(">HH", data, at + 1)
            (extra,) = struct.unpack_from(">H", data, at + 9)
            if kind == OPT:
                size, edns = max(PLAIN_SIZE, min(length, MAX_SIZE)), True
            at += 11 + extra
        else:
            break
    return Query(id_, flags, name, type_, class_, question, size, edns)


def _name(data: bytes, at: int, id_: int) -> tuple[str, int]:
    labels = []
    start = at
    while True:
        if at >= len(data):
            raise Malformed("name cut short", id_)
        length = data[at]
        at += 1
        if length == 0:
            break
        if length > 63:
            raise Malformed("label too long or compressed", id_)
        if at + length > len(data):
            raise Malformed("label cut short", id_)
        labels.append(data[at : at + length].lower().decode("latin-1"))
        at += length
        if at - start > 255:
            raise Malformed("name too long", id_)
    return ".".join(labels), at


def encode_name(name: str) -> bytes:
    """A name in the wire's form; Malformed when a label does not fit."""
    parts = []
    for label in name.rstrip(".").split(".") if name.rstrip(".") else ():
        raw = label.encode("latin-1", "replace")
        if not 0 < len(raw) < 64:
            raise Malformed("label too long or empty")
        parts.append(bytes((len(raw),)) + raw)
    encoded = b"".join(parts) + b"\0"
    if len(encoded) > 255:
        raise Malformed("name too long")
    return encoded


def answer(
    query: Query, records: list[tuple[int, bytes]], code: int = NOERROR, *, udp: bool = True
) -> bytes:
    """An answer with records (type, data) that all belong to the question's name.

    Over UDP it is cut to what the asker takes, and says so.
    """
    flags = _QR | _RA | query.flags & (_RD | _CD) | code
    tail = b""
    if query.edns:
        tail = b"\0" + struct.pack(">HHIH", OPT, MAX_SIZE, 0, 0)
    room = (query.size if udp else 0xFFFF) - 12 - len(query.question) - len(tail)
    parts = []
    for kind, data in records:
        record = b"\xc0\x0c" + struct.pack(">HHIH", kind, IN, TTL, len(data)) + data
        if len(record) > room:
            flags |= _TC
            break
        room -= len(record)
        parts.append(record)
    head = _HEADER.pack(query.id, flags, 1, len(parts), 0, 1 if tail else 0)
    return head + query.question + b"".join(parts) + tail


def refuse(id_: int, code: int) -> bytes:
    """An answer to what could not be read."""
    return _HEADER.pack(id_, _QR | code, 0, 0, 0, 0)


def is_answer_to(data: bytes, id_: int, question: bytes) -> bool:
    """Whether a server's datagram answers the question that was asked with this id.

    Servers may change the case of letters; some leave the question out of errors.
    """
    if len(data) < 12:
        return False
    got, flags, questions = struct.unpack_from(">HHH", data)
    if got != id_ or not flags & _QR:
        return False
    if questions == 0:
        return bool(flags & 0xF)
    return data[12 : 12 + len(question)].lower() == question.lower()


def with_id(data: bytes, id_: int) -> bytes:
    """The message under another id."""
    return struct.pack(">H", id_) + data[2:]


def reverse_address(name: str) -> str:
    """The address that a PTR question is about, empty when it is about none."""
    if name.endswith(".in-addr.arpa"):
        parts = name.removesuffix(".in-addr.arpa").split(".")
        if len(parts) == 4 and all(p.isascii() and p.isdigit() and len(p) < 4 for p in parts):
            return ".".join(str(int(part)) for part in reversed(parts))
    elif name.endswith(".ip6.arpa"):
        digits = name.removesuffix(".ip6.arpa").split(".")
        if len(digits) == 32 and all(len(d) == 1 and d in "0123456789abcdef" for d in digits):
            import socket

            packed = bytes.fromhex("".join(reversed(digits)))
            return socket.inet_ntop(socket.AF_INET6, packed)
    return ""
