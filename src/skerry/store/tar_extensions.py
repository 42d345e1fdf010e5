"""Extended headers of tar: pax records, extended attributes, sparse maps. Pure; ValueError only."""

import base64
import binascii
from urllib.parse import unquote

_SPARSE_ENTRIES = 1 << 18
_MAX_RECORDS = 1 << 16


class Extensions:
    """What extended headers said about the next entry (or, global ones, about all that follow)."""

    def __init__(self) -> None:
        self.fields: dict[str, bytes] = {}
        self.xattrs: dict[str, bytes] = {}
        self.sparse_pairs: list[int] = []
        """GNU.sparse.offset and numbytes of format 0.0, in the order in which they came."""


def decode_pax(body: bytes, into: Extensions) -> None:
    """Add the records `"<length> <key>=<value>\\n"` of one pax header."""
    at = 0
    records = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        length_text = body[at:space] if space > 0 else b""
        if not length_text.isdigit():
            # Some writers pad the header with zeros.
            if not body[at:].strip(b"\0"):
                return
            raise ValueError("record without a length")
        end = at + int(length_text)
        if end > len(body) or end <= space + 1 or body[end - 1] != 0x0A:
            raise ValueError("record with a wrong length")
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not key or not equals:
            raise ValueError("record without a key")
        records += 1
        if records > _MAX_RECORDS:
            raise ValueError("too many records")
        _record(key.decode("utf-8", "surrogateescape"), value, into)
        at = end


def _record(key: str, value: bytes, into: Extensions) -> None:
    if key.startswith("SCHILY.xattr."):
        into.xattrs[key.removeprefix("SCHILY.xattr.")] = value
    elif key.startswith("LIBARCHIVE.xattr."):
        name = unquote(key.removeprefix("LIBARCHIVE.xattr."), errors="surrogateescape")
        try:
            into.xattrs[name] = base64.b64decode(value + b"=" * (-len(value) % 4))
        except binascii.Error as error:
            raise ValueError(f"extended attribute {name!r:.80}: {error}") from None
    elif key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
        if len(into.sparse_pairs) > 2 * _SPARSE_ENTRIES:
            raise ValueError("sparse map is too long")
        into.sparse_pairs.append(sparse_map_line(value))
        into.fields[key] = value
    elif value:
        into.fields[key] = value
    else:
        # An empty value takes back what an earlier header said.
        into.fields.pop(key, None)


def sparse_map_line(text: bytes) -> int:
    """One number of a sparse map."""
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"not a number: {text!r:.40}")
    return int(text)


def sparse_from_pax(extensions: Extensions, size: int) -> tuple[int, list[tuple[int, int]] | None]:
    """Real size and map of a pax sparse file; the map is None when it is in the data (1.0)."""
    fields = extensions.fields
    version = (fields.get("GNU.sparse.major"), fields.get("GNU.sparse.minor"))
    real_text = fields.get("GNU.sparse.realsize") or fields.get("GNU.sparse.size")
    real = size if real_text is None else sparse_map_line(real_text)
    if version == (b"1", b"0"):
        return real, None
    if version not in ((None, None), (b"0", b"0"), (b"0", b"1")):
        raise ValueError(f"unknown version {version}")
    if "GNU.sparse.map" in fields:
        text = fields["GNU.sparse.map"]
        if text.count(b",") > 2 * _SPARSE_ENTRIES:
            raise ValueError("too long")
        numbers = [sparse_map_line(part) for part in text.split(b",")]
    else:
        numbers = extensions.sparse_pairs
    if len(numbers) % 2:
        raise ValueError("odd number of values")
    return real, list(zip(numbers[::2], numbers[1::2], strict=True))
