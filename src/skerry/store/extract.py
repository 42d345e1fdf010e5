"""Unpacking an archive below a directory, however hostile the archive or the directory is.

Theory. Every entry names a parent and a last component. The parent is resolved by openat2 with
RESOLVE_IN_ROOT: symbolic links on the way are followed as a process with that root would, absolute
ones and `..` included, so no archive and nobody who changes the tree meanwhile leads us out. The
last component is then made by a call that never follows a link (O_EXCL, mkdirat, symlinkat, linkat
without AT_SYMLINK_FOLLOW), and its metadata is set through the descriptor or without following.
A name with a `..` component is refused; a leading `/` is dropped.

Directories get their times at the end, since making an entry changes its parent's. Descriptors of
parents are cached while they are certainly right: making new names cannot change how an existing
name resolves, replacing one can, so a replacement drops the cache.
"""

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from skerry.base.errors import InvalidInput, KernelFault, SkerryError, SystemFault
from skerry.store import tar_reader
from skerry.store.limits import Meter, free
from skerry.store.paths import open_long
from skerry.store.tar_reader import Entry, TarReader
from skerry.store.trees import remove_at
from skerry.store.whiteouts import OPAQUE, WHITEOUT_PREFIX, make_opaque, make_whiteout

_CACHED: Final = 128
_HOST_FAULTS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)
_XATTRS: Final = (
    "security.capability",
    "user.",
    "system.posix_acl_access",
    "system.posix_acl_default",
)
_ROOMY: Final = 1 << 10
"""Bytes of extended attributes that any file system has room for in a file."""

_ZEROS: Final = bytes(16 << 10)
"""Blocks of so many zeros, counted from the start of their file, become holes."""
_ZEROS_SIZE: Final = len(_ZEROS)
_LEAST_HOLED: Final = 64 << 10
"""Bytes of a file in which holes are looked for."""
_FREED_ASIDE: Final = 16 << 20
"""From this size on a file that is replaced is freed by a thread: ext4 needs half a second for
each gigabyte."""


class Options(NamedTuple):
    """How to unpack."""

    whiteouts: bool = True
    """Turn `.wh.` names into overlayfs's marks; for layers."""
    owners: bool = True
    """Give files the archive's owners; else the one below."""
    owner: tuple[int, int] = (0, 0)
    keep_kinds: bool = False
    """Refuse to put a directory in the place of a file, or the reverse."""


class Extractor:
    """Unpacks one archive below `root_fd`. Use in a `with` block; then `run` once."""

    def __init__(
        self,
        root_fd: int,
        reader: TarReader,
        options: Options = Options(),  # noqa: B008
        meter: Meter | None = None,
    ) -> None:
        """`meter` is told what is written, and may say that there is no more room."""
        self._meter = meter
        self._root = root_fd
        self._reader = reader
        self._options = options
        self._privileged = os.geteuid() == 0
        self._umask = _umask()
        self._cache: OrderedDict[str, int] = OrderedDict()
        self._times: dict[str, int] = {}
        self._hidden: set[str] = set()
        """Paths that a whiteout of this archive took away."""
        self.size = 0
        """Sum of the regular files' sizes so far."""
        self.entries = 0

    def run(self) -> None:
        """Unpack everything; InvalidInput, LimitExceeded or SystemFault name archive and entry."""
        for entry in self._reader:
            self.entries += 1
            try:
                self._unpack(entry)
            except (OSError, KernelFault) as error:
                raise self._error(entry, error) from None
        self._set_times()

    def __enter__(self) -> "Extractor":
        return self

    def __exit__(self, *exc: object) -> None:
        self._forget()

    def _error(self, entry: Entry, error: OSError | KernelFault) -> SkerryError:
        number = error.errno or 0
        message = f"{self._reader.what}: entry {entry.name!r:.200}: {os.strerror(number)}"
        if number in _HOST_FAULTS or (number == errno.EPERM and not self._privileged):
            return SystemFault(message)
        return InvalidInput(message)

    def _refuse(self, entry: Entry, reason: str) -> InvalidInput:
        return InvalidInput(f"{self._reader.what}: entry {entry.name!r:.200}: {reason}")

    def _path(self, entry: Entry, name: str) -> str:
        """`name` without a leading slash, empty and `.` components; refused when it has `..`."""
        if name and "/." not in name and "//" not in name and name[-1] != "/":
            if name[0] not in "./":
                return name
            if name.startswith("./"):
                return name[2:]
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._refuse(entry, f"the path {name!r:.200} leads out of the archive's root")
        return "/".join(parts)

    def _unpack(self, entry: Entry) -> None:
        path = self._path(entry, entry.name)
        if not path:
            if entry.kind is not tar_reader.DIRECTORY:
                raise self._refuse(entry, "only a directory can be the root")
            self._directory_metadata(self._root, "", entry)
            return
        above, _, name = path.rpartition("/")
        if self._options.whiteouts and name.startswith(WHITEOUT_PREFIX):
            self._whiteout(entry, above, name)
            return
        parent = self._parent(above)
        if entry.kind is tar_reader.DIRECTORY:
            self._directory(parent, path, name, entry)
            return
        try:
            self._make(parent, name, entry)
        except FileExistsError:
            if self._same_file(parent, name, path, entry):
                return
            self._clear(parent, path, name, entry)
            self._make(self._parent(above), name, entry)

    def _make(self, parent: int, name: str, entry: Entry) -> None:
        kind = entry.kind
        if kind is tar_reader.FILE:
            self._file(parent, name, entry)
            return
        if kind is tar_reader.HARDLINK:
            self._hard_link(parent, name, entry)
            return
        if kind is tar_reader.SYMLINK:
            if not entry.link:
                raise self._refuse(entry, "a symbolic link without a target")
            os.symlink(entry.link, name, dir_fd=parent)
        elif kind is tar_reader.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            type_ = stat.S_IFCHR if kind is tar_reader.CHAR else stat.S_IFBLK
            os.mknod(name, type_ | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
        self._metadata_without_descriptor(parent, name, entry)

    def _file(self, parent: int, name: str, entry: Entry) -> None:
        mode = entry.mode
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, mode & 0o777, dir_fd=parent)
        try:
            self.size += entry.size
            if entry.sparse is not None:
                self._sparse(fd, entry)
            elif entry.size >= _LEAST_HOLED:
                self._with_holes(fd, entry)
            elif entry.size:
                write = os.write
                for piece in self._reader.data():
                    done = write(fd, piece)
                    self._wrote(len(piece))
                    while done < len(piece):
                        done += write(fd, piece[done:])
            changed = self._owner(fd, entry)
            # chown(2) clears setuid and setgid, and a write may drop capabilities: both come after.
            if changed or mode & (self._umask | 0o7000):
                os.fchmod(fd, mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _wrote(self, size: int) -> None:
        if self._meter is not None:
            self._meter.wrote(size, self._reader.what)

    def _sparse(self, fd: int, entry: Entry) -> None:
        os.ftruncate(fd, entry.size)
        data = self._reader.data()
        piece = memoryview(b"")
        for offset, length in entry.sparse or ():
            while length:
                piece = piece or next(data)
                done = os.pwrite(fd, piece[:length], offset)
                self._wrote(done)
                piece = piece[done:]
                offset += done
                length -= done

    def _with_holes(self, fd: int, entry: Entry) -> None:
        """Write a file's data, but not its blocks of zeros: layers carry holes only as those."""
        os.ftruncate(fd, entry.size)
        at = 0
        for piece in self._reader.data():
            for start, end in _written(piece, at):
                done = start
                self._wrote(end - start)
                while done < end:
                    done += os.pwrite(fd, piece[done:end], at + done)
            at += len(piece)

    def _hard_link(self, parent: int, name: str, entry: Entry) -> None:
        target = self._path(entry, entry.link)
        if not target:
            raise self._refuse(entry, f"hard link to {entry.link!r:.200}")
        above, _, last = target.rpartition("/")
        try:
            source = self._open_directory(above)
        except KernelFault as fault:
            raise self._refuse(
                entry, f"hard link to {entry.link!r:.200}: {os.strerror(fault.errno)}"
            ) from None
        try:
            os.link(last, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise self._refuse(entry, f"hard link to missing {entry.link!r:.200}") from None
        except PermissionError:
            raise self._refuse(entry, f"hard link to {entry.link!r:.200} is not allowed") from None

    def _same_file(self, parent: int, name: str, path: str, entry: Entry) -> bool:
        """Whether a hard link's name and target are the same file already."""
        if entry.kind is not tar_reader.HARDLINK:
            return False
        target = self._path(entry, entry.link)
        if target == path:
            return True
        above, _, last = target.rpartition("/")
        try:
            status = os.stat(last, dir_fd=self._open_directory(above), follow_symlinks=False)
        except (OSError, KernelFault):
            return False
        return os.path.samestat(status, os.stat(name, dir_fd=parent, follow_symlinks=False))

    def _directory(self, parent: int, path: str, name: str, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self._clear(parent, path, name, entry)
                parent = self._parent(path.rpartition("/")[0])
                os.mkdir(name, 0o700, dir_fd=parent)
                self._opaque_if_hidden(parent, path, name)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=parent)
        self._remember(path, fd)
        self._directory_metadata(fd, path, entry)

    def _directory_metadata(self, fd: int, path: str, entry: Entry) -> None:
        self._owner(fd, entry)
        os.fchmod(fd, entry.mode)
        if entry.xattrs:
            self._set_xattrs(fd, entry)
        self._times[path] = entry.mtime_ns

    def _whiteout(self, entry: Entry, above: str, name: str) -> None:
        parent = self._parent(above)
        if name == OPAQUE:
            make_opaque(parent)
            return
        if name.startswith(OPAQUE.removesuffix("opq")):
            # Metadata of aufs (`.wh..wh.plnk` and others) means nothing elsewhere.
            return
        hidden = name.removeprefix(WHITEOUT_PREFIX)
        if hidden in ("", ".", ".."):
            raise self._refuse(entry, "a whiteout of no file")
        path = f"{above}/{hidden}" if above else hidden
        self._hidden.add(path)
        try:
            make_whiteout(parent, hidden)
        except FileExistsError:
            # A whiteout concerns lower layers only: what this layer brings stays, but alone.
            status = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._opaque_if_hidden(parent, path, hidden)

    def _opaque_if_hidden(self, parent: int, path: str, name: str) -> None:
        if path not in self._hidden:
            return
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=parent)
        try:
            make_opaque(fd)
        finally:
            os.close(fd)

    def _clear(self, parent: int, path: str, name: str, entry: Entry) -> None:
        """Make room for an entry whose name is taken by something else."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        was_directory = stat.S_ISDIR(status.st_mode)
        if self._options.keep_kinds and was_directory != (entry.kind is tar_reader.DIRECTORY):
            old, new = "directory", "non-directory"
            if not was_directory:
                old, new = new, old
            raise self._refuse(entry, f"cannot overwrite {old} with {new}")
        if was_directory:
            below = path + "/"
            for known in [p for p in self._times if p == path or p.startswith(below)]:
                del self._times[known]
        kept = -1
        if stat.S_ISREG(status.st_mode) and status.st_size >= _FREED_ASIDE:
            kept = _hold(parent, name, entry.size)
        try:
            remove_at(parent, name)
        finally:
            if kept >= 0:
                threading.Thread(target=os.close, args=(kept,)).start()
        if was_directory or stat.S_ISLNK(status.st_mode):
            self._forget()

    def _owner(self, fd: int, entry: Entry) -> bool:
        if not self._privileged:
            return False
        uid, gid = (entry.uid, entry.gid) if self._options.owners else self._options.owner
        if not uid and not gid:
            # New files are root's already, but a setgid directory hands its group on.
            status = os.fstat(fd)
            if not status.st_uid and not status.st_gid:
                return False
        os.fchown(fd, uid, gid)
        return True

    def _metadata_without_descriptor(self, parent: int, name: str, entry: Entry) -> None:
        """For what must not be opened: opening a device or FIFO has effects, a link cannot be."""
        if self._privileged:
            uid, gid = (entry.uid, entry.gid) if self._options.owners else self._options.owner
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        path_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            link = f"/proc/self/fd/{path_fd}"
            if entry.kind is not tar_reader.SYMLINK:
                if stat.S_ISLNK(os.fstat(path_fd).st_mode):
                    raise self._refuse(entry, "it was replaced meanwhile")
                os.chmod(link, entry.mode)
        finally:
            os.close(path_fd)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _set_xattrs(self, fd: int, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            # Others are the host's own: trusted.overlay.* would speak to overlayfs, SELinux labels
            # and IMA signatures to the host's policy.
            if not name.startswith(_XATTRS) or name.startswith("user.overlay."):
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                # ext4 has a block for all of a file's, and says that too as a full disk would.
                big = error.errno == errno.E2BIG or (
                    error.errno == errno.ENOSPC and sum(map(len, entry.xattrs.values())) > _ROOMY
                )
                if big:
                    raise self._refuse(
                        entry,
                        f"extended attribute {name!r:.80} is too large for "
                        "the file system of the root",
                    ) from None
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
            except ValueError as error:
                raise self._refuse(entry, f"extended attribute {name!r:.80}: {error}") from None

    def _parent(self, path: str) -> int:
        """A cached descriptor of the directory `path`, made with its parents when missing."""
        try:
            return self._open_directory(path)
        except KernelFault as fault:
            if fault.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
        return self._make_directories(path)

    def _make_directories(self, path: str) -> int:
        parent, at = self._root, 0
        while at <= len(path):
            end = path.find("/", at)
            end = len(path) if end < 0 else end
            part, name = path[:end], path[at:end]
            try:
                parent = self._open_directory(part)
            except KernelFault as fault:
                if fault.errno == errno.ENOTDIR and part in self._hidden:
                    os.unlink(name, dir_fd=parent)
                elif fault.errno != errno.ENOENT:
                    raise
                try:
                    os.mkdir(name, 0o755, dir_fd=parent)
                except FileExistsError:
                    # A symbolic link that leads nowhere: its target is not ours to make.
                    raise fault from None
                if self._umask & 0o755:
                    os.chmod(name, 0o755, dir_fd=parent)
                self._opaque_if_hidden(parent, part, name)
                parent = self._open_directory(part)
            at = end + 1
        return parent

    def _open_directory(self, path: str) -> int:
        if not path:
            return self._root
        fd = self._cache.get(path)
        if fd is not None:
            # Whoever works with a descriptor may need others meanwhile: it must not be the oldest.
            self._cache.move_to_end(path)
            return fd
        fd = open_long(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
        self._remember(path, fd)
        return fd

    def _remember(self, path: str, fd: int) -> None:
        old = self._cache.pop(path, None)
        if old is not None:
            os.close(old)
        self._cache[path] = fd
        if len(self._cache) > _CACHED:
            os.close(self._cache.popitem(last=False)[1])

    def _forget(self) -> None:
        for fd in self._cache.values():
            os.close(fd)
        self._cache.clear()

    def _set_times(self) -> None:
        for path, mtime in self._times.items():
            if not path:
                os.utime(self._root, ns=(mtime, mtime))
                continue
            above, _, name = path.rpartition("/")
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            # Gone or replaced by now: then its times do not matter.
            with suppress(OSError, KernelFault):
                fd = self._cache.get(path, -1)
                if fd >= 0:
                    os.utime(fd, ns=(mtime, mtime))
                    continue
                fd = os.open(name, flags, dir_fd=self._open_directory(above))
                try:
                    os.utime(fd, ns=(mtime, mtime))
                finally:
                    os.close(fd)


def _written(piece: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is not zeros in `piece`, which begins at `offset` of its file; borders
    are those of the file's blocks."""
    start = at = 0
    size = len(piece)
    while at < size:
        end = min(at + _ZEROS_SIZE - (offset + at) % _ZEROS_SIZE, size)
        # Most blocks of data show it at an end: comparing copies the block.
        if not piece[at] and not piece[end - 1] and piece[at:end].tobytes() == _ZEROS[: end - at]:
            if start < at:
                yield start, at
            start = end
        at = end
    if start < size:
        yield start, size


def _hold(parent: int, name: str, wanted: int) -> int:
    """A descriptor that keeps a file's bytes beyond its name; -1 when `wanted` bytes may need
    their room."""
    if free(parent)[0] < 2 * wanted:
        return -1
    try:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return -1


def _umask() -> int:
    """This process's umask; umask(2) itself cannot be read without changing it for all threads."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777
