"""Layers that were stored plain, gzipped before they travel.

Archives of `docker save` hold plain layers; a registry would keep them, and everybody fetch them,
three times as large. The image stays the same (its id is the configuration's digest), its manifest
does not; so nothing is changed that a registry knows by its digest already, or a signature does.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from skerry.base.oci_image import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    Descriptor,
    encode,
    parse_manifest,
)
from skerry.store import referrers
from skerry.store.commit import store_layer
from skerry.store.compression import file_chunks
from skerry.store.image import Image

if TYPE_CHECKING:
    from skerry.store.images import Images

_PACKED: Final = {OCI_LAYER: OCI_LAYER_GZIP, DOCKER_LAYER: DOCKER_LAYER_GZIP}


def gzip_layers(images: "Images", image: Image) -> Image:
    """The image with gzipped layers, recorded in its own place; as it is when nothing is plain.

    Idempotent: the same layer always gives the same bytes. Holds a lease of its own; the plain
    blobs go when no other image and no work in flight needs them.
    """
    manifest = parse_manifest(images.blobs.read(image.manifest), own=True)
    known = any(name.digest for name in images.references(image.id)) or not all(
        each.made_here for each in referrers.about(images, image.manifest)
    )
    if known or not any(layer.media_type in _PACKED for layer in manifest.layers):
        return image
    with images.leases.hold():
        layers = [_packed(images, layer) for layer in manifest.layers]
        changed = msgspec.structs.replace(manifest, layers=layers)
        changed_image = images.add(
            encode(changed), media_type=image.media_type, parent=image.parent
        )
        referrers.follow(images, image, changed_image)
    images.release([image.manifest, *image.blobs])
    return images.get(image.id)


def _packed(images: "Images", layer: Descriptor) -> Descriptor:
    if layer.media_type not in _PACKED:
        return layer
    with images.blobs.open(layer.digest) as file:
        packed, _ = store_layer(images, file_chunks(file), "gzip")
    return Descriptor(_PACKED[layer.media_type], packed.digest, packed.size)
