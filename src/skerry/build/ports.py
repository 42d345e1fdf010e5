"""EXPOSE: `80`, `80/udp`, `8000-8010/tcp`."""

import re
from typing import Final

from skerry.build.language.faults import DockerfileFault

_PORT: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/([A-Za-z]+))?")
_PROTOCOLS: Final = ("tcp", "udp", "sctp")


def parse_ports(text: str) -> list[str]:
    """`port/protocol` for each port. DockerfileFault without a place."""
    found = []
    for word in text.split():
        match = _PORT.fullmatch(word)
        protocol = (match[3] or "tcp").lower() if match else ""
        if match is None or protocol not in _PROTOCOLS:
            raise DockerfileFault(f"invalid containerPort: {word[:40]}")
        first = int(match[1])
        last = int(match[2] or first)
        if not 0 < first <= last < 1 << 16:
            raise DockerfileFault(f"invalid containerPort: {word[:40]}")
        found += [f"{port}/{protocol}" for port in range(first, last + 1)]
    return found
