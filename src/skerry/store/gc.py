"""Mark and sweep, and the account of every byte below the root."""

from collections.abc import Iterable
from typing import NamedTuple

from skerry.store.blobs import Blobs
from skerry.store.images import Images, Removed
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.scratch import Scratch
from skerry.store.snapshots import Snapshots


class Category(NamedTuple):
    """Bytes on disk (`st_blocks` * 512, hard links once), and how many a prune gives back."""

    bytes: int
    reclaimable: int
    items: int


class Usage(NamedTuple):
    """`categories` adds up to `total`, which is what `du -s --block-size=1 ROOT` says.

    Categories: images (blobs, layers), snapshots, containers, records, temporary, other.
    """

    total: int
    reclaimable: int
    categories: dict[str, Category]


class Reclaimed(NamedTuple):
    """What a collection took away. `bytes` are on disk, by the same measure as Usage."""

    bytes: int
    images: list[Removed]
    blobs: int
    layers: int


class Collector:
    """The garbage collector. Thread-safe; safe beside ingests that hold a lease."""

    def __init__(
        self,
        root: str,
        images: Images,
        blobs: Blobs,
        layers: Layers,
        snapshots: Snapshots,
        scratch: Scratch,
        leases: Leases,
    ) -> None:
        raise NotImplementedError

    def collect(
        self, in_use: Iterable[str] = (), *, dangling: bool = True, unused: bool = False
    ) -> Reclaimed:
        """Remove what nothing refers to.

        Roots are tagged images, images in `in_use` (ids) or under a snapshot, and held leases.
        `dangling=False` keeps untagged images, `unused=True` also removes tagged ones not in use.
        """
        raise NotImplementedError

    def usage(self, in_use: Iterable[str] = (), *, unused: bool = False) -> Usage:
        """Where the bytes are. `collect` with the same arguments frees the reclaimable."""
        raise NotImplementedError

    def empty_trash(self) -> int:
        """Delete what removals left; bytes given back."""
        raise NotImplementedError
