"""From the last state of a stage to an image in the store."""

import os
from collections.abc import Iterable
from typing import Any

import msgspec

from skerry.base.digests import sha256
from skerry.base.errors import NotFound
from skerry.base.oci_image import (
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    encode,
    parse_manifest,
)
from skerry.base.references import parse_reference
from skerry.build.committing import blob_of, note_blob, options_of
from skerry.build.squashing import merge
from skerry.build.state import State
from skerry.store import Store
from skerry.store.commit import MEDIA_TYPES, store_layer, timestamp
from skerry.store.image import Image
from skerry.store.pack import pack
from skerry.store.trees import DIRECTORY


def make_image(
    store: Store,
    state: State,
    tags: Iterable[str] = (),
    *,
    annotations: dict[str, str] | None = None,
    compression: str = "gzip",
) -> Image:
    """The image of a state, recorded unless it is there; the same state always makes the same."""
    with store.leases.hold():
        known = same_image(store, state, annotations or {}, compression)
        if known is not None:
            return with_tags(store, known, tags)
        return record_image(store, state, tags, annotations or {}, compression)


def record_image(
    store: Store, state: State, tags: Iterable[str], annotations: dict[str, str], compression: str
) -> Image:
    """Record the image of a state that `same_image` does not know."""
    with store.leases.hold():
        config = encode(document(state))
        digest = sha256(config)
        descriptors = [
            state.blobs.get(diff_id) or blob_of(store, diff_id, compression)
            for diff_id in state.layers
        ]
        manifest = encode(
            Manifest(
                2,
                Descriptor(OCI_CONFIG, digest, len(config)),
                descriptors,
                OCI_MANIFEST,
                annotations=annotations,
            )
        )
        store.blobs.put(config)
        return store.images.add(manifest, media_type=OCI_MANIFEST, tags=tags)


def same_image(
    store: Store, state: State, annotations: dict[str, str], compression: str = "gzip"
) -> Image | None:
    """The image of this state if it was recorded before, in the same form."""
    id = sha256(encode(document(state)))
    try:
        known = store.images.get(id)
        manifest = parse_manifest(store.blobs.read(known.manifest), id, own=True)
    except NotFound:
        return None
    if known.media_type != OCI_MANIFEST or (manifest.annotations or {}) != annotations:
        return None
    wanted = MEDIA_TYPES.get(compression)
    for diff_id, descriptor in zip(state.layers, manifest.layers, strict=True):
        own = state.blobs.get(diff_id)
        if descriptor != own if own else descriptor.media_type != wanted:
            return None
    return known


def with_tags(store: Store, image: Image, tags: Iterable[str]) -> Image:
    """Give an image the names that it does not have."""
    for tag in tags:
        # Writing the index waits for the disk: only a name that moves is worth it.
        if parse_reference(tag).familiar not in image.tags:
            image = store.images.tag(image.id, tag)
    return image


def document(state: State) -> ImageConfig:
    """The image's configuration document."""
    return ImageConfig(
        architecture=state.architecture,
        os=state.os,
        variant=state.variant,
        rootfs=RootFS("layers", list(state.layers)),
        created=state.created,
        author=state.author,
        config=plain_config(state.config),
        history=list(state.history),
    )


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing, in a fixed order."""
    return {key: value for key, value in sorted(config.items()) if value not in (None, "", [], {})}


def dated(store: Store, state: State, epoch: int, *, rewrite: bool) -> State:
    """The state as SOURCE_DATE_EPOCH wants it: created then, with `rewrite` no file later.

    The base image's own layers and steps stay as they are.
    """
    moment = timestamp(epoch)
    own = [
        History(moment, line.created_by, line.author, line.comment, line.empty_layer)
        for line in state.history[state.base_steps :]
    ]
    layers = list(state.layers)
    if rewrite:
        for index in range(state.base, len(layers)):
            layers[index] = _rewritten(store, layers[index], epoch)
    history = (*state.history[: state.base_steps], *own)
    return state._replace(layers=tuple(layers), history=history, created=moment)


def _rewritten(store: Store, diff_id: str, epoch: int) -> str:
    folder = os.open(store.layers.path(diff_id), DIRECTORY)
    try:
        options = options_of(folder)._replace(latest=epoch, whole_seconds=True)
        descriptor, rewritten = store_layer(store.images, pack(folder, options))
    finally:
        os.close(folder)
    store.layers.unpack(descriptor, rewritten)
    note_blob(store, rewritten, descriptor)
    return rewritten


def squashed(store: Store, state: State) -> State:
    """The stage's own layers as one, as `docker build --squash`; the base's stay."""
    own = state.layers[state.base :]
    if len(own) < 2:
        return state
    layer = merge(store, own)
    steps = [
        msgspec.structs.replace(line, empty_layer=True)
        for line in state.history[state.base_steps :]
    ]
    text = f"merge {len(own)} layers"
    last = History(state.created, "", "", text, not layer)
    layers = (*state.layers[: state.base], *([layer] if layer else []))
    return state._replace(layers=layers, history=(*state.history[: state.base_steps], *steps, last))
