"""Directory trees that somebody hostile may have made: any depth, any name, changing meanwhile.

Nothing here follows a symbolic link, recurses, or holds more than a few descriptors.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from skerry.base.errors import Conflict

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FLATTEN_DEPTH: Final = 32


class Visit(NamedTuple):
    """One entry of a walk. `directory` is open on the entry's parent during the visit only."""

    directory: int
    name: bytes
    depth: int
    stat: os.stat_result


class _Level(NamedTuple):
    pending: list[bytes]
    identity: tuple[int, int]


def walk(directory: int) -> Iterator[Visit]:
    """Every entry below an open directory, parents before children, names in byte order.

    Entries that vanish meanwhile are left out. Conflict when a directory is moved away while the
    walk is inside it.
    """
    current = os.open(".", _DIRECTORY, dir_fd=directory)
    try:
        levels = [_level(current)]
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
                with suppress(FileNotFoundError, NotADirectoryError):
                    below = os.open(name, _DIRECTORY, dir_fd=current)
                    os.close(current)
                    current = below
                    levels.append(_level(current))
    finally:
        os.close(current)


def _level(directory: int) -> _Level:
    status = os.fstat(directory)
    names = sorted((os.fsencode(name) for name in os.listdir(directory)), reverse=True)
    return _Level(names, (status.st_dev, status.st_ino))


def _climb(current: int, identity: tuple[int, int]) -> int:
    above = os.open("..", _DIRECTORY, dir_fd=current)
    status = os.fstat(above)
    if (status.st_dev, status.st_ino) != identity:
        os.close(above)
        raise Conflict("a directory was moved while its tree was read", hint="try again")
    os.close(current)
    return above


def remove_tree(path: str | bytes) -> None:
    """Delete a file or a whole tree; nothing happens when it is not there.

    The parent directory must be one that only we write: deep subtrees are moved up into it.
    """
    parent, name = os.path.split(os.fsencode(path))
    directory = os.open(parent, _DIRECTORY)
    try:
        _remove(directory, name)
    finally:
        os.close(directory)


def empty_directory(path: str) -> None:
    """Delete everything below a directory that only we write."""
    directory = os.open(path, _DIRECTORY)
    try:
        while names := os.listdir(directory):
            for name in names:
                _remove(directory, os.fsencode(name))
    finally:
        os.close(directory)


def _remove(top: int, name: bytes) -> None:
    moved = [name]
    while moved:
        name = moved.pop()
        try:
            os.unlink(name, dir_fd=top)
            continue
        except FileNotFoundError:
            continue
        except (IsADirectoryError, PermissionError):
            pass
        _remove_directory(top, top, name, 1, moved)


def _remove_directory(top: int, parent: int, name: bytes, depth: int, moved: list[bytes]) -> None:
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        with os.scandir(directory) as entries:
            listed = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
        for child, is_directory in listed:
            if not is_directory:
                os.unlink(child, dir_fd=directory)
            elif depth < _FLATTEN_DEPTH:
                _remove_directory(top, directory, child, depth + 1, moved)
            else:
                fresh = b"deep-" + os.urandom(8).hex().encode()
                os.rename(child, fresh, src_dir_fd=directory, dst_dir_fd=top)
                moved.append(fresh)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)
