"""The container's log in Docker's json-file format.

One JSON object a line, `{"log": ..., "stream": "stdout" | "stderr", "time": RFC 3339}`. `log` ends
with a newline when the program's line did; a line longer than 16 KB is cut into several entries of
which only the last ends so, as Docker's log readers expect. The current file is `path`, older ones
`path.1` (the youngest) to `path.<max_file - 1>`.
"""

import os
import time
from json.encoder import encode_basestring

from skerry.base.errors import KernelFault

MAX_ENTRY = 16 * 1024
"""Bytes of output in one entry."""
_MODE = 0o640


class JsonFileLog:
    """Writes a log file; never raises once it is open, a full disk must not stop the program.

    `lost` counts the bytes of log that could not be written.
    """

    def __init__(self, path: str, max_size: int, max_file: int, fd: int = -1) -> None:
        """`max_size` in bytes, 0 for no rotation. Takes over `fd`, or opens `path`: `open_log`."""
        self.path = path
        self.lost = 0
        self._fd = fd if fd >= 0 else open_log(path)
        self._size = os.fstat(self._fd).st_size
        self._max_size = max_size
        self._max_file = max(1, max_file)
        self._open_lines: dict[str, bytearray] = {}
        self._second = -1
        self._prefix = ""

    def write(self, stream: str, data: bytes) -> None:
        """Take output as it was read; complete lines are written, the rest waits for its end."""
        waiting = self._open_lines.setdefault(stream, bytearray())
        lines = (bytes(waiting) + data if waiting else data).split(b"\n")
        rest = lines.pop()
        pieces: list[bytes] = []
        for line in lines:
            pieces.append(_cut(line + b"\n", pieces))
        waiting[:] = _cut(rest, pieces)
        if pieces:
            now = self._now()
            self._append([_entry(piece, stream, now) for piece in pieces])

    def finish(self, stream: str) -> None:
        """The stream has ended: write its last line if it had no newline."""
        line = self._open_lines.pop(stream, None)
        if line:
            self._append([_entry(bytes(line), stream, self._now())])

    def close(self) -> None:
        """Write what waits and close the file."""
        for stream in list(self._open_lines):
            self.finish(stream)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, entries: list[bytes]) -> None:
        batch = bytearray()
        for entry in entries:
            if self._max_size and self._size + len(batch) >= self._max_size:
                self._flush(batch)
                batch.clear()
                self._rotate()
            batch += entry
        self._flush(batch)

    def _flush(self, batch: bytearray) -> None:
        if not batch:
            return
        try:
            written = os.write(self._fd, batch)
        except OSError:
            written = 0
        if written == len(batch):
            self._size += written
            return
        self.lost += len(batch)
        if written:
            # Half an entry would spoil the next one as well.
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self._size += written

    def _rotate(self) -> None:
        try:
            for number in range(self._max_file - 1, 0, -1):
                older = f"{self.path}.{number}"
                younger = f"{self.path}.{number - 1}" if number > 1 else self.path
                try:
                    os.rename(younger, older)
                except FileNotFoundError:
                    continue
            fd = _open(self.path, os.O_TRUNC)
        except OSError:
            # Go on in the old file, whatever it is called now, and try again a size later.
            self._size = 0
            return
        os.close(self._fd)
        self._fd = fd
        self._size = 0

    def _now(self) -> str:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if seconds != self._second:
            self._second = seconds
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{self._prefix}.{nanoseconds:09d}Z"


def open_log(path: str) -> int:
    """Open or continue a log; the descriptor belongs to the caller. KernelFault."""
    try:
        fd = _open(path)
        try:
            if os.fstat(fd).st_size and not _ends_line(path):
                # Killed in the middle of an entry; the next one must not be glued to its rest.
                os.write(fd, b"\n")
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise KernelFault(f"opening log {path}", error.errno or 0) from None
    return fd


def _open(path: str, flags: int = 0) -> int:
    flags |= os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, _MODE)


def _entry(line: bytes, stream: str, now: str) -> bytes:
    text = encode_basestring(line.decode("utf-8", "replace"))
    return f'{{"log":{text},"stream":"{stream}","time":"{now}"}}\n'.encode()


def _cut(line: bytes, pieces: list[bytes]) -> bytes:
    """Move entries of full length from `line` to `pieces`; the rest, at most MAX_ENTRY bytes."""
    start = 0
    while len(line) - start > MAX_ENTRY:
        end = start + MAX_ENTRY
        # A UTF-8 sequence has at most three continuation bytes; do not cut it apart.
        while end > start + MAX_ENTRY - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        pieces.append(line[start:end])
        start = end
    return line[start:] if start else line


def _ends_line(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.lseek(fd, -1, os.SEEK_END)
        return os.read(fd, 1) == b"\n"
    finally:
        os.close(fd)
