"""Images that come as files: OCI layout folders, and the archives of `docker save`.

An archive is read once from front to back: every file that can be a blob is stored as one under the
digest of its content, whatever it was called, and the documents at the end say what it was.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import msgspec

from skerry.base.errors import InvalidInput, LimitExceeded, NotFound
from skerry.base.oci_image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    MAX_DOCUMENT,
    OCI_LAYER_ZSTD,
    REF_NAME,
    Descriptor,
    Manifest,
    encode,
    parse_index,
    parse_manifest,
)
from skerry.store import tar_reader
from skerry.store.commit import architecture
from skerry.store.compression import decompressed, file_chunks
from skerry.store.image import Image, Progress
from skerry.store.tar_reader import Entry, Limits, TarReader

if TYPE_CHECKING:
    from skerry.store.images import Images

_CONTAINERD_NAME: Final = "io.containerd.image.name"
_LIMITS: Final = Limits(entries=100_000)
_MAX_NESTING: Final = 4


class _Saved(msgspec.Struct):
    """One element of a docker-archive's manifest.json."""

    config: str = msgspec.field(name="Config")
    layers: list[str] = msgspec.field(name="Layers")
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)


class _File(NamedTuple):
    digest: str
    size: int
    head: bytes


def load(images: "Images", stream: BinaryIO, progress: Progress | None) -> list[Image]:
    """Take in every image of an archive; InvalidInput when it is none."""
    what = "image archive"
    archive = _Archive(images)
    try:
        with images.leases.hold():
            chunks = decompressed(file_chunks(stream), what, limit=_LIMITS.size)
            for entry, data in _entries(TarReader(chunks, what, _LIMITS)):
                archive.take(entry, data)
            loaded = archive.images(progress)
    finally:
        images.release(archive.digests())
    if not loaded:
        raise InvalidInput("image archive: it holds no image")
    return loaded


def import_layout(images: "Images", folder: str, progress: Progress | None) -> list[Image]:
    """Take in every image of an OCI image layout folder; blobs are copied and verified."""
    try:
        with open(os.path.join(folder, "index.json"), "rb") as file:
            index = file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise NotFound(f"open the OCI layout {folder}: {error.strerror}") from None

    def fetch(descriptor: Descriptor) -> None:
        if images.blobs.has(descriptor.digest):
            return
        algorithm, _, name = descriptor.digest.partition(":")
        try:
            with (
                open(os.path.join(folder, "blobs", algorithm, name), "rb") as file,
                images.blobs.ingest() as writer,
            ):
                for chunk in file_chunks(file):
                    writer.write(chunk)
                writer.commit(descriptor.digest, descriptor.size)
        except FileNotFoundError:
            raise NotFound(f"OCI layout {folder}: no blob {descriptor.digest}") from None

    with images.leases.hold():
        return _Index(images, fetch, {}, progress).take(index)


def _entries(reader: TarReader) -> Iterator[tuple[Entry, Iterator[memoryview]]]:
    for entry in reader:
        yield entry, reader.data()


class _Archive:
    """What an archive held, by name."""

    def __init__(self, images: "Images") -> None:
        self._images = images
        self._files: dict[str, _File] = {}
        self._links: dict[str, str] = {}

    def take(self, entry: Entry, data: Iterator[memoryview]) -> None:
        name = os.path.normpath(entry.name.lstrip("/"))
        if entry.kind in (tar_reader.SYMLINK, tar_reader.HARDLINK):
            above = os.path.dirname(name) if entry.kind is tar_reader.SYMLINK else ""
            self._links[name] = os.path.normpath(os.path.join(above, entry.link))
        elif entry.kind is tar_reader.FILE:
            if entry.sparse is not None:
                raise InvalidInput(f"image archive: entry {name!r:.200} is sparse")
            head = b""
            with self._images.blobs.ingest() as writer:
                for piece in data:
                    head = head or bytes(piece[:8])
                    writer.write(piece)
                self._files[name] = _File(writer.commit(), writer.size, head)

    def digests(self) -> set[str]:
        """Everything that was stored on the way."""
        return {file.digest for file in self._files.values()}

    def images(self, progress: Progress | None) -> list[Image]:
        saved = self._saved()
        index = self._files.get("index.json")
        if index and "oci-layout" in self._files:
            names: dict[str, list[str]] = {}
            for each in saved:
                config = self._find(each.config)
                names.setdefault(config.digest, []).extend(each.repo_tags or ())
            return _Index(self._images, self._fetch, names, progress).take(self._read(index))
        return [self._docker(each, progress) for each in saved]

    def _saved(self) -> list[_Saved]:
        file = self._files.get("manifest.json")
        if not file:
            return []
        try:
            return msgspec.json.decode(self._read(file), type=list[_Saved])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"image archive: manifest.json: {error}") from None

    def _fetch(self, descriptor: Descriptor) -> None:
        if not self._images.blobs.has(descriptor.digest):
            raise NotFound(f"image archive: no blob {descriptor.digest}")

    def _read(self, file: _File) -> bytes:
        return self._images.blobs.read(file.digest, MAX_DOCUMENT)

    def _find(self, wanted: str) -> _File:
        name = os.path.normpath(wanted)
        for _ in range(8):
            if name in self._files:
                return self._files[name]
            name = self._links.get(name, "")
        raise InvalidInput(
            f"image archive: manifest.json names a file that is missing: {wanted!r:.200}"
        )

    def _docker(self, saved: _Saved, progress: Progress | None) -> Image:
        config = self._find(saved.config)
        layers = []
        for name in saved.layers:
            file = self._find(name)
            layers.append(Descriptor(_layer_type(file.head), file.digest, file.size))
        manifest = Manifest(
            2, Descriptor(DOCKER_CONFIG, config.digest, config.size), layers, DOCKER_MANIFEST
        )
        return self._images.add(
            encode(manifest),
            media_type=DOCKER_MANIFEST,
            tags=saved.repo_tags or (),
            progress=progress,
        )


class _Index:
    """Takes in what an index names; of several platforms only this machine's."""

    def __init__(
        self,
        images: "Images",
        fetch: Any,
        names: dict[str, list[str]],
        progress: Progress | None,
    ) -> None:
        self._images = images
        self._fetch = fetch
        self._names = names
        self._progress = progress
        self._loaded: dict[str, Image] = {}

    def take(self, index: bytes) -> list[Image]:
        self._index(index, "", 0)
        return list(self._loaded.values())

    def _index(self, data: bytes, tag: str, depth: int) -> None:
        if depth > _MAX_NESTING:
            raise LimitExceeded(f"image index: nested deeper than {_MAX_NESTING}")
        for descriptor in parse_index(data, "image index").manifests:
            annotations = descriptor.annotations
            name = annotations.get(_CONTAINERD_NAME) or annotations.get(REF_NAME, "") or tag
            where = descriptor.platform
            if depth and where and (where.os, where.architecture) != ("linux", architecture()):
                continue
            if descriptor.media_type in INDEXES:
                self._fetch(descriptor)
                self._index(self._images.blobs.read(descriptor.digest), name, depth + 1)
            elif descriptor.media_type in MANIFESTS:
                self._fetch(descriptor)
                self._manifest(descriptor, name)

    def _manifest(self, descriptor: Descriptor, name: str) -> None:
        data = self._images.blobs.read(descriptor.digest)
        manifest = parse_manifest(data, f"manifest {descriptor.digest}")
        if manifest.artifact_type or manifest.subject:
            return
        for blob in (manifest.config, *manifest.layers):
            self._fetch(blob)
        tags = dict.fromkeys(
            [*self._names.get(manifest.config.digest, ()), *([name] if name else ())]
        )
        if self._names.get(manifest.config.digest) and ":" not in name:
            # docker save writes the bare tag into the annotation; manifest.json has the whole name.
            tags.pop(name, None)
        image = self._images.add(
            data, media_type=descriptor.media_type, tags=tags, progress=self._progress
        )
        self._loaded[image.id] = image


def _layer_type(head: bytes) -> str:
    if head.startswith(b"\x1f\x8b"):
        return DOCKER_LAYER_GZIP
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return OCI_LAYER_ZSTD
    return DOCKER_LAYER
