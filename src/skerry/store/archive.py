"""Tar streams in and out of a tree that a container may change meanwhile: docker cp, export.

Paths resolve inside the given root (openat2 RESOLVE_IN_ROOT): no symbolic link leads out of it.
"""

import datetime
import os
import posixpath
import stat
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from skerry.base.errors import InvalidInput, KernelFault, NotFound
from skerry.store.compression import decompressed, file_chunks
from skerry.store.extract import Extractor, Options
from skerry.store.pack import PackOptions, pack, pack_file
from skerry.store.paths import open_long
from skerry.store.tar_reader import Limits, TarReader

_GO_DIRECTORY: Final = 1 << 31
_GO_SYMLINK: Final = 1 << 27
_GO_DEVICE: Final = 1 << 26
_GO_FIFO: Final = 1 << 25
_GO_SOCKET: Final = 1 << 24
_GO_SETUID: Final = 1 << 23
_GO_SETGID: Final = 1 << 22
_GO_CHAR: Final = 1 << 21
_GO_STICKY: Final = 1 << 20


class PathStat(NamedTuple):
    """Docker's X-Docker-Container-Path-Stat: `mode` in Go's os.FileMode bits, `mtime` RFC 3339."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str


def go_mode(mode: int) -> int:
    """A st_mode as Go's os.FileMode (its io/fs documentation lists the bits)."""
    kinds = {
        stat.S_IFDIR: _GO_DIRECTORY,
        stat.S_IFLNK: _GO_SYMLINK,
        stat.S_IFBLK: _GO_DEVICE,
        stat.S_IFCHR: _GO_DEVICE | _GO_CHAR,
        stat.S_IFIFO: _GO_FIFO,
        stat.S_IFSOCK: _GO_SOCKET,
    }
    result = (mode & 0o777) | kinds.get(stat.S_IFMT(mode), 0)
    for bit, go in (
        (stat.S_ISUID, _GO_SETUID),
        (stat.S_ISGID, _GO_SETGID),
        (stat.S_ISVTX, _GO_STICKY),
    ):
        if mode & bit:
            result |= go
    return result


def path_stat(root_fd: int, path: str) -> PathStat:
    """About one path, not following a final symbolic link; NotFound."""
    parent, name = _split(root_fd, path)
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        target = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else ""
    except OSError as error:
        raise _missing(path, error) from None
    finally:
        os.close(parent)
    moment = datetime.datetime.fromtimestamp(status.st_mtime_ns // 10**9, datetime.UTC)
    return PathStat(
        posixpath.basename(posixpath.normpath("/" + path)) or "/",
        status.st_size,
        go_mode(status.st_mode),
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        target,
    )


def tar_stream(root_fd: int, path: str = "/", *, name: str | None = None) -> Iterator[bytes]:
    """The file or tree at `path` as a tar archive; entries are named below `name`.

    `name` is the path's last component by default, and `.` for a whole root (docker export) or a
    path that ends in `/.`. NotFound when there is no such path: raised here, not while iterating.
    """
    parent, last = _split(root_fd, path)
    try:
        status = os.stat(last, dir_fd=parent, follow_symlinks=False)
        if name is None:
            inner = path.endswith("/.") or path in ("", "/", ".")
            name = "." if inner else last
        if not stat.S_ISDIR(status.st_mode):
            return _closing(parent, pack_file(parent, last, name))
        directory = os.open(
            last, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
        )
    except OSError as error:
        os.close(parent)
        raise _missing(path, error) from None
    os.close(parent)
    options = PackOptions(prefix=f"{name}/", top=name != ".")
    if name == ".":
        options = PackOptions(prefix="./", top=True)
    return _closing(directory, pack(directory, options))


def extract_tar(
    stream: BinaryIO,
    root_fd: int,
    path: str = "/",
    *,
    no_overwrite_dir_non_dir: bool = False,
    owner: tuple[int, int] | None = None,
    limits: Limits = Limits(),  # noqa: B008
) -> None:
    """Unpack a tar (plain or compressed) into the existing directory `path` below the root.

    NotFound when there is no such directory, InvalidInput when the archive is broken or when
    `no_overwrite_dir_non_dir` is set and a directory would replace a file or the reverse. `owner`
    replaces the archive's owners. A symbolic link inside the archive or the directory resolves with
    `path` as its root.
    """
    try:
        directory = open_long(root_fd, path.strip("/") or ".", os.O_RDONLY | os.O_DIRECTORY)
    except KernelFault as fault:
        if fault.errno == 20:
            raise InvalidInput("extraction point is not a directory") from None
        raise _missing(path, fault) from None
    try:
        what = "archive"
        chunks = decompressed(file_chunks(stream), what, limit=limits.size)
        options = Options(
            whiteouts=False,
            owners=owner is None,
            owner=owner or (0, 0),
            keep_kinds=no_overwrite_dir_non_dir,
        )
        with Extractor(directory, TarReader(chunks, what, limits), options) as extractor:
            extractor.run()
    finally:
        os.close(directory)


def _split(root_fd: int, path: str) -> tuple[int, str]:
    """An open descriptor of the parent directory, and the last component (`.` for the root)."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = posixpath.normpath("/" + "/".join(parts)).strip("/").split("/")
    above, name = "/".join(parts[:-1]), parts[-1] if parts and parts[-1] else "."
    if path.endswith(("/", "/.")) and name != ".":
        # A trailing slash follows a symbolic link at the end.
        above, name = f"{above}/{name}".strip("/"), "."
    try:
        return open_long(root_fd, above or ".", os.O_RDONLY | os.O_DIRECTORY), name
    except KernelFault as fault:
        raise _missing(path, fault) from None


def _missing(path: str, error: OSError | KernelFault) -> NotFound:
    return NotFound(f"no such path: {path!r:.300}: {os.strerror(error.errno or 0)}")


def _closing(fd: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    def run() -> Iterator[bytes]:
        try:
            yield from chunks
        finally:
            os.close(fd)

    return run()
