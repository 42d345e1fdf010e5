"""`docker commit`: a container's changes as one more layer on top of its image."""

import datetime
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import zstandard
from isal import isal_zlib

from skerry.base.architectures import architecture
from skerry.base.digests import Verifier
from skerry.base.errors import InvalidInput
from skerry.base.oci_image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    encode,
)
from skerry.store.history import steps_of
from skerry.store.image import Image
from skerry.store.pack import PackOptions, pack
from skerry.store.trees import DIRECTORY

if TYPE_CHECKING:
    from skerry.store.images import Images

MEDIA_TYPES: Final = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER}
_GZIP_LEVEL: Final = 2
_ZSTD_LEVEL: Final = 3


class Step(NamedTuple):
    """How the new layer came about."""

    author: str = ""
    comment: str = ""
    created_by: str = ""
    created: float | None = None
    """Seconds since the epoch; None is now."""
    compression: str = "gzip"
    ignore: frozenset[str] = frozenset()


class Compressor(Protocol):
    """What zlib and zstandard have in common."""

    def compress(self, data: bytes) -> bytes:
        """What came out so far; may be empty."""

    def flush(self) -> bytes:
        """The end."""


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in UTC; now by default."""
    seconds = time.time() if seconds is None else seconds
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{moment.microsecond:06d}Z" if moment.microsecond else "Z")


def commit(
    images: "Images",
    parent: str | None,
    snapshot: str,
    config: dict[str, Any],
    step: Step,
    tags: Iterable[str],
) -> Image:
    """Pack the snapshot's upper directory and record the image that it makes with its parent's."""
    skip = frozenset(path.lstrip("/") for path in step.ignore)
    layers = []
    base = images.snapshots.base(snapshot)
    # What forks share is one layer of each of their images.
    below = reversed(images.snapshots.frozen.uppers(base))
    for folder in (*below, images.snapshots.overlay(snapshot).upper):
        upper = os.open(folder, DIRECTORY)
        try:
            plain = pack(upper, PackOptions(top=True, whiteouts=True, skip=skip))
            layers.append(store_layer(images, plain, step.compression))
        finally:
            os.close(upper)
    return add_layers(images, images.get(parent) if parent else None, layers, config, step, tags)


def add_layer(
    images: "Images",
    base: Image | None,
    layer: tuple[Descriptor, str],
    config: dict[str, Any],
    step: Step,
    tags: Iterable[str],
) -> Image:
    """Record the image of `base` (None is empty) and one more layer (descriptor, diff id)."""
    return add_layers(images, base, [layer], config, step, tags)


def add_layers(
    images: "Images",
    base: Image | None,
    layers: list[tuple[Descriptor, str]],
    config: dict[str, Any],
    step: Step,
    tags: Iterable[str],
) -> Image:
    """Record the image of `base` (None is empty) and further layers, the last one on top."""
    below = images.config(base) if base else None
    descriptors = layers_of(images, base) if base else []
    created = timestamp(step.created)
    lines = [History(created, step.created_by, step.author, step.comment) for _ in layers]
    diff_ids = [*(below.rootfs.diff_ids if below else ()), *(diff_id for _, diff_id in layers)]
    document = ImageConfig(
        architecture=below.architecture if below else architecture(),
        os=below.os if below else "linux",
        variant=below.variant if below else "",
        rootfs=RootFS("layers", diff_ids),
        created=created,
        author=step.author,
        config=config,
        history=[*(steps_of(below) if below else ()), *lines],
    )
    data = encode(document)
    manifest = Manifest(
        2,
        Descriptor(OCI_CONFIG, images.blobs.put(data), len(data)),
        [*descriptors, *(descriptor for descriptor, _ in layers)],
        OCI_MANIFEST,
    )
    return images.add(
        encode(manifest),
        media_type=OCI_MANIFEST,
        tags=tags,
        parent=base.id if base else "",
    )


def layers_of(images: "Images", image: Image) -> list[Descriptor]:
    """The descriptors of an image's layers."""
    from skerry.base.oci_image import parse_manifest

    return parse_manifest(images.blobs.read(image.manifest), own=True).layers


def store_layer(
    images: "Images", plain: Iterator[bytes], compression: str = "gzip"
) -> tuple[Descriptor, str]:
    """Compress and store a layer's archive; its descriptor and its diff id."""
    if compression not in MEDIA_TYPES:
        raise InvalidInput(
            f"cannot compress layers with {compression!r:.40}", hint="known are gzip, zstd and none"
        )
    packer = compressor(compression)
    seen = Verifier()
    with images.blobs.ingest() as writer:
        for piece in plain:
            seen.update(piece)
            packed = packer.compress(piece)
            if packed:
                writer.write(packed)
        writer.write(packer.flush())
        size = writer.size
        digest = writer.commit()
    return Descriptor(MEDIA_TYPES[compression], digest, size), seen.digest


def compressor(compression: str) -> Compressor:
    """For gzip, zstd or none; the same bytes every time."""
    packer: Compressor
    if compression == "gzip":
        # 16 adds a gzip header, which zlib writes without a time: same bytes every time.
        packer = isal_zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    elif compression == "zstd":
        packer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
    else:
        packer = _Plain()
    return packer
