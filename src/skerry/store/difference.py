"""What differs between two trees that share layers: `skerry diff A B`.

Both are seen as they would be mounted. Only what lies in layers that not both have is looked at, so
the cost goes with what was written, not with the size of the image.
"""

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from skerry.base.errors import KernelFault, LimitExceeded
from skerry.base.isolation import Overlay
from skerry.kernel.mounts import view_fd
from skerry.store.changes import ADDED, DELETED, MODIFIED, Change
from skerry.store.paths import open_long
from skerry.store.trees import DIRECTORY, walk
from skerry.store.whiteouts import is_opaque, is_whiteout

_MOST: Final = 2_000_000
_PIECE: Final = 1 << 20


class Difference(NamedTuple):
    """One path. `kind` is MODIFIED, ADDED (only the second has it) or DELETED (only the first).

    Sizes are bytes of a regular file, 0 for all else and for the side that has nothing.
    """

    kind: int
    path: str
    before: int
    after: int


def difference(
    one: Overlay, other: Overlay, ignore: frozenset[str] = frozenset(), *, times: bool = False
) -> list[Difference]:
    """How to get from the first tree to the second, ordered by path.

    Two regular files are the same when owner, mode and content are. `times` also counts a changed
    mtime, of folders too, as Docker's diff does. `ignore` names paths that are left out.
    """
    first, second = view_fd(one), -1
    try:
        second = view_fd(other)
        return _Comparison(first, second, ignore, times=times).run(_private(one, other))
    finally:
        os.close(first)
        if second >= 0:
            os.close(second)


def from_base(container: Overlay, image: Overlay, ignore: frozenset[str]) -> list[Change]:
    """What a container on frozen layers changed in its image, in the form of `changes.changes`."""
    kinds = {each.path: each.kind for each in difference(image, container, ignore, times=True)}
    for path, kind in list(kinds.items()):
        above = path.rpartition("/")[0]
        if kind == DELETED and kinds.get(above) == DELETED:
            # Docker names the folder that went, not what was in it.
            kinds[path] = -1
        while above and above not in kinds:
            kinds[above] = MODIFIED
            above = above.rpartition("/")[0]
    return [Change(kind, path) for path, kind in sorted(kinds.items()) if kind >= 0]


def _private(one: Overlay, other: Overlay) -> list[str]:
    """The layers that only one of the two has; what lies below a shared one is shared."""
    stacks = [list(((each.upper,) if each.upper else ()) + each.lower) for each in (one, other)]
    while stacks[0] and stacks[1] and stacks[0][-1] == stacks[1][-1]:
        stacks[0].pop()
        stacks[1].pop()
    return list(dict.fromkeys(stacks[0] + stacks[1]))


class _Comparison:
    def __init__(self, one: int, other: int, ignore: frozenset[str], *, times: bool) -> None:
        self._roots = (one, other)
        self._ignore = ignore
        self._times = times
        self._found: dict[str, Difference] = {}
        self._seen: set[str] = set()

    def run(self, layers: list[str]) -> list[Difference]:
        for layer in layers:
            fd = os.open(layer, DIRECTORY)
            try:
                if is_opaque(fd):
                    self._whole("")
                for path in _touched(fd, self._whole):
                    self._look(path)
            finally:
                os.close(fd)
        return [self._found[path] for path in sorted(self._found)]

    def _whole(self, path: str) -> None:
        """Everything that either tree has below a path."""
        for root in self._roots:
            try:
                fd = open_long(root, path.lstrip("/") or ".", os.O_RDONLY | os.O_DIRECTORY, False)
            except KernelFault:
                continue
            try:
                for below in _paths(fd):
                    self._look(path + below, deep=False)
            finally:
                os.close(fd)

    def _look(self, path: str, *, deep: bool = True) -> None:
        if path in self._seen or self._ignored(path):
            return
        self._seen.add(path)
        if len(self._seen) > _MOST:
            raise LimitExceeded(f"more than {_MOST} paths to compare")
        before, after = (_stat(root, path) for root in self._roots)
        if before is None and after is None:
            return
        if before is None or after is None:
            kind = ADDED if before is None else DELETED
            self._found[path] = Difference(kind, path, _size(before), _size(after))
        elif self._differ(path, before, after):
            self._found[path] = Difference(MODIFIED, path, _size(before), _size(after))
        folders = [each is not None and stat.S_ISDIR(each.st_mode) for each in (before, after)]
        if deep and folders[0] != folders[1]:
            self._whole(path)

    def _ignored(self, path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in self._ignore)

    def _differ(self, path: str, before: os.stat_result, after: os.stat_result) -> bool:
        if (before.st_mode, before.st_uid, before.st_gid) != (
            after.st_mode,
            after.st_uid,
            after.st_gid,
        ):
            return True
        mode = before.st_mode
        if self._times and not stat.S_ISLNK(mode) and before.st_mtime_ns != after.st_mtime_ns:
            return not (
                stat.S_ISDIR(mode) and any(each.rpartition("/")[0] == path for each in self._ignore)
            )
        if stat.S_ISREG(mode):
            return before.st_size != after.st_size or (
                before.st_mtime_ns != after.st_mtime_ns and self._content_differs(path)
            )
        if stat.S_ISLNK(mode):
            return self._target(0, path) != self._target(1, path)
        return before.st_rdev != after.st_rdev

    def _target(self, side: int, path: str) -> str:
        head, _, name = path.rpartition("/")
        fd = open_long(
            self._roots[side], head.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY, False
        )
        try:
            return os.readlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    def _content_differs(self, path: str) -> bool:
        files: list[int] = []
        try:
            files.extend(
                open_long(root, path.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK, False)
                for root in self._roots
            )
            while True:
                pieces = [os.read(fd, _PIECE) for fd in files]
                if pieces[0] != pieces[1]:
                    return True
                if not pieces[0]:
                    return False
        finally:
            for fd in files:
                os.close(fd)


def _paths(directory: int) -> Iterator[str]:
    parts: list[str] = []
    for visit in walk(directory):
        parts[visit.depth - 1 :] = [visit.name]
        yield "/" + "/".join(parts)


def _touched(layer: int, whole: Callable[[str], None]) -> Iterator[str]:
    """Every path that a layer adds, changes or takes away; `whole` is told of opaque folders."""
    parts: list[str] = []
    for visit in walk(layer):
        parts[visit.depth - 1 :] = [visit.name]
        path = "/" + "/".join(parts)
        if stat.S_ISDIR(visit.stat.st_mode):
            fd = os.open(visit.name, DIRECTORY, dir_fd=visit.directory)
            try:
                if is_opaque(fd):
                    whole(path)
            finally:
                os.close(fd)
        yield path
        if is_whiteout(visit.stat):
            whole(path)


def _stat(root: int, path: str) -> os.stat_result | None:
    head, _, name = path.rpartition("/")
    try:
        fd = open_long(root, head.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY, False)
    except KernelFault:
        return None
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        os.close(fd)


def _size(status: os.stat_result | None) -> int:
    return status.st_size if status and stat.S_ISREG(status.st_mode) else 0
