"""Content on its way into the store: blobs that no image refers to yet.

Blobs are stored while the archive is read, before anybody knows what they are. Until images are
recorded a lease keeps them; whatever no image has taken at the end goes away again, so an archive
that turns out to be broken leaves the store as it was.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec

from skerry.base.digests import Verifier, sha256
from skerry.base.errors import (
    DigestMismatch,
    InvalidInput,
    LimitExceeded,
    NotFound,
    RegistryError,
)
from skerry.base.oci_image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEXES,
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    encode,
    parse_config,
    parse_index,
    parse_manifest,
)
from skerry.base.references import parse_reference
from skerry.store import referrers
from skerry.store.compression import decompressed, file_chunks
from skerry.store.image import Image
from skerry.store.referrers import Artifact

if TYPE_CHECKING:
    from skerry.store.images import Images

MAX_IMAGES: Final = 1000
"""Images in one archive."""

MAX_PARTS: Final = 1000
"""Manifests and indexes that one index leads to, each counted as often as it is named."""
MAX_NESTING: Final = 4
"""Indexes inside one another."""
MAX_DOCUMENTS: Final = 64 << 20
"""Bytes of an index and all that it leads to; they are kept in memory."""

_OCI: Final = {DOCKER_LAYER: OCI_LAYER, DOCKER_LAYER_GZIP: OCI_LAYER_GZIP}

Tell = Callable[[str], None]


def _silent(line: str) -> None:
    return


class Choice(NamedTuple):
    """Which images of an index are meant."""

    platform: Platform | None = None
    """None: this machine's."""
    whole: bool = False
    """All of them, and the index itself."""


class Packed(NamedTuple):
    """An image whose blobs are stored and which nothing refers to yet; or an index of such."""

    manifest: bytes
    media_type: str
    names: tuple[str, ...]
    """Full references, as the source has them; they are parsed when the image is recorded."""
    artifacts: tuple[Artifact, ...] = ()
    """What is about it, blobs stored too."""
    parts: tuple["Packed", ...] = ()
    """Of an index: the images and indexes it names, in its order."""
    chosen_from: tuple["Packed", ...] = ()
    """The indexes that led to it, with what is about them: a signature of theirs vouches for it."""

    @property
    def is_index(self) -> bool:
        """Then `manifest` is the index's."""
        return self.media_type in INDEXES

    def walk(self) -> Iterator["Packed"]:
        """All that an index leads to before itself: whoever stores them so has no dangling name."""
        for each in self.parts:
            yield from each.walk()
        yield self

    @property
    def descriptor(self) -> Descriptor:
        """Of the manifest."""
        return Descriptor(self.media_type, sha256(self.manifest), len(self.manifest))

    def parsed(self) -> Manifest:
        """The manifest; InvalidInput."""
        return parse_manifest(self.manifest, "image manifest")

    def as_oci(self) -> "Packed":
        """The same with OCI's media types: readers of layouts pass over Docker's."""
        replace = msgspec.structs.replace
        if self.is_index:
            parts = tuple(each.as_oci() for each in self.parts)
            if self.media_type == OCI_INDEX and parts == self.parts:
                return self
            now = {
                old.descriptor.digest: new.descriptor
                for old, new in zip(self.parts, parts, strict=True)
            }
            index = parse_index(self.manifest)
            listed = []
            for each in index.manifests:
                new = now[each.digest]
                listed.append(
                    replace(each, media_type=new.media_type, digest=new.digest, size=new.size)
                )
            data = encode(replace(index, media_type=OCI_INDEX, manifests=listed))
            made = self._replace(manifest=data, media_type=OCI_INDEX, parts=parts)
            about = tuple(each.about(made.descriptor) for each in self.artifacts)
            return made._replace(artifacts=about)
        if self.media_type != DOCKER_MANIFEST:
            return self
        manifest = self.parsed()
        fresh = replace(
            manifest,
            media_type=OCI_MANIFEST,
            config=replace(manifest.config, media_type=OCI_CONFIG),
            layers=[
                replace(each, media_type=_OCI.get(each.media_type, each.media_type))
                for each in manifest.layers
            ],
        )
        made = self._replace(manifest=encode(fresh), media_type=OCI_MANIFEST)
        about = tuple(each.about(made.descriptor) for each in self.artifacts)
        return made._replace(artifacts=about)


class Extent:
    """What one index leads to, while it is read; LimitExceeded when that is too much."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._parts = self._bytes = 0

    def add(self, depth: int, size: int) -> None:
        """One document of so many bytes, so many indexes down."""
        self._parts += 1
        self._bytes += size
        if depth > MAX_NESTING:
            raise LimitExceeded(f"{self._what}: indexes nested deeper than {MAX_NESTING}")
        if self._parts > MAX_PARTS:
            raise LimitExceeded(f"{self._what}: the index leads to more than {MAX_PARTS} manifests")
        if self._bytes > MAX_DOCUMENTS:
            raise LimitExceeded(
                f"{self._what}: the index and its manifests have more than {MAX_DOCUMENTS} bytes"
            )


class Intake:
    """Blobs stored on behalf of one source. Use in a `with` block."""

    def __init__(self, images: "Images", what: str, tell: Tell | None = None) -> None:
        """`what` names the source in errors; `tell` hears what is passed over or done."""
        self.images = images
        self.blobs = images.blobs
        self.what = what
        self.tell = tell or _silent
        self._stored: set[str] = set()
        self._unpacked: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> "Intake":
        self._stack.enter_context(self.images.leases.hold())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self.images.release(self._stored, self._unpacked)
        # Registries name themselves; layers and names know nothing of the source they come from.
        if isinstance(error, RegistryError) or not isinstance(error, InvalidInput):
            return
        if self.what not in error.message:
            error.message = f"{self.what}: {error.message}"

    def fail(self, reason: str) -> NoReturn:
        """InvalidInput about the source."""
        raise InvalidInput(f"{self.what}: {reason}")

    def store(self, pieces: Iterable[bytes | memoryview]) -> tuple[str, int, bytes]:
        """A blob of these bytes: its digest, size and first bytes."""
        head = b""
        with self.blobs.ingest() as writer:
            for piece in pieces:
                if len(head) < 8:
                    head += bytes(piece[:8])
                writer.write(piece)
            digest = writer.commit()
            self._stored.add(digest)
            return digest, writer.size, head

    def keep(self, digest: str) -> None:
        """Take the blame for a blob that was stored otherwise."""
        self._stored.add(digest)

    def document(self, data: bytes, media_type: str) -> Descriptor:
        """A small blob."""
        digest = self.blobs.put(data)
        self._stored.add(digest)
        return Descriptor(media_type, digest, len(data))

    def require(self, descriptor: Descriptor) -> None:
        """NotFound unless the blob is here, DigestMismatch unless it is as long as declared."""
        if not self.blobs.has(descriptor.digest):
            raise NotFound(f"{self.what}: it has no blob {descriptor.digest}")
        size = self.blobs.size(descriptor.digest)
        if size != descriptor.size:
            raise DigestMismatch(
                f"{self.what}: blob {descriptor.digest} has {size} bytes, "
                f"its descriptor says {descriptor.size}"
            )

    def read(self, digest: str) -> bytes:
        """A stored document, limited."""
        return self.blobs.read(digest, MAX_DOCUMENT)

    def pack(
        self, config: ImageConfig, layers: list[Descriptor], names: Iterable[str] = ()
    ) -> Packed:
        """An image of stored layers and a configuration that is made here."""
        about = self.document(encode(config), OCI_CONFIG)
        manifest = encode(Manifest(2, about, layers, OCI_MANIFEST))
        return Packed(manifest, OCI_MANIFEST, tuple(names))

    def record(self, packed: list[Packed]) -> list[Image]:
        """Unpack and record them: all, or none when one of them is broken."""
        for each in packed:
            self._prepare(each)
        loaded: dict[str, Image] = {}
        for each in packed:
            image = self.images.add(each.manifest, media_type=each.media_type, tags=each.names)
            loaded[image.id] = image
            for artifact in each.artifacts:
                referrers.record(self.images, artifact)
        return list(loaded.values())

    def _prepare(self, packed: Packed) -> None:
        for name in packed.names:
            parse_reference(name)
        manifest, config = self.checked(packed)
        # Docker's early images say nothing.
        if config.os not in ("", "linux"):
            self.fail(f"image operating system {config.os!r:.40} cannot be used on this platform")
        for descriptor, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
            if not self.images.layers.has(diff_id):
                self.tell(f"unpacking layer {diff_id[7:19]} ({descriptor.size} bytes)")
                self._unpacked.add(diff_id)
            self.images.layers.unpack(descriptor, diff_id)

    def checked(self, packed: Packed) -> tuple[Manifest, ImageConfig]:
        """Its documents, which fit one another and the stored blobs."""
        manifest = packed.parsed()
        for blob in (manifest.config, *manifest.layers):
            self.require(blob)
        what = f"{self.what}: config {manifest.config.digest}"
        config = parse_config(self.read(manifest.config.digest), what)
        if len(manifest.layers) != len(config.rootfs.diff_ids):
            raise InvalidInput(
                f"{what}: {len(config.rootfs.diff_ids)} diff ids for {len(manifest.layers)} layers"
            )
        return manifest, config

    def verify(self, packed: Packed) -> None:
        """Hash every layer, decompressed, against the configuration; for copies, which unpack
        nothing. What an index names besides images has no layers. DigestMismatch, InvalidInput."""
        for part in packed.parts:
            if part.is_index or part.parsed().config.media_type in (OCI_CONFIG, DOCKER_CONFIG):
                self.verify(part)
        if packed.is_index:
            return
        manifest, config = self.checked(packed)
        for descriptor, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
            if diff_id == descriptor.digest or self.images.layers.has(diff_id):
                continue
            what = f"{self.what}: layer {descriptor.digest}"
            seen = Verifier()
            with self.blobs.open(descriptor.digest) as file:
                unpacking = self.images.layers.limits.unpacking
                for piece in decompressed(file_chunks(file), what, unpacking=unpacking):
                    seen.update(piece)
            seen.check(diff_id, what=f"{what}, uncompressed")

    def limit_images(self, count: int) -> None:
        """LimitExceeded above MAX_IMAGES."""
        if count > MAX_IMAGES:
            raise LimitExceeded(f"{self.what}: more than {MAX_IMAGES} images")


def packed_image(
    images: "Images", image: Image, names: Iterable[str], *, about: bool = True
) -> Packed:
    """An image of the store, to be written or copied; with what is `about` it."""
    artifacts = referrers.artifacts(images, image.manifest) if about else ()
    return Packed(images.blobs.read(image.manifest), image.media_type, tuple(names), artifacts)
