"""Writes to control files: as data, how they are carried out, and what a refusal means."""

import errno
import os
from collections.abc import Callable, Iterable

from skerry.base.errors import (
    Conflict,
    InvalidInput,
    KernelFault,
    SkerryError,
    SystemFault,
    Unsupported,
)
from skerry.base.light import Any, NamedTuple

MUST = "must"
MAY = "may"
"""Passed over when the kernel has no such file or does not support it any more."""
OR = "or"
"""A missing file lets the next write take its place; otherwise the next is skipped."""
LATE = "late"
"""Tried again after the others when refused: the kernel checks two files against each other."""
CHECK = "check"
"""Not a write: Conflict when the number in the file is above the value."""

DEVICE_FILTER = "bpf"
"""The `file` of a v2 device list, which is a BPF program; its value is JSON of OCI device rules."""


class Write(NamedTuple):
    """One value for one control file of a container's group."""

    controller: str
    file: str
    value: str
    rule: str = MUST

    def __str__(self) -> str:
        if self.rule == CHECK:
            return f"require {self.file} <= {self.value}"
        return f"write {self.value!r} to {self.file}"


_REMEDIES = (
    (
        "memory.memsw",
        "swap accounting is off: boot with swapaccount=1, or set no swap limit",
    ),
    ("memory.swap", "the kernel has no swap accounting (CONFIG_SWAP): leave the swap limit out"),
    ("cpu.rt_", "the kernel has no real-time group scheduling (CONFIG_RT_GROUP_SCHED)"),
    ("cpu.cfs_", "the kernel has no CPU bandwidth control (CONFIG_CFS_BANDWIDTH)"),
    ("cpu.idle", "needs Linux 5.15"),
    ("blkio.bfq", "block-I/O weights need the bfq scheduler (modprobe bfq)"),
    ("blkio.weight", "block-I/O weights need the bfq scheduler (modprobe bfq)"),
    ("blkio.leaf", "leaf weights went away with the CFQ scheduler in Linux 5.0"),
    ("io.", "block-I/O weights need the bfq scheduler or CONFIG_BLK_CGROUP_IOCOST"),
    ("hugetlb.", "the kernel has no huge pages of that size: see /sys/kernel/mm/hugepages"),
)

_WRONG_VALUE = (errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.ENOSPC, errno.ENODEV, errno.EDOM)
_MISSING = (errno.ENOENT, errno.EOPNOTSUPP)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(write: Write, path: str, error: OSError) -> SkerryError:
    """The error that says whose fault a refused write is."""
    code = error.errno or 0
    said = f"cannot set {write.file} to {write.value!r:.200}"
    if code in _MISSING and not os.path.isdir(os.path.dirname(path)):
        return SystemFault(f"{said}: the group {os.path.dirname(path)} is gone")
    if code in _MISSING:
        remedy = next((text for start, text in _REMEDIES if write.file.startswith(start)), "")
        return Unsupported(
            f"{said}: this kernel's {write.controller or 'cgroup'} controller has no such file",
            hint=remedy or f"leave the limit out, or enable the {write.controller} controller",
        )
    if code in _WRONG_VALUE:
        return InvalidInput(f"{said}: {os.strerror(code)}", hint=f"refused by {path}")
    if code == errno.EBUSY:
        return Conflict(f"{said}: {os.strerror(code)}", hint=_busy_hint(write, path))
    hint = "run as root or with a delegated cgroup" if code in _REFUSED else ""
    return KernelFault(f"write {write.value!r:.200} to {path}", code, hint=hint)


def _busy_hint(write: Write, path: str) -> str:
    if write.file in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        usage = number(path.replace("limit_in_bytes", "usage_in_bytes"))
        return f"the group uses {usage} bytes now, which is more"
    return "the group is in use"


def carry_out(
    writes: Iterable[Write],
    directory_of: Callable[[str], str],
    attach_devices: Callable[[str], None] | None = None,
) -> None:
    """Do the writes in order; `directory_of(controller)` says where.

    Stops at the first refusal with a SkerryError that names file, value and remedy.
    `attach_devices` gets the value of a DEVICE_FILTER.
    """
    late: list[tuple[Write, str]] = []
    skip = False
    opened, fd = "", -1
    try:
        for write in writes:
            if skip:
                skip = write.rule == OR
                continue
            if write.file == DEVICE_FILTER:
                if attach_devices:
                    attach_devices(write.value)
                continue
            directory = directory_of(write.controller)
            if not directory:
                raise Unsupported(f"cannot set {write.file}: {write.controller} is not mounted")
            path = f"{directory}/{write.file}"
            if write.rule == CHECK:
                _check(write, path)
                continue
            try:
                # A device list is dozens of values for the same file.
                if path != opened:
                    if fd >= 0:
                        os.close(fd)
                    opened, fd = "", -1
                    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                    opened = path
                os.write(fd, write.value.encode())
                skip = write.rule == OR
            except OSError as error:
                if write.rule in (MAY, OR) and error.errno in _MISSING:
                    continue
                if write.rule == LATE and error.errno == errno.EINVAL:
                    late.append((write, path))
                    continue
                raise explain(write, path, error) from None
    finally:
        if fd >= 0:
            os.close(fd)
    for write, path in late:
        try:
            put(path, write.value)
        except OSError as error:
            raise explain(write, path, error) from None


def _check(write: Write, path: str) -> None:
    used = number(path)
    if used > int(write.value):
        raise Conflict(
            f"cannot set the limit to {write.value}: the group uses {used} now ({write.file})",
            hint="raise the limit or free what is in use; checkBeforeUpdate asked for this test",
        )


def put(path: str, value: str) -> None:
    """Write one value; OSError as the kernel gives it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def text(path: str) -> str:
    """A control file's text; empty when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        pieces = []
        while piece := os.read(fd, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


Read = Callable[[str, Callable[[str], Any]], Any]
"""What reads a file as `parsed` does; the value belongs to whoever reads, and is not changed."""


def parsed(path: str, parse: Callable[[str], Any]) -> Any:
    """What `parse`, a pure function, makes of the text of a control file."""
    return parse(text(path))


UNLIMITED = (1 << 64) - 1
"""What `max` in a v2 file is read as, and v1's own largest number rounded to it."""


def number(path: str) -> int:
    """The number in a control file; 0 when it cannot be read, UNLIMITED for `max`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return parse_number(os.read(fd, 64).decode("ascii", "replace"))
    except OSError:
        return 0
    finally:
        os.close(fd)


def parse_number(value: str) -> int:
    """A number as control files write it."""
    value = value.strip()
    if value == "max":
        return UNLIMITED
    try:
        return int(value)
    except ValueError:
        return 0


def table(value: str) -> dict[str, int]:
    """Lines of `name number`, as in memory.stat."""
    words = value.split()
    try:
        numbers = list(map(int, words[1::2]))
    except ValueError:
        return _table_by_lines(value)
    if len(words) != 2 * value.count("\n"):
        return _table_by_lines(value)
    return dict(zip(words[::2], numbers, strict=True))


def _table_by_lines(value: str) -> dict[str, int]:
    """The same, whatever else is there: `max`, lines without a number."""
    result = {}
    for line in value.splitlines():
        name, _, digits = line.partition(" ")
        if digits:
            result[name] = parse_number(digits)
    return result
