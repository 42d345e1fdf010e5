"""Writing and reading tar archives through descriptors, never through a path twice.

Theory. A container may run and change its tree while it is copied. So a walk opens each folder
beneath its parent's descriptor without following links, and an entry of an archive is made in a
parent that was resolved beneath the container's root (openat2, RESOLVE_IN_ROOT). Names in an
archive are hostile: `..` and absolute links can go no higher than that root.
"""

import contextlib
import os
import posixpath
import stat
import tarfile
from collections.abc import Mapping
from typing import IO

from skerry.base.errors import InvalidInput, KernelFault, LimitExceeded
from skerry.kernel import descriptors

CHUNK = 128 * 1024
DEPTH = 400
"""Folders in folders; each takes two frames of Python's thousand and a descriptor."""
NAME_LIMIT = 4096
XATTR_PREFIX = "SCHILY.xattr."
"""PAX keyword for extended attributes, as GNU tar, star and Docker write them."""


def _xattrs(parent: int, name: str) -> dict[str, str]:
    path = f"/proc/self/fd/{parent}/{name}"
    result = {}
    with contextlib.suppress(OSError):
        for key in os.listxattr(path, follow_symlinks=False):
            if key.startswith(("user.", "security.capability")):
                value = os.getxattr(path, key, follow_symlinks=False)
                result[XATTR_PREFIX + key] = value.decode("utf-8", "surrogateescape")
    return result


class Writer:
    """Archives a tree into a stream."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._tar = tarfile.open(  # noqa: SIM115 - closed in close()
            mode="w|",
            fileobj=stream,
            format=tarfile.PAX_FORMAT,
            errors="surrogateescape",
            bufsize=CHUNK,
        )
        self._links: dict[tuple[int, int], str] = {}

    def close(self) -> None:
        """Write the end of the archive."""
        self._tar.close()

    def add(self, parent: int, name: str, inside: str, depth: int = 0) -> None:
        """Add what `name` in the folder `parent` is, as `inside`, with everything below it."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISSOCK(status.st_mode):
            return
        info = self._info(parent, name, inside, status)
        if info.isreg():
            self._add_file(parent, name, info)
        else:
            self._tar.addfile(info)
        if info.isdir():
            if depth >= DEPTH:
                raise LimitExceeded(f"folders deeper than {DEPTH}: {inside:.200}")
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=parent)
            try:
                self.add_children(fd, inside, depth + 1)
            finally:
                os.close(fd)

    def add_children(self, folder: int, inside: str, depth: int = 0) -> None:
        """Add everything in a folder, below the name `inside`."""
        for child in sorted(os.listdir(folder)):
            # Whatever vanishes while we look is as if it had gone before.
            with contextlib.suppress(FileNotFoundError):
                self.add(folder, child, f"{inside}/{child}" if inside else child, depth)

    def add_folder(self, folder: int, inside: str) -> None:
        """Add an open folder itself and everything in it."""
        status = os.fstat(folder)
        self._tar.addfile(self._info(folder, ".", inside, status))
        self.add_children(folder, inside.rstrip("/") if inside != "/" else "")

    def _info(self, parent: int, name: str, inside: str, status: os.stat_result) -> tarfile.TarInfo:
        info = tarfile.TarInfo(inside)
        info.mode = stat.S_IMODE(status.st_mode)
        info.uid, info.gid = status.st_uid, status.st_gid
        info.mtime = status.st_mtime_ns // 10**9
        mode = status.st_mode
        key = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(mode):
            info.type = tarfile.DIRTYPE
        elif key in self._links:
            info.type = tarfile.LNKTYPE
            info.linkname = self._links[key]
        elif stat.S_ISREG(mode):
            info.size = status.st_size
        elif stat.S_ISLNK(mode):
            info.type = tarfile.SYMTYPE
            info.linkname = os.readlink(name, dir_fd=parent)
        elif stat.S_ISFIFO(mode):
            info.type = tarfile.FIFOTYPE
        else:
            info.type = tarfile.CHRTYPE if stat.S_ISCHR(mode) else tarfile.BLKTYPE
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        if status.st_nlink > 1 and not stat.S_ISDIR(mode):
            self._links.setdefault(key, inside)
        if info.type in (tarfile.REGTYPE, tarfile.DIRTYPE):
            info.pax_headers = _xattrs(parent, name)
        return info

    def _add_file(self, parent: int, name: str, info: tarfile.TarInfo) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=parent)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            info.size = status.st_size
            self._tar.addfile(info, _Exactly(file, info.size))


class _Exactly:
    """A file that has neither grown nor shrunk since its header was written: padded with zeros."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        want = self._left if size < 0 else min(size, self._left)
        data = self._file.read(want)
        if len(data) < want:
            data += bytes(want - len(data))
        self._left -= want
        return data


class Extraction:
    """Unpacks an archive into a folder of a container.

    `owner` overrides the archive's ids. `keep_kinds` refuses to put a file in the place of a
    folder and the other way round.
    """

    def __init__(
        self,
        root: int,
        target: str,
        *,
        owner: tuple[int, int] | None = None,
        keep_kinds: bool = False,
    ) -> None:
        self._root = root
        self._target = target
        self._owner = owner
        self._keep_kinds = keep_kinds
        self._folders: list[tuple[str, tarfile.TarInfo]] = []

    def run(self, stream: IO[bytes]) -> None:
        """Read to the end. InvalidInput for what is no archive."""
        try:
            with tarfile.open(
                mode="r|*", fileobj=stream, errors="surrogateescape", bufsize=CHUNK
            ) as tar:
                for info in tar:
                    self._one(tar, info)
                    # The module keeps every entry it has seen; a hostile archive has millions.
                    tar.members = []  # type: ignore[attr-defined]
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise InvalidInput(f"cannot unpack archive: {error}") from None
        # Times last: each entry made in a folder touches it.
        for path, info in reversed(self._folders):
            with contextlib.suppress(OSError, KernelFault):
                fd = descriptors.open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.utime(fd, (info.mtime, info.mtime))
                finally:
                    os.close(fd)

    def _one(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        if len(info.name) > NAME_LIMIT or len(info.linkname) > NAME_LIMIT:
            raise LimitExceeded(f"archive: name longer than {NAME_LIMIT} bytes")
        path = posixpath.normpath("/" + info.name.lstrip("/"))
        if path == "/":
            return
        full = posixpath.join(self._target, path[1:])
        head, name = posixpath.split(full)
        parent = descriptors.make_directories(self._root, head)
        try:
            self._make(tar, info, parent, name, full)
        except OSError as error:
            raise InvalidInput(f"cannot unpack {info.name!r:.200}: {error.strerror}") from None
        finally:
            os.close(parent)

    def _make(
        self, tar: tarfile.TarFile, info: tarfile.TarInfo, parent: int, name: str, full: str
    ) -> None:
        if not self._make_room(info, parent, name):
            self._attributes(info, parent, name)
            self._folders.append((full, info))
            return
        match info.type:
            case tarfile.DIRTYPE:
                os.mkdir(name, 0o700, dir_fd=parent)
                self._folders.append((full, info))
            case tarfile.SYMTYPE:
                os.symlink(info.linkname, name, dir_fd=parent)
            case tarfile.LNKTYPE:
                self._link(info, parent, name)
                return
            case tarfile.FIFOTYPE:
                os.mkfifo(name, 0o600, dir_fd=parent)
            case tarfile.CHRTYPE | tarfile.BLKTYPE:
                kind = stat.S_IFCHR if info.type == tarfile.CHRTYPE else stat.S_IFBLK
                device = os.makedev(info.devmajor, info.devminor)
                os.mknod(name, kind | 0o600, device, dir_fd=parent)
            case _ if info.isreg():
                self._file(tar, info, parent, name)
            case _:
                return
        self._attributes(info, parent, name)

    def _make_room(self, info: tarfile.TarInfo, parent: int, name: str) -> bool:
        """Remove what is in the way; False when a folder may stay as it is."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return True
        is_folder = stat.S_ISDIR(status.st_mode)
        if is_folder and info.isdir():
            return False
        if self._keep_kinds and is_folder != info.isdir():
            kind = "directory" if is_folder else "non-directory"
            raise InvalidInput(
                f"cannot overwrite {kind} {info.name!r:.200} with "
                f"{'directory' if info.isdir() else 'non-directory'}"
            )
        if is_folder:
            import shutil

            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
        return True

    def _file(self, tar: tarfile.TarFile, info: tarfile.TarInfo, parent: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        with os.fdopen(fd, "wb") as out:
            source = tar.extractfile(info)
            while source is not None and (data := source.read(CHUNK)):
                out.write(data)

    def _link(self, info: tarfile.TarInfo, parent: int, name: str) -> None:
        path = posixpath.normpath("/" + info.linkname.lstrip("/"))
        head, base = posixpath.split(posixpath.join(self._target, path[1:]))
        folder = descriptors.open_in_root(self._root, head, os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(base, name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(folder)

    def _attributes(self, info: tarfile.TarInfo, parent: int, name: str) -> None:
        uid, gid = self._owner or (info.uid, info.gid)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if info.type == tarfile.SYMTYPE:
            os.utime(name, (info.mtime, info.mtime), dir_fd=parent, follow_symlinks=False)
            return
        # After chown, which takes setuid bits away.
        path = f"/proc/self/fd/{parent}/{name}"
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                os.chmod(f"/proc/self/fd/{fd}", info.mode & 0o7777)
        finally:
            os.close(fd)
        for key, value in _pax(info).items():
            with contextlib.suppress(OSError):
                os.setxattr(path, key, value, follow_symlinks=False)
        if not info.isdir():
            os.utime(name, (info.mtime, info.mtime), dir_fd=parent, follow_symlinks=False)


def _pax(info: tarfile.TarInfo) -> dict[str, bytes]:
    headers: Mapping[str, str] = info.pax_headers
    return {
        key.removeprefix(XATTR_PREFIX): value.encode("utf-8", "surrogateescape")
        for key, value in headers.items()
        if key.startswith((XATTR_PREFIX + "user.", XATTR_PREFIX + "security.capability"))
    }
