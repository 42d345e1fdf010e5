"""A blob that is read while it still comes in, so that a layer is unpacked while it downloads.

The writer (whoever downloads) appends to a temporary file and is never held up by readers; a reader
follows the growing file and waits where it ends. A reader's stream ends only after the whole blob
was verified and has its name: what it unpacked before is published by nobody when that fails.
"""

import os
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from skerry.base.errors import SystemFault
from skerry.store.blobs import Blobs
from skerry.store.faults import told

_READ: Final = 512 << 10


class Arrival:
    """One blob on its way in. Use in a `with` block; leaving it before `commit` ends all readers.

    `write` and `commit` belong to one thread at a time, `chunks` to others.
    """

    def __init__(self, blobs: Blobs, digest: str) -> None:
        """It goes on behind what an earlier arrival of `digest` has left."""
        self._blobs = blobs
        self._writer = blobs.ingest(digest)
        with told("read a blob that comes in"):
            self._fd = os.open(self._writer.path, os.O_RDONLY | os.O_CLOEXEC)
        self._changed = threading.Condition()
        self._size = self._writer.size
        self._done = False
        self._failed: SystemFault | None = None
        self.taken = 0
        """Bytes that the last reader has taken so far."""

    @property
    def size(self) -> int:
        """Bytes that have come in so far."""
        return self._size

    @property
    def resumed(self) -> int:
        """Bytes that were here before."""
        return self._writer.resumed

    @property
    def committed(self) -> bool:
        """Whether the whole blob is here and verified."""
        return self._done

    def write(self, chunk: bytes | memoryview) -> None:
        """Append. SystemFault when the disk refuses."""
        self._writer.write(chunk)
        with self._changed:
            self._size = self._writer.size
            self._changed.notify_all()

    def commit(self, digest: str, size: int, *, lasting: bool = True) -> None:
        """Verify, reach the disk, take the blob's name; then readers come to their end.

        What is not to be `lasting` is not waited for on its way to the disk.

        DigestMismatch when it is not what was declared; readers fail then.
        """
        try:
            self._writer.commit(digest, size)
            if lasting:
                self._blobs.flush([digest])
        except BaseException:
            self.fail(SystemFault(f"blob {digest}: not stored"))
            raise
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def fail(self, error: SystemFault) -> None:
        """End all readers with this error, also after `commit`."""
        with self._changed:
            self._failed = self._failed or error
            self._changed.notify_all()

    def chunks(self) -> Iterator[bytes]:
        """The blob from its start, as it comes in; raises what `fail` was given."""
        at = 0
        with self._changed:
            if self._fd < 0:
                raise SystemFault("read a blob that comes in: it is closed")
            fd = os.dup(self._fd)
        try:
            while True:
                with self._changed:
                    while at == self._size and not self._done and not self._failed:
                        self._changed.wait()
                    if self._failed:
                        # An exception of its own for each reader: they are raised in threads.
                        raise SystemFault(self._failed.message)
                    if at == self._size:
                        return
                chunk = os.pread(fd, _READ, at)
                at += len(chunk)
                self.taken = at
                yield chunk
        finally:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._done:
            self.fail(SystemFault("the blob that was coming in was given up"))
        with self._changed:
            os.close(self._fd)
            self._fd = -1
        self._writer.__exit__(kind, error, trace)
