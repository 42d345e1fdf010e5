"""What runs in a container and what it uses: `top` and `stats`."""

import asyncio
import os
import re
import time
from typing import NamedTuple

from skerry.base.errors import InvalidInput, SystemFault

_ARGS = re.compile(r"[\w\s,=+:/.%-]*", re.ASCII)
_TICKS = os.sysconf("SC_CLK_TCK")
LIMIT = 16 << 20
SHARED = 0.02
"""Seconds for which one reading of the host's processors serves all."""
FULL_FORMAT = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
"""The columns of `ps -ef`."""


class Table(NamedTuple):
    """A process list: column titles and rows."""

    titles: list[str]
    rows: list[list[str]]


class CpuTime(NamedTuple):
    """The host's processors: busy and idle nanoseconds since boot, and their number."""

    total_ns: int
    online: int


def host_cpu() -> CpuTime:
    """From /proc/stat (proc(5)), as Docker's `system_cpu_usage` counts it."""
    with open("/proc/stat", "rb") as file:
        first = file.readline().split()
        total = sum(int(word) for word in first[1:8])
        online = sum(1 for line in file if line.startswith(b"cpu"))
    return CpuTime(total * 10**9 // _TICKS, online or 1)


class HostClock:
    """`host_cpu` for many readers at about the same time."""

    def __init__(self) -> None:
        self._known: CpuTime | None = None
        self._until = 0.0

    def now(self) -> CpuTime:
        """A reading that is at most `SHARED` old."""
        at = time.monotonic()
        if self._known is None or at > self._until:
            self._known, self._until = host_cpu(), at + SHARED
        return self._known


def parse_ps(text: str, pids: set[int]) -> Table:
    """Keep the rows of `ps` output whose PID column is in `pids`.

    InvalidInput when there is no PID column, in Docker's words.
    """
    lines = text.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidInput("Couldn't find PID field in ps output")
    at = titles.index("PID")
    rows = []
    for line in lines[1:]:
        # The last column, usually the command, may hold blanks.
        words = line.split(None, len(titles) - 1)
        if len(words) > at and words[at].isdigit() and int(words[at]) in pids:
            rows.append(words)
    return Table(titles, rows)


async def top(pids: list[int], arguments: str) -> Table:
    """Run the host's `ps` with the user's arguments and keep the container's processes."""
    if not _ARGS.fullmatch(arguments) or len(arguments) > 1024:
        raise InvalidInput(f"top: invalid ps arguments {arguments!r:.60}")
    words = arguments.split() or ["-ef"]
    try:
        process = await asyncio.create_subprocess_exec(
            "ps",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise SystemFault("top: the host has no ps", hint="install procps") from None
    out, err = await process.communicate()
    if process.returncode:
        why = err.decode("utf-8", "replace").strip().partition("\n")[0]
        raise SystemFault(f"ps: {why:.300}")
    return parse_ps(out[:LIMIT].decode("utf-8", "replace"), set(pids))


def memory_total() -> int:
    """Bytes of memory that the host has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
