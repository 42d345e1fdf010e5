"""Blobs by digest, in an OCI image layout: `<root>/blobs/sha256/<hex>`.

A blob is written to `tmp/` while it is hashed, and renamed into place when it is whole and
verified. It reaches the disk for good (`flush`) before an image that needs it is recorded, while
its layer is being unpacked; a power cut before that may leave a name without content, so what no
image refers to is put away when the store is opened.
"""

import os
from asyncio import CancelledError
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Final

from skerry.base.digests import Verifier, hex_of
from skerry.base.errors import (
    InvalidInput,
    NotFound,
    RegistryRateLimited,
    RegistryUnreachable,
)
from skerry.store.faults import told
from skerry.store.leases import Leases
from skerry.store.limits import DEFAULT, Room
from skerry.store.partials import Partials
from skerry.store.scratch import Scratch

_READ: Final = 1 << 20
_CUT: Final = (CancelledError, RegistryUnreachable, RegistryRateLimited)
LAYOUT_VERSION: Final = b'{"imageLayoutVersion":"1.0.0"}'


class Blobs:
    """Content-addressed files. Thread-safe."""

    def __init__(
        self, root: str, scratch: Scratch, leases: Leases, reserve: int = DEFAULT.reserve
    ) -> None:
        self.room = Room(root, reserve)
        self._scratch = scratch
        self._leases = leases
        self.partials = Partials(root)
        self._folder = os.path.join(root, "blobs", "sha256")
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        layout = os.path.join(root, "oci-layout")
        if not os.path.exists(layout):
            write_atomically(layout, LAYOUT_VERSION, scratch)

    def path(self, digest: str) -> str:
        """Where the blob is or would be."""
        if not digest.startswith("sha256:"):
            raise InvalidInput(f"{digest:.100}: only sha256 digests can be stored")
        return os.path.join(self._folder, hex_of(digest))

    def has(self, digest: str) -> bool:
        """Whether the blob is here; if so it outlives the leases that are held now."""
        with self._leases.lock:
            found = os.path.exists(self.path(digest))
            if found:
                self._leases.touch(digest)
        return found

    def size(self, digest: str) -> int:
        """Bytes, or NotFound."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise NotFound(f"no such blob: {digest}") from None

    def open(self, digest: str) -> BinaryIO:
        """The blob's content, unbuffered; the caller closes. NotFound when it is not here."""
        try:
            return open(self.path(digest), "rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"no such blob: {digest}") from None

    def read(self, digest: str, limit: int = 8 << 20) -> bytes:
        """A small blob's content, verified; InvalidInput when it is over `limit` bytes."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidInput(f"blob {digest}: more than {limit} bytes")
        seen = Verifier()
        seen.update(data)
        seen.check(digest, what=f"blob {digest}")
        return data

    def ingest(self, digest: str = "") -> "Writer":
        """A writer for one new blob, to be used in a `with` block.

        With the `digest` that it will have, the writer goes on behind what an earlier one left.
        """
        path = self.partials.take(hex_of(digest)) if digest else self._scratch.path("blob")
        return Writer(self, path, self._leases, keep=bool(digest))

    def flush(self, digests: Iterable[str]) -> None:
        """Return when these blobs and their names would outlive a power cut."""
        with told("flush blobs to the disk"):
            for digest in digests:
                with self.open(digest) as file:
                    os.fdatasync(file.fileno())
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def put(self, data: bytes) -> str:
        """Store a small document; its digest."""
        with self.ingest() as writer:
            writer.write(data)
            return writer.commit()

    def discard(self, digest: str) -> None:
        """Move a blob to the trash; for removals and the collector, which hold the lock."""
        self._scratch.discard(self.path(digest))

    def all(self) -> list[str]:
        """The digests of all blobs, in order."""
        return [f"sha256:{name}" for name in sorted(os.listdir(self._folder))]


class Writer:
    """A blob on its way in. Leaving the `with` block without `commit` leaves nothing behind, unless
    the registry that it came from went away, or the client did: then a later writer of the same
    digest goes on from here."""

    def __init__(self, blobs: Blobs, path: str, leases: Leases, *, keep: bool = False) -> None:
        self._blobs = blobs
        self._keep = keep
        self._room = blobs.room.meter()
        self._leases = leases
        self.path = path
        """The temporary file, until `commit`."""
        self._seen = Verifier()
        with told("store a blob"):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            while piece := os.read(self._fd, _READ):
                self._seen.update(piece)
        self.resumed = self.size
        """Bytes that were there before."""

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._seen.size

    def write(self, chunk: bytes | memoryview) -> int:
        """Append; the number of bytes, as files do. SystemFault when there is no room."""
        self._room.wrote(len(chunk), "store a blob")
        self._seen.update(chunk)
        view = memoryview(chunk)
        with told("store a blob"):
            while view:
                view = view[os.write(self._fd, view) :]
        return len(chunk)

    def commit(self, digest: str | None = None, size: int | None = None) -> str:
        """Verify against what was declared and give it its name; the digest.

        DigestMismatch when they are others than declared. Storing what is there already is fine.
        """
        if digest is not None:
            self._seen.check(digest, size, what="blob")
        target = self._blobs.path(self._seen.digest)
        with self._leases.lock:
            self._leases.touch(self._seen.digest)
            known = os.path.exists(target)
        if not known:
            os.rename(self.path, target)
        return self._seen.digest

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._keep and kind is not None and issubclass(kind, _CUT):
                self._blobs.partials.put_back(self.path)
                return
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                return


def write_atomically(path: str, data: bytes, scratch: Scratch) -> None:
    """Replace a small file: a reader sees the old content or the new, also after a crash."""
    temporary = scratch.path("file")
    with told(f"write {path}"):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fdatasync(fd)
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
