"""Reading a container's log: Docker's json-file format and the compact one of the driver `local`
(both described in runtime/log.py), rotated files included.

The keeper writes `path` and renames full files to `path.1` (youngest), `path.2` and so on, and may
compress those, to `path.1.gz`. A follower holds its file open and finds the next one by inode,
which a compressed file remembers, so a rotation loses nothing. It looks for new lines by polling,
quickly after output and slowly in silence: inotify instances are few and shared with the user's
other programs.
"""

import asyncio
import calendar
import contextlib
import functools
import os
import re
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

import msgspec

from skerry.engine.log_options import ENDINGS
from skerry.engine.log_options import LOCAL as LOCAL_DRIVER
from skerry.runtime.log_compression import HEAD_SIZE, original_inode

GZIP = ".gz"
LOCAL = ENDINGS[LOCAL_DRIVER]
BLOCK = 64 * 1024
BATCH = 256 * 1024
"""Bytes that are read, decoded and sent at once: about two milliseconds of the event loop."""
LINE_LIMIT = 1 << 20
_RENAMES = 100
"""How often a file may get another name while it is opened."""
QUICK = 0.01
SLOW = 0.2


class Entry(msgspec.Struct):
    """One entry, as the keeper wrote it."""

    log: str
    stream: str = "stdout"
    time: str = ""


class Query(NamedTuple):
    """What to read; times in nanoseconds since the epoch, 0 for no bound; tail -1 for all."""

    stdout: bool = True
    stderr: bool = True
    since: int = 0
    until: int = 0
    tail: int = -1
    follow: bool = False


_decode = msgspec.json.Decoder(Entry).decode
_decode_many = msgspec.json.Decoder(list[Entry]).decode


def parse_time(text: str) -> int:
    """Nanoseconds of an RFC 3339 time in UTC as the keeper writes it; 0 when it is none."""
    try:
        seconds = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
        fraction = text[19:].rstrip("Z").lstrip(".")
        return seconds * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
    except ValueError:
        return 0


_LOCAL = re.compile(rb"([oeOE])([0-9a-f]{16}) (.*)", re.DOTALL)


def _from_local(line: bytes) -> Entry:
    """A line of the driver `local`; ValueError."""
    match = _LOCAL.fullmatch(line)
    if match is None:
        raise ValueError
    seconds, rest = divmod(int(match[2], 16), 10**9)
    letter = match[1]
    return Entry(
        match[3].decode("utf-8", "surrogateescape") + ("\n" if letter.islower() else ""),
        "stderr" if letter in b"eE" else "stdout",
        f"{_second(seconds)}.{rest:09d}Z",
    )


@functools.lru_cache(8)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _wanted(line: bytes, query: Query, local: bool) -> Entry | None:
    """The entry on a line when it is well-formed and asked for."""
    try:
        entry = _from_local(line) if local else _decode(line)
    except (msgspec.DecodeError, ValueError, OverflowError):
        return None
    if not (query.stderr if entry.stream == "stderr" else query.stdout):
        return None
    if query.since or query.until:
        at = parse_time(entry.time)
        if at < query.since or (query.until and at > query.until):
            return None
    return entry


def _all_wanted(lines: list[bytes], query: Query, local: bool) -> list[Entry]:
    """The entries on these lines. Many lines are decoded at once, in a fifth of the time."""
    lines = [line for line in lines if line]
    if local:
        return [entry for line in lines if (entry := _wanted(line, query, local))]
    try:
        entries = _decode_many(b"[" + b",".join(lines) + b"]")
    except (msgspec.DecodeError, UnicodeDecodeError):
        # One of them is damaged.
        return [entry for line in lines if (entry := _wanted(line, query, local))]
    if query.since or query.until:
        return [entry for line in lines if (entry := _wanted(line, query, local))]
    if query.stdout and query.stderr:
        return entries
    return [each for each in entries if (each.stream == "stderr") == query.stderr]


def files(path: str) -> list[str]:
    """The log's files, oldest first."""
    older: list[str] = []
    number = 1
    while True:
        names = (f"{path}.{number}", f"{path}.{number}{GZIP}")
        found = next((name for name in names if os.path.exists(name)), "")
        if not found:
            return [*reversed(older), path]
        older.append(found)
        number += 1


def _place(names: list[str], inode: int) -> int:
    """Where in the list the file with `inode` is, plain or compressed since; -1 when it has gone.

    Its number is nobody else's as long as a reader has it open. Of the compressed files that had
    it, the youngest is meant: the number was free again after each of the others.
    """
    before = -1
    for at, name in enumerate(names):
        try:
            if os.stat(name).st_ino == inode:
                return at
            if name.endswith(GZIP):
                with open(name, "rb") as file:
                    if original_inode(file.read(HEAD_SIZE)) == inode:
                        before = at
        except FileNotFoundError:
            continue
    return before


def _unpacked(packed: int, path: str) -> int:
    """A descriptor of what is in a compressed file; OSError. A damaged end is left out."""
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    with tempfile.TemporaryFile(dir=os.path.dirname(path)) as target:
        with contextlib.suppress(zlib.error):
            while block := os.read(packed, BLOCK):
                target.write(inflate.decompress(block))
        target.flush()
        return os.dup(target.fileno())


def lines_backwards(fd: int, end: int) -> Iterator[bytes]:
    """The lines before offset `end`, last one first."""
    rest = b""
    at = end
    while at > 0:
        size = min(BLOCK, at)
        at -= size
        block = os.pread(fd, size, at) + rest
        parts = block.split(b"\n")
        rest = parts[0]
        yield from (part for part in reversed(parts[1:]) if part)
        if len(rest) > LINE_LIMIT:
            rest = b""
    if rest:
        yield rest


class _File:
    """An open log file and how far it has been read."""

    def __init__(self, path: str) -> None:
        self._packed = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.inode = os.fstat(self.fd).st_ino
        if path.endswith(GZIP):
            # Held open as well: its inode must not become another file's.
            self._packed = self.fd
            self.fd = _unpacked(self._packed, path)
        self.offset = 0
        self._rest = b""

    def read(self) -> list[bytes]:
        """The next complete lines."""
        block = os.pread(self.fd, BATCH, self.offset)
        if not block:
            return []
        self.offset += len(block)
        parts = (self._rest + block).split(b"\n")
        self._rest = parts.pop()
        if len(self._rest) > LINE_LIMIT:
            self._rest = b""
        # An empty list would mean the end of the file to the caller.
        return parts or [b""]

    def close(self) -> None:
        os.close(self.fd)
        if self._packed >= 0:
            os.close(self._packed)


def tail(path: str, query: Query) -> tuple[list[Entry], int, int]:
    """The last `query.tail` entries; then the inode and offset from which a follower goes on."""
    found: list[Entry] = []
    local = path.endswith(LOCAL)
    inode = offset = 0
    for name in reversed(files(path)):
        try:
            file = _File(name)
        except FileNotFoundError:
            continue
        try:
            size = os.fstat(file.fd).st_size
            if not inode:
                inode = file.inode
                # Only whole lines: a follower starts at the beginning of a half-written one.
                offset = size - _half_line(file.fd, size)
                size = offset
            if len(found) < query.tail:
                for line in lines_backwards(file.fd, size):
                    entry = _wanted(line, query, local)
                    if entry is not None:
                        found.append(entry)
                        if len(found) >= query.tail:
                            break
        finally:
            file.close()
        if len(found) >= query.tail:
            break
    found.reverse()
    return found, inode, offset


def _half_line(fd: int, size: int) -> int:
    """Bytes after the last newline."""
    half = 0
    while half < size:
        block = os.pread(fd, min(BLOCK, size - half), max(0, size - half - BLOCK))
        at = block.rfind(b"\n")
        if at >= 0:
            return half + len(block) - at - 1
        half += len(block)
    return half


def _after(path: str, inode: int) -> str | None:
    """The file that follows the one with `inode`; the oldest one when that is gone."""
    names = files(path)
    at = _place(names, inode) + 1
    if at:
        return names[at] if at < len(names) else None
    return next((name for name in names if os.path.exists(name)), None)


async def read(path: str, query: Query, alive: Callable[[], bool]) -> AsyncIterator[list[Entry]]:
    """Entries in batches, oldest first; with `follow` until `alive()` is false and all is read."""
    inode = offset = 0
    local = path.endswith(LOCAL)
    if query.tail >= 0:
        entries, inode, offset = await asyncio.to_thread(tail, path, query)
        if entries:
            yield entries
        if not query.follow:
            return
    try:
        file = await _opened(path, inode)
    except FileNotFoundError:
        return
    file.offset = offset
    pause = QUICK
    try:
        while True:
            # Asked before reading: what was written before the end must still be read.
            going_on = query.follow and alive()
            if query.until and query.follow and time.time_ns() > query.until:
                going_on = False
            lines = file.read()
            entries = _all_wanted(lines, query, local)
            if entries:
                yield entries
            if lines:
                pause = QUICK
                await asyncio.sleep(0)
                continue
            following = _after(path, file.inode)
            if following is not None:
                # The writer may have added lines between the read above and the rename.
                if os.fstat(file.fd).st_size > file.offset:
                    continue
                try:
                    fresh = await asyncio.to_thread(_File, following)
                except FileNotFoundError:
                    # Renamed in this moment.
                    continue
                if _after(path, file.inode) != following:
                    # Renamed before it was opened: by then the name was a younger file's.
                    fresh.close()
                    continue
                file.close()
                file = fresh
                continue
            if not going_on:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, SLOW)
    finally:
        file.close()


async def _opened(path: str, inode: int) -> _File:
    """The oldest file, or the one with `inode`; FileNotFoundError."""

    def name() -> str:
        return _by_inode(path, inode) if inode else files(path)[0]

    for _ in range(_RENAMES):
        start = name()
        try:
            file = await asyncio.to_thread(_File, start)
        except FileNotFoundError:
            if start == name():
                raise
            continue
        if start == name():
            return file
        # Renamed before it was opened: by then the name was a younger file's.
        file.close()
    raise FileNotFoundError(path)


def _by_inode(path: str, inode: int) -> str:
    names = files(path)
    at = _place(names, inode)
    return names[at] if at >= 0 else path
