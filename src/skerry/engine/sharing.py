"""Whether the host's mounts can share what `bind-propagation` asks for, as Docker's engine asks.

A bind that is to share or to follow takes part in the peer group of the mount that its source is
on; a private mount has none, and the kernel would make the bind private or a group of its own
without a word. Source: mount_namespaces(7), proc_pid_mountinfo(5).
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

from skerry.base.errors import SystemFault
from skerry.engine.record import MountPoint
from skerry.kernel.mountinfo import plain

_SHARED = ("shared", "rshared")
_SLAVE = ("slave", "rslave")


class Mount(NamedTuple):
    """A line of mountinfo, as far as it matters here."""

    point: str
    marks: tuple[str, ...]
    """`shared:N`, `master:N`, …; none of a private mount."""


def parse(line: str) -> Mount:
    """One line of /proc/PID/mountinfo."""
    words = line.split(" - ", 1)[0].split()
    return Mount(plain(words[4]), tuple(words[6:]))


def mount_of(path: str) -> Mount | None:
    """The mount that a path is on, the uppermost where several lie on one another; None when there
    is no such path, or it is hidden by now."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return next((parse(line) for line in file if line.startswith(f"{number} ")), None)


def check(points: Iterable[MountPoint], root: str) -> None:
    """SystemFault in Docker's words for what cannot be shared. `root` is the engine's folder: what
    is in it, or it in, may be asked to follow without effect, as there."""
    for point in points:
        if point.kind != "bind" or point.propagation not in (*_SHARED, *_SLAVE):
            continue
        slave = point.propagation in _SLAVE
        found = mount_of(point.source)
        enough = ("shared:", "master:") if slave else ("shared:",)
        if found is None or any(mark.startswith(enough) for mark in found.marks):
            continue
        if slave and (point.source.startswith(root) or root.startswith(point.source)):
            continue
        raise SystemFault(
            f"path {point.source} is mounted on {found.point} but it is not a shared "
            f"{'or slave ' if slave else ''}mount",
            hint=f"mount --make-rshared {found.point}",
        )
