"""Artifacts about images that are here: a bill of materials, kept as its image's referrer.

An artifact is what it would be in a registry (image-spec manifest.md, "Guidelines for Artifact
Usage"): a manifest whose `subject` is the image's manifest, and blobs. It lives as long as an image
with that manifest does.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from skerry.base.oci_image import Descriptor, Manifest, encode, parse_manifest
from skerry.store.image import Image

if TYPE_CHECKING:
    from skerry.store.images import Images

KIND: Final = "referrer"
MAX_BLOB: Final = 64 << 20


class Referrer(NamedTuple):
    """One artifact: its manifest's digest, what it is, what it is about."""

    digest: str
    artifact_type: str
    subject: str
    blobs: tuple[str, ...]


def add(images: "Images", manifest: bytes, blobs: list[tuple[Descriptor, bytes]]) -> str:
    """Store an artifact; the digest of its manifest. Storing it again is fine.

    Earlier ones of the same type about the same image go: there is one bill in each format.
    """
    document = parse_manifest(manifest, "artifact manifest")
    assert document.subject is not None
    with images.leases.hold():
        for _, content in blobs:
            images.blobs.put(content)
        digest = images.blobs.put(manifest)
        images.blobs.flush([digest, *(each.digest for each, _ in blobs)])
        data = {
            "artifact_type": document.artifact_type,
            "subject": document.subject.digest,
            "blobs": [each.digest for each, _ in blobs],
        }
        with images.leases.lock, images.records.transaction():
            for each in about(images, document.subject.digest):
                if each.artifact_type == document.artifact_type:
                    images.records.delete(KIND, each.digest)
            images.records.put(KIND, digest, data)
    return digest


def everything(images: "Images") -> list[Referrer]:
    """All of them."""
    return [
        Referrer(
            each.id, each.data["artifact_type"], each.data["subject"], tuple(each.data["blobs"])
        )
        for each in images.records.all(KIND)
    ]


def about(images: "Images", subject: str) -> list[Referrer]:
    """Those of one image, by its manifest's digest."""
    return [each for each in everything(images) if each.subject == subject]


def follow(images: "Images", before: Image, after: Image) -> None:
    """The image's manifest was written anew: what is about it is about the new one."""
    subject = Descriptor(after.media_type, after.manifest, after.manifest_size)
    for each in about(images, before.manifest) if before.manifest != after.manifest else ():
        old = parse_manifest(images.blobs.read(each.digest))
        add(images, encode(msgspec.structs.replace(old, subject=subject)), _blobs(images, old))
        images.records.delete(KIND, each.digest)


def _blobs(images: "Images", manifest: Manifest) -> list[tuple[Descriptor, bytes]]:
    return [
        (each, images.blobs.read(each.digest, MAX_BLOB))
        for each in (manifest.config, *manifest.layers)
    ]
