"""What an image is to the rest of the engine, and how its record is written."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from skerry.base.oci_image import Descriptor, ImageConfig
from skerry.base.references import Reference

Progress = Callable[[str], None]


class Image(NamedTuple):
    """An image as listed."""

    id: str
    """`sha256:<hex>`: the config's digest."""
    tags: tuple[str, ...]
    """As people write them (`busybox:latest`), in order; empty for a dangling image."""
    digests: tuple[str, ...]
    """`busybox@sha256:…`: what registries call it; the manifest's own digest for a repository that
    was neither pulled nor pushed."""
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

    def content(self) -> tuple[str, ...]:
        """The digests of every blob it needs."""
        return (self.id, self.manifest, *self.blobs)


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


def to_record(
    config: ImageConfig, manifest: Descriptor, blobs: Iterable[str], size: int, parent: str
) -> dict[str, Any]:
    """The plain data that is stored about an image; its names are records of their own."""
    return {
        "manifest": manifest.digest,
        "media_type": manifest.media_type,
        "manifest_size": manifest.size,
        "layers": config.rootfs.diff_ids,
        "blobs": list(blobs),
        "created": config.created,
        "size": size,
        "parent": parent,
        "architecture": config.architecture,
        "os": config.os,
        "variant": config.variant,
        "author": config.author,
        "comment": config.comment or (config.history[-1].comment if config.history else ""),
        "config": config.config or {},
        "tagged_at": 0.0,
    }


def from_record(id: str, data: dict[str, Any], names: Iterable[Reference]) -> Image:  # noqa: A002
    """The image of a record. `names` are its references, tags and digests."""
    names = sorted(names)
    tags = tuple(name.familiar for name in names if name.tag and not name.digest)
    recorded = [name for name in names if name.digest]
    known = {name.familiar_name for name in recorded}
    others = dict.fromkeys(n.familiar_name for n in names if n.familiar_name not in known)
    digests = tuple(
        sorted(
            [f"{name.familiar_name}@{name.digest}" for name in recorded]
            + [f"{repository}@{data['manifest']}" for repository in others]
        )
    )
    fields = {**data, "layers": tuple(data["layers"]), "blobs": tuple(data["blobs"])}
    return Image(id=id, tags=tags, digests=digests, **fields)


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The identity of each layer together with all below it (image-spec config.md, ChainID)."""
    chain = ""
    found = []
    for diff_id in diff_ids:
        chain = (
            "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
            if chain
            else diff_id
        )
        found.append(chain)
    return found
