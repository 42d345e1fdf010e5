"""Copies of directory trees: links, owners, times, attributes, holes and devices are kept.

The source may have been made by somebody hostile and is read as `trees.walk` reads it; the target
is ours alone. Where the file system can, the copy shares the blocks of its files (reflink).
"""

import errno
import os
import stat
from contextlib import suppress
from typing import Final, NamedTuple

from skerry.kernel.inodes import copy_content
from skerry.store.trees import DIRECTORY, Visit, remove_at, walk
from skerry.store.whiteouts import is_opaque, make_opaque, opaque_attribute

_OVERLAY: Final = ("trusted.overlay.", "user.overlay.")


class _Level(NamedTuple):
    """A directory of the target that is being filled; its times are set when it is full."""

    status: os.stat_result
    fresh: bool


def copy_tree(source: int, target: int) -> None:
    """Copy everything below the open directory `source` into the open, empty one `target`.

    overlayfs's whiteouts and opaque marks are kept, so that a layer stays one.
    """
    _Copy(target, below=False).run(source)


def merge_below(source: int, target: int) -> None:
    """Copy in what a lower layer `source` adds under the upper layer `target`: the two as one."""
    _Copy(target, below=True).run(source)


class _Copy:
    def __init__(self, target: int, *, below: bool) -> None:
        self._target = target
        self._below = below
        self._here = os.open(".", DIRECTORY, dir_fd=target)
        self._levels: list[_Level] = []
        self._names = f".links-{os.urandom(8).hex()}"
        """A folder of the target where files with several names wait for their next one."""
        self._links = -1
        self._linked: set[tuple[int, int]] = set()

    def run(self, source: int) -> None:
        try:
            if self._below and is_opaque(self._here):
                return
            self._entries(source)
            while self._levels:
                self._leave()
            if not self._below:
                status = os.fstat(source)
                _metadata(source, self._target, status)
        finally:
            os.close(self._here)
            if self._links >= 0:
                os.close(self._links)
                remove_at(self._target, self._names)

    def _entries(self, source: int) -> None:
        skipping = 0
        for visit in walk(source):
            if skipping and visit.depth > skipping:
                continue
            skipping = 0
            while len(self._levels) >= visit.depth:
                self._leave()
            if stat.S_ISDIR(visit.stat.st_mode):
                if not self._enter(visit):
                    skipping = visit.depth
            elif not (self._below and self._has(visit.name)):
                self._leaf(visit)

    def _has(self, name: str) -> bool:
        """Whether an upper layer has it already; its folder then hides what is further below."""
        try:
            status = os.stat(name, dir_fd=self._here, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(name, DIRECTORY, dir_fd=self._here)
            try:
                make_opaque(fd)
            finally:
                os.close(fd)
        return True

    def _enter(self, visit: Visit) -> bool:
        """Go into a directory; False when what is there already hides it."""
        fresh = True
        try:
            os.mkdir(visit.name, 0o700, dir_fd=self._here)
        except FileExistsError:
            fresh = False
        try:
            below = os.open(visit.name, DIRECTORY, dir_fd=self._here)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        if not fresh and is_opaque(below):
            os.close(below)
            return False
        os.close(self._here)
        self._here = below
        self._levels.append(_Level(visit.stat, fresh))
        if fresh:
            with suppress(OSError):
                fd = os.open(visit.name, DIRECTORY, dir_fd=visit.directory)
                try:
                    _metadata(fd, below, visit.stat)
                finally:
                    os.close(fd)
        return True

    def _leave(self) -> None:
        level = self._levels.pop()
        if level.fresh:
            _times(self._here, level.status)
        above = os.open("..", DIRECTORY, dir_fd=self._here)
        os.close(self._here)
        self._here = above

    def _leaf(self, visit: Visit) -> None:
        status = visit.stat
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._linked:
            os.link(
                str(identity[1]),
                visit.name,
                src_dir_fd=self._links,
                dst_dir_fd=self._here,
                follow_symlinks=False,
            )
            return
        if not self._make(visit):
            return
        if status.st_nlink > 1:
            if self._links < 0:
                os.mkdir(self._names, 0o700, dir_fd=self._target)
                self._links = os.open(self._names, DIRECTORY, dir_fd=self._target)
            os.link(
                visit.name,
                str(identity[1]),
                src_dir_fd=self._here,
                dst_dir_fd=self._links,
                follow_symlinks=False,
            )
            self._linked.add(identity)

    def _make(self, visit: Visit) -> bool:
        """One file, link, device, pipe or socket; False when it has gone meanwhile."""
        status, name = visit.stat, visit.name
        if stat.S_ISREG(status.st_mode):
            return self._file(visit)
        if stat.S_ISLNK(status.st_mode):
            try:
                os.symlink(os.readlink(name, dir_fd=visit.directory), name, dir_fd=self._here)
            except FileNotFoundError:
                return False
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=self._here)
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=self._here)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=self._here, follow_symlinks=False)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=self._here, follow_symlinks=False)
        return True

    def _file(self, visit: Visit) -> bool:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            source = os.open(visit.name, flags, dir_fd=visit.directory)
        except FileNotFoundError:
            return False
        try:
            status = os.fstat(source)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            target = os.open(visit.name, flags, 0o600, dir_fd=self._here)
            try:
                copy_content(source, target, status.st_size)
                _metadata(source, target, status)
            finally:
                os.close(target)
        finally:
            os.close(source)
        return True


def _metadata(source: int, target: int, status: os.stat_result) -> None:
    """Owner, mode, attributes, times: in this order, since a change of owner drops capabilities."""
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    _attributes(source, target)
    _times(target, status)


def _times(fd: int, status: os.stat_result) -> None:
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _attributes(source: int, target: int) -> None:
    """Extended attributes, without what overlayfs keeps for itself."""
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for name in names:
        if name.startswith(_OVERLAY) and name != opaque_attribute():
            continue
        with suppress(OSError):
            os.setxattr(target, name, os.getxattr(source, name))
