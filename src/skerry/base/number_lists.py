"""Lists of processors and memory nodes, as cpuset(7) writes them under "List format"."""

_MOST = 8192
"""Processors that a kernel may be built for (CONFIG_NR_CPUS)."""


def numbers(text: str) -> frozenset[int]:
    """`0-3,7` as numbers; ValueError for what is no such list, or goes beyond 8192."""
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isascii() or not low.isdigit() or (dash and not high.isdigit()):
            raise ValueError(f"no list of numbers: {text:.60}")
        first, last = int(low[:6]), int(high[:6] or low[:6])
        if last < first or last > _MOST:
            raise ValueError(f"no list of numbers: {text:.60}")
        found.update(range(first, last + 1))
    return frozenset(found)
