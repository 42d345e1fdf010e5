"""Small files on a disk that may lose power: write aside, sync, rename, sync the folder.

`Disk(sync=False)` leaves the syncs out: what was acknowledged still outlives a kill of the process
(the page cache does), no longer a power cut.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator

from skerry.registry.server.refusals import Refusal

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


@contextlib.contextmanager
def told(action: str) -> Iterator[None]:
    """Turn the host's refusal into an answer: a full disk is 507, all else the server's fault."""
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        raise Refusal(
            "UNAVAILABLE" if full else "UNKNOWN",
            f"cannot {action}: {error.strerror}",
            status=507 if full else 500,
        ) from error


class Disk:
    """Atomic writes below one root. Thread-safe."""

    def __init__(self, root: str, *, sync: bool = True) -> None:
        self.root = root
        self.sync = sync
        self._tmp = os.path.join(root, "tmp")
        self._lock = threading.Lock()
        self._count = 0
        os.makedirs(self._tmp, mode=0o700, exist_ok=True)
        for left in os.listdir(self._tmp):
            os.unlink(os.path.join(self._tmp, left))

    def temporary(self) -> str:
        """A path of its own, on the same file system."""
        with self._lock:
            self._count += 1
            return os.path.join(self._tmp, str(self._count))

    def folder(self, path: str) -> None:
        """Make a folder and what is missing above it, for good."""
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(each, 0o700)
        for each in missing:
            self.settle(os.path.dirname(each))

    def write(self, path: str, data: bytes) -> None:
        """Replace a file; the caller settles its folder. Readers see the old or the new content."""
        self.folder(os.path.dirname(path))
        temporary = self.temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if self.sync:
                os.fdatasync(fd)
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)

    def settle(self, *folders: str) -> None:
        """Return when the folders' entries would outlive a power cut."""
        if not self.sync:
            return
        for folder in folders:
            try:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # a collector or a delete was faster
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def read_small(path: str, limit: int = 4096) -> str:
    """A small text file's content, or empty when it is not there."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(limit).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def entries(folder: str) -> list[str]:
    """Names in a folder; none when it is not there."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


class Stripes:
    """A fixed number of locks for any number of keys."""

    def __init__(self, count: int = 64) -> None:
        self._locks = [threading.RLock() for _ in range(count)]

    def of(self, key: str) -> threading.RLock:
        """The key's lock; another key may have the same one."""
        return self._locks[hash(key) % len(self._locks)]
