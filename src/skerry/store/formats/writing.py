"""Writing archives of images: docker-archive, oci-archive, LXC unified tarball, plain rootfs.

A docker-archive is an OCI layout at the same time: `docker load`, podman and skopeo read it by
`manifest.json`, others by `index.json`. An oci-archive is the layout alone, with whole names.
"""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from skerry.base.errors import InvalidInput
from skerry.base.isolation import Overlay
from skerry.base.oci_image import OCI_INDEX, REF_NAME, Descriptor, Index, encode
from skerry.base.references import parse_reference
from skerry.kernel import mounts
from skerry.store import layout_tar, tar_writer
from skerry.store.blobs import LAYOUT_VERSION
from skerry.store.commit import compressor
from skerry.store.formats import lxc
from skerry.store.formats.intake import Packed
from skerry.store.image import Image
from skerry.store.pack import PackOptions, coalesce, pack
from skerry.store.referrers import blobs_of

if TYPE_CHECKING:
    from skerry.store.images import Images

DOCKER, OCI, LXC, ROOTFS = "docker-archive", "oci-archive", "lxc", "rootfs"
FORMATS: Final = (DOCKER, OCI, LXC, ROOTFS)
COMPRESSIONS: Final = ("none", "gzip", "zstd")
_NAME: Final = "io.containerd.image.name"


def check_format(name: str, compression: str) -> None:
    """InvalidInput for what cannot be written."""
    if name not in FORMATS:
        raise InvalidInput(
            f"cannot write images as {name!r:.40}", hint=f"known are {', '.join(FORMATS)}"
        )
    if compression not in COMPRESSIONS:
        raise InvalidInput(
            f"cannot compress archives with {compression!r:.40}",
            hint=f"known are {', '.join(COMPRESSIONS)}",
        )


def compressed(chunks: Iterator[bytes], compression: str) -> Iterator[bytes]:
    """The stream compressed; in pieces."""
    if compression == "none":
        return chunks

    def run() -> Iterator[bytes]:
        packer = compressor(compression)
        for chunk in chunks:
            if piece := packer.compress(chunk):
                yield piece
        yield packer.flush()

    return coalesce(run())


def write(images: "Images", packed: list[Packed], layout: str = DOCKER) -> Iterator[bytes]:
    """A docker-archive or oci-archive of stored blobs, in pieces. The caller holds a lease."""
    return coalesce(_archive(images, packed, layout))


def _archive(images: "Images", packed: list[Packed], layout: str) -> Iterator[bytes]:
    written: set[str] = set()
    if layout == OCI:
        packed = [each.as_oci() for each in packed]
    for each in [part for one in packed for part in one.walk()]:
        if not each.is_index:
            manifest = each.parsed()
            yield from _blobs(images, [manifest.config, *manifest.layers], written)
        about = each.descriptor
        documents = [(about.digest, each.manifest)]
        for artifact in each.artifacts if layout == OCI else ():
            yield from _blobs(images, blobs_of(artifact.parsed()), written)
            documents.append((artifact.descriptor.digest, artifact.manifest))
        for digest, data in documents:
            if digest not in written:
                written.add(digest)
                yield from layout_tar.document(layout_tar.blob_path(digest), data)
    yield from layout_tar.document("index.json", encode(_index(packed, layout)))
    if layout == DOCKER:
        yield from layout_tar.document("manifest.json", msgspec.json.encode([*map(_saved, packed)]))
        yield from layout_tar.document("repositories", msgspec.json.encode(_repositories(packed)))
    yield from layout_tar.document("oci-layout", LAYOUT_VERSION)
    yield tar_writer.END


def _blobs(images: "Images", descriptors: list[Descriptor], written: set[str]) -> Iterator[bytes]:
    for each in descriptors:
        if each.digest not in written:
            written.add(each.digest)
            yield from layout_tar.blob(images.blobs, each.digest)


def _index(packed: list[Packed], layout: str) -> Index:
    manifests: list[Descriptor] = []
    for each in packed:
        manifests += [
            msgspec.structs.replace(each.descriptor, annotations=_notes(name, layout))
            for name in each.names or ("",)
        ]
    if layout == OCI:
        # Nameless, as oras writes and finds them: whoever asks for a name gets an image.
        parts = [part for each in packed for part in each.walk()]
        found = {a.descriptor.digest: a.descriptor for each in parts for a in each.artifacts}
        manifests += found.values()
    return Index(2, manifests, OCI_INDEX)


def _notes(name: str, layout: str) -> dict[str, str]:
    if not name:
        return {}
    if layout == OCI:
        return {REF_NAME: name}
    reference = parse_reference(name)
    return {_NAME: str(reference), REF_NAME: reference.tag}


def _saved(packed: Packed) -> dict[str, object]:
    manifest = packed.parsed()
    return {
        "Config": layout_tar.blob_path(manifest.config.digest),
        "RepoTags": [parse_reference(name).familiar for name in packed.names] or None,
        "Layers": [layout_tar.blob_path(layer.digest) for layer in manifest.layers],
    }


def _repositories(packed: list[Packed]) -> dict[str, dict[str, str]]:
    """By name and tag the topmost layer, which is how archives before `manifest.json` did it."""
    result: dict[str, dict[str, str]] = {}
    for each in packed:
        layers = each.parsed().layers
        for name in each.names if layers else ():
            short, _, tag = parse_reference(name).familiar.rpartition(":")
            result.setdefault(short, {})[tag] = layers[-1].digest.partition(":")[2]
    return result


def write_tree(images: "Images", image: Image, name: str, layout: str) -> Iterator[bytes]:
    """One image's merged tree: below `rootfs/` with `metadata.yaml` (LXC), or alone (ROOTFS)."""

    def run() -> Iterator[bytes]:
        with images.leases.hold():
            directory = _merged(images, image.layers)
            try:
                if layout == LXC:
                    yield from layout_tar.document(lxc.NAME, lxc.metadata_of(image, name))
                    options = PackOptions(prefix="rootfs/", top=True)
                else:
                    options = PackOptions(prefix="./", top=True)
                yield from pack(directory, options)
            finally:
                os.close(directory)

    return coalesce(run())


def _merged(images: "Images", layers: Iterable[str]) -> int:
    """An open directory with the layers on top of one another, read-only."""
    # overlayfs refuses the same folder twice; what it adds further down is hidden anyway.
    folders = tuple(dict.fromkeys(images.layers.path(diff_id) for diff_id in [*layers][::-1]))
    if not folders:
        raise InvalidInput("the image has no layers: it has no tree to write")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if len(folders) == 1:
        return os.open(folders[0], flags)
    mount = mounts.overlay_fd(Overlay(folders))
    try:
        return os.open(".", flags, dir_fd=mount)
    finally:
        os.close(mount)
