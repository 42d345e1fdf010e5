"""Tar streams in and out of a tree that a container may change meanwhile: docker cp, export.

Paths resolve inside the given root (openat2 RESOLVE_IN_ROOT): no symbolic link leads out of it.
"""

import os
import posixpath
import stat
from collections.abc import Iterator
from typing import BinaryIO

from skerry.base.errors import InvalidInput, KernelFault, NotFound
from skerry.store.compression import decompressed, file_chunks
from skerry.store.extract import Extractor, Options
from skerry.store.pack import PackOptions, pack, pack_file
from skerry.store.paths import open_long
from skerry.store.tar_reader import DIRECTORY, HARDLINK, Entry, Limits, TarReader


def tar_stream(
    root_fd: int,
    path: str = "/",
    *,
    name: str | None = None,
    skip: frozenset[str] = frozenset(),
) -> Iterator[bytes]:
    """The file or tree at `path` as a tar archive; entries are named below `name`.

    `name` is the path's last component by default, and `.` for a whole root (docker export) or a
    path that ends in `/.`; `skip` are paths below it that are left out. NotFound when there is no
    such path: raised here, not while iterating.
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
    options = PackOptions(prefix=f"{name}/", top=True, skip=skip)
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
    replaces the archive's owners. Symbolic links on the way resolve as a process with that root
    would follow them; the directory itself stays as it is.
    """
    clean = posixpath.normpath("/" + path).strip("/")
    try:
        os.close(open_long(root_fd, clean or ".", os.O_RDONLY | os.O_DIRECTORY))
    except KernelFault as fault:
        if fault.errno == 20:
            raise InvalidInput("extraction point is not a directory") from None
        raise _missing(path, fault) from None
    what = "archive"
    chunks = decompressed(file_chunks(stream), what, limit=limits.size)
    options = Options(
        whiteouts=False,
        owners=owner is None,
        owner=owner or (0, 0),
        keep_kinds=no_overwrite_dir_non_dir,
    )
    reader = _Below(chunks, what, limits, clean)
    with Extractor(root_fd, reader, options) as extractor:
        extractor.run()


def extract_whole(
    stream: BinaryIO,
    directory: int,
    limits: Limits = Limits(),  # noqa: B008
) -> None:
    """Unpack a tar (plain or compressed) into an open directory, which takes on the archive's root.

    InvalidInput when the archive is broken or leads out of it.
    """
    what = "archive"
    chunks = decompressed(file_chunks(stream), what, limit=limits.size)
    reader = TarReader(chunks, what, limits)
    with Extractor(directory, reader, Options(whiteouts=False)) as extractor:
        extractor.run()


class _Below(TarReader):
    """The entries with their names below a directory; the archive's own root is left out."""

    def __init__(self, chunks: Iterator[bytes], what: str, limits: Limits, prefix: str) -> None:
        super().__init__(chunks, what, limits)
        self._prefix = f"{prefix}/" if prefix else ""

    def __iter__(self) -> Iterator[Entry]:
        for entry in super().__iter__():
            if not entry.name.strip("/."):
                if entry.kind is not DIRECTORY or ".." in entry.name:
                    raise InvalidInput(f"{self.what}: entry {entry.name!r:.200}: no place for it")
                continue
            link = entry.link
            if entry.kind is HARDLINK:
                link = self._prefix + link.lstrip("/")
            yield entry._replace(name=self._prefix + entry.name.lstrip("/"), link=link)


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
