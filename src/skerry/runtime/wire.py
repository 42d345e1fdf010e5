"""Messages between engine, spawner and keepers: one datagram each, descriptors beside it.

A datagram of a SOCK_SEQPACKET unix socket is::

    uint32 length of the head (big endian) | head: a JSON object | body: opaque bytes

A body larger than `INLINE_LIMIT` (a plan with hundreds of mounts, say) travels as a sealed memfd,
the last descriptor of the message; the head's `"memfd"` then holds its size. The peers trust each
other, the limits catch mistakes.
"""

import _socket
import json
import os
import socket
import struct

from skerry.base import errors
from skerry.base.errors import GuestFault, KernelFault, LimitExceeded, SkerryError, SystemFault
from skerry.base.light import Any, NamedTuple
from skerry.kernel.descriptors import memfd_sealed, recv_fds, send_fds

VERSION = 2
"""Of the requests; to be raised with every change of their words."""
INLINE_LIMIT = 4 * 1024
"""Largest body that travels in the datagram, as an exec's does. Plans of containers are larger, and
pass by the spawner and its keepers, whose memory they would otherwise fill, in a memfd."""
HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024 * 1024
MAX_FDS = 8
_LENGTH = struct.Struct(">I")
HEADER = _LENGTH.size
DATAGRAM = HEADER + HEAD_LIMIT + INLINE_LIMIT
_TEXT_LIMIT = 4096


class Message(NamedTuple):
    """What was received. The descriptors are close-on-exec and belong to the receiver."""

    head: dict[str, Any]
    body: bytes
    fds: list[int]


def pack(head: dict[str, Any], body: bytes = b"") -> tuple[bytes, int | None]:
    """The datagram for a message, and the memfd to send last, or None; the caller closes it."""
    memfd = None
    if len(body) > BODY_LIMIT:
        raise LimitExceeded(f"a message of {len(body)} bytes; the limit is {BODY_LIMIT}")
    if len(body) > INLINE_LIMIT:
        memfd = memfd_sealed("skerry-message", body)
        head = {**head, "memfd": len(body)}
        body = b""
    text = json.dumps(head, separators=(",", ":")).encode()
    if len(text) > HEAD_LIMIT:
        if memfd is not None:
            os.close(memfd)
        raise LimitExceeded(f"a message head of {len(text)} bytes; the limit is {HEAD_LIMIT}")
    return _LENGTH.pack(len(text)) + text + body, memfd


def unpack(datagram: bytes, fds: list[int]) -> Message:
    """A received datagram as a message; SystemFault, and `fds` closed, when it is malformed."""
    try:
        (length,) = _LENGTH.unpack_from(datagram)
        if length > len(datagram) - _LENGTH.size:
            raise ValueError("shorter than its head")
        end = _LENGTH.size + length
        head = json.loads(datagram[_LENGTH.size : end])
        if not isinstance(head, dict):
            raise ValueError("the head is no object")
        body = datagram[end:]
        if "memfd" in head:
            body = _read_memfd(fds.pop(), head.pop("memfd"))
    except (ValueError, IndexError, struct.error, RecursionError, OSError) as error:
        for fd in fds:
            os.close(fd)
        raise SystemFault(f"malformed message between skerry's processes: {error}") from None
    return Message(head, body, fds)


def send(
    sock: socket.socket, head: dict[str, Any], body: bytes = b"", fds: tuple[int, ...] = ()
) -> None:
    """Send one message; OSError as `sendmsg` gives it (EAGAIN, EPIPE)."""
    datagram, memfd = pack(head, body)
    try:
        send_fds(sock, datagram, fds if memfd is None else (*fds, memfd))
    finally:
        if memfd is not None:
            os.close(memfd)


def receive_datagram(sock: _socket.socket) -> tuple[bytes, list[int]]:
    """The next datagram and its descriptors; empty bytes at the end of the stream."""
    return recv_fds(sock, DATAGRAM, MAX_FDS)


def receive(sock: _socket.socket) -> Message | None:
    """The next message, None at the end of the stream."""
    datagram, fds = receive_datagram(sock)
    return unpack(datagram, fds) if datagram else None


def hear(sock: _socket.socket) -> Message | None:
    """As `receive`, and None also when the peer is broken or sends what is no message; what is
    raised is BlockingIOError, when nothing waits."""
    try:
        return receive(sock)
    except BlockingIOError:
        raise
    except (OSError, SkerryError):
        return None


def _read_memfd(fd: int, size: object) -> bytes:
    try:
        if not isinstance(size, int) or not 0 <= size <= BODY_LIMIT:
            raise ValueError("body out of bounds")
        data = os.pread(fd, size, 0)
        if len(data) != size:
            raise ValueError("body cut short")
        return data
    finally:
        os.close(fd)


def error_to_wire(error: BaseException) -> dict[str, Any]:
    """An error as a JSON object; one that is none of ours becomes a SystemFault."""
    if isinstance(error, SkerryError | GuestFault):
        value: dict[str, Any] = {
            "message": error.message[:_TEXT_LIMIT],
            "hint": error.hint[:_TEXT_LIMIT],
        }
        if isinstance(error, KernelFault):
            return {
                **value,
                "type": "KernelFault",
                "action": error.action[:_TEXT_LIMIT],
                "errno": error.errno,
            }
        if isinstance(error, errors.MachineFault) and error.errno:
            value["errno"] = error.errno
        return {**value, "type": type(error).__name__}
    text = f"{type(error).__name__}: {error}"[:_TEXT_LIMIT]
    return {"type": "SystemFault", "message": text, "hint": ""}


def error_from_wire(value: dict[str, Any]) -> SkerryError | GuestFault:
    """The error that `error_to_wire` packed; SystemFault for a type that is not known."""
    hint = str(value.get("hint", ""))
    name = value.get("type")
    if name == "KernelFault":
        return KernelFault(str(value["action"]), int(value["errno"]), hint=hint)
    kind = getattr(errors, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, SkerryError | GuestFault):
        kind = SystemFault
    if issubclass(kind, errors.RegistryError):
        kind = SystemFault  # made of other parts, and a keeper speaks to no registry
    made: SkerryError | GuestFault = kind(str(value.get("message", "")), hint=hint)
    if isinstance(made, errors.MachineFault):
        made.errno = int(value.get("errno", 0))
    return made
