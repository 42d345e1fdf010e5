"""Reading a container's log: Docker's json-file format, rotated files included.

The keeper writes `path` and renames full files to `path.1` (youngest), `path.2` and so on. A
follower holds its file open and finds the next one by inode, so a rotation loses nothing. It looks
for new lines by polling, quickly after output and slowly in silence: inotify instances are few and
shared with the user's other programs.
"""

import asyncio
import calendar
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

import msgspec

BLOCK = 64 * 1024
BATCH = 256 * 1024
"""Bytes that are read, decoded and sent at once: about two milliseconds of the event loop."""
LINE_LIMIT = 1 << 20
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


def _wanted(line: bytes, query: Query) -> Entry | None:
    """The entry on a line when it is well-formed and asked for."""
    try:
        entry = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not (query.stderr if entry.stream == "stderr" else query.stdout):
        return None
    if query.since or query.until:
        at = parse_time(entry.time)
        if at < query.since or (query.until and at > query.until):
            return None
    return entry


def _all_wanted(lines: list[bytes], query: Query) -> list[Entry]:
    """The entries on these lines. Many lines are decoded at once, in a fifth of the time."""
    lines = [line for line in lines if line]
    try:
        entries = _decode_many(b"[" + b",".join(lines) + b"]")
    except (msgspec.DecodeError, UnicodeDecodeError):
        # One of them is damaged.
        return [entry for line in lines if (entry := _wanted(line, query))]
    if query.since or query.until:
        return [entry for line in lines if (entry := _wanted(line, query))]
    if query.stdout and query.stderr:
        return entries
    return [each for each in entries if (each.stream == "stderr") == query.stderr]


def files(path: str) -> list[str]:
    """The log's files, oldest first."""
    older = []
    number = 1
    while os.path.exists(f"{path}.{number}"):
        older.append(f"{path}.{number}")
        number += 1
    return [*reversed(older), path]


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
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.inode = os.fstat(self.fd).st_ino
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


def tail(path: str, query: Query) -> tuple[list[Entry], int, int]:
    """The last `query.tail` entries; then the inode and offset from which a follower goes on."""
    found: list[Entry] = []
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
                    entry = _wanted(line, query)
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
    inodes = []
    for name in names:
        try:
            inodes.append(os.stat(name).st_ino)
        except FileNotFoundError:
            inodes.append(0)
    if inode in inodes:
        at = inodes.index(inode) + 1
        return names[at] if at < len(names) else None
    return next((name for name, known in zip(names, inodes, strict=True) if known), None)


async def read(path: str, query: Query, alive: Callable[[], bool]) -> AsyncIterator[list[Entry]]:
    """Entries in batches, oldest first; with `follow` until `alive()` is false and all is read."""
    inode = offset = 0
    if query.tail >= 0:
        entries, inode, offset = await asyncio.to_thread(tail, path, query)
        if entries:
            yield entries
        if not query.follow:
            return
    try:
        start = files(path)[0] if not inode else _by_inode(path, inode)
        file = _File(start)
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
            entries = _all_wanted(lines, query)
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
                fresh = _File(following)
                file.close()
                file = fresh
                continue
            if not going_on:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, SLOW)
    finally:
        file.close()


def _by_inode(path: str, inode: int) -> str:
    for name in files(path):
        try:
            if os.stat(name).st_ino == inode:
                return name
        except FileNotFoundError:
            continue
    return path
