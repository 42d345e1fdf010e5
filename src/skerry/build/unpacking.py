"""ADD of local archives: tar, plain or compressed, is unpacked at the target."""

import os
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from skerry.base.errors import SkerryError
from skerry.build import copying
from skerry.build.operations import Copy
from skerry.build.tree import Node, Tree, parts_of
from skerry.kernel.descriptors import make_directories
from skerry.store.archive import extract_tar
from skerry.store.compression import decompressed
from skerry.store.tar_reader import FILE, TarReader

_LIMIT: Final = 64 << 30


class _Stream:
    """A tree's file, as the store reads files."""

    def __init__(self, pieces: Iterator[bytes | memoryview]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1) -> bytes:
        del size
        return bytes(next(self._pieces, b""))


def unpacked(operation: Copy) -> bool:
    """Whether the operation unpacks the archives among its sources: ADD does, unless they came
    from elsewhere and `--unpack` was not given."""
    if not operation.add or operation.files:
        return False
    if operation.unpack is not None:
        return operation.unpack
    return not any("://" in each for each in operation.sources)


def is_archive(tree: Tree, node: Node) -> bool:
    """Whether a file begins as a tar archive does, after decompression."""
    if node.kind is not FILE or not node.size:
        return False
    try:
        reader = TarReader(
            decompressed((bytes(p) for p in tree.data(node)), node.path, limit=_LIMIT), node.path
        )
        return next(iter(reader), None) is not None
    except SkerryError:
        return False


def unpack(
    tree: Tree,
    sources: list[copying.Source],
    request: copying.Request,
    root: int,
    owner: tuple[int, int] | None,
) -> list[copying.Source]:
    """Unpack what is an archive; the sources that are none are left to be copied."""
    left = []
    for source in sources:
        node = source.items[0].node if len(source.items) == 1 and not source.directory else None
        if node is None or not is_archive(tree, node):
            left.append(source)
            continue
        target = "/".join(parts_of(request.target))
        os.close(make_directories(root, target or "/"))
        stream = cast(BinaryIO, _Stream(iter(tree.data(node))))
        extract_tar(stream, root, f"/{target}", owner=owner)
    return left
