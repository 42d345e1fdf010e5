"""The members of an OCI image layout that is written as a tar archive."""

from collections.abc import Iterator

from skerry.store import tar_reader, tar_writer
from skerry.store.blobs import Blobs
from skerry.store.compression import file_chunks
from skerry.store.tar_reader import Entry


def blob_path(digest: str) -> str:
    """Where a layout has a blob (image-layout.md)."""
    return "blobs/" + digest.replace(":", "/")


def blob(blobs: Blobs, digest: str) -> Iterator[bytes]:
    """A stored blob, in pieces. NotFound."""
    size = blobs.size(digest)
    yield _header(blob_path(digest), size)
    with blobs.open(digest) as file:
        yield from file_chunks(file)
    yield tar_writer.padding(size)


def document(name: str, data: bytes) -> Iterator[bytes]:
    """A small file."""
    yield _header(name, len(data)) + data + tar_writer.padding(len(data))


def _header(name: str, size: int) -> bytes:
    return tar_writer.header(Entry(name, tar_reader.FILE, 0o644, 0, 0, size, 0, "", 0, 0, {}, None))
