"""What an agent is told in a form that needs no interpreter: a list of small tasks.

It is the body of a message whose head says the same in JSON. The guest's first program, and what
waits in the agent's place while a machine is being saved, serve a list that they know in whole
(guest/serve.c, which has the format); the agent itself reads the head. Pure.
"""

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from skerry.machine import cards
from skerry.machine.channel import CHUNK

CLOCK, SEED, HOSTNAME, FILE, CARDS, IOCTL, TOLD, MODULE, THAW = range(1, 10)
_MAGIC = b"tsk1"
_TASK = struct.Struct(">BBH")
_NUMBER = struct.Struct(">I")
_IFREQ, _RTENTRY = 40, 120
_MOST = CHUNK - 8192
"""A head beside it has room in one frame."""
_MOST_NAME = 255


class Task(NamedTuple):
    """One of the kinds above, and its data."""

    kind: int
    data: bytes


def pack(seq: int, tasks: Iterable[Task] | None) -> bytes:
    """The list for the message with this number; empty when there is none, or it is too long."""
    if tasks is None:
        return b""
    parts = [_MAGIC, _NUMBER.pack(seq)]
    for kind, data in tasks:
        if len(data) > _MOST:
            return b""
        parts += [_TASK.pack(kind, 0, len(data)), data]
    whole = b"".join(parts)
    return whole if len(whole) <= _MOST else b""


def load(names: Iterable[str]) -> list[Task]:
    """Load modules in this order."""
    return [Task(MODULE, name.encode()) for name in names]


def clock(nanoseconds: int) -> list[Task]:
    """The time of day."""
    return [Task(CLOCK, nanoseconds.to_bytes(8, "big"))]


def go(nanoseconds: int) -> list[Task]:
    """Let a container go on whose machine was saved."""
    return [*clock(nanoseconds), Task(THAW, b"")]


def wake(head: dict[str, Any]) -> list[Task] | None:
    """Of a copy's first message; None when it says something that only the agent can do. Its
    programs stand still (when it was `frozen`) until it has all that makes it another system."""
    identity, links = head["identity"], head["cards"]
    if head["renew"] or head.get("shares") or any(_has_v6(card) for card in links):
        return None
    made = [Task(CARDS, known(links)), Task(SEED, bytes.fromhex(identity["seed"]))]
    made += clock(identity["time_ns"])
    if identity["hostname"]:
        made.append(Task(HOSTNAME, identity["hostname"].encode()))
    for name, text in head["files"].items():
        label = name.encode()
        if len(label) > _MOST_NAME:
            return None
        contents = text.encode("utf-8", "surrogateescape")
        made.append(Task(FILE, bytes([len(label)]) + label + contents))
    for card in links:
        made += [_request(request) for request in (cards.down(card["name"]), *cards.settings(card))]
        if card.get("gateway"):
            made.append(_request(cards.default_route(card["gateway"])))
    made.append(Task(TOLD, f"{head['generation']}\n".encode()))
    return [*made, Task(THAW, b"")]


def known(links: Iterable[dict[str, Any]]) -> bytes:
    """The cards that lead somewhere: both sides have to mean the same ones."""
    return "\n".join(sorted(f"{card['slot']}={card['name']}" for card in links)).encode()


def _has_v6(card: dict[str, Any]) -> bool:
    return bool(card.get("gateway6")) or any(":" in each for each in card.get("addresses", ()))


def _request(request: cards.Request) -> Task:
    number, words = request
    size = _RTENTRY if number == cards.SIOCADDRT else _IFREQ
    return Task(IOCTL, _NUMBER.pack(number) + words.ljust(size, b"\0"))
