"""Directory trees that somebody hostile may have made: any depth, any name, changing meanwhile.

Nothing here follows a symbolic link, recurses, or holds more than two descriptors. Going up is by
`..`, and the inode there must be the one that was left: a directory that was moved away while we
were inside it ends the walk instead of leading it out of the tree.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from skerry.base.errors import Conflict

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_VANISHED = (FileNotFoundError, NotADirectoryError)


class Visit(NamedTuple):
    """One entry of a walk. `directory` is open on the entry's parent during the visit only."""

    directory: int
    name: str
    depth: int
    """1 for entries of the directory that is walked."""
    stat: os.stat_result


class _Level(NamedTuple):
    name: str
    pending: list[str]
    identity: tuple[int, int]


def walk(directory: int) -> Iterator[Visit]:
    """Every entry below an open directory, parents before children, names in order.

    Entries that vanish meanwhile are left out. Conflict when a directory is moved away while the
    walk is inside it.
    """
    current = os.open(".", DIRECTORY, dir_fd=directory)
    try:
        levels = [_level(current, "")]
        while levels:
            level = levels[-1]
            if not level.pending:
                levels.pop()
                if levels:
                    current = _climb(current, levels[-1].identity)
                continue
            name = level.pending.pop()
            try:
                status = os.stat(name, dir_fd=current, follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield Visit(current, name, len(levels), status)
            if stat.S_ISDIR(status.st_mode):
                with suppress(*_VANISHED):
                    current = _descend(current, name)
                    levels.append(_level(current, name))
    finally:
        os.close(current)


def remove_tree(path: str) -> None:
    """Delete a file or a whole tree; nothing happens when it is not there."""
    parent, name = os.path.split(path)
    try:
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_at(directory, name)
    finally:
        os.close(directory)


def remove_at(directory: int, name: str) -> None:
    """Delete the file or tree `name` of an open directory; nothing happens when it is not there."""
    if _unlink(directory, name):
        return
    current = os.open(name, DIRECTORY, dir_fd=directory)
    try:
        levels = [_level(current, name)]
        while True:
            if levels[-1].pending:
                child = levels[-1].pending.pop()
                if not _unlink(current, child):
                    current = _descend(current, child)
                    levels.append(_level(current, child))
                    if levels[-1].identity[0] != levels[0].identity[0]:
                        # Something is mounted there that is not ours to delete.
                        raise Conflict(
                            f"cannot delete {child!r:.200}: a file system is mounted on it"
                        )
                continue
            done = levels.pop()
            if not levels:
                break
            current = _climb(current, levels[-1].identity)
            os.rmdir(done.name, dir_fd=current)
    finally:
        os.close(current)
    os.rmdir(name, dir_fd=directory)


def empty_directory(path: str) -> None:
    """Delete everything below a directory."""
    directory = os.open(path, DIRECTORY)
    try:
        for name in os.listdir(directory):
            remove_at(directory, name)
    finally:
        os.close(directory)


class DiskUsage:
    """Adds up `st_blocks` * 512 as du(1): a file with several names counts once.

    With `apparent` it adds up the sizes of regular files and symbolic links instead.
    """

    def __init__(self, *, apparent: bool = False) -> None:
        self._seen: set[tuple[int, int]] = set()
        self._apparent = apparent

    def of(self, status: os.stat_result) -> int:
        """What this entry adds."""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity in self._seen:
                return 0
            self._seen.add(identity)
        if self._apparent:
            mode = status.st_mode
            return status.st_size if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else 0
        return status.st_blocks * 512

    def tree(self, path: str) -> int:
        """Bytes of a file or of a directory with everything below it; 0 when it is not there."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return 0
        total = self.of(status)
        if not stat.S_ISDIR(status.st_mode):
            return total
        try:
            directory = os.open(path, DIRECTORY)
        except _VANISHED:
            return total
        try:
            return total + sum(self.of(visit.stat) for visit in walk(directory))
        finally:
            os.close(directory)


def _level(directory: int, name: str) -> _Level:
    status = os.fstat(directory)
    names = sorted(os.listdir(directory), reverse=True)
    return _Level(name, names, (status.st_dev, status.st_ino))


def _descend(current: int, name: str) -> int:
    below = os.open(name, DIRECTORY, dir_fd=current)
    os.close(current)
    return below


def _climb(current: int, identity: tuple[int, int]) -> int:
    above = os.open("..", DIRECTORY, dir_fd=current)
    status = os.fstat(above)
    if (status.st_dev, status.st_ino) != identity:
        os.close(above)
        raise Conflict("a directory was moved while its tree was read", hint="try again")
    os.close(current)
    return above


def _unlink(directory: int, name: str) -> bool:
    """False when it is a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True
