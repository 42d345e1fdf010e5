"""Signals by name and number, as Docker's API takes them."""

import signal

from skerry.base.errors import InvalidInput

DEFAULT_STOP = "SIGTERM"


def parse_signal(text: str) -> int:
    """`9`, `KILL`, `SIGKILL`, `RTMIN+3`. InvalidInput in Docker's words."""
    name = text.strip().upper()
    if name.isascii() and name.isdigit():
        number = int(name) if len(name) < 4 else 0
        if 1 <= number <= signal.NSIG - 1:
            return number
        if not name.strip("0"):
            raise InvalidInput(f"invalid signal: {text:.40}")
        raise InvalidInput(f"the linux daemon does not support signal {text:.40}")
    name = name.removeprefix("SIG")
    for base, sign in (("RTMIN", 1), ("RTMAX", -1)):
        head, tail = name[: len(base)], name[len(base) :]
        if head == base:
            # Offsets count from 34: glibc keeps the first two real-time signals for itself.
            start = 34 if sign == 1 else signal.NSIG - 1
            offset = tail[1:] if tail else "0"
            if (
                (not tail or tail[0] == "+-"[sign < 0])
                and offset.isascii()
                and offset.isdigit()
                and len(offset) < 3
            ):
                number = start + sign * int(offset)
                if 34 <= number <= signal.NSIG - 1:
                    return number
            raise InvalidInput(f"invalid signal: {text:.40}")
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise InvalidInput(f"invalid signal: {text:.40}") from None
