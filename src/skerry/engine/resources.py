"""Docker's limits as the OCI runtime specification's `linux.resources` and `process.rlimits`."""

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from skerry.base.errors import Conflict, InvalidInput, LimitExceeded
from skerry.base.number_lists import numbers

PERIOD = 100_000
"""Microseconds; the period that `--cpus` counts in."""
MEMORY_FLOOR = 6 << 20
"""Docker's least memory limit: below it a container cannot start."""

_MOST_BELOW = 100_000
"""Entries of a folder that is given for the devices in it."""
_TOGETHER = (
    frozenset({"Memory", "MemorySwap"}),
    frozenset({"NanoCpus", "CpuPeriod", "CpuQuota"}),
)
"""Fields whose values the kernel, or we, take for their defaults where they are missing."""

RLIMITS = frozenset(
    """as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime
    sigpending stack""".split()
)

DEFAULT_DEVICES: tuple[tuple[str, int | None, int | None, str], ...] = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),
    ("c", 1, 5, "rwm"),
    ("c", 1, 7, "rwm"),
    ("c", 1, 8, "rwm"),
    ("c", 1, 9, "rwm"),
    ("c", 5, 0, "rwm"),
    ("c", 5, 1, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, None, "rwm"),
)
"""What every container may open: null, full, zero, random, urandom, tty, console and terminals;
device nodes may be made but, but for these, not opened."""


def check(host: Mapping[str, Any]) -> None:
    """InvalidInput, in Docker's words, for limits that contradict one another."""
    memory, swap = host.get("Memory", 0), host.get("MemorySwap", 0)
    if memory and memory < MEMORY_FLOOR:
        raise InvalidInput("Minimum memory limit allowed is 6MB")
    if swap > 0 and not memory:
        raise InvalidInput("You should always set the Memory limit when using Memoryswap limit")
    if swap > 0 and swap < memory:
        raise InvalidInput("Minimum memoryswap limit should be larger than memory limit, see usage")
    reservation = host.get("MemoryReservation", 0)
    if memory and reservation > memory:
        raise InvalidInput(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    for field, word in (("CpuPeriod", "Period"), ("CpuQuota", "Quota")):
        if host.get("NanoCpus") and host.get(field):
            raise InvalidInput(f"Conflicting options: Nano CPUs and CPU {word} cannot both be set")
    cpus = os.cpu_count() or 1
    if host.get("NanoCpus", 0) > cpus * 10**9:
        raise InvalidInput(
            f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )
    period, quota = host.get("CpuPeriod", 0), host.get("CpuQuota", 0)
    if period and not 1000 <= period <= 1_000_000:
        raise InvalidInput("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s")
    if 0 < quota < 1000:
        raise InvalidInput("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    weight = host.get("BlkioWeight", 0)
    if weight and weight < 10:
        raise InvalidInput("Range of blkio weight is from 10 to 1000")
    rlimits(host.get("Ulimits") or ())
    _check_set(host.get("CpusetCpus", ""), "cpus", "/sys/devices/system/cpu/online")
    _check_set(host.get("CpusetMems", ""), "mems", "/sys/devices/system/node/online")


def _check_set(wanted: str, what: str, online: str) -> None:
    """InvalidInput for what is no list of numbers (cpuset(7), "List format"), or has others than
    those of the file."""
    if not wanted:
        return
    try:
        chosen = numbers(wanted)
    except ValueError:
        raise InvalidInput(f"Invalid value {wanted:.60} for cpuset {what}") from None
    try:
        with open(online) as file:
            available = file.read().strip()
    except OSError:
        return
    if not chosen <= numbers(available):
        words = "CPUs" if what == "cpus" else "memory nodes"
        raise InvalidInput(
            f"Requested {words} are not available - requested {wanted:.60}, "
            f"available: {available:.60}"
        )


def check_update(id: str, host: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Conflict, as with Docker, for more memory than memory and swap may be together."""
    if 0 < changes.get("Memory", 0) < MEMORY_FLOOR:
        raise InvalidInput("Minimum memory limit allowed is 6MB")
    wanted, before = changes.get("Memory", 0), host.get("MemorySwap") or 2 * host.get("Memory", 0)
    if wanted and -1 != before < wanted and not changes.get("MemorySwap"):
        raise Conflict(
            f"Cannot update container {id}: Memory limit should be smaller than already set "
            "memoryswap limit, update the memoryswap at the same time"
        )


def rlimits(ulimits: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`process.rlimits` of the OCI specification; -1 is no limit."""
    result = {}
    for ulimit in ulimits:
        name = str(ulimit.get("Name", "")).lower()
        if name not in RLIMITS:
            raise InvalidInput(f"invalid ulimit type: {name}")
        soft, hard = ulimit.get("Soft", 0), ulimit.get("Hard", 0)
        if hard != -1 and (soft == -1 or soft > hard):
            raise InvalidInput(
                f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            )
        result[name] = {
            "type": f"RLIMIT_{name.upper()}",
            "soft": soft if soft != -1 else 2**64 - 1,
            "hard": hard if hard != -1 else 2**64 - 1,
        }
    return list(result.values())


def linux_resources(host: Mapping[str, Any]) -> dict[str, Any]:
    """`linux.resources` without the device rules. Only what was asked for is set."""
    result: dict[str, Any] = {}
    if memory := _memory(host):
        result["memory"] = memory
    if cpu := _cpu(host):
        result["cpu"] = cpu
    pids = host.get("PidsLimit") or 0
    if pids > 0:
        result["pids"] = {"limit": pids}
    if block := _block_io(host):
        result["blockIO"] = block
    return result


def changed_resources(host: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """`linux.resources` for a container that runs: of its new settings, `host`, those that are
    named, each with what it is meant beside."""
    named = set(changes)
    for together in _TOGETHER:
        if named & together:
            named |= together
    result = linux_resources({key: value for key, value in host.items() if key in named})
    if "PidsLimit" in named and host.get("PidsLimit", 0) < 0:
        result["pids"] = {"limit": -1}
    return result


def _memory(host: Mapping[str, Any]) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if limit := host.get("Memory"):
        memory["limit"] = limit
        # Docker's rule: swap as large as the memory unless told otherwise.
        memory["swap"] = host.get("MemorySwap") or limit * 2
    elif host.get("MemorySwap"):
        memory["swap"] = host["MemorySwap"]
    if host.get("MemoryReservation"):
        memory["reservation"] = host["MemoryReservation"]
    if host.get("MemorySwappiness", -1) >= 0:
        memory["swappiness"] = host["MemorySwappiness"]
    if host.get("OomKillDisable"):
        memory["disableOOMKiller"] = True
    return memory


def _cpu(host: Mapping[str, Any]) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if nano := host.get("NanoCpus"):
        cpu["period"] = PERIOD
        cpu["quota"] = nano * PERIOD // 10**9
    for field, name in (
        ("CpuShares", "shares"),
        ("CpuPeriod", "period"),
        ("CpuQuota", "quota"),
        ("CpuRealtimePeriod", "realtimePeriod"),
        ("CpuRealtimeRuntime", "realtimeRuntime"),
        ("CpusetCpus", "cpus"),
        ("CpusetMems", "mems"),
    ):
        if host.get(field):
            cpu[name] = host[field]
    return cpu


def _block_io(host: Mapping[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = {}
    if host.get("BlkioWeight"):
        block["weight"] = host["BlkioWeight"]
    for field, name, value in (
        ("BlkioWeightDevice", "weightDevice", "Weight"),
        ("BlkioDeviceReadBps", "throttleReadBpsDevice", "Rate"),
        ("BlkioDeviceWriteBps", "throttleWriteBpsDevice", "Rate"),
        ("BlkioDeviceReadIOps", "throttleReadIOPSDevice", "Rate"),
        ("BlkioDeviceWriteIOps", "throttleWriteIOPSDevice", "Rate"),
    ):
        entries = []
        for entry in host.get(field) or ():
            major, minor = _block_device(entry.get("Path", ""))
            entries.append({"major": major, "minor": minor, value.lower(): entry.get(value, 0)})
        if entries:
            block[name] = entries
    return block


def _block_device(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = str((isinstance(error, OSError) and error.strerror) or error).lower()
        raise InvalidInput(f"stat {path}: {reason}") from None
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidInput(f"not a block device: {path!r}")
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def device_rule(text: str) -> dict[str, Any]:
    """A rule as `--device-cgroup-rule` takes it: `c 1:* rwm`. InvalidInput otherwise."""
    parts = text.split(" ")
    numbers = parts[1].split(":") if len(parts) == 3 else []
    if (
        len(numbers) != 2
        or parts[0] not in ("a", "b", "c")
        or not set(parts[2]) <= set("rwm")
        or not parts[2]
        or not all(n == "*" or (n.isascii() and n.isdigit() and len(n) < 10) for n in numbers)
    ):
        raise InvalidInput(f"invalid device cgroup rule format: '{text}'")
    rule: dict[str, Any] = {"allow": True, "type": parts[0], "access": parts[2]}
    for key, value in zip(("major", "minor"), numbers, strict=True):
        if value != "*":
            rule[key] = int(value)
    return rule


def devices(
    host: Mapping[str, Any], *, privileged: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`linux.devices` and `linux.resources.devices` for the host's devices that were asked for.

    Reads the nodes' numbers from the host; a folder stands for every node below it.
    """
    nodes: list[dict[str, Any]] = []
    if privileged:
        for path in _nodes_below("/dev"):
            nodes += _node(path, path)
        return nodes, [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for kind, major, minor, access in DEFAULT_DEVICES:
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        if major is not None:
            rule["major"] = major
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    for device in host.get("Devices") or ():
        source = device.get("PathOnHost", "")
        target = device.get("PathInContainer") or source
        access = device.get("CgroupPermissions") or "rwm"
        if not set(access) <= set("rwm"):
            raise InvalidInput(f"invalid device mode: {access}")
        for node in _requested(source, target):
            nodes.append(node)
            rules.append(
                {
                    "allow": True,
                    "type": node["type"],
                    "major": node["major"],
                    "minor": node["minor"],
                    "access": access,
                }
            )
    rules += [device_rule(text) for text in host.get("DeviceCgroupRules") or ()]
    return nodes, rules


def _requested(source: str, target: str) -> list[dict[str, Any]]:
    if not source.startswith("/") or not target.startswith("/"):
        raise InvalidInput(f"error gathering device information: {source!r} is not absolute")
    try:
        found = (
            [(path, target + path[len(source) :]) for path in _nodes_below(source)]
            if os.path.isdir(source)
            else [(source, target)]
        )
        nodes = [node for path, inside in found for node in _node(path, inside)]
    except (OSError, ValueError) as error:
        reason = str((isinstance(error, OSError) and error.strerror) or error).lower()
        raise InvalidInput(
            f'error gathering device information while adding custom device "{source}": {reason}'
        ) from None
    if not nodes:
        raise InvalidInput(
            f'error gathering device information while adding custom device "{source}": '
            "not a device node"
        )
    return nodes


def _nodes_below(folder: str) -> list[str]:
    """Device nodes in a folder, but for those that every container gets of its own."""
    own = {"pts", "shm", "fd", "mqueue", ".lxc", ".udev", "console", ".mount"}
    found, folders, seen = [], [folder], 0
    while folders:
        parent = folders.pop()
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in entries:
                seen += 1
                if seen > _MOST_BELOW:
                    raise LimitExceeded(f"there is more below {folder} than devices")
                if parent == "/dev" and entry.name in own:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_symlink():
                    # Links such as /dev/stdin lead to the engine's own descriptors.
                    found.append(entry.path)
    return sorted(found)


def _node(path: str, inside: str) -> list[dict[str, Any]]:
    status = os.stat(path)
    kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
    if not kind:
        return []
    return [
        {
            "path": inside,
            "type": kind,
            "major": os.major(status.st_rdev),
            "minor": os.minor(status.st_rdev),
            "fileMode": stat.S_IMODE(status.st_mode),
            "uid": status.st_uid,
            "gid": status.st_gid,
        }
    ]
