"""Manifests as the server has to understand them: what they need, what they speak of.

Only the four types that clients push are taken (OCI and Docker manifest, OCI index, Docker list).
The bytes are kept as they came; nothing here writes them anew.
"""

from typing import Any, Final, NamedTuple

import msgspec

from skerry.base import oci_image
from skerry.base.digests import sha256
from skerry.registry.server import names
from skerry.registry.server.refusals import Refusal

TYPES: Final = oci_image.INDEXES | oci_image.MANIFESTS
MAX_REFERENCES: Final = 8192
"""Layers, manifests and blobs of one document together."""
MAX_SIZE: Final = 1 << 50


class _Descriptor(msgspec.Struct, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    urls: list[str] | None = None
    platform: dict[str, Any] | None = None
    annotations: dict[str, str] | None = None


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None


class Piece(NamedTuple):
    """A descriptor in a document. `platform` is `os/architecture[/variant]` or empty."""

    digest: str
    size: int
    media_type: str
    foreign: bool
    platform: str = ""


class Document(NamedTuple):
    """A manifest or an index. `blobs` has the config first; `subject` is a digest or empty."""

    digest: str
    data: bytes
    media_type: str
    blobs: tuple[Piece, ...]
    manifests: tuple[Piece, ...]
    subject: str
    artifact_type: str
    annotations: dict[str, str]

    @property
    def is_index(self) -> bool:
        """An index or a Docker manifest list."""
        return self.media_type in oci_image.INDEXES

    @property
    def size(self) -> int:
        """Bytes of the blobs that it names."""
        return sum(piece.size for piece in self.blobs)

    def as_referrer(self) -> dict[str, Any]:
        """Its descriptor in the answer of the referrers API."""
        found: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.data),
        }
        if self.artifact_type:
            found["artifactType"] = self.artifact_type
        if self.annotations:
            found["annotations"] = self.annotations
        return found


def parse(data: bytes, content_type: str = "", *, digest: str = "") -> Document:
    """A document from bytes that are within the limit. MANIFEST_INVALID, DIGEST_INVALID.

    `content_type` is what the client said; a media type inside must agree. `digest` is given for
    algorithms other than sha256, by a caller who has verified it.
    """
    try:
        found = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise Refusal("MANIFEST_INVALID", f"not a manifest: {error!s:.200}") from None
    if found.schema_version != 2:
        raise Refusal("MANIFEST_INVALID", f"schema version {found.schema_version}, not 2")
    media_type = _media_type(found, content_type.partition(";")[0].strip().lower())
    every = [*(found.layers or ()), *(found.manifests or ())]
    if len(every) > MAX_REFERENCES:
        raise Refusal("MANIFEST_INVALID", f"{len(every)} references, at most {MAX_REFERENCES}")
    index = media_type in oci_image.INDEXES
    if index and found.manifests is None:
        raise Refusal("MANIFEST_INVALID", "an index without a list of manifests")
    if not index and found.config is None:
        raise Refusal("MANIFEST_INVALID", "a manifest without a config")
    blobs = [] if index else [found.config, *(found.layers or ())]
    artifact = found.artifact_type
    if not artifact and not index and found.config:
        artifact = found.config.media_type
    return Document(
        digest=digest or sha256(data),
        data=data,
        media_type=media_type,
        blobs=tuple(_piece(each) for each in blobs if each is not None),
        manifests=tuple(_piece(each) for each in (found.manifests or ()) if index),
        subject=names.digest(found.subject.digest) if found.subject else "",
        artifact_type=artifact,
        annotations=found.annotations or {},
    )


def _media_type(found: _Document, content_type: str) -> str:
    if found.media_type and content_type and found.media_type != content_type:
        raise Refusal(
            "MANIFEST_INVALID",
            f"the content type is {content_type:.100}, the manifest says {found.media_type:.100}",
        )
    media_type = found.media_type or content_type
    if not media_type or media_type == "application/json":
        media_type = oci_image.OCI_INDEX if found.manifests else oci_image.OCI_MANIFEST
    if media_type not in TYPES:
        raise Refusal("MANIFEST_INVALID", f"manifests of type {media_type:.100} are not taken")
    return media_type


def _piece(found: _Descriptor) -> Piece:
    if not 0 <= found.size <= MAX_SIZE:
        raise Refusal("MANIFEST_INVALID", f"{found.digest:.100}: size {found.size}")
    platform = found.platform or {}
    words = [str(platform.get(key) or "") for key in ("os", "architecture", "variant")]
    return Piece(
        digest=names.digest(found.digest),
        size=found.size,
        media_type=found.media_type,
        foreign=bool(found.urls) or "foreign" in found.media_type or "nondist" in found.media_type,
        platform="/".join(word for word in words if word)[:100],
    )
