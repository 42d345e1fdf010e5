"""A rotated log file on its way to gzip, a piece at a time.

The keeper has one thread, and a program waits while it works: so a file is compressed in steps that
go along with what is written after it. A keeper that ends in between leaves the file as it is.
"""

import os
import struct
from contextlib import suppress

_STEP = 64 * 1024
_OWN = b"SK"
"""The extra field (RFC 1952, 2.3.1.1) that holds the inode of the file before it was compressed:
readers that follow a log know its files by their inodes."""
_HEAD = struct.Struct("<4sIBBH2sHQ")
HEAD_SIZE = _HEAD.size
_UNIX = 3
_MAGIC = b"\x1f\x8b\x08\x04"
"""gzip, by deflate, with an extra field."""


def original_inode(head: bytes) -> int:
    """Of a file's first HEAD_SIZE bytes; 0 when they are not ours."""
    if len(head) < HEAD_SIZE:
        return 0
    magic, _, _, _, _, own, _, inode = _HEAD.unpack_from(head)
    return int(inode) if (magic, own) == (_MAGIC, _OWN) else 0


class Compression:
    """Of one file to `path`.gz; a disk without room leaves it as it is."""

    def __init__(self, path: str) -> None:
        """OSError when the file is not there."""
        # Most keepers never come here.
        import zlib

        self._path = path
        self._crc32 = zlib.crc32
        self._made = f"{path}.gz.new"
        self._source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._target = -1
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            self._target = os.open(self._made, flags, 0o640)
            inode = os.fstat(self._source).st_ino
            os.write(self._target, _HEAD.pack(_MAGIC, 0, 0, _UNIX, 12, _OWN, 8, inode))
        except OSError:
            self.abandon()
            raise
        self._deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
        self._crc = self._size = 0

    def go_on(self, budget: int = 1 << 62) -> bool:
        """Compress at least `budget` bytes more; whether nothing is left to do."""
        try:
            while budget > 0:
                block = os.read(self._source, _STEP)
                if not block:
                    self._finish()
                    return True
                budget -= len(block)
                self._crc = self._crc32(block, self._crc)
                self._size += len(block)
                self._put(self._deflate.compress(block))
        except OSError:
            self.abandon()
            return True
        return False

    def abandon(self) -> None:
        """Leave the file as it is. Idempotent."""
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1
        with suppress(OSError):
            os.unlink(self._made)

    def _finish(self) -> None:
        trailer = struct.pack("<II", self._crc, self._size & 0xFFFFFFFF)
        self._put(self._deflate.flush() + trailer)
        os.rename(self._made, f"{self._path}.gz")
        os.unlink(self._path)
        self.abandon()

    def _put(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._target, data) :]
