"""What a registry says of its rate limits, in words for people."""

import email.utils
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

LONGEST_WAIT = 7 * 86400
"""Seconds; what claims to last longer is not believed."""


class RateLimit(NamedTuple):
    """What the registry said last of its limits; None where it said nothing."""

    limit: int | None
    remaining: int | None
    window: int | None
    """Seconds."""


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """From `RateLimit-Limit: 100;w=21600` and `RateLimit-Remaining`; None without either."""
    limit, window = _quota(headers.get("RateLimit-Limit", ""))
    remaining, other = _quota(headers.get("RateLimit-Remaining", ""))
    if limit is None and remaining is None:
        return None
    return RateLimit(limit, remaining, window or other)


def time_left(headers: Mapping[str, str]) -> float | None:
    """Seconds until the registry wants to be asked again, None when it does not say.

    Retry-After in seconds or as a date, else RateLimit-Reset (seconds), else X-RateLimit-Reset
    (seconds, or seconds since 1970).
    """
    for name in ("Retry-After", "RateLimit-Reset", "X-RateLimit-Reset"):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
            left = float(text)
            if left > 1_000_000_000:
                left -= time.time()
        elif text and name == "Retry-After":
            try:
                left = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, TypeError, IndexError, OverflowError):
                continue
        else:
            continue
        return min(max(left, 0.0), LONGEST_WAIT)
    return None


def describe(limit: RateLimit | None) -> str:
    """Such as `100 pulls in 6 h`; empty when nothing is known."""
    if limit is None or limit.limit is None:
        return ""
    return f"{limit.limit} pulls" + (f" in {duration(limit.window)}" if limit.window else "")


def duration(seconds: float) -> str:
    """Such as `2 h 10 min`, `40 s`; rounded up, so that waiting that long is enough."""
    whole = max(1, -int(-seconds // 1))
    if whole < 60:
        return f"{whole} s"
    minutes = -(-whole // 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [(days, "d"), (hours, "h"), (minutes if not days else 0, "min")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _quota(text: str) -> tuple[int | None, int | None]:
    match = re.match(r"\s*([0-9]{1,12})(?:\s*;\s*w=([0-9]{1,9}))?", text)
    if not match:
        return None, None
    return int(match.group(1)), int(match.group(2)) if match.group(2) else None
