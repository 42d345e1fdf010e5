"""A build context that came as a tar archive: an index in memory over one file of contents.

Nothing is unpacked. Contents are appended to the file and hashed while they come in; a step that
copies reads them from there, a step that finds itself in the cache reads nothing at all.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from typing import BinaryIO, Final

from skerry.base.errors import InvalidInput, LimitExceeded
from skerry.build.tree import Node, parts_of
from skerry.store.compression import decompressed, file_chunks, is_compressed
from skerry.store.faults import told
from skerry.store.tar_reader import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FILE,
    HARDLINK,
    Entry,
    Limits,
    TarReader,
)

LIMITS: Final = Limits(entries=2_000_000, size=64 << 30)
_PIECE: Final = 1 << 20
_DEFAULT_DIRECTORY: Final = 0o755


class Context:
    """A received context. `close` gives its file back."""

    own = False

    def __init__(self, what: str, fd: int) -> None:
        self.what = what
        self._fd = fd
        self._nodes: dict[str, Node] = {"": _directory("")}
        self._names: dict[str, list[str] | dict[str, None]] = {"": {}}
        self._contents: dict[str, tuple[int, bytes]] = {}
        """Path to offset in the file and digest."""
        self.bytes = 0
        """Sum of the files' sizes."""

    @property
    def files(self) -> int:
        """How many entries it has, the root left out."""
        return len(self._nodes) - 1

    def get(self, path: str) -> Node | None:
        """The file itself."""
        return self._nodes.get(path)

    def names(self, path: str) -> list[str]:
        """What a directory holds, in order."""
        found = self._names.get(path, [])
        if isinstance(found, dict):
            found = self._names[path] = sorted(found)
        return found

    def digest(self, node: Node) -> bytes:
        """SHA-256 of a regular file's bytes."""
        return self._contents[node.path][1]

    def data(self, node: Node) -> Iterator[bytes]:
        """A regular file's bytes."""
        offset = self._contents[node.path][0]
        left = node.size
        while left:
            piece = os.pread(self._fd, min(left, _PIECE), offset)
            if not piece:
                raise InvalidInput(f"{self.what}: {node.path!r:.200}: contents are missing")
            offset += len(piece)
            left -= len(piece)
            yield piece

    def close(self) -> None:
        """Let go of the contents."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def receive(self, chunks: Iterator[bytes]) -> None:
        """Read the archive, plain or compressed; InvalidInput, LimitExceeded."""
        reader = TarReader(decompressed(chunks, self.what, limit=LIMITS.size), self.what, LIMITS)
        with (
            told("store the build context"),
            open(self._fd, "wb", buffering=_PIECE, closefd=False) as file,
        ):
            for entry in reader:
                self._take(entry, reader, file)

    def _take(self, entry: Entry, reader: TarReader, file: BinaryIO) -> None:
        path = self._path(entry, entry.name)
        kind = entry.kind
        if not path:
            if kind is not DIRECTORY:
                raise self._refuse(entry, "only a directory can be the root")
            return
        if kind in (CHAR, BLOCK_DEVICE):
            raise self._refuse(entry, "devices cannot be in a build context")
        old = self._nodes.get(path)
        if old is not None and old.kind is DIRECTORY and kind is not DIRECTORY:
            raise self._refuse(entry, "a directory of the same name came before it")
        if kind is HARDLINK:
            target = self._path(entry, entry.link)
            node = self._nodes.get(target)
            if node is None or node.kind is not FILE:
                raise self._refuse(entry, f"hard link to missing {entry.link!r:.200}")
            self._contents[path] = self._contents[target]
            self.bytes += node.size
            self._add(node._replace(path=path))
            return
        self._add(
            Node(
                path,
                kind,
                entry.mode,
                0,
                0,
                entry.size if kind is FILE else 0,
                entry.mtime_ns,
                entry.link,
                0,
                0,
                {k: v for k, v in entry.xattrs.items() if k.startswith("user.")},
            )
        )
        if kind is FILE:
            self.bytes += entry.size
            if self.bytes > LIMITS.size:
                raise LimitExceeded(f"{self.what}: more than {LIMITS.size} bytes")
            offset = file.tell()
            seen = hashlib.sha256()
            for piece in reader.plain(entry):
                seen.update(piece)
                file.write(piece)
            self._contents[path] = (offset, seen.digest())

    def _path(self, entry: Entry, name: str) -> str:
        if "/." not in name and "//" not in name and name[:1] not in (".", "/", ""):
            return name.rstrip("/")
        if ".." in name.split("/"):
            raise self._refuse(entry, f"the path {name!r:.200} leads out of the context")
        return "/".join(parts_of(name))

    def _refuse(self, entry: Entry, reason: str) -> InvalidInput:
        return InvalidInput(f"{self.what}: entry {entry.name!r:.200}: {reason}")

    def _add(self, node: Node) -> None:
        """Enter a node, and the directories above it that the archive left out."""
        path = node.path
        while True:
            known = path in self._nodes
            self._nodes[path] = node
            if node.kind is DIRECTORY:
                self._names.setdefault(path, {})
            if known:
                return
            above, _, name = path.rpartition("/")
            parent = self._nodes.get(above)
            listed = self._names.setdefault(above, {})
            if isinstance(listed, dict):
                listed[name] = None
            if parent is not None:
                if parent.kind is not DIRECTORY:
                    raise InvalidInput(
                        f"{self.what}: entry {path!r:.200}: {above!r:.200} is no directory"
                    )
                return
            path, node = above, _directory(above)


def receive(stream: BinaryIO, what: str, folder: str) -> Context:
    """Take in a context from a blocking file; its contents go to a file without a name in `folder`.

    InvalidInput and LimitExceeded name the entry; nothing is left behind then, nor after a crash.
    """
    with told("store the build context"):
        fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    context = Context(what, fd)
    try:
        context.receive(file_chunks(stream))
    except BaseException:
        context.close()
        raise
    return context


def from_files(files: dict[str, bytes], what: str, folder: str) -> Context:
    """A small context out of memory: a Dockerfile that came alone."""
    context = Context(what, os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    offset = 0
    for path, data in files.items():
        context._add(Node(path, FILE, 0o644, 0, 0, len(data), time.time_ns(), "", 0, 0, {}))
        os.pwrite(context._fd, data, offset)
        context._contents[path] = (offset, hashlib.sha256(data).digest())
        offset += len(data)
        context.bytes += len(data)
    return context


def _directory(path: str) -> Node:
    return Node(path, DIRECTORY, _DEFAULT_DIRECTORY, 0, 0, 0, time.time_ns(), "", 0, 0, {})


def is_archive(head: bytes) -> bool:
    """Whether a file that begins so (with 512 bytes, if it has them) is an archive."""
    return is_compressed(head) or head[257:262] == b"ustar"
