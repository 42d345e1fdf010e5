"""`docker save`: images as one archive that is an OCI layout and a docker-archive at once."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from skerry.base.oci_image import OCI_INDEX, REF_NAME, Descriptor, Index, encode
from skerry.base.references import parse_reference
from skerry.store import tar_reader, tar_writer
from skerry.store.blobs import LAYOUT_VERSION
from skerry.store.compression import file_chunks
from skerry.store.image import Image
from skerry.store.pack import coalesce
from skerry.store.tar_reader import Entry

if TYPE_CHECKING:
    from skerry.store.images import Images

_NAME = "io.containerd.image.name"


def save(images: "Images", names: Iterable[str]) -> Iterator[bytes]:
    """The archive in pieces. NotFound is raised here, not while iterating.

    A name brings that tag along, an id all tags of its image.
    """
    chosen: dict[str, tuple[Image, dict[str, None]]] = {}
    for name in names:
        image = images.get(name)
        tags = image.tags
        if not image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
            familiar = parse_reference(name).familiar
            tags = (familiar,) if familiar in image.tags else ()
        chosen.setdefault(image.id, (image, {}))[1].update(dict.fromkeys(tags))
    return coalesce(_archive(images, list(chosen.values())))


def _archive(images: "Images", chosen: list[tuple[Image, dict[str, None]]]) -> Iterator[bytes]:
    with images.leases.hold():
        written: set[str] = set()
        for image, _ in chosen:
            for digest in image.content():
                if digest not in written:
                    written.add(digest)
                    yield from _blob(images, digest)
        yield from _document("index.json", encode(_index(chosen)))
        yield from _document("manifest.json", msgspec.json.encode(_manifest(chosen)))
        yield from _document("oci-layout", LAYOUT_VERSION)
        yield tar_writer.END


def _index(chosen: list[tuple[Image, dict[str, None]]]) -> Index:
    manifests = []
    for image, tags in chosen:
        for tag in tags or ("",):
            annotations = {}
            if tag:
                reference = parse_reference(tag)
                annotations = {_NAME: str(reference), REF_NAME: reference.tag}
            manifests.append(
                Descriptor(
                    image.media_type, image.manifest, image.manifest_size, annotations=annotations
                )
            )
    return Index(2, manifests, OCI_INDEX)


def _manifest(chosen: list[tuple[Image, dict[str, None]]]) -> list[dict[str, object]]:
    return [
        {
            "Config": _path(image.id),
            "RepoTags": list(tags) or None,
            "Layers": [_path(digest) for digest in image.blobs],
        }
        for image, tags in chosen
    ]


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _blob(images: "Images", digest: str) -> Iterator[bytes]:
    size = images.blobs.size(digest)
    yield _header(_path(digest), size)
    with images.blobs.open(digest) as file:
        yield from file_chunks(file)
    yield tar_writer.padding(size)


def _document(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data)) + data + tar_writer.padding(len(data))


def _header(name: str, size: int) -> bytes:
    return tar_writer.header(Entry(name, tar_reader.FILE, 0o644, 0, 0, size, 0, "", 0, 0, {}, None))
