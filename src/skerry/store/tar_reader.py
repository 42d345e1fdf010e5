"""Reading tar: ustar, pax, GNU and the old v7, sparse files in all four encodings.

A pull parser over chunks of bytes. The archive is hostile: every size, count and number is checked
where it is read, and every error is an InvalidInput (LimitExceeded for too much) that names the
archive and the entry. Formats: POSIX.1-2017 pax(1), tar(5) of libarchive, GNU tar's manual.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, NoReturn

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.store.limits import DEFAULT, Unpacking
from skerry.store.tar_extensions import Extensions, decode_pax, sparse_from_pax, sparse_map_line

BLOCK: Final = 512
FILE, HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = "fhlcbdp"

_TYPES: Final = {
    0x00: FILE,
    0x30: FILE,
    0x31: HARDLINK,
    0x32: SYMLINK,
    0x33: CHAR,
    0x34: BLOCK_DEVICE,
    0x35: DIRECTORY,
    0x36: FIFO,
    0x37: FILE,
    0x53: FILE,
}
_ZEROS: Final = bytes(BLOCK)
_HOLE: Final = memoryview(bytes(1 << 20))
_MAX_ID: Final = (1 << 32) - 2
"""(uid_t) -1 means "leave it" to chown(2)."""
_MAX_SECONDS: Final = (1 << 63) // 10**9 - 1
_TIME: Final = re.compile(r"(-?\d{1,20})(?:\.(\d{0,30}))?")
_EXPONENT: Final = re.compile(r"-?\d{1,3}(?:\.\d{1,30})?e[+-]\d{1,3}")
_SPARSE_ENTRIES: Final = 1 << 18
_SPARSE_FIELDS: Final = frozenset({"GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.offset"})


class Limits(NamedTuple):
    """How much a reader of archives accepts."""

    entries: int = 4_000_000
    size: int = DEFAULT.size
    """Bytes of the plain archive."""
    path: int = 32 << 10
    """Bytes of a name."""
    depth: int = 2000
    """Components of a name."""
    header: int = 2 << 20
    """Bytes of an extended header."""
    unpacking: Unpacking = DEFAULT


class Entry(NamedTuple):
    """One member. Names are as in the archive, decoded with surrogateescape."""

    name: str
    kind: str
    mode: int
    """Permission bits with setuid, setgid and sticky."""
    uid: int
    gid: int
    size: int
    """Bytes of the file; with holes counted."""
    mtime_ns: int
    link: str
    major: int
    minor: int
    xattrs: dict[str, bytes]
    sparse: tuple[tuple[int, int], ...] | None
    """(offset, length) of the parts that hold data, in order."""


class TarReader:
    """Iterate for the entries; `data` gives the current one's bytes (its parts', when sparse)."""

    def __init__(self, chunks: Iterator[bytes], what: str, limits: Limits = Limits()) -> None:  # noqa: B008
        self.what = what
        self.limits = limits
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self._left = 0
        """Bytes of the current entry not yet read."""
        self._padding = 0
        self._globals = Extensions()
        self._name = ""

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        while True:
            self._skip(self._left)
            # docker's client leaves out the padding and the end after a file that it changed.
            if self._padding and not self._more():
                break
            self._skip(self._padding)
            self._left = self._padding = 0
            header = self._header()
            if header is None:
                break
            entry = self._entry(header)
            if entry is None:
                break
            count += 1
            if count > self.limits.entries:
                raise LimitExceeded(f"{self.what}: more than {self.limits.entries} entries")
            yield entry
        for _ in self._chunks:
            # What follows the end counts for the digest only.
            pass

    def data(self) -> Iterator[memoryview]:
        """The rest of the current entry's bytes, in pieces."""
        while self._left:
            if self._at == len(self._chunk):
                self._next_chunk()
            piece = memoryview(self._chunk)[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            yield piece

    def plain(self, entry: Entry) -> Iterator[memoryview]:
        """The current entry's whole content in pieces, with zeros for its holes."""
        if entry.sparse is None:
            yield from self.data()
            return
        data = self.data()
        piece = memoryview(b"")
        at = 0
        for offset, length in entry.sparse:
            yield from _zeros(offset - at)
            at = offset + length
            while length:
                piece = piece or next(data)
                yield piece[:length]
                taken = min(length, len(piece))
                piece = piece[taken:]
                length -= taken
        yield from _zeros(entry.size - at)

    def fail(self, reason: str) -> NoReturn:
        """Raise InvalidInput about the current entry."""
        raise InvalidInput(f"{self.what}: {self._where()}{reason}")

    def _where(self) -> str:
        return f"entry {self._name!r:.200}: " if self._name else ""

    def _next_chunk(self) -> None:
        for chunk in self._chunks:
            if chunk:
                self._chunk, self._at = chunk, 0
                return
        self.fail("the archive ends too early")

    def _take(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        at = self._at
        if at + count <= len(self._chunk):
            self._at = at + count
            return self._chunk[at : at + count]
        parts = []
        while count:
            if self._at == len(self._chunk):
                self._next_chunk()
            part = self._chunk[self._at : self._at + count]
            self._at += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while count:
            if self._at == len(self._chunk):
                self._next_chunk()
            step = min(count, len(self._chunk) - self._at)
            self._at += step
            count -= step

    def _more(self) -> bool:
        """Whether any byte is left."""
        if self._at < len(self._chunk):
            return True
        for chunk in self._chunks:
            if chunk:
                self._chunk, self._at = chunk, 0
                return True
        return False

    def _header(self) -> bytes | None:
        """The next header block; None at the end: two zero blocks, one, or just no more bytes."""
        if not self._more():
            return None
        header = self._take(BLOCK)
        return None if header == _ZEROS else header

    def _entry(self, header: bytes) -> Entry | None:
        """The member that starts here, its extended headers read; None when the archive ends."""
        extensions = Extensions()
        extended = 0
        while True:
            kind = header[156]
            if kind not in b"xXgLK":
                return self._member(header, kind, extensions)
            extended += 1
            if extended > 64:
                raise LimitExceeded(f"{self.what}: more than 64 extended headers for one entry")
            self._check(header)
            size = self._number(header[124:136], "size")
            if size > self.limits.header:
                raise LimitExceeded(f"{self.what}: extended header of {size} bytes")
            body = self._take(size)
            self._skip(-size % BLOCK)
            if kind in b"xX":
                self._pax(body, extensions)
            elif kind == 0x67:
                self._pax(body, self._globals)
            elif kind == 0x4C:
                extensions.fields["path"] = body.split(b"\0", 1)[0]
            else:
                extensions.fields["linkpath"] = body.split(b"\0", 1)[0]
            following = self._header()
            if following is None:
                self.fail("the archive ends after an extended header")
            header = following

    def _pax(self, body: bytes, into: Extensions) -> None:
        try:
            decode_pax(body, into)
        except ValueError as error:
            self.fail(f"extended header: {error}")

    def _check(self, header: bytes) -> None:
        stored = self._number(header[148:156], "checksum")
        if stored != sum(header) - sum(header[148:156]) + 256:
            signed = sum(b - 256 if b > 127 else b for b in header[:148] + header[156:]) + 256
            if stored != signed:
                self.fail("header checksum is wrong: not a tar archive, or damaged")

    def _number(self, field: bytes, what: str) -> int:
        """Octal text, or base-256 when the first bit is set; never negative."""
        if field[0] & 0x80:
            value = int.from_bytes(field, "big", signed=True)
            if field[0] == 0x80:
                value = int.from_bytes(field[1:], "big")
        else:
            text = field.partition(b"\0")[0].strip(b" ")
            if not text:
                return 0
            try:
                value = int(text, 8) if text.isdigit() else -1
            except ValueError:
                value = -1
        if value < 0:
            self.fail(f"{what} is not a number: {field!r:.40}")
        return value

    def _member(self, header: bytes, kind: int, extensions: Extensions) -> Entry:
        self._check(header)
        fields = {**self._globals.fields, **extensions.fields}
        magic = header[257:263]
        name = fields.get("path") or header[:100].partition(b"\0")[0]
        if magic == b"ustar\0" and header[345] and "path" not in fields:
            name = header[345:500].partition(b"\0")[0] + b"/" + name
        sparse_name = fields.get("GNU.sparse.name")
        if sparse_name:
            name = sparse_name
        self._name = _text(name)
        type_ = _TYPES.get(kind)
        if type_ is None:
            self.fail(f"entries of type {chr(kind)!r} are not supported")
        if type_ is FILE and name.endswith(b"/"):
            type_ = DIRECTORY
        link = fields.get("linkpath") or header[157:257].partition(b"\0")[0]
        self._check_name(name)
        self._check_name(link)
        size = self._decimal(fields, "size", header[124:136])
        if type_ is not FILE:
            size = 0
        if size > self.limits.size:
            raise LimitExceeded(f"{self.what}: {self._where()}size {size}")
        self._left, self._padding = size, -size % BLOCK
        sparse = None
        if type_ is FILE:
            sparse, size = self._sparse(kind, header, extensions, size)
        is_device = type_ in (CHAR, BLOCK_DEVICE)
        return Entry(
            self._name,
            type_,
            self._number(header[100:108], "mode") & 0o7777,
            self._id(fields, "uid", header[108:116]),
            self._id(fields, "gid", header[116:124]),
            size,
            self._mtime(fields, header[136:148]),
            _text(link),
            self._device(header[329:337], "major") if is_device else 0,
            self._device(header[337:345], "minor") if is_device else 0,
            {**self._globals.xattrs, **extensions.xattrs},
            sparse,
        )

    def _check_name(self, name: bytes) -> None:
        if len(name) > self.limits.path:
            raise LimitExceeded(f"{self.what}: a name of {len(name)} bytes")
        if name.count(b"/") > self.limits.depth:
            raise LimitExceeded(f"{self.what}: {self._where()}deeper than {self.limits.depth}")
        if b"\0" in name:
            self.fail("a name holds a NUL byte")

    def _decimal(self, fields: dict[str, bytes], key: str, field: bytes) -> int:
        text = fields.get(key)
        if text is None:
            return self._number(field, key)
        if not text.isdigit() or len(text) > 20:
            self.fail(f"{key} is not a number: {text!r:.40}")
        return int(text)

    def _id(self, fields: dict[str, bytes], key: str, field: bytes) -> int:
        number = self._decimal(fields, key, field)
        if number > _MAX_ID:
            self.fail(f"{key} {number} is out of range")
        return number

    def _device(self, field: bytes, what: str) -> int:
        number = self._number(field, what)
        if number >= 1 << (12 if what == "major" else 20):
            self.fail(f"{what} device number {number} is out of range")
        return number

    def _mtime(self, fields: dict[str, bytes], field: bytes) -> int:
        text = fields.get("mtime")
        if text is None:
            if field[0] & 0x80:
                seconds = int.from_bytes(field, "big", signed=True)
                if field[0] == 0x80:
                    seconds = int.from_bytes(field[1:], "big")
            else:
                seconds = self._number(field, "mtime")
            nanoseconds = 0
        else:
            plain = text.decode("ascii", "replace")
            if _EXPONENT.fullmatch(plain):
                # Not pax, but Python's tarfile writes very small times so.
                plain = f"{float(plain):.9f}"
            match = _TIME.fullmatch(plain)
            if not match:
                self.fail(f"mtime is not a number: {text!r:.40}")
            seconds = int(match[1])
            nanoseconds = int(((match[2] or "") + "000000000")[:9])
            if match[1].startswith("-"):
                nanoseconds = -nanoseconds
        seconds = max(-_MAX_SECONDS, min(_MAX_SECONDS, seconds))
        return seconds * 10**9 + nanoseconds

    def _sparse(
        self, kind: int, header: bytes, extensions: Extensions, size: int
    ) -> tuple[tuple[tuple[int, int], ...] | None, int]:
        """The map of a sparse file and its real size; (None, size) for an ordinary one."""
        if kind == 0x53:
            real = self._number(header[483:495], "real size")
            parts = self._old_sparse(header)
        elif not _SPARSE_FIELDS.isdisjoint(extensions.fields):
            try:
                real, pairs = sparse_from_pax(extensions, size)
            except ValueError as error:
                self.fail(f"sparse map: {error}")
            parts = self._sparse_1_0() if pairs is None else pairs
        else:
            return None, size
        end = total = 0
        for offset, length in parts:
            if offset < end or offset + length > real:
                self.fail("sparse map is out of order or beyond the file's end")
            end = offset + length
            total += length
        if total != self._left:
            self.fail(f"sparse map covers {total} bytes, the archive holds {self._left}")
        if real >= 1 << 63:
            self.fail(f"size {real} is out of range")
        return tuple((o, n) for o, n in parts if n), real

    def _old_sparse(self, header: bytes) -> list[tuple[int, int]]:
        pairs, more = self._old_pairs(header, 386, 4), header[482]
        while more:
            if len(pairs) > _SPARSE_ENTRIES:
                raise LimitExceeded(f"{self.what}: {self._where()}sparse map is too long")
            block = self._take(BLOCK)
            pairs += self._old_pairs(block, 0, 21)
            more = block[504]
        return pairs

    def _old_pairs(self, block: bytes, start: int, count: int) -> list[tuple[int, int]]:
        pairs = []
        for at in range(start, start + count * 24, 24):
            if not block[at]:
                break
            pairs.append(
                (
                    self._number(block[at : at + 12], "sparse offset"),
                    self._number(block[at + 12 : at + 24], "sparse length"),
                )
            )
        return pairs

    def _sparse_1_0(self) -> list[tuple[int, int]]:
        """The map in front of the data: decimal lines, padded to a block."""
        text = b""
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            if self._left < BLOCK:
                self.fail("sparse map: cut short")
            text += self._take(BLOCK)
            self._left -= BLOCK
            *lines, text = text.split(b"\n")
            for line in lines:
                if len(numbers) == wanted:
                    break
                try:
                    numbers.append(sparse_map_line(line))
                except ValueError as error:
                    self.fail(f"sparse map: {error}")
                if len(numbers) == 1:
                    if numbers[0] > _SPARSE_ENTRIES:
                        raise LimitExceeded(f"{self.what}: {self._where()}sparse map is too long")
                    wanted = 1 + 2 * numbers[0]
        return list(zip(numbers[1::2], numbers[2::2], strict=True))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _zeros(count: int) -> Iterator[memoryview]:
    while count > 0:
        yield _HOLE[:count]
        count -= len(_HOLE)
