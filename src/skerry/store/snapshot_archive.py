"""A snapshot as one file: an uncompressed tar archive that says what it holds before it holds it.

The first member is `skerry-snapshot.json`: `format` (1), `about` (what the engine says of the
snapshot), and `files`, each with `name`, `size` and `sha256`. The files follow in this order and no
other. A reader believes nothing: names are words, sizes and digests are checked, and what is not
whole raises before anything was made of it.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from skerry.base.errors import DigestMismatch, InvalidInput, LimitExceeded
from skerry.store import tar_reader, tar_writer
from skerry.store.tar_reader import Entry, Limits, TarReader

HEAD: Final = "skerry-snapshot.json"
FORMAT: Final = 1
MAX_HEAD: Final = 4 << 20
MAX_FILES: Final = 64
_WHAT: Final = "snapshot archive"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PIECE: Final = 1 << 20


class _File(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    size: int
    sha256: str


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    about: dict[str, Any]
    files: list[_File]


class Opened(NamedTuple):
    """What was read: `files` maps names to paths in the reader's folder."""

    about: dict[str, Any]
    files: dict[str, str]


def write(about: dict[str, Any], files: dict[str, str]) -> Iterator[bytes]:
    """The archive in pieces, none of them empty; `files` maps names to the paths of files that
    nobody changes."""
    listed = [_File(name, os.path.getsize(path), _digest(path)) for name, path in files.items()]
    head = msgspec.json.encode(_Head(FORMAT, about, listed))
    yield _header(HEAD, len(head)) + head + tar_writer.padding(len(head))
    padding = b""
    for each in listed:
        yield padding + _header(each.name, each.size)
        left = each.size
        with open(files[each.name], "rb") as file:
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise InvalidInput(f"{each.name} became shorter while it was read")
                left -= len(piece)
                yield piece
        padding = tar_writer.padding(each.size)
    yield padding + tar_writer.END


def read(chunks: Iterator[bytes], folder: str, limits: Limits = Limits()) -> Opened:  # noqa: B008
    """Check an archive and put its files into an empty folder.

    InvalidInput, LimitExceeded, DigestMismatch; then nothing in the folder is to be used.
    """
    reader = TarReader(chunks, _WHAT, limits)
    entries = iter(reader)
    head = _head(reader, next(entries, None))
    total = sum(each.size for each in head.files)
    if total > limits.size:
        raise LimitExceeded(f"{_WHAT}: it declares {total} bytes")
    files: dict[str, str] = {}
    for declared in head.files:
        entry = next(entries, None)
        if entry is None or entry.name != declared.name or entry.kind is not tar_reader.FILE:
            raise InvalidInput(f"{_WHAT}: {declared.name} is missing")
        if entry.size != declared.size or entry.sparse is not None:
            raise InvalidInput(f"{_WHAT}: {declared.name} is not as long as declared")
        files[declared.name] = f"{folder}/{declared.name}"
        _spool(reader, declared, files[declared.name])
    if next(entries, None) is not None:
        raise InvalidInput(f"{_WHAT}: it holds more than it declares")
    return Opened(head.about, files)


def _head(reader: TarReader, entry: Entry | None) -> _Head:
    if entry is None or entry.name != HEAD or entry.kind is not tar_reader.FILE:
        raise InvalidInput(f"{_WHAT}: it does not begin with {HEAD}")
    if entry.size > MAX_HEAD:
        raise LimitExceeded(f"{_WHAT}: {HEAD} is over {MAX_HEAD} bytes long")
    data = b"".join(reader.data())
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if not isinstance(version, int) or version > FORMAT:
            raise InvalidInput(
                f"{_WHAT}: it has format {version!r:.40}, this skerry knows {FORMAT}",
                hint="import it with the newer skerry that wrote it",
            )
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{_WHAT}: {HEAD} is damaged: {error}") from None
    names = [each.name for each in head.files]
    if len(names) > MAX_FILES or len(set(names)) != len(names):
        raise InvalidInput(f"{_WHAT}: {HEAD} lists too many files, or one twice")
    if not all(map(_NAME.fullmatch, names)) or any(each.size < 0 for each in head.files):
        raise InvalidInput(f"{_WHAT}: {HEAD} lists a file that cannot be")
    return head


def _spool(reader: TarReader, declared: _File, path: str) -> None:
    seen = hashlib.sha256()
    with open(path, "xb") as file:
        for piece in reader.data():
            seen.update(piece)
            file.write(piece)
    if seen.hexdigest() != declared.sha256:
        raise DigestMismatch(f"{_WHAT}: {declared.name} does not have the declared digest")


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(name: str, size: int) -> bytes:
    return tar_writer.header(Entry(name, tar_reader.FILE, 0o600, 0, 0, size, 0, "", 0, 0, {}, None))
