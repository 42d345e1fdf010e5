"""Tar streams in and out of a tree that a container may change meanwhile: docker cp, export.

Paths resolve inside the given root (openat2 RESOLVE_IN_ROOT): no symbolic link leads out of it.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple


class PathStat(NamedTuple):
    """Docker's X-Docker-Container-Path-Stat: `mode` in Go's os.FileMode bits, `mtime` RFC 3339."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str


def path_stat(root_fd: int, path: str) -> PathStat:
    """About one path, not following a final symbolic link; NotFound."""
    raise NotImplementedError


def tar_stream(root_fd: int, path: str = "/", *, name: str | None = None) -> Iterator[bytes]:
    """The file or tree at `path` as a tar archive; entries are named below `name`.

    `name` is the path's last component by default and empty (entries `./…` without the top folder)
    for a whole root: docker export. NotFound when there is no such path.
    """
    raise NotImplementedError


def extract_tar(
    stream: BinaryIO,
    root_fd: int,
    path: str = "/",
    *,
    no_overwrite_dir_non_dir: bool = False,
    copy_uid_gid: bool = True,
) -> None:
    """Unpack a tar (plain, gzip or zstd) into the existing directory `path` below the root.

    NotFound when there is no such directory, InvalidInput when the archive is broken or when
    `no_overwrite_dir_non_dir` is set and a directory would replace a file or the reverse.
    """
    raise NotImplementedError
