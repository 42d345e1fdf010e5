"""`index.json`: the images as other tools find them in the OCI layout. Written from the records."""

import os
from collections.abc import Iterable

from skerry.base.oci_image import (
    OCI_INDEX,
    REF_NAME,
    Descriptor,
    Index,
    Platform,
    encode,
)
from skerry.store.blobs import write_atomically
from skerry.store.image import Image
from skerry.store.scratch import Scratch


def index_of(images: Iterable[Image]) -> bytes:
    """The document: a descriptor for every name, and one for each image without a name."""
    manifests = []
    for image in sorted(images, key=lambda image: image.id):
        platform = Platform(image.architecture, image.os, variant=image.variant)
        manifests += [
            Descriptor(
                image.media_type,
                image.manifest,
                image.manifest_size,
                annotations={REF_NAME: tag} if tag else {},
                platform=platform if image.architecture and image.os else None,
            )
            for tag in image.tags or ("",)
        ]
    return encode(Index(2, manifests, OCI_INDEX))


def write_index(root: str, images: Iterable[Image], scratch: Scratch) -> None:
    """Bring the file in line with the images; it is left alone when it is."""
    path = os.path.join(root, "index.json")
    wanted = index_of(images)
    try:
        with open(path, "rb") as file:
            if file.read() == wanted:
                return
    except FileNotFoundError:
        pass
    write_atomically(path, wanted, scratch)
