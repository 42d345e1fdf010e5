"""Upload sessions: `uploads/<id>/{repository,data}`.

The offset is the file's size and nothing else, so a session goes on after a restart wherever it
was. The digest is computed while bytes come in; after a restart, or for another algorithm, once
more from the file.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator

from skerry.base.digests import Verifier
from skerry.registry.server import names
from skerry.registry.server.disk import Disk, entries, read_small, told
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Limits


class FileUpload:
    """One session. Not thread-safe: its lock is the HTTP side's."""

    def __init__(self, folder: str, id_: str, repository: str, limit: int) -> None:
        self.id = id_
        self.repository = repository
        self.folder = folder
        self.path = os.path.join(folder, "data")
        self.touched = time.monotonic()
        self._limit = limit
        self._fd = -1
        try:
            self.size = os.stat(self.path).st_size
        except FileNotFoundError:
            self.size = 0
        self._seen: Verifier | None = None if self.size else Verifier()

    def append(self, chunk: bytes) -> None:
        """Add bytes to the file and to the digest."""
        if self.size + len(chunk) > self._limit:
            raise Refusal("SIZE_INVALID", f"a blob of more than {self._limit} bytes", status=413)
        with told("store the upload"):
            if self._fd < 0:
                self._fd = os.open(
                    self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
                )
            view = memoryview(chunk)
            while view:
                written = os.write(self._fd, view)
                if self._seen is not None:
                    self._seen.update(view[:written])
                self.size += written
                view = view[written:]
        self.touched = time.monotonic()

    def digest(self, algorithm: str) -> str:
        """Of all that has come."""
        if self._seen is not None and self._seen.algorithm == algorithm:
            return self._seen.digest
        if not self.size:
            return Verifier(algorithm).digest
        with told("read the upload"), open(self.path, "rb", buffering=0) as file:
            return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"

    def ready(self, *, sync: bool) -> None:
        """Bring the bytes to the disk, before the file gets a name that promises them."""
        with told("store the upload"):
            if self._fd < 0:
                self._fd = os.open(
                    self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
                )
            if sync:
                os.fdatasync(self._fd)
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Uploads:
    """All open sessions. Thread-safe."""

    def __init__(self, disk: Disk, limits: Limits) -> None:
        self._disk = disk
        self._limits = limits
        self._root = os.path.join(disk.root, "uploads")
        self._open: dict[str, FileUpload] = {}
        self._lock = threading.Lock()
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        for id_ in entries(self._root):
            # A folder without its repository's name was being made or removed.
            if not read_small(os.path.join(self._root, id_, "repository")):
                shutil.rmtree(os.path.join(self._root, id_), ignore_errors=True)
        self._count = len(entries(self._root))

    def start(self, repository: str) -> FileUpload:
        """A new session. TOOMANYREQUESTS over the limit."""
        with self._lock:
            if self._count >= self._limits.uploads:
                raise Refusal(
                    "TOOMANYREQUESTS",
                    f"{self._count} uploads are open, no more are taken",
                    headers={"Retry-After": "10"},
                )
            self._count += 1
        id_ = os.urandom(16).hex()
        folder = os.path.join(self._root, id_)
        try:
            with told("start an upload"):
                os.mkdir(folder, 0o700)
                with open(os.path.join(folder, "repository"), "w", encoding="utf-8") as file:
                    file.write(repository)
        except Refusal:
            self._forget(id_)
            raise
        found = FileUpload(folder, id_, repository, self._limits.blob)
        with self._lock:
            self._open[id_] = found
        return found

    def find(self, repository: str, id_: str) -> FileUpload:
        """A session of this repository, or BLOB_UPLOAD_UNKNOWN."""
        names.upload_id(id_)
        with self._lock:
            found = self._open.get(id_)
            if found is None:
                folder = os.path.join(self._root, id_)
                owner = read_small(os.path.join(folder, "repository"))
                if owner:
                    found = FileUpload(folder, id_, owner, self._limits.blob)
                    self._open[id_] = found
        if found is None or found.repository != repository:
            raise Refusal("BLOB_UPLOAD_UNKNOWN", f"no such upload in {repository}: {id_}")
        return found

    def end(self, upload: FileUpload) -> None:
        """Forget a session; its file, if it is still there, goes too."""
        upload.close()
        self._forget(upload.id)

    def _forget(self, id_: str) -> None:
        folder = os.path.join(self._root, id_)
        with self._lock:
            self._open.pop(id_, None)
            self._count = max(0, self._count - 1)
        # First the name: without it the folder is debris, whatever happens next.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, "repository"))
        shutil.rmtree(folder, ignore_errors=True)

    def stale(self, age: float) -> Iterator[FileUpload]:
        """Sessions that nobody has touched for `age` seconds, by the clock or since the start."""
        for id_ in entries(self._root):
            folder = os.path.join(self._root, id_)
            owner = read_small(os.path.join(folder, "repository"))
            if not owner:
                continue
            with contextlib.suppress(OSError, Refusal):
                data = os.path.join(folder, "data")
                shown = data if os.path.exists(data) else folder
                if time.time() - os.stat(shown).st_mtime >= age:
                    yield self.find(owner, id_)
