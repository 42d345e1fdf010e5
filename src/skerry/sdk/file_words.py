"""Files of a sandbox as requests, entries and tar archives."""

from __future__ import annotations

import base64
import io
import os
import posixpath
import stat
import tarfile
import time
from typing import TYPE_CHECKING, Any

from skerry.base.errors import InvalidInput, LimitExceeded, NotFound
from skerry.sdk import wire
from skerry.sdk.http import query, quote
from skerry.sdk.sandbox_words import Entry
from skerry.sdk.unpack import ChunkFile, Unpacker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LocalPath = str | os.PathLike[str]
MOST_BYTES = 1 << 30
"""Of one file that is read into memory."""
_BLOCK = 512
_PIECE = 1 << 18
_STAT = "x-docker-container-path-stat"
_KINDS = {
    1 << 31: stat.S_IFDIR,
    1 << 27: stat.S_IFLNK,
    1 << 26 | 1 << 21: stat.S_IFCHR,
    1 << 26: stat.S_IFBLK,
    1 << 25: stat.S_IFIFO,
    1 << 24: stat.S_IFSOCK,
}
_BITS = {1 << 23: stat.S_ISUID, 1 << 22: stat.S_ISGID, 1 << 20: stat.S_ISVTX}


def list_target(id: str, path: str) -> str:
    """GET /skerry/files/ID."""
    return f"/skerry/files/{quote(id)}" + query(path=path)


def entries_of(answer: list[dict[str, Any]]) -> list[Entry]:
    """As the API tells of a folder."""
    return [
        Entry(each["Name"], each["Size"], each["Mode"], each["ModifiedNs"] / 1e9, each["Target"])
        for each in answer
    ]


def entry_of(headers: dict[str, str]) -> Entry:
    """As HEAD /containers/ID/archive tells of one path."""
    import datetime

    try:
        facts = wire.loads(base64.b64decode(headers.get(_STAT, ""), validate=True))
        # Nanoseconds are more than fromisoformat takes, and than a float holds.
        day, _, rest = str(facts["mtime"]).removesuffix("Z").partition(".")
        whole = datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC).timestamp()
        return Entry(
            str(facts["name"]),
            int(facts["size"]),
            _mode(int(facts["mode"])),
            whole + float(f"0.{rest or 0}"),
            str(facts.get("linkTarget") or ""),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"the engine says nothing of the path: {error}") from None


def _mode(go: int) -> int:
    """Go's os.FileMode as stat(2) has it."""
    kind = next((kind for bits, kind in _KINDS.items() if go & bits == bits), stat.S_IFREG)
    return kind | go & 0o777 | sum(bit for mask, bit in _BITS.items() if go & mask)


def packed(path: str, data: bytes, mode: int) -> bytes:
    """A tar archive with one file, to be unpacked at `/`; folders above it are made."""
    entry = _entry(path, mode)
    entry.size = len(data)
    return _head(entry) + data + bytes(-len(data) % _BLOCK + 2 * _BLOCK)


def folder(path: str, mode: int) -> bytes:
    """A tar archive with one folder, to be unpacked at `/`."""
    entry = _entry(path, mode)
    entry.type = tarfile.DIRTYPE
    return _head(entry) + bytes(2 * _BLOCK)


def packed_local(local: LocalPath, path: str) -> Iterator[bytes]:
    """A tar archive of a local file or folder under another name, to be unpacked at `/`."""
    inner, top = _inner(path), os.fspath(local)
    if not os.path.lexists(top):
        raise NotFound(f"there is no {top}")
    return _stream(top, inner)


def _stream(top: str, inner: str) -> Iterator[bytes]:
    # It knows the kinds of entries and remembers hard links; nothing is written through it.
    known = tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT)
    waiting = [(top, inner)]
    try:
        while waiting:
            name, inside = waiting.pop()
            if stat.S_ISSOCK(os.lstat(name).st_mode):
                continue  # no archive can hold one
            entry = known.gettarinfo(name, inside)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            yield _head(entry)
            if entry.isreg():
                yield from _content(name, entry.size)
            elif entry.isdir():
                names = sorted(os.listdir(name), reverse=True)
                waiting += [(os.path.join(name, each), f"{inside}/{each}") for each in names]
    except OSError as error:
        raise InvalidInput(f"cannot read {error.filename or top}: {error.strerror}") from None
    yield bytes(2 * _BLOCK)


def _content(name: str, size: int) -> Iterator[bytes]:
    left = size
    with open(name, "rb") as file:
        while left:
            data = file.read(min(left, _PIECE))
            if not data:
                raise InvalidInput(f"{name} became shorter while it was read")
            left -= len(data)
            yield data
    yield bytes(-size % _BLOCK)


def _entry(path: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(_inner(path))
    entry.mode, entry.mtime = mode, int(time.time())
    return entry


def _head(entry: tarfile.TarInfo) -> bytes:
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _inner(path: str) -> str:
    clean = posixpath.normpath("/" + path).strip("/")
    if not path.startswith("/") or not clean:
        raise InvalidInput(f"not the absolute path of a file: {path!r:.200}")
    return clean


def content_of(pieces: Iterable[bytes], path: str) -> bytes:
    """The bytes of the only file in an archive; LimitExceeded above MOST_BYTES."""
    source = ChunkFile(_bounded(pieces, path, MOST_BYTES, "download() streams to a file"))
    try:
        with tarfile.open(fileobj=source, mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)):
                    return bytes(file.read())
                break
    except tarfile.TarError as error:
        raise InvalidInput(f"the archive of {path} is broken: {error}") from None
    raise InvalidInput(f"{path} is not a file")


def unpack_local(
    pieces: Iterator[bytes], path: str, local: LocalPath, most: int | None = None
) -> None:
    """Make what the archive of `path` holds to `local`, which becomes that file or folder.

    The archive is the guest's: nothing outside `local` is written, and no device is made.
    LimitExceeded above `most` bytes, with what came by then left behind.
    """
    where, name = os.path.split(os.path.abspath(local))
    pieces = pieces if most is None else _bounded(pieces, path, most)
    try:
        unpacker = Unpacker(where)
    except OSError as error:
        raise InvalidInput(f"cannot write to {where}: {error.strerror}") from None
    try:
        unpacker.unpack(ChunkFile(pieces), base=posixpath.basename(_inner(path)), name=name)
    finally:
        unpacker.close()


def _bounded(pieces: Iterable[bytes], what: str, most: int, hint: str = "") -> Iterator[bytes]:
    count = 0
    for piece in pieces:
        count += len(piece)
        if count > most:
            raise LimitExceeded(f"{what} holds more than {most} bytes", hint=hint)
        yield piece
