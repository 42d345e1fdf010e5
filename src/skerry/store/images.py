"""Images: their records, names and life. An image's id is its config's digest, as in Docker."""

from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

from skerry.base.oci_image import History, ImageConfig
from skerry.store.blobs import Blobs
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.records import Records
from skerry.store.snapshots import Snapshots

Progress = Callable[[str], None]


class Image(NamedTuple):
    """An image as listed."""

    id: str
    """`sha256:<hex>`: the config's digest."""
    tags: tuple[str, ...]
    """As people write them (`busybox:latest`), in order; empty for a dangling image."""
    digests: tuple[str, ...]
    """`busybox@sha256:<manifest digest>`, one a repository."""
    manifest: str
    """The manifest's digest."""
    media_type: str
    """The manifest's media type."""
    manifest_size: int
    layers: tuple[str, ...]
    """Diff ids, bottom-most first."""
    blobs: tuple[str, ...]
    """Digests of the layers' blobs, in the same order."""
    created: str
    """RFC 3339; empty when the image does not say."""
    size: int
    """Bytes of the files of all layers: Docker's Size and VirtualSize."""
    parent: str
    """The id of the image it was committed from, or empty."""
    architecture: str
    os: str
    variant: str
    author: str
    comment: str
    config: dict[str, Any]
    """Docker's Config object: Env, Cmd, Entrypoint, User, Labels, …"""
    tagged_at: float
    """Seconds since the epoch when it last got a name."""


class HistoryLine(NamedTuple):
    """One line of `docker history`, newest first."""

    id: str
    """Image id, or `<missing>`."""
    created: str
    created_by: str
    size: int
    comment: str
    tags: tuple[str, ...]


class Removed(NamedTuple):
    """One line of `docker rmi`: exactly one of the two is not empty."""

    untagged: str = ""
    deleted: str = ""


ImageList = list[Image]
HistoryLines = list[HistoryLine]
RemovedLines = list[Removed]
ContainerList = list[tuple[str, bool]]


class Images:
    """Images by name and id. Thread-safe."""

    def __init__(
        self,
        root: str,
        records: Records,
        blobs: Blobs,
        layers: Layers,
        snapshots: Snapshots,
        leases: Leases,
    ) -> None:
        raise NotImplementedError

    def list(self) -> ImageList:
        """All images, newest first."""
        raise NotImplementedError

    def get(self, name_or_id: str) -> Image:
        """By name (`busybox`, `busybox:latest`, `busybox@sha256:…`), id, `sha256:` id, or unique id
        prefix; NotFound with Docker's words ("No such image: …")."""
        raise NotImplementedError

    def config(self, image: Image | str) -> ImageConfig:
        """The whole configuration document."""
        raise NotImplementedError

    def history(self, image: Image | str) -> HistoryLines:
        """How it was made, newest step first."""
        raise NotImplementedError

    def tag(self, name_or_id: str, reference: str) -> Image:
        """Give an image a further name; the name moves when another image had it."""
        raise NotImplementedError

    def untag(self, reference: str) -> None:
        """Take a name away; the image stays."""
        raise NotImplementedError

    def remove(
        self,
        name: str,
        *,
        force: bool = False,
        in_use: dict[str, ContainerList] | None = None,
        prune_parents: bool = True,
    ) -> RemovedLines:
        """Docker's rmi. `in_use` maps image ids to (container id, running) pairs.

        Conflict, with Docker's words, when containers or several names keep it.
        """
        raise NotImplementedError

    def add(
        self,
        manifest: bytes,
        *,
        media_type: str = "",
        tags: Iterable[str] = (),
        parent: str = "",
        progress: Progress | None = None,
    ) -> Image:
        """Take in an image whose blobs are all stored: check, unpack its layers, record it."""
        raise NotImplementedError

    def import_layout(self, folder: str, *, progress: Progress | None = None) -> ImageList:
        """Take in every image of an OCI image layout folder."""
        raise NotImplementedError

    def load(self, stream: BinaryIO, *, progress: Progress | None = None) -> ImageList:
        """`docker load`: a docker-archive or oci-archive tar, plain or compressed."""
        raise NotImplementedError

    def commit(
        self,
        parent: str | None,
        snapshot: str,
        config: dict[str, Any],
        *,
        tags: Iterable[str] = (),
        author: str = "",
        comment: str = "",
        created_by: str = "",
        created: float | None = None,
        compression: str = "gzip",
    ) -> Image:
        """A new image: the parent's layers and the snapshot's changes; `config` is its Config."""
        raise NotImplementedError


__all__ = ["History", "HistoryLine", "Image", "Images", "Progress", "Removed"]
