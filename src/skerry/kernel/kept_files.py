"""Small files of the kernel that are read again and again."""

import os
from collections.abc import Callable

from skerry.base.light import Any

_SIZE = 1 << 14
_SURELY_WHOLE = 2048
"""A shorter answer is all there is: the kernel gives whole records until a page is full."""


class KeptFiles:
    """Reads control files and files of /proc by descriptors that stay open: one call instead of
    three or four, and no walk to the file. Whoever makes it closes it."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._known: dict[str, tuple[bytes, Any]] = {}

    def parsed(self, path: str, parse: Callable[[str], Any]) -> Any:
        """What `parse` makes of a file's text, always the same function for a file; it is not
        asked while the file says the same. Empty text when it cannot be read, for good when there
        was none."""
        data = self._data(path)
        known = self._known.get(path)
        if known is None or known[0] != data:
            known = self._known[path] = (data, parse(data.decode("ascii", "replace")))
        return known[1]

    def _data(self, path: str) -> bytes:
        fd = self._fds.get(path)
        if fd is None:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                fd = -1
            except OSError:
                return b""
            self._fds[path] = fd
        if fd < 0:
            return b""
        try:
            data = os.pread(fd, _SIZE, 0)
            if len(data) >= _SURELY_WHOLE:
                while more := os.pread(fd, _SIZE, len(data)):
                    data += more
        except OSError:
            return b""
        return data

    def close(self) -> None:
        """Close the descriptors; the next reading opens them again."""
        for fd in self._fds.values():
            if fd >= 0:
                os.close(fd)
        self._fds.clear()
        self._known.clear()
