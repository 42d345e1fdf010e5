"""Artifacts about images that are here: bills of materials, signatures, each its image's referrer.

An artifact is what it would be in a registry (image-spec manifest.md, "Guidelines for Artifact
Usage"): a manifest whose `subject` is the image's manifest, and blobs. It lives as long as an image
with that manifest does.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from skerry.base.digests import sha256
from skerry.base.oci_image import OCI_MANIFEST, Descriptor, Manifest, encode, parse_manifest
from skerry.store.image import Image

if TYPE_CHECKING:
    from skerry.store.images import Images

KIND: Final = "referrer"
MAX_ABOUT: Final = 256
"""Artifacts that one source brings about one image."""


class Referrer(NamedTuple):
    """One artifact that is here: its manifest's digest, what it is, what it is about."""

    digest: str
    artifact_type: str
    subject: str
    blobs: tuple[str, ...]
    made_here: bool
    """Else somebody elsewhere knows the image's manifest by its digest."""


class Artifact(NamedTuple):
    """One on its way: its manifest, of OCI's type with a subject."""

    manifest: bytes

    def parsed(self) -> Manifest:
        """InvalidInput, LimitExceeded."""
        return parse_manifest(self.manifest, "artifact manifest")

    @property
    def descriptor(self) -> Descriptor:
        """As an index lists it."""
        kind = artifact_type(self.parsed())
        return Descriptor(
            OCI_MANIFEST, sha256(self.manifest), len(self.manifest), artifact_type=kind
        )

    def about(self, subject: Descriptor) -> "Artifact":
        """The same about another manifest."""
        plain = Descriptor(subject.media_type, subject.digest, subject.size)
        return Artifact(encode(msgspec.structs.replace(self.parsed(), subject=plain)))


def artifact_type(manifest: Manifest) -> str:
    """What an artifact is (distribution-spec, "Listing Referrers")."""
    return manifest.artifact_type or manifest.config.media_type


def blobs_of(manifest: Manifest) -> list[Descriptor]:
    """An artifact's blobs, each once."""
    return list({each.digest: each for each in (manifest.config, *manifest.layers)}.values())


def add(images: "Images", manifest: bytes, blobs: list[tuple[Descriptor, bytes]]) -> str:
    """Store an artifact; the digest of its manifest. Storing it again is fine.

    Earlier ones of the same type about the same image go: there is one bill in each format.
    """
    with images.leases.hold():
        for _, content in blobs:
            images.blobs.put(content)
        return record(images, Artifact(manifest), made_here=True)


def record(images: "Images", artifact: Artifact, *, made_here: bool = False) -> str:
    """Keep an artifact whose blobs are stored; the digest of its manifest.

    To be called under a lease that is older than the blobs. What is made here takes the place of
    earlier ones of its type.
    """
    document = artifact.parsed()
    assert document.subject is not None
    subject, kind = document.subject.digest, artifact_type(document)
    with images.leases.hold():
        digest = images.blobs.put(artifact.manifest)
        blobs = [each.digest for each in blobs_of(document)]
        images.blobs.flush([digest, *blobs])
        with images.leases.lock, images.records.transaction():
            for each in about(images, subject) if made_here else ():
                if each.artifact_type == kind:
                    images.records.delete(KIND, each.digest)
            data = {
                "artifact_type": kind,
                "subject": subject,
                "blobs": blobs,
                "made_here": made_here,
            }
            images.records.put(KIND, digest, data)
    return digest


def everything(images: "Images") -> list[Referrer]:
    """All of them."""
    return [
        Referrer(
            each.id,
            each.data["artifact_type"],
            each.data["subject"],
            tuple(each.data["blobs"]),
            each.data.get("made_here", True),
        )
        for each in images.records.all(KIND)
    ]


def about(images: "Images", subject: str) -> list[Referrer]:
    """Those of one image, by its manifest's digest."""
    return [each for each in everything(images) if each.subject == subject]


def artifacts(images: "Images", subject: str) -> tuple[Artifact, ...]:
    """The same, to be sent elsewhere."""
    return tuple(Artifact(images.blobs.read(each.digest)) for each in about(images, subject))


def follow(images: "Images", before: Image, after: Image) -> None:
    """The image's manifest was written anew: what is about it is about the new one."""
    if before.manifest == after.manifest:
        return
    subject = Descriptor(after.media_type, after.manifest, after.manifest_size)
    for each in about(images, before.manifest):
        artifact = Artifact(images.blobs.read(each.digest)).about(subject)
        record(images, artifact, made_here=each.made_here)
        images.records.delete(KIND, each.digest)
