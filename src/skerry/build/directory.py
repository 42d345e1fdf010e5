"""A directory as a tree to copy from: a stage's or an image's root, a repository's files."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from skerry.base.errors import InvalidInput, KernelFault, SystemFault
from skerry.build.tree import Node
from skerry.kernel.descriptors import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)
from skerry.store.pack import xattrs_of
from skerry.store.tar_reader import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, SYMLINK

SOCKET: Final = "s"
"""A kind that archives do not have."""
_RESOLVE: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
_PIECE: Final = 1 << 20
_KINDS: Final = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFSOCK: SOCKET,
}
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class DirectoryTree:
    """The files below an open directory, which nobody changes meanwhile. `close` closes it.

    `skip` names paths of the top that are not shown.
    """

    def __init__(
        self,
        root: int,
        what: str,
        *,
        own: bool = True,
        skip: frozenset[str] = frozenset(),
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.what = what
        self.own = own
        self._root = root
        self._skip = skip
        self._on_close = on_close
        self._digests: dict[tuple[int, int], bytes] = {}
        """Of files with several names: each is read once."""

    def get(self, path: str) -> Node | None:
        """The file itself."""
        if path in self._skip:
            return None
        try:
            fd = openat2(self._root, path or ".", os.O_PATH | os.O_NOFOLLOW, resolve=_RESOLVE)
        except KernelFault as fault:
            if fault.errno == errno.ELOOP:
                return self._link(path)
            if fault.errno in _ABSENT:
                return None
            raise
        try:
            return self._node(path, os.fstat(fd), fd)
        finally:
            os.close(fd)

    def _link(self, path: str) -> Node | None:
        """RESOLVE_NO_SYMLINKS refuses a link at the end as well."""
        above, _, name = path.rpartition("/")
        try:
            parent = openat2(self._root, above or ".", os.O_PATH | os.O_DIRECTORY, resolve=_RESOLVE)
        except KernelFault as fault:
            if fault.errno in _ABSENT:
                return None
            raise
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            link = os.readlink(name, dir_fd=parent)
        except OSError:
            return None
        finally:
            os.close(parent)
        return _plain(path, status, SYMLINK, link=link)

    def _node(self, path: str, status: os.stat_result, fd: int) -> Node:
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        link = os.readlink("", dir_fd=fd) if kind is SYMLINK else ""
        xattrs = {}
        if kind in (FILE, DIRECTORY):
            # An O_PATH descriptor has no attributes of its own to list.
            xattrs = xattrs_of(f"/proc/self/fd/{fd}")
        return _plain(path, status, kind, link=link, xattrs=xattrs)

    def names(self, path: str) -> list[str]:
        """What a directory holds, in order."""
        fd = self._open(path or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = sorted(os.listdir(fd))
        finally:
            os.close(fd)
        if not path and self._skip:
            return [name for name in found if name not in self._skip]
        return found

    def digest(self, node: Node) -> bytes:
        """SHA-256 of a regular file's bytes."""
        found = self._digests.get(node.inode) if node.inode else None
        if found is None:
            seen = hashlib.sha256()
            for piece in self.data(node):
                seen.update(piece)
            found = seen.digest()
            if node.inode:
                self._digests[node.inode] = found
        return found

    def data(self, node: Node) -> Iterator[bytes]:
        """A regular file's bytes."""
        fd = self._open(node.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            left = node.size
            while left:
                piece = os.read(fd, min(left, _PIECE))
                if not piece:
                    raise SystemFault(f"{self.what}: {node.path!r:.200} shrank while it was read")
                left -= len(piece)
                yield piece
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        try:
            return openat2(self._root, path, flags, resolve=_RESOLVE)
        except KernelFault as fault:
            raise InvalidInput(
                f"{self.what}: cannot open {path!r:.200}: {os.strerror(fault.errno)}"
            ) from None

    def close(self) -> None:
        """Close the directory."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
            if self._on_close is not None:
                self._on_close()


def _plain(
    path: str,
    status: os.stat_result,
    kind: str,
    *,
    link: str = "",
    xattrs: dict[str, bytes] | None = None,
) -> Node:
    device = kind in (CHAR, BLOCK_DEVICE)
    return Node(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_size if kind is FILE else 0,
        status.st_mtime_ns,
        link,
        os.major(status.st_rdev) if device else 0,
        os.minor(status.st_rdev) if device else 0,
        xattrs or {},
        (status.st_dev, status.st_ino) if kind is FILE and status.st_nlink > 1 else None,
    )
