"""A container's counters in the shape of `GET /containers/{id}/stats`."""

from typing import Any

from skerry.api.formats import ZERO_TIME, rfc3339
from skerry.base.isolation import Stats
from skerry.engine.container import Container
from skerry.engine.processes import CpuTime

Json = dict[str, Any]

_NO_CPU: Json = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def cpu(stats: Stats | None, host: CpuTime | None) -> Json:
    """`cpu_stats`."""
    if stats is None:
        return _NO_CPU
    result: Json = {
        "cpu_usage": {
            "total_usage": stats.cpu_total_ns,
            "usage_in_kernelmode": stats.cpu_system_ns,
            "usage_in_usermode": stats.cpu_user_ns,
        },
        "throttling_data": {
            "periods": stats.cpu_periods,
            "throttled_periods": stats.cpu_throttled_periods,
            "throttled_time": stats.cpu_throttled_ns,
        },
    }
    if host is not None:
        result["system_cpu_usage"] = host.total_ns
        result["online_cpus"] = host.online
    return result


def stats(
    container: Container,
    now: tuple[Stats, CpuTime] | None,
    before: tuple[Stats, CpuTime] | None,
    *,
    memory_total: int,
) -> Json:
    """The whole of it; zeros when the container does not run."""
    current, host = now if now is not None else (None, None)
    earlier, host_before = before if before is not None else (None, None)
    result: Json = {
        "name": f"/{container.record.name}",
        "id": container.id,
        "read": rfc3339(int(current.read_at * 1e9)) if current else ZERO_TIME,
        "preread": rfc3339(int(earlier.read_at * 1e9)) if earlier else ZERO_TIME,
        "num_procs": 0,
        "pids_stats": {},
        "blkio_stats": {
            "io_service_bytes_recursive": None,
            "io_serviced_recursive": None,
            "io_queue_recursive": None,
            "io_service_time_recursive": None,
            "io_wait_time_recursive": None,
            "io_merged_recursive": None,
            "io_time_recursive": None,
            "sectors_recursive": None,
        },
        "storage_stats": {},
        "cpu_stats": cpu(current, host),
        "precpu_stats": cpu(earlier, host_before),
        "memory_stats": {},
    }
    if current is None:
        return result
    result["pids_stats"] = {"current": current.pids}
    if current.pids_limit:
        result["pids_stats"]["limit"] = current.pids_limit
    result["blkio_stats"]["io_service_bytes_recursive"] = [
        {"major": major, "minor": minor, "op": op, "value": value}
        for major, minor, op, value in current.block_io
    ]
    limit = current.memory_limit_bytes
    result["memory_stats"] = {
        "usage": current.memory_bytes,
        "stats": current.memory_stat,
        "limit": min(limit, memory_total) if limit else memory_total,
    }
    if current.memory_max_bytes:
        result["memory_stats"]["max_usage"] = current.memory_max_bytes
    if current.networks:
        result["networks"] = current.networks
    return result
