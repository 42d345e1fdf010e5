"""Unpack a tar stream that a container has written onto the host.

The stream is hostile: its author controls every name, link and type in it. So names are resolved
one component at a time below a descriptor of the destination, and no symbolic link, whether it
was there before or came with the stream, is ever followed. What would be dangerous to make (set-id
bits, devices) is left out unless the caller asks for an archive's fidelity.
"""

from __future__ import annotations

import os
import stat

from skerry.base.errors import InvalidInput, LimitExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator

MAX_DEPTH = 256
"""Components of a name."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ChunkFile:
    """A readable file over pieces of bytes, for tarfile's stream mode."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self.count = 0
        """Bytes read so far."""

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer only at the end."""
        parts = [self._rest]
        have = len(self._rest)
        while size < 0 or have < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        data = b"".join(parts)
        end = len(data) if size < 0 else size
        self._rest = data[end:]
        self.count += len(data[:end])
        return data[:end]


class Unpacker:
    """Unpacks below one directory."""

    def __init__(self, directory: str, *, archive: bool = False) -> None:
        """`archive` keeps owners, set-id bits and devices as they are (cp -a, for root)."""
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._archive = archive
        self._times: list[tuple[list[str], tarfile.TarInfo]] = []
        self.made = 0

    def close(self) -> None:
        """Idempotent."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def unpack(self, file: ChunkFile, *, base: str, name: str) -> None:
        """Every entry below `base` of the stream, with `base` renamed to `name`.

        An empty `name` puts what `base` holds right into the directory. InvalidInput for a stream
        that is no tar archive or that reaches out.
        """
        import tarfile

        try:
            with tarfile.open(fileobj=file, mode="r|", errorlevel=2) as stream:  # type: ignore[call-overload]
                for entry in stream:
                    parts = self._renamed(entry.name, base, name)
                    if parts is not None:
                        self._make(stream, entry, parts, base, name)
        except tarfile.TarError as error:
            raise InvalidInput(f"what the engine sent is no tar archive: {error}") from None
        # Writing into a folder changes its time, so theirs are set at the end, the deepest first.
        for parts, entry in reversed(self._times):
            self._set_time(parts, entry)

    def _renamed(self, path: str, base: str, name: str) -> list[str] | None:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in path:
            raise InvalidInput(f"an entry of the archive reaches out: {path!r:.200}")
        if len(parts) > MAX_DEPTH:
            raise LimitExceeded(f"a name of over {MAX_DEPTH} components: {path!r:.80}…")
        if base:
            if parts[:1] != [base]:
                raise InvalidInput(f"an entry of the archive is not below {base}: {path!r:.200}")
            parts = parts[1:]
        if name:
            parts = [name, *parts]
        return parts or None

    def _open_parent(self, parts: list[str]) -> int:
        """A descriptor of the entry's folder; missing ones are made."""
        fd = os.dup(self._root)
        try:
            for part in parts[:-1]:
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    os.mkdir(part, 0o755, dir_fd=fd)
                    below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
        except OSError as error:
            os.close(fd)
            where = "/".join(parts)
            raise InvalidInput(f"cannot unpack {where!r:.200}: {error.strerror}") from None
        return fd

    def _make(
        self,
        stream: tarfile.TarFile,
        entry: tarfile.TarInfo,
        parts: list[str],
        base: str,
        name: str,
    ) -> None:
        parent = self._open_parent(parts)
        leaf = parts[-1]
        try:
            if entry.isdir():
                self._directory(parent, leaf, entry)
                self._times.append((parts, entry))
            else:
                self._clear(parent, leaf)
                if entry.isreg():
                    self._file(stream, parent, leaf, entry)
                elif entry.issym():
                    os.symlink(entry.linkname, leaf, dir_fd=parent)
                    self._own(parent, leaf, entry)
                elif entry.islnk():
                    self._link(parent, leaf, entry, base, name)
                elif entry.isfifo():
                    os.mkfifo(leaf, entry.mode & 0o777, dir_fd=parent)
                elif self._archive and (entry.ischr() or entry.isblk()):
                    kind = stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
                    device = os.makedev(entry.devmajor, entry.devminor)
                    os.mknod(leaf, kind | (entry.mode & 0o777), device, dir_fd=parent)
            self.made += 1
        except OSError as error:
            where = "/".join(parts)
            raise InvalidInput(f"cannot unpack {where!r:.200}: {error.strerror}") from None
        finally:
            os.close(parent)

    def _clear(self, parent: int, leaf: str) -> None:
        """Make room: a folder in the way is an error, anything else goes."""
        try:
            status = os.lstat(leaf, dir_fd=parent)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            raise InvalidInput(f"cannot overwrite the folder {leaf!r} with something else")
        os.unlink(leaf, dir_fd=parent)

    def _directory(self, parent: int, leaf: str, entry: tarfile.TarInfo) -> None:
        try:
            os.mkdir(leaf, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(leaf, dir_fd=parent).st_mode):
                raise
        fd = os.open(leaf, _DIRECTORY, dir_fd=parent)
        try:
            if self._archive:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode & (0o7777 if self._archive else 0o1777))
        finally:
            os.close(fd)

    def _file(
        self, stream: tarfile.TarFile, parent: int, leaf: str, entry: tarfile.TarInfo
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=parent)
        try:
            source = stream.extractfile(entry)
            while source and (data := source.read(1 << 18)):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            if self._archive:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode & (0o7777 if self._archive else 0o777))
            os.utime(fd, (entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _link(self, parent: int, leaf: str, entry: tarfile.TarInfo, base: str, name: str) -> None:
        target = self._renamed(entry.linkname, base, name)
        if target is None:
            raise InvalidInput(f"a hard link to nothing: {leaf!r:.200}")
        other = self._open_parent(target)
        try:
            # A link to a symbolic link that was here before must not reach what that points to.
            if not stat.S_ISREG(os.lstat(target[-1], dir_fd=other).st_mode):
                raise InvalidInput(f"a hard link to something that is no file: {leaf!r:.200}")
            os.link(target[-1], leaf, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(other)

    def _own(self, parent: int, leaf: str, entry: tarfile.TarInfo) -> None:
        if self._archive:
            os.chown(leaf, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)

    def _set_time(self, parts: list[str], entry: tarfile.TarInfo) -> None:
        parent = self._open_parent(parts)
        try:
            times = (entry.mtime, entry.mtime)
            os.utime(parts[-1], times, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return
        finally:
            os.close(parent)
