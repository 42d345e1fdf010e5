"""What a writable layer changed, found by reading it against the layers below: `docker diff`.

The upper directory may belong to a running container, the lower ones never change.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from skerry.base.errors import KernelFault, LimitExceeded
from skerry.store.paths import open_long
from skerry.store.trees import DIRECTORY
from skerry.store.whiteouts import is_opaque, is_whiteout

MODIFIED: Final = 0
ADDED: Final = 1
DELETED: Final = 2
MOUNT_POINTS: Final = frozenset(
    {
        "/.dockerenv",
        "/dev",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/proc",
        "/sys",
    }
)
"""What is mounted over in every container: an image without them gets empty ones to mount on. And
the file by which programs tell that they are in one."""

_MAX_CHANGES: Final = 2_000_000
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY


class Change(NamedTuple):
    """One line of `docker diff`: `kind` is MODIFIED, ADDED or DELETED as in Docker's API."""

    kind: int
    path: str


class _Below(NamedTuple):
    """What lower layers have under one name: its status, and where, when it is a directory."""

    status: os.stat_result
    directories: tuple[int, ...]
    """Indexes of the layers that contribute, top-most first."""


def changes(
    upper: str, lowers: Sequence[str], ignore: frozenset[str] = MOUNT_POINTS
) -> list[Change]:
    """The changes, ordered by path. `lowers` is top-most first.

    `ignore` names paths (absolute in the container) that are not the container's doing, such as
    mount points made for it.
    """
    opened: list[int] = []
    try:
        opened.extend(os.open(path, DIRECTORY) for path in (upper, *lowers))
        return _Comparison(opened[0], opened[1:], ignore).run()
    finally:
        for fd in opened:
            os.close(fd)


class _Comparison:
    def __init__(self, upper: int, lowers: list[int], ignore: frozenset[str]) -> None:
        self._upper = upper
        self._lowers = lowers
        self._ignore = ignore
        self._found: dict[str, int] = {}

    def run(self) -> list[Change]:
        queue: list[tuple[str, tuple[int, ...]]] = [("", tuple(range(len(self._lowers))))]
        while queue:
            path, directories = queue.pop()
            queue += self._directory(path, directories)
            if len(self._found) > _MAX_CHANGES:
                raise LimitExceeded(f"more than {_MAX_CHANGES} changes")
        return [Change(self._found[path], path) for path in sorted(self._found)]

    def _directory(
        self, path: str, directories: tuple[int, ...]
    ) -> list[tuple[str, tuple[int, ...]]]:
        """Compare one directory; its subdirectories that are still to be compared."""
        try:
            fd = open_long(self._upper, path or ".", _OPEN)
        except KernelFault:
            return []
        below = {index: self._open(index, path) for index in directories}
        deeper = []
        try:
            names = os.listdir(fd)
            if is_opaque(fd):
                self._hidden(path, names, below)
            for name in names:
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                child = f"{path}/{name}"
                found = _lookup(below, name)
                if self._entry(child, status, found):
                    deeper.append((child, found.directories if found else ()))
        finally:
            os.close(fd)
            for lower in below.values():
                if lower >= 0:
                    os.close(lower)
        return deeper

    def _open(self, index: int, path: str) -> int:
        try:
            return open_long(self._lowers[index], path or ".", _OPEN)
        except KernelFault:
            return -1

    def _entry(self, path: str, status: os.stat_result, found: _Below | None) -> bool:
        """Note what happened to one entry of the upper directory; True to look into it."""
        if path in self._ignore:
            return False
        if is_whiteout(status):
            if found:
                self._note(path, DELETED)
            return False
        if not stat.S_ISDIR(status.st_mode):
            self._note(path, MODIFIED if found else ADDED)
            return False
        if not found:
            if not any(ignored.startswith(f"{path}/") for ignored in self._ignore):
                self._note(path, ADDED)
        elif not stat.S_ISDIR(found.status.st_mode) or self._differs(path, status, found.status):
            self._note(path, MODIFIED)
        return True

    def _differs(self, path: str, now: os.stat_result, before: os.stat_result) -> bool:
        same = (now.st_mode, now.st_uid, now.st_gid) == (
            before.st_mode,
            before.st_uid,
            before.st_gid,
        )
        if same and any(ignored.rpartition("/")[0] == path for ignored in self._ignore):
            return False
        return not same or now.st_mtime_ns != before.st_mtime_ns

    def _hidden(self, path: str, names: list[str], below: dict[int, int]) -> None:
        """An opaque directory deletes whatever lower layers have in it and it has not."""
        kept = set(names)
        for fd in below.values():
            if fd < 0:
                continue
            for name in os.listdir(fd):
                if name not in kept and _lookup(below, name):
                    kept.add(name)
                    if f"{path}/{name}" not in self._ignore:
                        self._note(f"{path}/{name}", DELETED)

    def _note(self, path: str, kind: int) -> None:
        self._found[path] = kind
        # A directory whose content changed has changed, up to the root, which Docker never lists.
        above = path.rpartition("/")[0]
        while above and above not in self._found:
            self._found[above] = MODIFIED
            above = above.rpartition("/")[0]


def _lookup(below: dict[int, int], name: str) -> _Below | None:
    """What the layers show under `name`, the upper one left out."""
    first: os.stat_result | None = None
    directories: list[int] = []
    for index, fd in below.items():
        if fd < 0:
            continue
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if is_whiteout(status) or (first is not None and not stat.S_ISDIR(status.st_mode)):
            break
        first = first or status
        if not stat.S_ISDIR(status.st_mode):
            break
        directories.append(index)
        with suppress(OSError):
            child = os.open(name, DIRECTORY, dir_fd=fd)
            try:
                if is_opaque(child):
                    break
            finally:
                os.close(child)
    return None if first is None else _Below(first, tuple(directories))
