"""What machines were asked for last, so that the next engine has spares ready from its start.

    <root>/machines/spares.json   {"version": 1, "kinds": [{"memory": …, "cpus": …, "kernel": "",
                                   "shares": false, "asked": 1764000000.0, "spec": {…}}]}

`spec` is what `rehearsal.spec_for` leaves of a container's configuration: nothing that its user
wrote. The file saves time and is nothing else: one that makes no sense is as good as none.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from skerry.machine.shape import MOST_CPUS, MOST_MEMORY, Shape
from skerry.runtime.driver import leftovers

NAME = "spares.json"
VERSION = 1
KEEP_SECONDS = 86400.0
"""What nobody asked for during a day is forgotten."""
MOST_BYTES = 1 << 20


class Kind(NamedTuple):
    """A kind of machine."""

    shape: Shape
    kernel: str
    """The user's own; empty for the distribution's."""
    shares: bool
    """Whether with volumes."""
    asked: float
    """When last: seconds since 1970."""
    spec: dict[str, Any]


def read(folder: Path, now: float) -> list[Kind]:
    """The kinds that are remembered, last asked first. Blocks."""
    try:
        with open(folder / NAME, "rb") as file:
            return parse(file.read(MOST_BYTES), now)
    except OSError:
        return []


def parse(data: bytes, now: float) -> list[Kind]:
    """The kinds in such a file; none for what is no such file."""
    try:
        found = json.loads(data)
        if found["version"] != VERSION:
            return []
        kinds = [_kind(row) for row in found["kinds"]]
    except (ValueError, OverflowError, TypeError, KeyError, RecursionError):
        return []
    fresh = [kind for kind in kinds if 0 <= now - kind.asked < KEEP_SECONDS]
    return sorted(fresh, key=lambda kind: -kind.asked)


def _kind(row: dict[str, Any]) -> Kind:
    memory, cpus, kernel, spec = row["memory"], row["cpus"], row["kernel"], row["spec"]
    if type(memory) is not int or not 0 < memory <= MOST_MEMORY:
        raise ValueError("memory")
    if type(cpus) is not int or not 0 < cpus <= MOST_CPUS:
        raise ValueError("cpus")
    if not isinstance(kernel, str) or not isinstance(spec, dict):
        raise TypeError("kernel or spec")
    return Kind(Shape(memory, cpus), kernel, row["shares"] is True, float(row["asked"]), spec)


def write(folder: Path, kinds: list[Kind]) -> None:
    """Remember these alone; KernelFault. Blocks."""
    rows = [
        {
            "memory": kind.shape.memory,
            "cpus": kind.shape.cpus,
            "kernel": kind.kernel,
            "shares": kind.shares,
            "asked": kind.asked,
            "spec": kind.spec,
        }
        for kind in kinds
    ]
    text = json.dumps({"version": VERSION, "kinds": rows}, separators=(",", ":"))
    leftovers.write_file(str(folder), NAME, text.encode())
