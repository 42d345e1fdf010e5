"""OCI `linux.resources` as writes to cgroup v2 files (Documentation/admin-guide/cgroup-v2.rst)."""

import json
import math
import re
from collections.abc import Iterator

from skerry.base.errors import InvalidInput, Unsupported
from skerry.kernel.cgroups_devices import rules
from skerry.kernel.cgroups_files import CHECK, DEVICE_FILTER, LATE, MAY, OR, Write
from skerry.kernel.cgroups_plan import (
    Asked,
    Memory,
    device_number,
    integer,
    limit_of,
    page_size,
)
from skerry.kernel.cgroups_plan_v1 import rdma_writes

_THROTTLES = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)
_UNIFIED_KEY = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)+")
_DEFAULT_PERIOD = 100_000
_CORE = "cgroup"


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1 to 10000) for v1 shares (2 to 262144): least, default (1024 is 100) and most
    keep their places, on the curve that OCI runtimes agreed on."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """io.weight (1 to 10000) for an OCI weight (10 to 1000), linear."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def writes(asked: Asked, *, devices: bool) -> Iterator[Write]:
    """Every write, in order."""
    yield from _memory(asked)
    yield from _cpu(asked)
    yield from _cpuset(asked)
    limit = asked.number("pids", "limit", -(1 << 63))
    if limit:
        asked.need("pids", "the number of processes")
        yield Write("pids", "pids.max", _maximum(limit))
    yield from _io(asked)
    for entry in asked.entries("hugepageLimits"):
        asked.need("hugetlb", "huge pages")
        size, pages = page_size(entry), str(limit_of(entry, "hugepageLimits"))
        yield Write("hugetlb", f"hugetlb.{size}.max", pages)
        yield Write("hugetlb", f"hugetlb.{size}.rsvd.max", pages, MAY)
    yield from rdma_writes(asked)
    _refuse_v1_only(asked)
    yield from _unified(asked)
    if devices:
        listed = rules(asked.entries("devices"))
        value = json.dumps([rule.as_oci() for rule in listed])
        yield Write("devices", DEVICE_FILTER, value)


def _maximum(limit: int) -> str:
    return "max" if limit < 0 else str(limit)


def _memory(asked: Asked) -> Iterator[Write]:
    memory = Memory(asked)
    if memory.swap and memory.swap > 0 and not (memory.limit and memory.limit > 0):
        raise InvalidInput(
            "memory.swap needs memory.limit on cgroup v2",
            hint="swap counts memory and swap together, and v2 limits them apart",
        )
    if memory.check and memory.limit and memory.limit > 0:
        yield Write("memory", "memory.current", str(memory.limit), CHECK)
    if memory.swap:
        # Without swap there is no file, and then neither "no limit" nor "none" is a loss.
        swap = -1 if memory.swap < 0 else memory.swap - (memory.limit or 0)
        rule = MAY if swap <= 0 or memory.swap_implied else "must"
        yield Write("memory", "memory.swap.max", _maximum(swap), rule)
    if memory.limit:
        yield Write("memory", "memory.max", _maximum(memory.limit))
    if memory.reservation:
        yield Write("memory", "memory.low", _maximum(memory.reservation))


def _cpu(asked: Asked) -> Iterator[Write]:
    shares = asked.shares()
    quota = asked.number("cpu", "quota", -1)
    period = asked.number("cpu", "period")
    burst = asked.number("cpu", "burst")
    idle = asked.number("cpu", "idle", 0, 1)
    if any((shares, quota, period)) or (burst, idle) != (None, None):
        asked.need("cpu", "CPU time")
    # The kernel refuses a weight for an idle group: leave idle first, enter it last.
    if idle == 0:
        yield Write("cpu", "cpu.idle", "0", MAY)
    if shares:
        yield Write("cpu", "cpu.weight", str(weight_of_shares(shares)))
    if burst is not None:
        yield Write("cpu", "cpu.max.burst", str(burst), LATE if quota and burst else MAY)
    if quota or period:
        most = str(quota) if quota and quota > 0 else "max"
        yield Write("cpu", "cpu.max", f"{most} {period or _DEFAULT_PERIOD}")
    if idle == 1:
        yield Write("cpu", "cpu.idle", "1")


def _cpuset(asked: Asked) -> Iterator[Write]:
    for name in ("cpus", "mems"):
        if value := asked.cpu_list(name):
            asked.need("cpuset", "the choice of CPUs and memory nodes")
            yield Write("cpuset", f"cpuset.{name}", value)


def _io(asked: Asked) -> Iterator[Write]:
    if any(asked.part("blockIO").values()):
        asked.need("io", "block I/O")
    if weight := asked.number("blockIO", "weight", 0, 1000):
        yield Write("io", "io.bfq.weight", str(weight), OR)
        yield Write("io", "io.weight", f"default {io_weight(weight)}")
    for entry in asked.entries("blockIO", "weightDevice"):
        where = "blockIO.weightDevice"
        device = device_number(entry, where)
        if weight := integer(entry.get("weight"), f"{where}.weight", 0, 1000):
            yield Write("io", "io.bfq.weight", f"{device} {weight}", OR)
            yield Write("io", "io.weight", f"{device} {io_weight(weight)}")
    for name, key in _THROTTLES:
        for entry in asked.entries("blockIO", name):
            where = f"blockIO.{name}"
            rate = limit_of(entry, where, "rate")
            value = f"{device_number(entry, where)} {key}={rate or 'max'}"
            yield Write("io", "io.max", value)


def _refuse_v1_only(asked: Asked) -> None:
    memory, block, network = asked.part("memory"), asked.part("blockIO"), asked.part("network")
    cpu = asked.part("cpu")
    for field, given in (
        ("memory.swappiness", memory.get("swappiness") is not None),
        ("memory.disableOOMKiller", memory.get("disableOOMKiller")),
        ("memory.kernelTCP", (memory.get("kernelTCP") or -1) > 0),
        ("cpu.realtimeRuntime", (cpu.get("realtimeRuntime") or -1) > 0),
        ("cpu.realtimePeriod", cpu.get("realtimePeriod")),
        ("blockIO.leafWeight", block.get("leafWeight")),
        ("network.classID", network.get("classID")),
        ("network.priorities", network.get("priorities")),
    ):
        if given:
            raise Unsupported(
                f"linux.resources.{field} has no counterpart on cgroup v2",
                hint="leave it out, or boot with cgroup v1 (systemd.unified_cgroup_hierarchy=0)",
            )


def _unified(asked: Asked) -> Iterator[Write]:
    for key, value in asked.part("unified").items():
        if not isinstance(key, str) or not _UNIFIED_KEY.fullmatch(key) or len(key) > 255:
            raise InvalidInput(
                f"linux.resources.unified: {key!r:.100} is not a control file",
                hint="write it as controller.file, as in memory.high",
            )
        if not isinstance(value, str) or "\0" in value or len(value) > 4096:
            raise InvalidInput(f"linux.resources.unified: the value of {key} is not a text")
        controller = key.partition(".")[0]
        if controller != _CORE:
            asked.need(controller, key)
        # A file takes one line a write; nested keys (io.max) come as several.
        for line in value.splitlines() or [""]:
            yield Write(controller, key, line)
