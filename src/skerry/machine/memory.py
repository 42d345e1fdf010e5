"""The memory of a machine that stands still: what it maps privately, and what it has written.

Theory. A machine's hypervisor maps a sealed file, its base, privately; the kernel gives it a page
of its own for each that it writes to. So its memory is the base with those pages laid over it. The
base can be copied while the machine runs; only its own pages have to wait until it stands. Which
they are /proc/<pid>/pagemap says: pages that are there, or swapped out, and are not the file's.

The hypervisor may have been taken over by its guest: what is read is data, and lands within the
file's size.
Source: proc_pid_maps(5), Documentation/admin-guide/mm/pagemap.rst.
"""

import os
from collections.abc import Iterable, Iterator

from skerry.base.errors import LimitExceeded, SystemFault
from skerry.base.light import Final, NamedTuple

PAGE: Final = 4096
_ENTRY: Final = 8
_OWN: Final = (0b100, 0b010)
"""Bits 63 to 61 of an entry: present, swapped, of a file."""
_NEAR: Final = 2
"""Pages between two runs that are cheaper to copy than to leave out."""
_CHUNK: Final = 1 << 20
_MOST_MAPS: Final = 16 << 20


class Mapping(NamedTuple):
    """A piece of the file in the process; bytes."""

    start: int
    end: int
    offset: int


def mappings(text: str, device: int, inode: int) -> list[Mapping]:
    """Where a process maps a file; `text` is its /proc/<pid>/maps. Pure."""
    found = []
    for line in text.splitlines():
        span, _, offset, numbers, node = line.split(maxsplit=5)[:5]
        if int(node) != inode:
            continue
        major, minor = numbers.split(":")
        if os.makedev(int(major, 16), int(minor, 16)) == device:
            start, end = span.split("-")
            found.append(Mapping(int(start, 16), int(end, 16), int(offset, 16)))
    return found


def own_runs(entries: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first page and the count of each run of pages that the process has of its own, out of
    the numbers of a pagemap. Runs that are near become one. Pure."""
    start = end = -1
    for page, entry in enumerate(entries):
        if entry >> 61 not in _OWN:
            continue
        if start >= 0 and page - end <= _NEAR:
            end = page + 1
            continue
        if start >= 0:
            yield start, end - start
        start, end = page, page + 1
    if start >= 0:
        yield start, end - start


def copy_own(pid: int, base: int, target: int, size: int) -> int:
    """Copy the pages that process `pid` has written to in its private mapping of the file `base`
    to their places in the file `target`; the bytes copied. The process must stand still."""
    status = os.fstat(base)
    copied = covered = 0
    with (
        open(f"/proc/{pid}/maps") as maps,
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap,
        open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
    ):
        text = maps.read(_MOST_MAPS)
        for start, end, offset in mappings(text, status.st_dev, status.st_ino):
            if offset + end - start > size:
                raise LimitExceeded("the machine maps more than its memory")
            covered += end - start
            wanted = (end - start) // PAGE * _ENTRY
            table = os.pread(pagemap.fileno(), wanted, start // PAGE * _ENTRY)
            if len(table) != wanted:
                raise SystemFault("the machine's page table is cut short")
            for page, count in own_runs(memoryview(table).cast("Q")):
                at, left = page * PAGE, count * PAGE
                while left:
                    data = os.pread(memory.fileno(), min(left, _CHUNK), start + at)
                    if not data:
                        raise SystemFault("the machine's memory cannot be read")
                    _write(target, data, offset + at)
                    at, left, copied = at + len(data), left - len(data), copied + len(data)
    if covered != size:
        raise SystemFault("the machine does not map its memory as it was told to")
    return copied


def copy_extents(source: int, target: int, size: int, *, start: int = 0, to: int = 0) -> None:
    """Copy what is not a hole from one file of memory to another: what lies from `start` to `size`,
    to the places from `to` on."""
    at = start
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            return
        end = min(os.lseek(source, at, os.SEEK_HOLE), size)
        os.lseek(target, at - start + to, os.SEEK_SET)
        while at < end:
            count = os.sendfile(target, source, at, end - at)
            if not count:
                raise SystemFault("a machine's memory is cut short")
            at += count


def end_of_data(file: int) -> int:
    """Where the last hole of a file of memory begins."""
    end = 0
    while True:
        try:
            end = os.lseek(file, os.lseek(file, end, os.SEEK_DATA), os.SEEK_HOLE)
        except OSError:
            return end  # ENXIO: holes up to the end.


def _write(target: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(target, view, at)
        at, view = at + done, view[done:]
