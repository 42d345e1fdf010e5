"""QEMU's migration stream, taken apart into memory and devices.

Theory. A running machine is saved by a live migration into a pipe: its memory goes while it runs,
and it stands still only for the pages that it changed meanwhile and for its devices (`stream` is
what comes out of the pipe). To start a copy, or twenty, nobody wants to read that again: memory
belongs into a file that every copy maps privately, and the rest into a stream that QEMU takes with
the capability `x-ignore-shared`. This module splits the one into the two: the pages of the block
`memory-backend` are written to their places in a sparse file and left out of the stream.

The format is that of QEMU's migration/savevm.c and migration/ram.c (versions 3 and 4 of their
sections): a header, the configuration, sections `ram` (start, parts, end), then the devices, which
are passed on unread. The stream is the hypervisor's, and a guest may have taken that over: every
length and address is checked, and whatever is not expected ends the reading with an error.
"""

import os
import re
from collections.abc import Iterable, Iterator

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.base.light import Final

PAGE: Final = 4096
_MAGIC: Final = b"QEVM\0\0\0\3"
_START, _PART, _END, _FULL = 1, 2, 3, 4
_SUBSECTION, _CONFIGURATION, _FOOTER = 0x05, 0x07, 0x7E
_NO_DESCRIPTION: Final = b"\x06\0\0\0\0"
"""QEMU_VM_VMDESCRIPTION of no bytes, which a q35 machine expects at the end."""
_CARD: Final = re.compile(rb"\x04.{4}.([0-9a-f:./]{1,80}/virtio-net)\0\0\0\0", re.DOTALL)
"""QEMU_VM_SECTION_FULL, its number, the name with its length, instance 0."""
_ZERO, _MEMORY_SIZE, _DATA, _END_OF_SECTION, _CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
_KNOWN: Final = _ZERO | _MEMORY_SIZE | _DATA | _END_OF_SECTION | _CONTINUE
_ZEROS: Final = bytes(PAGE)
_MAX_BLOCKS: Final = 64
_MAX_KEPT: Final = 64 << 20
"""Bytes of other blocks: firmware, option ROMs, video memory."""
_BATCH: Final = 1 << 20


def split(chunks: Iterable[bytes], memory: int, size: int, block: str) -> Iterator[bytes]:
    """Write the pages of `block`, which is `size` bytes long, into the file `memory`, which has
    nothing there, and yield the stream without them. InvalidInput, LimitExceeded."""
    # What was plugged in lies behind it already.
    os.truncate(memory, max(size, os.fstat(memory).st_size))
    return _Splitter(_Reader(chunks), memory, size, block.encode()).run()


def read(fd: int) -> Iterator[bytes]:
    """A file from its beginning, in chunks."""
    at = 0
    while data := os.pread(fd, 1 << 20, at):
        at += len(data)
        yield data


def with_devices(
    state: Iterable[bytes], devices: Iterable[bytes], size: int, block: str
) -> Iterator[bytes]:
    """The stream `state`, which holds no page of `block`, up to the end of its memory, and then
    what `xen-save-devices-state` has written. InvalidInput, LimitExceeded."""
    yield from _Splitter(_Reader(state), -1, size, block.encode()).memory_part()
    reader = _Reader(devices)
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise InvalidInput("not the state of a machine's devices")
    total = 0
    for piece in reader.rest():
        total += len(piece)
        if total > _MAX_KEPT:
            raise LimitExceeded(f"more than {_MAX_KEPT} bytes of devices")
        yield piece
    yield _NO_DESCRIPTION


def cards(state: Iterable[bytes], most: int) -> int:
    """How many network cards a machine's state is of, at most `most`: by the heads of their
    sections. What the state needs QEMU must have, and a hypervisor that lies fails at its load."""
    return min(len(set(_CARD.findall(b"".join(state)))), most)


class _Reader:
    """Bytes in order, out of chunks of any size."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._data = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Exactly so many."""
        at = self._at
        end = at + count
        if end > len(self._data):
            self._fill(count)
            at, end = 0, count
        self._at = end
        return self._data[at:end]

    def number(self, size: int) -> int:
        """A big-endian number."""
        return int.from_bytes(self.take(size), "big")

    def peek(self) -> int:
        """The next byte."""
        if self._at == len(self._data):
            self._fill(1)
        return self._data[self._at]

    def rest(self) -> Iterator[bytes]:
        """All that is left."""
        yield self._data[self._at :]
        yield from self._chunks

    def _fill(self, count: int) -> None:
        parts = [self._data[self._at :]]
        have = len(parts[0])
        while have < count:
            chunk = next(self._chunks, b"")
            if not chunk:
                raise InvalidInput("the machine's state ends too early")
            parts.append(chunk)
            have += len(chunk)
        self._data, self._at = b"".join(parts), 0


class _Splitter:
    def __init__(self, reader: _Reader, memory: int, size: int, block: bytes) -> None:
        self._reader = reader
        self._memory = memory
        self._size = size
        self._wanted = block
        self._blocks: dict[bytes, int] = {}
        self._current = b""
        self._section = -1
        self._written: set[int] = set()
        self._kept = 0
        self._batch: list[bytes] = []
        self._batch_at = 0

    def run(self) -> Iterator[bytes]:
        """Everything but the pages of the block."""
        yield from self.memory_part()
        self._flush()
        yield from self._reader.rest()

    def memory_part(self) -> Iterator[bytes]:
        """The head, and the sections of memory."""
        yield self._head()
        while True:
            kind = self._reader.peek()
            if kind not in (_START, _PART, _END):
                raise InvalidInput(f"a section of kind {kind} before the memory's end")
            yield self._memory_section(self._reader.take(1))
            if kind == _END:
                break

    def _head(self) -> bytes:
        """Magic, version and configuration (vmstate_configuration)."""
        reader = self._reader
        out = [reader.take(8)]
        if out[0] != _MAGIC:
            raise InvalidInput("not the state of a machine")
        if reader.peek() == _CONFIGURATION:
            out += [reader.take(1), reader.take(4)]
            out.append(reader.take(_limited(int.from_bytes(out[-1], "big"), 256)))
            while reader.peek() == _SUBSECTION:
                out += [reader.take(1), reader.take(1)]
                name = reader.take(out[-1][0])
                out += [name, reader.take(4), *self._subsection(name)]
        return b"".join(out)

    def _subsection(self, name: bytes) -> list[bytes]:
        reader = self._reader
        if name == b"configuration/target-page-bits":
            return [reader.take(4)]
        if name == b"configuration/uuid":
            return [reader.take(16)]
        if name != b"configuration/capabilities":
            raise InvalidInput(f"the machine's state has {name!r:.80}, which is not known")
        out = [reader.take(4)]
        for _ in range(_limited(int.from_bytes(out[0], "big"), 64)):
            out.append(reader.take(1))
            out.append(reader.take(out[-1][0]))
        return out

    def _memory_section(self, kind: bytes) -> bytes:
        reader = self._reader
        out = [kind, reader.take(4)]
        section = int.from_bytes(out[1], "big")
        if kind[0] == _START:
            length = reader.take(1)
            name = reader.take(length[0])
            if name != b"ram" or self._section >= 0:
                raise InvalidInput(f"the machine's state begins with {name!r:.80}, not its memory")
            self._section = section
            out += [length, name, reader.take(8)]
        elif section != self._section:
            raise InvalidInput("a section of the machine's state that was never begun")
        self._records(out)
        if reader.peek() == _FOOTER:
            footer = reader.take(5)
            if int.from_bytes(footer[1:], "big") != section:
                raise InvalidInput("the machine's state ends a section that is not open")
            out.append(footer)
        return b"".join(out)

    def _records(self, out: list[bytes]) -> None:
        """The pages of one section; those that are kept go to `out`, whose block is named anew."""
        take = self._reader.take
        last = b""
        """The block that the reader of `out` believes to be in."""
        while True:
            raw = take(8)
            head = int.from_bytes(raw, "big")
            flags = head & (PAGE - 1)
            if flags & ~_KNOWN:
                raise InvalidInput(f"pages of the machine's memory with flags {flags:#x}")
            if flags == _END_OF_SECTION:
                out.append(raw)
                return
            if flags == _MEMORY_SIZE:
                out.append(raw)
                self._sizes(head & ~(PAGE - 1), out)
                continue
            if not flags & _CONTINUE:
                self._current = take(take(1)[0])
            elif not self._current:
                raise InvalidInput("a page of the machine's memory without a block")
            zero = flags & ~_CONTINUE == _ZERO
            if not zero and flags & ~_CONTINUE != _DATA:
                raise InvalidInput(f"pages of the machine's memory with flags {flags:#x}")
            page = take(1) if zero else take(PAGE)
            at = head & ~(PAGE - 1)
            if at >= self._blocks.get(self._current, 0):
                raise InvalidInput(f"a page outside of the machine's memory, at {at:#x}")
            if self._current == self._wanted:
                self._store(at, None if zero and page == b"\0" else page)
                continue
            self._kept += len(page)
            if self._kept > _MAX_KEPT:
                raise LimitExceeded(f"more than {_MAX_KEPT} bytes beside the machine's memory")
            if last == self._current:
                out.append((head | _CONTINUE).to_bytes(8, "big"))
            else:
                out.append((head & ~_CONTINUE).to_bytes(8, "big"))
                out += [bytes([len(self._current)]), self._current]
                last = self._current
            out.append(page)

    def _sizes(self, total: int, out: list[bytes]) -> None:
        """The list of blocks; with `x-ignore-shared` each has its address too."""
        take = self._reader.take
        while total > 0:
            length = take(1)
            name = take(length[0])
            used, address = take(8), take(8)
            size = int.from_bytes(used, "big")
            self._blocks[name] = size
            if len(self._blocks) > _MAX_BLOCKS or size > total or not size:
                raise InvalidInput("the machine's memory does not add up")
            total -= size
            out += [length, name, used, address]
        if self._blocks.get(self._wanted) != self._size:
            raise InvalidInput(
                f"the machine's memory is {self._blocks.get(self._wanted)} bytes, not {self._size}"
            )

    def _store(self, at: int, page: bytes | None) -> None:
        """A page, None for zeros; a later one of the same place wins."""
        if page is None:
            if at not in self._written:
                return
            page = _ZEROS
        elif len(page) == 1:
            page = page * PAGE
        self._written.add(at)
        if self._batch and at != self._batch_at + len(self._batch) * PAGE:
            self._flush()
        if not self._batch:
            self._batch_at = at
        self._batch.append(page)
        if len(self._batch) * PAGE >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            data = memoryview(b"".join(self._batch))
            at = self._batch_at
            while data:
                done = os.pwrite(self._memory, data, at)
                at += done
                data = data[done:]
            self._batch.clear()


def _limited(count: int, most: int) -> int:
    if count > most:
        raise LimitExceeded(f"the machine's state declares {count} where {most} is the most")
    return count
