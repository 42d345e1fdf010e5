"""Manifests and indexes as they come from a registry: read, verified, and chosen from.

A digest is the identity of a document, a media type only a claim: both the header's and the
document's own have to agree, as otherwise two tools may read one document as two things.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from skerry.base.digests import Verifier, parse_digest
from skerry.base.errors import (
    DigestMismatch,
    InvalidInput,
    LimitExceeded,
    RegistryError,
    RegistryLimit,
    RegistryMismatch,
    RegistryNotFound,
    RegistryProtocol,
)
from skerry.base.oci_image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_index,
    parse_manifest,
)
from skerry.base.platforms import rank, this_platform
from skerry.registry.transport import Ask, Transport
from skerry.registry.wire import Answer

ACCEPT: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)
MAX_MANIFEST: Final = 4 << 20
MAX_INDEX: Final = 8 << 20
MAX_NESTING: Final = 4
"""Indexes above a manifest; real ones have one or two."""
_GENERIC: Final = frozenset({"", "application/json", "application/octet-stream", "text/plain"})


class Document(NamedTuple):
    """A manifest or index as it came, verified."""

    data: bytes
    media_type: str
    digest: str

    @property
    def descriptor(self) -> Descriptor:
        """Its descriptor."""
        return Descriptor(self.media_type, self.digest, len(self.data))


class ImageManifest(NamedTuple):
    """One platform's image."""

    chain: tuple[Document, ...]
    """From what the reference names (an index, or the manifest itself) down to the manifest."""
    manifest: Manifest

    @property
    def root(self) -> Document:
        """What the reference names: its digest is the one to show."""
        return self.chain[0]

    @property
    def document(self) -> Document:
        """The image manifest."""
        return self.chain[-1]


class Login(NamedTuple):
    """An accepted login."""

    identity_token: str
    """To be stored instead of the password when not empty."""


class Told(msgspec.Struct):
    """The fields of a document that tell what it is."""

    media_type: str = msgspec.field(default="", name="mediaType")
    schema_version: int = msgspec.field(default=2, name="schemaVersion")
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()


def ask_for(
    source: Transport, method: str, repository: str, reference: str, accept: Sequence[str]
) -> Ask:
    """The request for a manifest by tag or digest."""
    return Ask(
        method,
        f"{source.repository(repository)}/manifests/{reference}",
        named(repository, reference),
        (source.scope(repository),),
        {"Accept": ", ".join(accept)},
    )


def named(repository: str, reference: str) -> str:
    """`repository:tag` or `repository@digest`."""
    return f"{repository}{'@' if ':' in reference else ':'}{reference}"


async def fetch(
    source: Transport, repository: str, reference: str, accept: Sequence[str]
) -> Document:
    """A document by tag or digest, verified; RegistryError."""
    ask = ask_for(source, "GET", repository, reference, accept)
    answer, data = await source.document(ask, MAX_INDEX)
    return verified(source.registry, ask.reference, reference, answer, data)


async def resolve(
    source: Transport, repository: str, reference: str, accept: Sequence[str]
) -> Descriptor:
    """What a tag or digest stands for, by HEAD; by GET where HEAD does not tell."""
    ask = ask_for(source, "HEAD", repository, reference, accept)
    answer = await source.head(ask._replace(ok=frozenset({200, 400, 405, 501})))
    digest = answer.headers.get("Docker-Content-Digest", "")
    kind = media_type(answer)
    if answer.status != 200 or not digest or answer.length is None or kind in _GENERIC:
        return (await fetch(source, repository, reference, accept)).descriptor
    try:
        parse_digest(digest)
    except InvalidInput as error:
        raise RegistryProtocol(source.registry, ask.reference, error.message) from None
    if ":" in reference and digest != reference:
        raise RegistryMismatch(source.registry, ask.reference, f"the registry answers {digest}")
    limit = MAX_INDEX if kind in INDEXES else MAX_MANIFEST
    if answer.length > limit:
        raise RegistryLimit(
            source.registry, ask.reference, f"{answer.length} bytes, at most {limit} are read"
        )
    return Descriptor(kind, digest, answer.length)


def media_type(answer: Answer) -> str:
    """The media type of an answer without its parameters."""
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def verified(registry: str, what: str, reference: str, answer: Answer, data: bytes) -> Document:
    """A document whose digest, media type and size are as they should be; RegistryError."""
    told = answer.headers.get("Docker-Content-Digest", "")
    wanted = reference if ":" in reference else told
    algorithm = wanted.partition(":")[0] if wanted else "sha256"
    if algorithm not in ("sha256", "sha512"):
        raise RegistryProtocol(registry, what, f"{wanted!r:.100} is no digest")
    seen = Verifier(algorithm)
    seen.update(data)
    if wanted and seen.digest != wanted:
        raise RegistryMismatch(
            registry, what, f"manifest: digest is {seen.digest}, expected {wanted:.150}"
        )
    kind = kind_of(registry, what, media_type(answer), data)
    limit = MAX_INDEX if kind in INDEXES else MAX_MANIFEST
    if len(data) > limit:
        raise RegistryLimit(registry, what, f"{len(data)} bytes of manifest, at most {limit}")
    return Document(data, kind, seen.digest)


def kind_of(registry: str, what: str, header: str, data: bytes) -> str:
    """The media type of a document, one of the four; RegistryError when it is none of them."""
    try:
        told = msgspec.json.decode(data, type=Told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RegistryProtocol(registry, what, f"the manifest is malformed: {error}") from None
    kind = told.media_type or header
    if told.schema_version == 1 or "docker.distribution.manifest.v1" in kind:
        raise RegistryProtocol(
            registry,
            what,
            "an image of the old schema 1, which nobody has been able to push for years",
            hint="push it again with a current tool",
        )
    if told.media_type and header not in _GENERIC and header != told.media_type:
        raise RegistryMismatch(
            registry, what, f"sent as {header:.100}, but says it is {told.media_type:.100}"
        )
    if kind in _GENERIC:
        kind = OCI_INDEX if bytes(told.manifests) else OCI_MANIFEST
    if kind not in INDEXES | MANIFESTS:
        raise RegistryProtocol(registry, what, f"{kind:.100} is neither an image nor an index")
    other = told.layers if kind in INDEXES else told.manifests
    if bytes(other) not in (b"", b"null"):
        raise RegistryMismatch(registry, what, "the document is an image and an index at once")
    return kind


def as_index(registry: str, what: str, document: Document) -> Index:
    """Parsed; RegistryError."""
    try:
        return parse_index(document.data)
    except InvalidInput as error:
        raise _told(registry, what, error) from None


def as_manifest(registry: str, what: str, document: Document) -> Manifest:
    """Parsed; RegistryError."""
    try:
        return parse_manifest(document.data)
    except InvalidInput as error:
        raise _told(registry, what, error) from None


def _told(registry: str, what: str, error: InvalidInput) -> RegistryError:
    if isinstance(error, LimitExceeded):
        return RegistryLimit(registry, what, error.message)
    if isinstance(error, DigestMismatch):
        return RegistryMismatch(registry, what, error.message)
    return RegistryProtocol(registry, what, error.message)


def choose(registry: str, what: str, index: Index, wanted: Platform) -> Descriptor:
    """The manifest or index for a platform; RegistryNotFound lists what there is.

    The best by `platforms.rank`. An index nested in this one is chosen when nothing else fits.
    """
    if not index.manifests:
        raise RegistryNotFound(registry, what, "the index is empty")
    known = [each for each in index.manifests if each.media_type in INDEXES | MANIFESTS]
    ranked = [(_rank(each, wanted), place) for place, each in enumerate(known)]
    fitting = sorted((rank, place) for rank, place in ranked if rank is not None)
    if fitting:
        return known[fitting[0][1]]
    there = sorted({show(each.platform) for each in known if each.platform} - {"unknown/unknown"})
    raise RegistryNotFound(
        registry,
        what,
        f"no image for {show(wanted)}",
        hint=f"there is one for {', '.join(there[:20])}" if there else "",
    )


def _rank(descriptor: Descriptor, wanted: Platform) -> int | None:
    if descriptor.platform is None:
        return 50 if descriptor.media_type in MANIFESTS else 60
    return rank(descriptor.platform, wanted)


def show(platform: Platform) -> str:
    """`os/architecture[/variant]`."""
    return "/".join(filter(None, (platform.os, platform.architecture, platform.variant)))


async def image(
    source: Transport, repository: str, reference: str, platform: Platform | None
) -> ImageManifest:
    """One platform's image; RegistryError."""
    wanted = platform or this_platform()
    document = await fetch(source, repository, reference, ACCEPT)
    chain = [document]
    while document.media_type in INDEXES:
        what = named(repository, reference)
        if len(chain) > MAX_NESTING:
            raise RegistryLimit(
                source.registry, what, f"more than {MAX_NESTING} indexes inside one another"
            )
        index = as_index(source.registry, what, document)
        chosen = choose(source.registry, what, index, wanted)
        if chosen.size > MAX_INDEX:
            raise RegistryLimit(source.registry, what, f"a manifest of {chosen.size} bytes")
        reference = chosen.digest
        document = await fetch(source, repository, reference, ACCEPT)
        if (len(document.data), document.media_type) != (chosen.size, chosen.media_type):
            raise RegistryMismatch(
                source.registry,
                named(repository, reference),
                f"{len(document.data)} bytes of {document.media_type}, the index says "
                f"{chosen.size} of {chosen.media_type:.100}",
            )
        chain.append(document)
    what = named(repository, reference)
    return ImageManifest(tuple(chain), as_manifest(source.registry, what, document))
