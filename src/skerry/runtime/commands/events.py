"""`events`: counters as JSON lines, once or at intervals, and out-of-memory events."""

import json
import os
import select

from skerry.base.errors import Conflict, InvalidInput, SkerryError
from skerry.base.light import Any
from skerry.kernel.cgroups_group import Cgroup, poll
from skerry.kernel.descriptors import pidfd_open
from skerry.runtime import state
from skerry.runtime.arguments import SWITCH, VALUE, exactly, parse
from skerry.runtime.context import Context

_COUNTED = 0.5
"""Seconds until a kill is counted."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def events(context: Context, words: list[str]) -> int:
    """Print events of a container until it stops; with --stats one reading."""
    given = parse(words, {"interval": VALUE, "stats": SWITCH})
    (name,) = exactly(given.words, 1, "skerry-runtime events [--stats] ID")
    interval = _seconds(given.value("interval", "5s"))
    record = state.load(context.root, name)
    if state.status(context.root, record) == "stopped":
        raise Conflict(f"container with id {name} is not running")
    group = state.group_of(record)
    if "stats" in given.switches:
        _say("stats", name, _shaped(group.stats()))
        return 0
    pidfd = pidfd_open(record.pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    watch = None
    try:
        watch = group.watch_oom()
        poller.register(watch.fd, watch.mask)
    except SkerryError as error:
        context.warn(f"no out-of-memory events: {error.message}")
    kills = group.oom_kills()
    while True:
        ready = dict(poller.poll(interval * 1000))
        if watch is not None and watch.fd in ready:
            watch.clear()
            if _more(group, kills):
                kills = group.oom_kills()
                _say("oom", name, None)
        if pidfd in ready:
            return 0
        if not ready:
            _say("stats", name, _shaped(group.stats()))


def _more(group: Cgroup, kills: int) -> bool:
    """Whether more than so many were killed, or are in a moment."""
    return poll(lambda: group.oom_kills() > kills, _COUNTED)


def _seconds(text: str) -> float:
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            seconds = float(number) * _UNITS[unit]
            if seconds > 0:
                return seconds
    raise InvalidInput(f"duration interval must be greater than 0: {text!r:.60}")


def _say(kind: str, name: str, data: dict[str, Any] | None) -> None:
    line = {"type": kind, "id": name, **({"data": data} if data is not None else {})}
    os.write(1, (json.dumps(line) + "\n").encode())


def _shaped(stats: dict[str, Any]) -> dict[str, Any]:
    """Our counters under the names that readers of runc's events know."""
    cpu, memory, pids = stats["cpu"], stats["memory"], stats["pids"]

    def amount(usage: int, limit: int, most: int = 0, failures: int = 0) -> dict[str, int]:
        return {"limit": limit, "usage": usage, "max": most, "failcnt": failures}

    numbers = memory.get("stat", {})
    return {
        "cpu": {
            "usage": {
                "total": cpu["usage_ns"],
                "percpu": cpu.get("percpu_ns", []),
                "kernel": cpu["system_ns"],
                "user": cpu["user_ns"],
            },
            "throttling": {
                "periods": cpu["periods"],
                "throttledPeriods": cpu["throttled_periods"],
                "throttledTime": cpu["throttled_ns"],
            },
        },
        "memory": {
            "cache": numbers.get("cache", numbers.get("file", 0)),
            "usage": amount(
                memory["usage"], memory["limit"], memory["max"], memory.get("failcnt", 0)
            ),
            "swap": amount(
                memory["usage"] + memory.get("swap_usage", 0), memory.get("swap_limit", 0)
            ),
            "kernel": amount(0, 0),
            "kernelTCP": amount(0, 0),
            "raw": numbers,
        },
        "pids": {"current": pids["current"], "limit": pids["limit"]},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": major, "minor": minor, "op": operation, "value": value}
                for major, minor, operation, value in stats["io"]
            ]
        },
        "hugetlb": {
            size: {"usage": row["usage"], "max": row["max"], "failcnt": row["failcnt"]}
            for size, row in stats.get("hugetlb", {}).items()
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }
