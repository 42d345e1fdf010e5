"""Archives of blobs and documents: docker-archive (`docker save`) and OCI image layout.

Every file that can be a blob is stored as one under the digest of its content, whatever it was
called; the documents, which may come last, say what it was. Sources: image-spec image-layout.md;
the Docker image specification v1.2 ("Combined Image JSON + Filesystem Changeset Format").
"""

import os
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from skerry.base.digests import parse_digest
from skerry.base.errors import DigestMismatch, InvalidInput, LimitExceeded
from skerry.base.oci_image import (
    INDEXES,
    MANIFESTS,
    MAX_LAYERS,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    Manifest,
    encode,
    parse_index,
    parse_manifest,
)
from skerry.base.platforms import suits, this_platform
from skerry.base.references import parse_reference
from skerry.store import tar_reader
from skerry.store.compression import decompressed, file_chunks, is_compressed
from skerry.store.formats.intake import MAX_NESTING, Choice, Extent, Intake, Packed
from skerry.store.referrers import MAX_ABOUT, Artifact, blobs_of
from skerry.store.tar_reader import Entry, TarReader

MAX_FILES: Final = 100_000
"""Members of an archive; each becomes a file on the disk until the documents are read."""
_CONTAINERD_NAME: Final = "io.containerd.image.name"
_BLOB: Final = re.compile(r"blobs/sha256/([0-9a-f]{64})")


class _Saved(msgspec.Struct):
    """One element of a docker-archive's manifest.json."""

    config: str = msgspec.field(name="Config")
    layers: list[str] = msgspec.field(name="Layers")
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


class _File(NamedTuple):
    digest: str
    size: int
    head: bytes


class Documents:
    """What such an archive held, by name."""

    def __init__(self, intake: Intake, choice: Choice = Choice()) -> None:  # noqa: B008
        self._intake = intake
        self._choice = choice
        self._files: dict[str, _File] = {}
        self._links: dict[str, str] = {}
        self._count = 0

    def take(self, entry: Entry, name: str, reader: TarReader) -> None:
        """Store one member. `name` is clean: relative, without dots."""
        intake = self._intake
        self._count += 1
        if self._count > MAX_FILES:
            raise LimitExceeded(f"{intake.what}: more than {MAX_FILES} members")
        if entry.kind in (tar_reader.SYMLINK, tar_reader.HARDLINK):
            above = os.path.dirname(name) if entry.kind is tar_reader.SYMLINK else ""
            self._once(name)
            self._links[name] = os.path.normpath(os.path.join(above, entry.link))
        elif entry.kind is tar_reader.FILE:
            if entry.sparse is not None:
                intake.fail(f"member {name!r:.200} is sparse")
            file = _File(*intake.store(reader.data()))
            self._once(name, file)
            blob = _BLOB.fullmatch(name)
            if blob and file.digest != f"sha256:{blob[1]}":
                raise DigestMismatch(f"{intake.what}: member {name} has the digest {file.digest}")
            self._files[name] = file

    def _once(self, name: str, file: _File | None = None) -> None:
        """A name that comes twice would mean one thing to us and another to the next reader."""
        if name in self._links or self._files.get(name, file) != file:
            self._intake.fail(f"member {name!r:.200} comes twice, with different content")

    def images(self) -> list[Packed]:
        """What the documents name; InvalidInput when that is not all there."""
        saved = self._saved()
        index = self._files.get("index.json")
        if index and "oci-layout" in self._files:
            names: dict[str, list[str]] = {}
            for each in saved:
                config = self._find(each.config)
                names.setdefault(config.digest, []).extend(each.repo_tags or ())
            data = self._intake.read(index.digest)
            return Layout(self._intake, self._intake.require, names, self._choice).images(data)
        return [self._docker(each) for each in saved]

    def _saved(self) -> list[_Saved]:
        file = self._files.get("manifest.json")
        if not file:
            return []
        try:
            data = self._intake.read(file.digest)
            saved = msgspec.json.decode(data, type=list[_Saved])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._intake.fail(f"manifest.json: {error}")
        self._intake.limit_images(len(saved))
        for each in saved:
            if len(each.layers) > MAX_LAYERS:
                raise LimitExceeded(
                    f"{self._intake.what}: manifest.json: {len(each.layers)} layers, "
                    f"at most {MAX_LAYERS}"
                )
        return saved

    def _find(self, wanted: str) -> _File:
        name = os.path.normpath(wanted)
        for _ in range(8):
            if name in self._files:
                return self._files[name]
            name = self._links.get(name, "")
        raise InvalidInput(
            f"{self._intake.what}: manifest.json names a file that is missing: {wanted!r:.200}"
        )

    def _docker(self, saved: _Saved) -> Packed:
        config = self._find(saved.config)
        layers = []
        for name in saved.layers:
            file = self._find(name)
            kind = layer_type(file.head)
            if kind == OCI_LAYER and is_compressed(file.head):
                file = self._plain(file)  # No media type would tell other readers how to read it.
            layers.append(Descriptor(kind, file.digest, file.size))
        # The archive has no manifest; an OCI one can be read by every tool that reads our root.
        about = Descriptor(OCI_CONFIG, config.digest, config.size)
        manifest = Manifest(2, about, layers, OCI_MANIFEST)
        return Packed(encode(manifest), OCI_MANIFEST, tuple(saved.repo_tags or ()))

    def _plain(self, file: _File) -> _File:
        unpacking = self._intake.images.layers.limits.unpacking
        with self._intake.blobs.open(file.digest) as blob:
            chunks = decompressed(file_chunks(blob), f"layer {file.digest}", unpacking=unpacking)
            return _File(*self._intake.store(chunks))


class Layout:
    """Takes in what an index names; of several platforms the choice's.

    `fetch` brings a blob into the store, or raises; `names` are further names by config digest.
    """

    def __init__(
        self,
        intake: Intake,
        fetch: Callable[[Descriptor], None],
        names: dict[str, list[str]] | None = None,
        choice: Choice = Choice(),  # noqa: B008
    ) -> None:
        self._intake = intake
        self._fetch = fetch
        self._names = names or {}
        self._choice = choice
        self._found: dict[str, Packed] = {}
        self._artifacts: dict[str, dict[str, Artifact]] = {}
        self._described: set[str] = set()
        self._seen = 0

    def images(self, index: bytes) -> list[Packed]:
        """The images of an `index.json`; InvalidInput, LimitExceeded, NotFound."""
        self._index(index, "", ())
        packed = [self._with_artifacts(each) for each in self._found.values()]
        strangers = self._artifacts.keys() - self._described
        if strangers:
            count = sum(len(self._artifacts[digest]) for digest in strangers)
            self._intake.tell(f"passed over: {count} artifacts about images that are not in it")
        return packed

    def _with_artifacts(self, packed: Packed) -> Packed:
        parts = tuple(self._with_artifacts(each) for each in packed.parts)
        above = tuple(self._with_artifacts(each) for each in packed.chosen_from)
        digest = packed.descriptor.digest
        self._described.add(digest)
        artifacts = tuple(self._artifacts.get(digest, {}).values())
        for artifact in artifacts:
            for blob in blobs_of(artifact.parsed()):
                self._fetch(blob)
                self._intake.require(blob)
        return packed._replace(artifacts=artifacts, parts=parts, chosen_from=above)

    def _index(self, data: bytes, tag: str, above: tuple[Packed, ...]) -> None:
        what = f"{self._intake.what}: image index"
        depth = len(above)
        if depth > MAX_NESTING:
            raise LimitExceeded(f"{what}: nested deeper than {MAX_NESTING}")
        for descriptor in parse_index(data, what).manifests:
            self._seen += 1
            if self._seen > 2 * MAX_FILES:
                raise LimitExceeded(f"{what}: more than {2 * MAX_FILES} descriptors")
            annotations = descriptor.annotations
            name = annotations.get(_CONTAINERD_NAME) or annotations.get(REF_NAME, "") or tag
            if not self._suits(descriptor, depth):
                continue
            if descriptor.media_type in INDEXES and self._choice.whole:
                extent = Extent(f"{self._intake.what}: {descriptor.digest}")
                self._add(self._whole(descriptor, extent), [name] if name else [])
            elif descriptor.media_type in INDEXES:
                self._fetch(descriptor)
                inner = self._intake.read(descriptor.digest)
                self._index(inner, name, (*above, Packed(inner, descriptor.media_type, ())))
            elif descriptor.media_type in MANIFESTS:
                self._fetch(descriptor)
                self._manifest(descriptor, name, above)

    def _suits(self, descriptor: Descriptor, depth: int) -> bool:
        has, wanted = descriptor.platform, self._choice.platform
        if has is None or self._choice.whole:
            return True
        if wanted is None:
            # Whoever puts an image of another machine at the top means it.
            return not depth or suits(has, this_platform())
        return suits(has, wanted)

    def _whole(self, descriptor: Descriptor, extent: Extent, depth: int = 0) -> Packed:
        """An index or a manifest with all that it leads to."""
        what = f"{self._intake.what}: {descriptor.digest}"
        extent.add(depth, descriptor.size)
        self._fetch(descriptor)
        data = self._intake.read(descriptor.digest)
        packed = Packed(data, descriptor.media_type, ())
        if not packed.is_index:
            manifest = parse_manifest(data, what)
            for blob in (manifest.config, *manifest.layers):
                self._fetch(blob)
            return packed
        listed = parse_index(data, what).manifests
        return packed._replace(parts=tuple(self._whole(each, extent, depth + 1) for each in listed))

    def _manifest(self, descriptor: Descriptor, name: str, above: tuple[Packed, ...]) -> None:
        data = self._intake.read(descriptor.digest)
        manifest = parse_manifest(data, f"{self._intake.what}: manifest {descriptor.digest}")
        if manifest.subject and descriptor.media_type == OCI_MANIFEST:
            self._artifact(manifest.subject, descriptor, data)
        # cosign's own layouts hold signatures as manifests that look like images.
        documents = bool(manifest.layers) and all(
            layer.media_type.endswith("+json") for layer in manifest.layers
        )
        if manifest.artifact_type or manifest.subject or documents:
            return
        for blob in (manifest.config, *manifest.layers):
            self._fetch(blob)
        further = self._names.get(manifest.config.digest, ())
        tags = dict.fromkeys([*further, *([name] if name else ())])
        if further and (":" not in name or _familiar(name) in map(_familiar, further)):
            # docker save writes the bare tag into the annotation, or the whole name; manifest.json
            # has the name as people write it.
            tags = dict.fromkeys(further)
        self._add(Packed(data, descriptor.media_type, (), chosen_from=above), tags)

    def _add(self, packed: Packed, names: Iterable[str]) -> None:
        """An image under further names."""
        digest = packed.descriptor.digest
        known = self._found.get(digest)
        all_names = dict.fromkeys([*(known.names if known else ()), *names])
        above = packed.chosen_from or (known.chosen_from if known else ())
        self._found[digest] = packed._replace(names=tuple(all_names), chosen_from=above)
        self._intake.limit_images(len(self._found))

    def _artifact(self, subject: Descriptor, descriptor: Descriptor, data: bytes) -> None:
        """Kept until all images are known: it may come before the one it is about."""
        held = self._artifacts.setdefault(parse_digest(subject.digest), {})
        held[descriptor.digest] = Artifact(data)
        if len(held) > MAX_ABOUT:
            raise LimitExceeded(
                f"{self._intake.what}: more than {MAX_ABOUT} artifacts about {subject.digest}"
            )


def _familiar(name: str) -> str:
    try:
        return parse_reference(name).familiar
    except InvalidInput:
        return name


def layer_type(head: bytes) -> str:
    """A layer's media type by its first bytes."""
    if head.startswith(b"\x1f\x8b"):
        return OCI_LAYER_GZIP
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return OCI_LAYER_ZSTD
    return OCI_LAYER
