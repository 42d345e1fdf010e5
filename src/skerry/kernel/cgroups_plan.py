"""From OCI `linux.resources` to writes: what is common to both versions, and the choice of one.

Pure: whether a value is possible on this host shows when it is written. A limit whose controller is
not there is refused here, since leaving it out would leave the container unlimited.
"""

import re
from collections.abc import Mapping

from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.light import Any
from skerry.kernel.cgroups_files import Write
from skerry.kernel.cgroups_layout import Layout

_I64, _U64 = (1 << 63) - 1, (1 << 64) - 1
_LEAST_SHARES, _MOST_SHARES = 2, 262144
_CPU_LIST = re.compile(r"[0-9]+(-[0-9]+(:[0-9]+/[0-9]+)?)?(,[0-9]+(-[0-9]+(:[0-9]+/[0-9]+)?)?)*\s*")
_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")
PAGE_SIZE = re.compile(r"[1-9][0-9]{0,9}[KMGT]B")


def plan(
    path: str, resources: Mapping[str, Any] | None, layout: Layout, *, devices: bool = True
) -> tuple[Write, ...]:
    """The writes that give the group `path` these limits (`linux.resources`, None is empty).

    With `devices` the list always ends in a device policy (deny all but what is listed and the
    default devices); an update of a running container leaves it out. Raises InvalidInput for values
    that cannot be meant, Unsupported for a limit whose controller is missing.
    """
    asked = resources or {}
    if not isinstance(asked, Mapping):
        raise InvalidInput("linux.resources is not an object")
    if layout.version == 2:
        from skerry.kernel.cgroups_plan_v2 import writes
    else:
        from skerry.kernel.cgroups_plan_v1 import writes
    try:
        return tuple(writes(Asked(asked, layout, path), devices=devices))
    except (AttributeError, TypeError, KeyError) as error:
        raise InvalidInput(f"linux.resources of {path}: wrong shape: {error}") from None


class Asked:
    """What was asked for, read with checks; every refusal names the field as the spec does."""

    def __init__(self, resources: Mapping[str, Any], layout: Layout, path: str) -> None:
        self.resources = resources
        self.layout = layout
        self.path = path
        self.controllers = layout.controllers

    def part(self, name: str) -> "Mapping[str, Any]":
        """The object `linux.resources.<name>`, empty when it is not there."""
        value = self.resources.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise InvalidInput(f"linux.resources.{name} is not an object")
        return value

    def entries(self, part: str, name: str = "") -> "list[Mapping[str, Any]]":
        """A list of objects; empty when it is not there."""
        value = self.part(part).get(name) if name else self.resources.get(part)
        if value is None:
            return []
        if not isinstance(value, list | tuple) or not all(isinstance(v, Mapping) for v in value):
            raise InvalidInput(f"linux.resources.{part} {name}: not a list of objects".rstrip())
        return list(value)

    def number(self, part: str, name: str, least: int = 0, most: int = _I64) -> int | None:
        """An integer within its bounds, None when it is not given."""
        return integer(self.part(part).get(name), f"{part}.{name}", least, most)

    def shares(self) -> int:
        """`cpu.shares`, 0 when there is none. The kernel takes others and means the nearest."""
        shares = self.number("cpu", "shares") or 0
        if shares and not _LEAST_SHARES <= shares <= _MOST_SHARES:
            end = "minimum" if shares < _LEAST_SHARES else "maximum"
            bound = min(max(shares, _LEAST_SHARES), _MOST_SHARES)
            raise InvalidInput(f"the {end} allowed cpu-shares is {bound}")
        return shares

    def cpu_list(self, name: str) -> str:
        """`cpu.cpus` or `cpu.mems`; empty when not given."""
        value = self.part("cpu").get(name)
        if value is None or value == "":
            return ""
        if not isinstance(value, str) or len(value) > 4096 or not _CPU_LIST.fullmatch(value):
            raise InvalidInput(
                f"linux.resources.cpu.{name} {value!r:.100} is not a list",
                hint="write it as 0-3,8",
            )
        return value.strip()

    def need(self, controller: str, what: str) -> None:
        """Unsupported unless `controller` is mounted."""
        if controller in self.controllers:
            return
        if self.layout.version == 0:
            hint = "no cgroups are mounted: mount -t cgroup2 none /sys/fs/cgroup"
        elif self.layout.version == 2:
            above = self.layout.unified.mount if self.layout.unified else "/sys/fs/cgroup"
            hint = (
                f"enable it: echo +{controller} > {above}/cgroup.subtree_control (in every group "
                "above), or remove cgroup_disable from the kernel command line"
            )
        else:
            hint = (
                f"mount it: mount -t cgroup -o {controller} {controller} "
                f"/sys/fs/cgroup/{controller}, or check /proc/cgroups for a kernel without it"
            )
        raise Unsupported(
            f"cannot limit {what}: the cgroup controller {controller} is not available", hint=hint
        )


def integer(value: Any, name: str, least: int, most: int = _I64) -> int | None:
    """`value` as an integer within its bounds; InvalidInput otherwise, None stays None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"linux.resources.{name} {value!r:.100} is not an integer")
    if not least <= value <= most:
        raise InvalidInput(f"linux.resources.{name} {value} is out of range {least} to {most}")
    return value


def device_number(entry: Mapping[str, Any], where: str) -> str:
    """`major:minor` of a block device entry."""
    keys = ("major", "minor")
    numbers = [integer(entry.get(key), f"{where}.{key}", 0, 0xFFFFFFFF) for key in keys]
    if None in numbers:
        raise InvalidInput(f"linux.resources.{where}: a device needs major and minor")
    return f"{numbers[0]}:{numbers[1]}"


def word(value: Any, where: str) -> str:
    """A device or interface name that can stand in a control file."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidInput(f"linux.resources.{where}: {value!r:.100} is not a name")
    return value


def page_size(entry: Mapping[str, Any]) -> str:
    """`hugepageLimits[].pageSize`, as in /sys/kernel/mm/hugepages and the control files: 2MB."""
    size = entry.get("pageSize")
    if not isinstance(size, str) or not PAGE_SIZE.fullmatch(size):
        raise InvalidInput(
            f"linux.resources.hugepageLimits: page size {size!r:.50} is not one",
            hint="write it as 64KB, 2MB or 1GB",
        )
    return size


def limit_of(entry: Mapping[str, Any], where: str, name: str = "limit") -> int:
    """A required unsigned number of an entry."""
    value = integer(entry.get(name), f"{where}.{name}", 0, _U64)
    if value is None:
        raise InvalidInput(f"linux.resources.{where}: {name} is missing")
    return value


class Memory:
    """The memory fields after the checks that hold on both versions; None is not asked for."""

    def __init__(self, asked: Asked) -> None:
        # Zero means "not set" in every one of these, as engines have always sent it.
        self.limit = asked.number("memory", "limit", -1) or None
        self.swap = asked.number("memory", "swap", -1) or None
        self.reservation = asked.number("memory", "reservation", -1) or None
        self.kernel_tcp = asked.number("memory", "kernelTCP", -1) or None
        self.swappiness = asked.number("memory", "swappiness", 0, 100)
        part = asked.part("memory")
        self.no_oom_kill = bool(part.get("disableOOMKiller"))
        self.check = bool(part.get("checkBeforeUpdate"))
        # Twice the limit is what engines say when nobody asked: no loss where swap is not counted.
        self.swap_implied = bool(self.limit) and self.swap == 2 * (self.limit or 0)
        if self.limit == -1 and self.swap is None:
            self.swap = -1
            self.swap_implied = True
        if self.swap and self.swap > 0 and self.limit and not 0 < self.limit <= self.swap:
            raise InvalidInput(
                f"memory.swap {self.swap} is below memory.limit {self.limit}",
                hint="swap counts memory and swap together; -1 is no limit",
            )
        if self.any:
            asked.need("memory", "memory")

    @property
    def any(self) -> bool:
        """Whether anything was asked for."""
        return (
            any((self.limit, self.swap, self.reservation, self.kernel_tcp, self.no_oom_kill))
            or self.swappiness is not None
        )
