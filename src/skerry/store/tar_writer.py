"""Writing tar: ustar headers, pax records where ustar has no room. Pure.

The same entries always give the same bytes (POSIX.1-2017 pax(1)).
"""

from typing import Final

from skerry.store import tar_reader
from skerry.store.tar_reader import BLOCK, Entry

END: Final = bytes(2 * BLOCK)
_TYPES: Final = {
    tar_reader.FILE: b"0",
    tar_reader.HARDLINK: b"1",
    tar_reader.SYMLINK: b"2",
    tar_reader.CHAR: b"3",
    tar_reader.BLOCK_DEVICE: b"4",
    tar_reader.DIRECTORY: b"5",
    tar_reader.FIFO: b"6",
}
_MAX_ID: Final = 0o7777777
_MAX_NUMBER: Final = 0o77777777777


def header(entry: Entry) -> bytes:
    """All header blocks of one member; its data follow, padded by `padding`.

    The data are the file's `size` bytes, or for a sparse one the bytes of its parts, end to end
    (GNU tar's manual, "Storing Sparse Files", PAX format 1.0). A directory's name gets its trailing
    slash.
    """
    name = _bytes(entry.name)
    if entry.kind is tar_reader.DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    link = _bytes(entry.link)
    size = entry.size if entry.kind is tar_reader.FILE else 0
    sparse_map = b""
    records: dict[str, bytes] = {}
    if entry.sparse is not None:
        sparse_map = _sparse_map(entry.sparse, size)
        records = {
            "GNU.sparse.major": b"1",
            "GNU.sparse.minor": b"0",
            "GNU.sparse.name": name,
            "GNU.sparse.realsize": b"%d" % size,
        }
        size = len(sparse_map) + data_size(entry)
        above, _, last = name.rpartition(b"/")
        name = b"%b/GNUSparseFile.0/%b" % (above or b".", last)
    seconds, fraction = divmod(entry.mtime_ns, 10**9)
    if len(name) > 100:
        records["path"] = name
    if len(link) > 100:
        records["linkpath"] = link
    if size > _MAX_NUMBER:
        records["size"] = b"%d" % size
    if entry.uid > _MAX_ID:
        records["uid"] = b"%d" % entry.uid
    if entry.gid > _MAX_ID:
        records["gid"] = b"%d" % entry.gid
    if fraction or not 0 <= seconds <= _MAX_NUMBER:
        records["mtime"] = _pax_time(entry.mtime_ns)
    for key, value in entry.xattrs.items():
        records[f"SCHILY.xattr.{key}"] = value
    block = _block(
        name[:100],
        _TYPES[entry.kind],
        mode=entry.mode,
        uid=min(entry.uid, _MAX_ID) if "uid" not in records else 0,
        gid=min(entry.gid, _MAX_ID) if "gid" not in records else 0,
        size=size if "size" not in records else 0,
        mtime=min(max(seconds, 0), _MAX_NUMBER),
        link=link[:100],
        major=entry.major,
        minor=entry.minor,
    )
    if not records:
        return block
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    extended = _block(b"PaxHeaders/" + name[-80:].strip(b"/"), b"x", mode=0o644, size=len(body))
    return extended + body + padding(len(body)) + block + sparse_map


def data_size(entry: Entry) -> int:
    """Bytes of data that follow the header."""
    if entry.sparse is not None:
        return sum(length for _, length in entry.sparse)
    return entry.size if entry.kind is tar_reader.FILE else 0


def _sparse_map(parts: tuple[tuple[int, int], ...], size: int) -> bytes:
    """The map in front of the data; readers learn from an empty last part where the file ends."""
    if not parts or sum(parts[-1]) < size:
        parts = (*parts, (size, 0))
    text = b"%d\n" % len(parts) + b"".join(b"%d\n%d\n" % part for part in parts)
    return text + padding(len(text))


def padding(size: int) -> bytes:
    """What fills the last block after `size` bytes."""
    return bytes(-size % BLOCK)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _pax_time(nanoseconds: int) -> bytes:
    sign = "-" if nanoseconds < 0 else ""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    text = f"{sign}{seconds}"
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    return text.encode()


def _record(key: str, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (_bytes(key), value)
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    major: int = 0,
    minor: int = 0,
) -> bytes:
    block = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % uid,
            b"%07o\0" % gid,
            b"%011o\0" % size,
            b"%011o\0" % mtime,
            b"        ",
            kind,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0" % major,
            b"%07o\0" % minor,
            bytes(167),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
