"""What a guest says, made fit for others: numbers within bounds, errors that are its own."""

import _socket
import json
import socket
from contextlib import suppress

from skerry.base.errors import (
    Conflict,
    Forbidden,
    GuestFault,
    InvalidInput,
    KernelFault,
    MachineFault,
    NotFound,
    SkerryError,
    Unsupported,
)
from skerry.base.light import Any
from skerry.runtime import wire

_MOST_TEXT, _MOST_ERRNO = 1000, 4095


def number(value: object, most: int) -> int:
    """A number that a guest says, within bounds; 0 for anything else."""
    return value if type(value) is int and 0 <= value <= most else 0


def guests_error(value: object) -> SkerryError | GuestFault:
    """The failure that a guest reports. Whatever it says: its kernel's refusals and its troubles
    are not the engine's, and its words are short, and printable."""
    if not isinstance(value, dict):
        return MachineFault("the guest reports a failure without a word")
    try:
        found = wire.error_from_wire(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        return MachineFault("the guest reports a failure that makes no sense")
    text, hint = _words(found.message), _words(found.hint)
    if isinstance(found, KernelFault):
        refused = MachineFault(text, hint=hint)
        refused.errno = number(found.errno, _MOST_ERRNO)
        return refused
    blames = (InvalidInput, NotFound, Conflict, Forbidden, Unsupported, GuestFault)
    kind = type(found) if isinstance(found, blames) else MachineFault
    return kind(text, hint=hint)


def _words(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text[:_MOST_TEXT])


def read_rows(said: object) -> list[list[str]]:
    """Processes as a guest tells them, with what can be printed only; ValueError."""
    try:
        rows = json.loads(said) if isinstance(said, bytes) else None
    except RecursionError:
        rows = None
    if not isinstance(rows, list):
        raise ValueError("no rows")
    return [
        ["".join(c if c.isprintable() else "?" for c in str(field)[:4096]) for field in row[:8]]
        for row in rows[:4096]
        if isinstance(row, list)
    ]


def result(head: dict[str, Any]) -> dict[str, Any]:
    """How a guest's work went, as an answer."""
    error = head.get("error")
    return {} if error is None else {"error": error}


def answer(sock: socket.socket, seq: int, head: dict[str, Any], body: bytes) -> None:
    """Pass on what the guest says."""
    words = {name: value for name, value in head.items() if name not in ("reply", "seq", "memfd")}
    if "error" in words:
        words = {"error": wire.error_to_wire(guests_error(words["error"]))}
    try:
        wire.send(sock, {**words, "reply": seq}, body)
    except SkerryError:
        # Whoever waits must hear something all the same.
        fault = MachineFault("the guest says more than it may")
        say(sock, {"reply": seq, "error": wire.error_to_wire(fault)})
    except OSError:
        return


def say(sock: _socket.socket, head: dict[str, Any], body: bytes = b"") -> None:
    """Tell whoever asked, if they are still there."""
    with suppress(OSError, SkerryError):
        wire.send(sock, head, body)  # type: ignore[arg-type]
