"""Packing a directory tree into a tar stream, in a fixed order, with everything that a layer keeps.

The tree may belong to a running container: it is read through descriptors that do not follow links,
and a file that shrinks meanwhile is filled up with zeros.
"""

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from skerry.base.errors import LimitExceeded
from skerry.store import tar_reader, tar_writer
from skerry.store.tar_reader import Entry
from skerry.store.trees import DIRECTORY, Visit, walk
from skerry.store.whiteouts import OPAQUE, WHITEOUT_PREFIX, is_opaque, is_whiteout

_PIECE: Final = 1 << 20
_MAX_PATH: Final = 32 << 10
_LEAST_HOLE: Final = 64 << 10
"""Bytes that a file must lack on disk before it counts as sparse."""
_MAX_PARTS: Final = 1 << 16
_SHORT: Final = 64 << 10
"""Bytes of a file whose contents come along in any case."""
_KEPT_XATTRS: Final = (
    "security.capability",
    "user.",
    "system.posix_acl_access",
    "system.posix_acl_default",
)


class PackOptions(NamedTuple):
    """What the archive looks like."""

    prefix: str = ""
    """Put in front of every name, with its slash; the top directory itself is named so."""
    top: bool = False
    """Whether the top directory has an entry."""
    whiteouts: bool = False
    """Turn overlayfs's marks into OCI's `.wh.` names."""
    latest: int | None = None
    """Seconds since the epoch that no mtime may exceed (SOURCE_DATE_EPOCH's rule)."""
    whole_seconds: bool = False
    holes: bool = False
    """Keep the holes of sparse files; for archives that only we read. What a file system makes of
    a file is then part of the bytes, and docker refuses to save or push such a layer (tar-split
    cannot put it together again)."""
    skip: frozenset[str] = frozenset()
    """Paths relative to the top that are left out, with what is below them."""
    contents: tuple[str, ...] | None = None
    """Paths relative to the top; of longer files elsewhere there is a hole of their size, for
    whoever wants to know what there is. None: all there is."""


def pack(directory: int, options: PackOptions = PackOptions()) -> Iterator[bytes]:  # noqa: B008
    """A tar archive of everything below an open directory, with its end, in pieces."""
    yield from coalesce(_Packer(options).tree(directory))


def pack_file(directory: int, name: str, as_name: str) -> Iterator[bytes]:
    """A tar archive of the single non-directory `name` of an open directory."""
    packer = _Packer(PackOptions())
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    yield from coalesce(
        _chain(packer.member(Visit(directory, name, 1, status), as_name), tar_writer.END)
    )


def coalesce(pieces: Iterator[bytes], size: int = 256 << 10) -> Iterator[bytes]:
    """The same bytes in pieces of about `size`."""
    waiting: list[bytes] = []
    length = 0
    for piece in pieces:
        waiting.append(piece)
        length += len(piece)
        if length >= size:
            yield b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)


def _chain(pieces: Iterator[bytes], end: bytes) -> Iterator[bytes]:
    yield from pieces
    yield end


class _Packer:
    def __init__(self, options: PackOptions) -> None:
        self._options = options
        self._links: dict[tuple[int, int], str] = {}

    def tree(self, directory: int) -> Iterator[bytes]:
        options = self._options
        if options.top:
            status = os.fstat(directory)
            yield self._header(options.prefix or "./", tar_reader.DIRECTORY, status, directory)
        if options.whiteouts and is_opaque(directory):
            yield self._mark(options.prefix + OPAQUE)
        parts: list[str] = []
        skipping = 0
        for visit in walk(directory):
            if skipping and visit.depth > skipping:
                continue
            skipping = 0
            parts[visit.depth - 1 :] = [visit.name]
            path = "/".join(parts)
            if path in options.skip:
                skipping = visit.depth
                continue
            if len(path) > _MAX_PATH:
                raise LimitExceeded(f"a path of more than {_MAX_PATH} characters: {path[:80]!r}…")
            yield from self.member(visit, options.prefix + path)
        yield tar_writer.END

    def member(self, visit: Visit, path: str) -> Iterator[bytes]:
        status = visit.stat
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            yield from self._directory(visit, path)
        elif self._options.whiteouts and is_whiteout(status):
            above, slash, name = path.rpartition("/")
            yield self._mark(f"{above}{slash}{WHITEOUT_PREFIX}{name}")
        elif status.st_nlink > 1 and not stat.S_ISSOCK(mode):
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first == path:
                yield from self._leaf(visit, path)
            else:
                yield self._header(path, tar_reader.HARDLINK, status, -1, link=first)
        else:
            yield from self._leaf(visit, path)

    def _leaf(self, visit: Visit, path: str) -> Iterator[bytes]:
        status = visit.stat
        mode = status.st_mode
        if stat.S_ISREG(mode):
            yield from self._file(visit, path)
        elif stat.S_ISLNK(mode):
            try:
                target = os.readlink(visit.name, dir_fd=visit.directory)
            except OSError:
                return
            yield self._header(path, tar_reader.SYMLINK, status, -1, link=target)
        elif stat.S_ISFIFO(mode):
            yield self._header(path, tar_reader.FIFO, status, -1)
        elif stat.S_ISCHR(mode):
            yield self._header(path, tar_reader.CHAR, status, -1)
        elif stat.S_ISBLK(mode):
            yield self._header(path, tar_reader.BLOCK_DEVICE, status, -1)
        # Sockets have no meaning without the process that made them, and tar has no type for them.

    def _directory(self, visit: Visit, path: str) -> Iterator[bytes]:
        try:
            fd = os.open(visit.name, DIRECTORY, dir_fd=visit.directory)
        except OSError:
            return
        try:
            yield self._header(path + "/", tar_reader.DIRECTORY, os.fstat(fd), fd)
            if self._options.whiteouts and is_opaque(fd):
                yield self._mark(f"{path}/{OPAQUE}")
        finally:
            os.close(fd)

    def _file(self, visit: Visit, path: str) -> Iterator[bytes]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(visit.name, flags, dir_fd=visit.directory)
        except OSError:
            return
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            parts = _parts(fd, status) if self._options.holes else None
            if not self._is_wanted(path, status):
                parts = ()
            yield self._header(path, tar_reader.FILE, status, fd, parts=parts)
            length = 0
            for offset, count in ((0, status.st_size),) if parts is None else parts:
                os.lseek(fd, offset, os.SEEK_SET)
                length += count
                yield from _bytes_of(fd, count)
            yield tar_writer.padding(length)
        finally:
            os.close(fd)

    def _is_wanted(self, path: str, status: os.stat_result) -> bool:
        """Whether a file's contents are; those of one with several names in any case."""
        wanted = self._options.contents
        if wanted is None or status.st_size <= _SHORT or status.st_nlink > 1:
            return True
        place = path.removeprefix(self._options.prefix)
        return any(not each or f"{place}/".startswith(f"{each}/") for each in wanted)

    def _header(
        self,
        path: str,
        kind: str,
        status: os.stat_result,
        fd: int,
        *,
        link: str = "",
        parts: tuple[tuple[int, int], ...] | None = None,
    ) -> bytes:
        device = kind in (tar_reader.CHAR, tar_reader.BLOCK_DEVICE)
        return tar_writer.header(
            Entry(
                path,
                kind,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_size if kind is tar_reader.FILE else 0,
                self._mtime(status),
                link,
                os.major(status.st_rdev) if device else 0,
                os.minor(status.st_rdev) if device else 0,
                xattrs_of(fd) if fd >= 0 else {},
                parts,
            )
        )

    def _mtime(self, status: os.stat_result) -> int:
        mtime = status.st_mtime_ns
        if self._options.latest is not None:
            mtime = min(mtime, self._options.latest * 10**9)
        if self._options.whole_seconds:
            mtime -= mtime % 10**9
        return mtime

    def _mark(self, path: str) -> bytes:
        return tar_writer.header(
            Entry(path, tar_reader.FILE, 0o644, 0, 0, 0, 0, "", 0, 0, {}, None)
        )


def _bytes_of(fd: int, count: int) -> Iterator[bytes]:
    """`count` bytes from where the file stands, zeros after its end."""
    while count:
        piece = os.read(fd, min(count, _PIECE)) or bytes(min(count, _PIECE))
        count -= len(piece)
        yield piece


def _parts(fd: int, status: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """(offset, length) of what holds data; None for a file without holes worth the name.

    lseek(2): a file system that knows nothing of holes calls the whole file data.
    """
    size = status.st_size
    if size - status.st_blocks * 512 < _LEAST_HOLE:
        return None
    parts: list[tuple[int, int]] = []
    at = 0
    while at < size and len(parts) <= _MAX_PARTS:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # A hole up to the end.
            return None
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            parts.append((start, at - start))
    data = sum(length for _, length in parts)
    return tuple(parts) if len(parts) <= _MAX_PARTS and size - data >= _LEAST_HOLE else None


def xattrs_of(file: int | str) -> dict[str, bytes]:
    """The extended attributes that archives keep, of an open file or the one at a path."""
    try:
        names = os.listxattr(file)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found = {}
    for name in names:
        if name.startswith(_KEPT_XATTRS) and not name.startswith("user.overlay."):
            try:
                found[name] = os.getxattr(file, name)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
    return found
