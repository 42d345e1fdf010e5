"""The container's log: Docker's json-file format, and `local`, a compact one.

json-file is one JSON object a line, `{"log": ..., "stream": "stdout" | "stderr", "time": RFC3339}`.
`log` ends with a newline when the program's line did; a line longer than 16 KB is cut into several
entries of which only the last ends so, as Docker's log readers expect. The current file is `path`,
older ones `path.1` (the youngest) to `path.<max_file - 1>`, or those names and `.gz` once they are
compressed.

local is the same entries as lines of bytes, `<letter><16 hexadecimal digits> <text>`: the letter is
`o` or `e` for the stream, a capital when the text had no newline of its own; the digits are
nanoseconds since the epoch.
"""

import os
import time
from contextlib import suppress
from json.encoder import encode_basestring

from skerry.base.errors import KernelFault
from skerry.runtime.log_compression import Compression

MAX_ENTRY = 16 * 1024
"""Bytes of output in one entry."""
_MODE = 0o640


class JsonFileLog:
    """Writes a json-file log; never raises once it is open, a full disk must not stop the program.

    `lost` counts the bytes of log that could not be written.
    """

    def __init__(
        self, path: str, max_size: int, max_file: int, compress: bool = False, fd: int = -1
    ) -> None:
        """`max_size` in bytes, 0 for no rotation; `compress` what was rotated. Takes over `fd`, or
        opens `path`: `open_log`."""
        self.path = path
        self.lost = 0
        self._fd = fd if fd >= 0 else open_log(path)
        self._size = os.fstat(self._fd).st_size
        self._max_size = max_size
        self._max_file = max(1, max_file)
        self._compress = compress
        self._compression: Compression | None = None
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
            self._append(self._entries(pieces, stream))

    def finish(self, stream: str) -> None:
        """The stream has ended: write its last line if it had no newline."""
        line = self._open_lines.pop(stream, None)
        if line:
            self._append(self._entries([bytes(line)], stream))

    def close(self) -> None:
        """Write what waits and close the file."""
        for stream in list(self._open_lines):
            self.finish(stream)
        if self._compression:
            self._compression.abandon()
            self._compression = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _entries(self, pieces: list[bytes], stream: str) -> list[bytes]:
        now = self._now()
        return [_entry(piece, stream, now) for piece in pieces]

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
            if self._compression and self._compression.go_on(4 * written):
                self._compression = None
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
            if self._compression:
                self._compression.go_on()
                self._compression = None
            for number in range(self._max_file - 1, 0, -1):
                self._shift(number)
            if self._compress and self._max_file > 1:
                self._compression = Compression(f"{self.path}.1")
            fd = _open(self.path, os.O_TRUNC)
        except OSError:
            # Go on in the old file, whatever it is called now, and try again a size later.
            self._size = 0
            return
        os.close(self._fd)
        self._fd = fd
        self._size = 0

    def _shift(self, number: int) -> None:
        """Rename the file before it to `path.<number>`, compressed or not."""
        younger = f"{self.path}.{number - 1}" if number > 1 else self.path
        for end, other in (("", ".gz"), (".gz", "")):
            try:
                os.rename(f"{younger}{end}", f"{self.path}.{number}{end}")
            except FileNotFoundError:
                continue
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path}.{number}{other}")

    def _now(self) -> str:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if seconds != self._second:
            self._second = seconds
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{self._prefix}.{nanoseconds:09d}Z"


class LocalLog(JsonFileLog):
    """The same in the compact format, whatever bytes the program writes."""

    def _entries(self, pieces: list[bytes], stream: str) -> list[bytes]:
        letter = b"e" if stream == "stderr" else b"o"
        now = b"%016x " % time.time_ns()
        return [
            letter + now + piece if piece.endswith(b"\n") else letter.upper() + now + piece + b"\n"
            for piece in pieces
        ]


FORMATS = {"json-file": JsonFileLog, "local": LocalLog}


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
