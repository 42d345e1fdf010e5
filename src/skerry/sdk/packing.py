"""A folder as a build context: a tar stream, by the rules of .dockerignore.

Owners are root's, as Docker's client sends them, so that the same files make the same image
whoever builds. Headers are GNU's: a name is bytes of any length, whatever its encoding.
"""

from __future__ import annotations

import errno
import os
import stat

from skerry.base.errors import InvalidInput, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skerry.base.ignore import Matcher

_BLOCK = 512
_PIECE = 1 << 18
_SMALL = 1 << 20
"""Files of up to so many bytes are read at once."""
_OCTAL = 8**11


def rules_of(folder: str, dockerfile: str) -> list[str]:
    """The ignore patterns of a context: DOCKERFILE.dockerignore wins over .dockerignore."""
    for path in (f"{dockerfile}.dockerignore", os.path.join(folder, ".dockerignore")):
        try:
            with open(path, "rb") as file:
                from skerry.base import ignore

                return ignore.read(file.read(ignore.MAX_BYTES + 1))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    return []


def pack(
    folder: str,
    patterns: list[str] | None = None,
    *,
    keep: tuple[str, ...] = (),
    skipped: Callable[[str], None] | None = None,
) -> Iterator[bytes]:
    """The stream, in pieces. `keep` are paths that the engine needs whatever the rules say;
    `skipped` hears of sockets, which no archive can hold.

    Files that go meanwhile are left out. NotFound when there is no such folder, InvalidInput for
    what cannot be read, or becomes something else meanwhile.
    """
    if not os.path.isdir(folder):
        what = "is not a folder" if os.path.exists(folder) else "not found"
        raise NotFound(f"unable to prepare context: path {folder!r} {what}")
    return _Packer(folder, patterns or [], frozenset(keep), skipped).stream()


class _Packer:
    def __init__(
        self,
        folder: str,
        patterns: list[str],
        keep: frozenset[str],
        skipped: Callable[[str], None] | None,
    ) -> None:
        self._folder = folder
        self._matcher: Matcher | None = None
        if patterns:
            from skerry.base.ignore import compile_rules

            self._matcher = compile_rules(patterns)
        self._keep = keep
        self._skipped = skipped
        self._links: dict[tuple[int, int], str] = {}
        self._ready: list[bytes] = []
        self._size = 0

    def stream(self) -> Iterator[bytes]:
        for path, status in self._walk():
            yield from self._entry(path, status)
        self._put(bytes(2 * _BLOCK))
        yield b"".join(self._ready)

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """What goes along, parents first, in the order of names."""
        # Folders that are left out themselves but may hold exceptions come with the first of them.
        waiting: list[tuple[str, list[tuple[str, os.stat_result]]]] = [("", [])]
        while waiting:
            folder, pending = waiting.pop()
            below = []
            for entry in self._entries(folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                status = self._status(entry, path)
                if status is None:
                    continue
                is_directory = stat.S_ISDIR(status.st_mode)
                if self._out(path, is_directory=is_directory):
                    if is_directory and not self._closed(path):
                        below.append((path, [*pending, (path, status)]))
                    continue
                yield from pending
                pending.clear()
                yield path, status
                if is_directory:
                    below.append((path, []))
            waiting.extend(reversed(below))

    def _out(self, path: str, *, is_directory: bool) -> bool:
        return (
            self._matcher is not None
            and path not in self._keep
            and self._matcher.excluded(path, is_directory)
        )

    def _closed(self, path: str) -> bool:
        """Whether nothing below a directory that is left out goes along."""
        if self._matcher is not None and not self._matcher.prunable(path):
            return False
        return not any(each.startswith(f"{path}/") for each in self._keep)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self._folder, folder)) as found:
                return sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []  # it has just gone
        except OSError as error:
            raise self._unreadable(folder or ".", error) from None

    def _status(self, entry: os.DirEntry[str], path: str) -> os.stat_result | None:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(path, error) from None
        if stat.S_ISSOCK(status.st_mode):
            if self._skipped:
                self._skipped(path)
            return None
        return status

    def _entry(self, path: str, status: os.stat_result) -> Iterator[bytes]:
        mode = status.st_mode
        if stat.S_ISREG(mode):
            yield from self._file(path)
        elif stat.S_ISDIR(mode):
            self._head(f"{path}/", status, b"5")
        elif stat.S_ISLNK(mode):
            try:
                target = os.readlink(os.path.join(self._folder, path))
            except FileNotFoundError:
                return
            except OSError as error:
                raise self._unreadable(path, error) from None
            self._head(path, status, b"2", link=target)
        elif stat.S_ISFIFO(mode):
            self._head(path, status, b"6")
        else:
            raise InvalidInput(
                f"{path!r:.200} is a device: it cannot be in a build context",
                hint="leave it out in .dockerignore",
            )
        if self._size >= _PIECE:
            yield self._taken()

    def _file(self, path: str) -> Iterator[bytes]:
        try:
            fd = os.open(
                os.path.join(self._folder, path),
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            )
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(path, error) from None
        try:
            # Another file may have been put there since the folder was read.
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise self._changed(path)
            if status.st_nlink > 1:
                first = self._links.setdefault((status.st_dev, status.st_ino), path)
                if first != path:
                    self._head(path, status, b"1", link=first)
                    return
            yield from self._content(path, fd, status)
        except OSError as error:
            raise self._unreadable(path, error) from None
        finally:
            os.close(fd)

    def _content(self, path: str, fd: int, status: os.stat_result) -> Iterator[bytes]:
        left = status.st_size
        self._head(path, status, b"0", size=left)
        while left:
            data = os.read(fd, min(left, _SMALL))
            if not data:
                raise self._changed(path)
            left -= len(data)
            self._put(data)
            if self._size >= _PIECE:
                yield self._taken()
        if status.st_size % _BLOCK:
            self._put(bytes(_BLOCK - status.st_size % _BLOCK))

    def _head(
        self, name: str, status: os.stat_result, kind: bytes, *, size: int = 0, link: str = ""
    ) -> None:
        raw, target = os.fsencode(name), os.fsencode(link)
        if len(target) > 100:
            self._long(target, b"K")
        if len(raw) > 100:
            self._long(raw, b"L")
        mode = stat.S_IMODE(status.st_mode)
        self._put(header(raw[:100], mode, size, int(status.st_mtime), kind, target[:100]))

    def _long(self, text: bytes, kind: bytes) -> None:
        """GNU's @LongLink in front of an entry whose name or target is too long for its header."""
        self._put(header(b"././@LongLink", 0, len(text) + 1, 0, kind, b""))
        self._put(text + bytes(_BLOCK - len(text) % _BLOCK))

    def _put(self, data: bytes) -> None:
        self._ready.append(data)
        self._size += len(data)

    def _taken(self) -> bytes:
        data = b"".join(self._ready)
        self._ready, self._size = [], 0
        return data

    def _unreadable(self, path: str, error: OSError) -> InvalidInput:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            return self._changed(path)
        return InvalidInput(
            f"cannot read {path!r:.200} of the build context: {error.strerror}",
            hint="leave it out in .dockerignore, or change who may read it",
        )

    def _changed(self, path: str) -> InvalidInput:
        return InvalidInput(
            f"{path!r:.200} of the build context changed while it was read",
            hint="leave it out in .dockerignore, or build when nobody writes there",
        )


def header(name: bytes, mode: int, size: int, time: int, kind: bytes, link: bytes) -> bytes:
    """One block in GNU's format (tar.h, `struct posix_header` with `OLDGNU_MAGIC`), owner root."""
    length = b"%011o\0" % size if size < _OCTAL else b"\x80" + size.to_bytes(11, "big")
    block = b"%-s%b%07o\x000000000\x000000000\x00%b%011o\x00        %b%b%bustar  \x00" % (
        name, bytes(100 - len(name)), mode, length, max(0, time) % _OCTAL, kind, link,
        bytes(100 - len(link)),
    )  # fmt: skip
    block += bytes(_BLOCK - len(block))
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def single(name: str, data: bytes) -> bytes:
    """A whole archive of one file."""
    head = header(os.fsencode(name)[:100], 0o644, len(data), 0, b"0", b"")
    return head + data + bytes(-len(data) % _BLOCK + 2 * _BLOCK)
