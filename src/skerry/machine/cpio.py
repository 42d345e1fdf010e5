"""A cpio archive of the "newc" kind, as the kernel takes for an initramfs.

Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import os
import stat
from typing import BinaryIO


class Archive:
    """An archive that is being written; the same path twice is written once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._seen: set[str] = set()

    def folder(self, path: str) -> None:
        """A folder and those above it."""
        parts = path.strip("/").split("/")
        for count in range(1, len(parts) + 1):
            self._entry("/".join(parts[:count]), stat.S_IFDIR | 0o755, b"")

    def data(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file."""
        self.folder(os.path.dirname(path) or "/")
        self._entry(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.folder(os.path.dirname(path) or "/")
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def close(self) -> None:
        """The end mark."""
        self._entry("TRAILER!!!", 0, b"")

    def _entry(self, path: str, mode: int, content: bytes) -> None:
        path = path.strip("/")
        if path in self._seen or not path:
            return
        self._seen.add(path)
        name = path.encode() + b"\0"
        numbers = (len(self._seen), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self._file.write(head + b"\0" * (-len(head) % 4))
        self._file.write(content)
        self._file.write(b"\0" * (-len(content) % 4))
