"""Counters of a running container in Docker's terms (`base.isolation.Stats`)."""

import time
from typing import Any

from skerry.base.isolation import Stats
from skerry.kernel import processes
from skerry.kernel.cgroups import Cgroup
from skerry.kernel.cgroups_files import Read

_NO_LIMIT = 1 << 62
"""From here on a number of the kernel means `no limit` (v1 says 2**63 less a page)."""
_COLUMNS = ("bytes", "packets", "errors", "dropped")
_RECEIVED, _SENT = 0, 8


def stats(cgroup: Cgroup, pid: int, host_memory: int, read: Read) -> Stats:
    """One reading; `pid` is the init, whose network namespace is read. `read` reads files.

    A container without a memory limit has the host's memory for one, as in Docker.
    """
    return stats_from(
        cgroup.stats(whole=False, read=read), read(f"/proc/{pid}/net/dev", networks), host_memory
    )


def stats_from(
    reading: dict[str, Any], interfaces: dict[str, dict[str, int]], host_memory: int
) -> Stats:
    """The reading of `Cgroup.stats` and what `networks` made of /proc/net/dev, wherever they were
    taken, in Docker's terms."""
    cpu, memory, pids = reading["cpu"], reading["memory"], reading["pids"]
    return Stats(
        read_at=time.time(),
        pids=pids["current"],
        pids_limit=_limit(pids["limit"], 0),
        cpu_total_ns=cpu["usage_ns"],
        cpu_user_ns=cpu["user_ns"],
        cpu_system_ns=cpu["system_ns"],
        cpu_periods=cpu["periods"],
        cpu_throttled_periods=cpu["throttled_periods"],
        cpu_throttled_ns=cpu["throttled_ns"],
        memory_bytes=memory["usage"],
        memory_max_bytes=memory["max"],
        memory_limit_bytes=min(_limit(memory["limit"], host_memory), host_memory),
        memory_stat=memory["stat"],
        block_io=tuple(tuple(row) for row in reading["io"]),
        networks=interfaces,
    )


def _limit(number: int, without: int) -> int:
    return number if number < _NO_LIMIT else without


def networks(text: str) -> dict[str, dict[str, int]]:
    """Counters per interface but `lo` from /proc/PID/net/dev (proc_pid_net(5))."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines()[2:]:
        name, colon, rest = line.partition(":")
        numbers = rest.split()
        if not colon or len(numbers) < _SENT + len(_COLUMNS) or name.strip() == "lo":
            continue
        counters: dict[str, int] = {}
        for direction, start in (("rx", _RECEIVED), ("tx", _SENT)):
            for at, column in enumerate(_COLUMNS, start):
                counters[f"{direction}_{column}"] = int(numbers[at])
        found[name.strip()] = counters
    return found


def host_memory() -> int:
    """Bytes of memory of the host (proc_meminfo(5))."""
    return processes.meminfo("MemTotal")
