"""Go's durations (`1h2m3.5s`), as HEALTHCHECK writes them."""

import re

from skerry.build.language.faults import DockerfileFault

_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": 10**9}
_UNITS |= {"m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(ns|us|µs|μs|ms|s|m|h)")


def parse(text: str) -> int:
    """Nanoseconds. DockerfileFault without a place."""
    rest = text
    total = 0
    while rest and (match := _PART.match(rest)):
        whole, _, part = match[1].partition(".")
        unit = _UNITS[match[2]]
        total += int(whole or 0) * unit + int(part or 0) * unit // 10 ** len(part)
        rest = rest[match.end() :]
    if not text or rest:
        if text == "0":
            return 0
        raise DockerfileFault(f'time: invalid duration "{text[:40]}"')
    if total >= 1 << 63:
        raise DockerfileFault(f'time: invalid duration "{text[:40]}"')
    return total
