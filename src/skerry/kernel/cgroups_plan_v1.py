"""OCI `linux.resources` as writes to cgroup v1 files (Documentation/admin-guide/cgroup-v1)."""

from collections.abc import Iterator

from skerry.base.errors import Unsupported
from skerry.kernel.cgroups_devices import rules, v1_writes
from skerry.kernel.cgroups_files import CHECK, LATE, MAY, OR, Write
from skerry.kernel.cgroups_plan import (
    Asked,
    Memory,
    device_number,
    integer,
    limit_of,
    page_size,
    word,
)

_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
)


def writes(asked: Asked, *, devices: bool) -> Iterator[Write]:
    """Every write, in order."""
    yield from _memory(asked)
    yield from _cpu(asked)
    yield from _cpuset(asked)
    yield from _pids(asked)
    yield from _block_io(asked)
    yield from _huge_pages(asked)
    yield from _network(asked)
    yield from _rdma(asked)
    if asked.part("unified"):
        raise Unsupported(
            "linux.resources.unified needs cgroup v2, and this host limits by v1",
            hint="use the v1 fields (memory, cpu, pids, ...), or boot with cgroup v2",
        )
    if devices:
        yield from _devices(asked)


def _memory(asked: Asked) -> Iterator[Write]:
    memory = Memory(asked)
    if memory.check and memory.limit and memory.limit > 0:
        yield Write("memory", "memory.usage_in_bytes", str(memory.limit), CHECK)
    if memory.limit:
        # Limit and limit-with-swap are checked against each other, whichever grows first.
        rule = LATE if memory.swap else "must"
        yield Write("memory", "memory.limit_in_bytes", str(memory.limit), rule)
    if memory.swap:
        rule = MAY if memory.swap_implied or memory.swap == -1 else "must"
        yield Write("memory", "memory.memsw.limit_in_bytes", str(memory.swap), rule)
    if memory.reservation:
        yield Write("memory", "memory.soft_limit_in_bytes", str(memory.reservation))
    if kernel := asked.number("memory", "kernel", -1):
        # Kernels from 5.16 on count kernel memory in the one limit and refuse this.
        yield Write("memory", "memory.kmem.limit_in_bytes", str(kernel), MAY)
    if memory.kernel_tcp:
        yield Write("memory", "memory.kmem.tcp.limit_in_bytes", str(memory.kernel_tcp))
    if asked.part("memory").get("useHierarchy"):
        yield Write("memory", "memory.use_hierarchy", "1", MAY)
    if memory.swappiness is not None:
        yield Write("memory", "memory.swappiness", str(memory.swappiness))
    if memory.no_oom_kill:
        yield Write("memory", "memory.oom_control", "1")


def _cpu(asked: Asked) -> Iterator[Write]:
    shares = asked.shares()
    quota = asked.number("cpu", "quota", -1)
    period = asked.number("cpu", "period")
    burst = asked.number("cpu", "burst")
    rt_runtime = asked.number("cpu", "realtimeRuntime", -1)
    rt_period = asked.number("cpu", "realtimePeriod")
    idle = asked.number("cpu", "idle", 0, 1)
    if any((shares, quota, period, rt_runtime, rt_period)) or (burst, idle) != (None, None):
        asked.need("cpu", "CPU time")
    # The kernel refuses shares for an idle group: leave idle first, enter it last.
    if idle == 0:
        yield Write("cpu", "cpu.idle", "0", MAY)
    if shares:
        yield Write("cpu", "cpu.shares", str(shares))
    late = LATE if quota else "must"
    if period:
        yield Write("cpu", "cpu.cfs_period_us", str(period), late)
    if burst is not None:
        yield Write("cpu", "cpu.cfs_burst_us", str(burst), LATE if quota and burst else MAY)
    if quota:
        yield Write("cpu", "cpu.cfs_quota_us", str(quota))
    if rt_period:
        yield Write("cpu", "cpu.rt_period_us", str(rt_period))
    if rt_runtime:
        yield Write("cpu", "cpu.rt_runtime_us", str(rt_runtime))
    if idle == 1:
        yield Write("cpu", "cpu.idle", "1")


def _cpuset(asked: Asked) -> Iterator[Write]:
    for name in ("cpus", "mems"):
        if value := asked.cpu_list(name):
            asked.need("cpuset", "the choice of CPUs and memory nodes")
            yield Write("cpuset", f"cpuset.{name}", value)


def _pids(asked: Asked) -> Iterator[Write]:
    limit = asked.number("pids", "limit", -(1 << 63))
    if limit:
        asked.need("pids", "the number of processes")
        yield Write("pids", "pids.max", str(limit) if limit > 0 else "max")


def _block_io(asked: Asked) -> Iterator[Write]:
    if any(asked.part("blockIO").values()):
        asked.need("blkio", "block I/O")
    if weight := asked.number("blockIO", "weight", 0, 1000):
        yield Write("blkio", "blkio.bfq.weight", str(weight), OR)
        yield Write("blkio", "blkio.weight", str(weight))
    if leaf := asked.number("blockIO", "leafWeight", 0, 1000):
        yield Write("blkio", "blkio.leaf_weight", str(leaf))
    for entry in asked.entries("blockIO", "weightDevice"):
        where = "blockIO.weightDevice"
        device = device_number(entry, where)
        if weight := integer(entry.get("weight"), f"{where}.weight", 0, 1000):
            yield Write("blkio", "blkio.bfq.weight_device", f"{device} {weight}", OR)
            yield Write("blkio", "blkio.weight_device", f"{device} {weight}")
        if leaf := integer(entry.get("leafWeight"), f"{where}.leafWeight", 0, 1000):
            yield Write("blkio", "blkio.leaf_weight_device", f"{device} {leaf}")
    for name, file in _THROTTLES:
        for entry in asked.entries("blockIO", name):
            where = f"blockIO.{name}"
            rate = limit_of(entry, where, "rate")
            yield Write("blkio", file, f"{device_number(entry, where)} {rate}")


def _huge_pages(asked: Asked) -> Iterator[Write]:
    for entry in asked.entries("hugepageLimits"):
        asked.need("hugetlb", "huge pages")
        size, limit = page_size(entry), str(limit_of(entry, "hugepageLimits"))
        yield Write("hugetlb", f"hugetlb.{size}.limit_in_bytes", limit)
        yield Write("hugetlb", f"hugetlb.{size}.rsvd.limit_in_bytes", limit, MAY)


def _network(asked: Asked) -> Iterator[Write]:
    if class_id := asked.number("network", "classID", 0, 0xFFFFFFFF):
        asked.need("net_cls", "the network class")
        yield Write("net_cls", "net_cls.classid", str(class_id))
    for entry in asked.entries("network", "priorities"):
        asked.need("net_prio", "network priorities")
        name = word(entry.get("name"), "network.priorities.name")
        priority = limit_of(entry, "network.priorities", "priority")
        yield Write("net_prio", "net_prio.ifpriomap", f"{name} {priority}")


def _rdma(asked: Asked) -> Iterator[Write]:
    yield from rdma_writes(asked)


def rdma_writes(asked: Asked) -> Iterator[Write]:
    """`linux.resources.rdma`; the same file on both versions."""
    for name, limits in asked.part("rdma").items():
        asked.need("rdma", "RDMA devices")
        words = [word(name, "rdma")]
        for key, file_key in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            value = integer(limits.get(key), f"rdma.{key}", 0, 0xFFFFFFFF)
            if value is not None:
                words.append(f"{file_key}={value}")
        if len(words) > 1:
            yield Write("rdma", "rdma.max", " ".join(words))


def _devices(asked: Asked) -> Iterator[Write]:
    given = asked.entries("devices")
    missing = "devices" not in asked.controllers
    if missing and not given:
        return
    rows = v1_writes(rules(given))
    if missing and rows == (("devices.allow", "a"),):
        return
    asked.need("devices", "the use of devices")
    for file, value in rows:
        yield Write("devices", file, value)
