"""Docker's ways to write times, durations and file modes."""

import calendar
import functools
import re
import stat
import time

from skerry.base.errors import InvalidInput

ZERO_TIME = "0001-01-01T00:00:00Z"
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999, the last that RFC 3339 can write."""
_SECONDS = re.compile(r"(-?[0-9]{1,18})(?:\.([0-9]*))?")


def rfc3339(nanoseconds: int) -> str:
    """A time as Go writes it: fraction without trailing zeros; 0 is Go's zero time."""
    if not nanoseconds:
        return ZERO_TIME
    seconds, rest = divmod(nanoseconds, 10**9)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{_second(seconds)}{fraction}Z"


@functools.lru_cache(64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def parse_time(text: str, *, now: float | None = None) -> int:
    """Nanoseconds of what Docker's API takes as a time; 0 for none.

    Unix seconds with a fraction, RFC 3339 with or without zone, or a duration back from now (10m).
    InvalidInput otherwise.
    """
    text = text.strip()
    if not text or text == "0":
        return 0
    if number := _SECONDS.fullmatch(text):
        if int(number[1]) > _LAST_SECOND:
            raise InvalidInput(f"invalid time: {text:.40}: value out of range")
        return int(number[1]) * 10**9 + int(((number[2] or "") + "0" * 9)[:9])
    duration = parse_duration(text)
    if duration is not None:
        current = time.time_ns() if now is None else int(now * 10**9)
        return current - duration
    return _parse_rfc3339(text)


def _parse_rfc3339(text: str) -> int:
    from datetime import UTC, datetime

    date, dot, tail = text.partition(".")
    digits = ""
    if dot:
        digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
        date += tail[len(digits) :]
    try:
        parsed = datetime.fromisoformat(date)
    except ValueError:
        raise InvalidInput(f'failed to parse value as time or duration: "{text:.60}"') from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return calendar.timegm(parsed.utctimetuple()) * 10**9 + int((digits + "0" * 9)[:9])


_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def parse_duration(text: str) -> int | None:
    """Nanoseconds of a Go duration (`1h30m`), None when it is none."""
    total, rest = 0.0, text
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(digits) :]
        unit = next((u for u in ("ns", "us", "µs", "ms", "s", "m", "h") if rest.startswith(u)), "")
        if not digits or not unit or digits.count(".") > 1 or digits == "." or len(digits) > 18:
            return None
        total += float(digits) * _UNITS[unit]
        rest = rest[len(unit) :]
    return int(total) if text else None


def human_duration(seconds: float) -> str:
    """As `docker ps` says it: `About a minute`, `3 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for name, size, limit in (("days", 24, 336), ("weeks", 168, 1440), ("months", 720, 17520)):
        if hours < limit:
            return f"{hours // size} {name}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def go_file_mode(mode: int) -> int:
    """stat(2)'s mode as Go's os.FileMode has it."""
    result = mode & 0o777
    kind = stat.S_IFMT(mode)
    result |= {
        stat.S_IFDIR: 1 << 31,
        stat.S_IFLNK: 1 << 27,
        stat.S_IFBLK: 1 << 26,
        stat.S_IFCHR: 1 << 26 | 1 << 21,
        stat.S_IFIFO: 1 << 25,
        stat.S_IFSOCK: 1 << 24,
    }.get(kind, 0)
    for bit, go_bit in ((stat.S_ISUID, 23), (stat.S_ISGID, 22), (stat.S_ISVTX, 20)):
        if mode & bit:
            result |= 1 << go_bit
    return result
