"""Sizes and times as Docker's tables show them."""

from __future__ import annotations

import time

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def _size(value: float, base: float, units: tuple[str, ...], digits: int) -> str:
    index = 0
    while value >= base and index < len(units) - 1:
        value /= base
        index += 1
    # Go's %.Ng: N significant digits, no trailing zeros, an exponent beyond them.
    return f"{value:.{digits}g}{units[index]}"


def size_decimal(value: float, digits: int = 4) -> str:
    """1.24MB: powers of 1000."""
    return _size(value, 1000.0, _DECIMAL, digits)


def size_binary(value: float) -> str:
    """1.24MiB: powers of 1024."""
    return _size(value, 1024.0, _BINARY, 4)


def duration(seconds: float) -> str:
    """About how long: "3 seconds", "About an hour", "2 weeks"."""
    total = int(seconds)
    if total < 1:
        return "Less than a second"
    if total == 1:
        return "1 second"
    if total < 60:
        return f"{total} seconds"
    minutes = total // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def ago(moment: float) -> str:
    """The time since `moment`, a Unix time; empty for none."""
    return f"{duration(time.time() - moment)} ago" if moment > 0 else ""


def local_time(moment: float) -> str:
    """As Go prints a local time: 2026-01-02 03:04:05 +0100 CET."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(moment))


def rfc3339(nanoseconds: int) -> str:
    """Local time with nanoseconds: 2026-01-02T03:04:05.000000006+01:00."""
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = time.localtime(seconds)
    zone = time.strftime("%z", moment)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{rest:09d}{zone}"
