"""Build caches elsewhere: in a registry, in a folder, inside an image.

A cache is an OCI image manifest whose layers are those of the steps and whose configuration lists
the steps by key. Importing reads the list only; a layer comes when its step is asked for. Inline,
the list is an annotation of the image's own manifest.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from skerry.base.digests import parse_digest, sha256
from skerry.base.errors import InvalidInput, LimitExceeded, NotFound, RegistryNotFound
from skerry.base.oci_image import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    encode,
    parse_config,
    parse_index,
    parse_manifest,
)
from skerry.base.references import Reference, parse_reference
from skerry.build.committing import blob_of
from skerry.build.layouts import Layout
from skerry.build.request import CacheSource, Options
from skerry.build.tree import Tree
from skerry.engine.engine import Engine
from skerry.registry.client import Client
from skerry.store import Store, layout_tar, tar_writer
from skerry.store.blobs import LAYOUT_VERSION
from skerry.store.steps import Step

CONFIG: Final = "application/vnd.skerry.build.cache.v1+json"
ANNOTATION: Final = "skerry.build.cache"
MAX_STEPS: Final = 20_000
_MAX_ANNOTATION: Final = 1 << 20
VERSION: Final = 1


class CachedStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step in a cache's list."""

    key: str
    layer: str
    description: str = ""
    parent: str = ""
    created_at: float = 0.0
    kind: str = "regular"
    chain: tuple[str, ...] = ()


class CacheList(msgspec.Struct, frozen=True):
    """A cache's configuration document."""

    version: int
    steps: list[CachedStep]


class Blobs(Protocol):
    """Where the layers of a cache are."""

    async def fetch(self, store: Store, descriptor: Descriptor) -> None:
        """Bring one blob into the store, verified."""


class Cache(NamedTuple):
    """An imported list. `layers` are the blobs by diff id."""

    steps: dict[str, CachedStep]
    layers: dict[str, Descriptor]
    blobs: Blobs


def parse(data: bytes, what: str) -> CacheList:
    """A cache's list out of bytes that somebody sent. InvalidInput, LimitExceeded."""
    try:
        found = msgspec.json.decode(data, type=CacheList)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{what}: not a build cache: {error}") from None
    if found.version != VERSION:
        raise InvalidInput(f"{what}: a build cache of version {found.version}")
    if len(found.steps) > MAX_STEPS:
        raise LimitExceeded(f"{what}: more than {MAX_STEPS} steps")
    for step in found.steps:
        for digest in (step.layer, *step.chain):
            if digest:
                parse_digest(digest)
    return found


def listed(steps: Iterable[Step]) -> CacheList:
    """The list of recorded steps."""
    return CacheList(
        VERSION,
        [
            CachedStep(
                each.key,
                each.layer,
                each.description,
                each.parent,
                each.created_at,
                each.kind,
                each.chain,
            )
            for each in steps
        ],
    )


class Imports:
    """The caches that one build reads from."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._caches: list[Cache] = []
        self._held = AsyncExitStack()

    async def add(self, source: CacheSource, options: Options, trees: "dict[str, Tree]") -> bool:
        """Read one cache's list. False when there is none there, which is no error."""
        if source.kind == "local":
            tree = trees.get(f"cache:{source.reference}")
            if tree is None:
                return False
            self._caches.append(_local(tree))
            return True
        reference = parse_reference(source.reference)
        local = self._of_image(source.reference)
        if local is not None:
            self._caches.append(local)
        if local is not None or source.kind == "image":
            return True
        client = self._engine.transfer.client(
            reference.registry, options.credential(reference.registry)
        )
        self._held.push_async_callback(client.close)
        try:
            document = await client.manifest(
                reference.repository, reference.digest or reference.tag
            )
            if document.media_type == OCI_INDEX:
                document = (await client.image(reference.repository, reference.tag)).document
        except RegistryNotFound:
            return False
        manifest = parse_manifest(document.data, source.reference)
        blobs = _Registry(client, reference)
        data = await client.read_blob(reference.repository, manifest.config)
        if manifest.config.media_type == CONFIG:
            self._caches.append(_cache(parse(data, source.reference), manifest, blobs))
            return True
        text = manifest.annotations.get(ANNOTATION)
        if text:
            diff_ids = parse_config(data, source.reference).rootfs.diff_ids
            config = parse(text.encode(), source.reference)
            self._caches.append(_cache(config, manifest, blobs, diff_ids))
        return bool(text)

    def _of_image(self, name: str) -> Cache | None:
        """A local image's inline cache."""
        store = self._engine.store
        try:
            image = store.images.get(name)
        except NotFound:
            return None
        manifest = parse_manifest(store.blobs.read(image.manifest), own=True)
        text = manifest.annotations.get(ANNOTATION)
        if not text:
            return None
        return _cache(parse(text.encode(), name), manifest, _Here(), image.layers)

    async def find(self, key: str) -> Step | None:
        """The step, with its layer brought into the store and recorded as if it was done here."""
        for cache in self._caches:
            step = cache.steps.get(key)
            if step is None:
                continue
            store = self._engine.store
            if step.layer and not await asyncio.to_thread(store.layers.has, step.layer):
                descriptor = cache.layers.get(step.layer)
                if descriptor is None:
                    continue
                await cache.blobs.fetch(store, descriptor)
                await asyncio.to_thread(store.layers.unpack, descriptor, step.layer)
            found = Step(
                step.key,
                step.layer,
                step.description,
                step.parent,
                step.created_at,
                step.created_at,
                kind=step.kind,
                chain=step.chain,
            )
            store.steps.put(found)
            return found
        return None

    async def close(self) -> None:
        """Let go of registries."""
        await self._held.aclose()


def _cache(
    config: CacheList, manifest: Manifest, blobs: Blobs, diff_ids: Iterable[str] = ()
) -> Cache:
    """The blobs by diff id: as the manifest notes them, or in an image's own order."""
    layers = {each.annotations.get(ANNOTATION, ""): each for each in manifest.layers}
    layers |= dict(zip(diff_ids, manifest.layers, strict=False))
    return Cache({step.key: step for step in config.steps}, layers, blobs)


class _Registry:
    def __init__(self, client: Client, reference: Reference) -> None:
        self._client = client
        self._repository = reference.repository

    async def fetch(self, store: Store, descriptor: Descriptor) -> None:
        if store.blobs.has(descriptor.digest):
            return
        with store.blobs.ingest() as writer:
            async with aclosing(self._client.blob(self._repository, descriptor)) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(writer.write, chunk)
            writer.commit(descriptor.digest, descriptor.size)


class _Here:
    async def fetch(self, store: Store, descriptor: Descriptor) -> None:
        if not store.blobs.has(descriptor.digest):
            raise NotFound(f"no such blob: {descriptor.digest}")


def _local(tree: Tree) -> Cache:
    folder = Layout(tree)
    index = parse_index(folder.read("index.json"), tree.what)
    if not index.manifests:
        raise InvalidInput(f"{tree.what}: no build cache: its index is empty")
    manifest = parse_manifest(folder.document(index.manifests[0].digest), tree.what)
    config = parse(folder.document(manifest.config.digest), tree.what)
    return _cache(config, manifest, folder)


class Export(NamedTuple):
    """A cache ready to go: its documents and the blobs of its layers."""

    config: bytes
    manifest: bytes
    layers: list[Descriptor]


def prepare(store: Store, steps: Iterable[Step]) -> Export:
    """Compress what is not yet, and write the documents. Blocks; the caller holds a lease."""
    kept = [step for step in steps if not step.layer or store.layers.has(step.layer)]
    layers = []
    for diff_id in dict.fromkeys(step.layer for step in kept if step.layer):
        descriptor = blob_of(store, diff_id)
        layers.append(msgspec.structs.replace(descriptor, annotations={ANNOTATION: diff_id}))
    config = msgspec.json.encode(listed(kept), order="deterministic")
    manifest = Manifest(2, Descriptor(CONFIG, sha256(config), len(config)), layers, OCI_MANIFEST)
    return Export(config, encode(manifest), layers)


async def push(engine: Engine, export: Export, target: str, options: Options) -> None:
    """Send a cache to a registry under a tag."""
    reference = parse_reference(target)
    store = engine.store
    client = engine.transfer.client(reference.registry, options.credential(reference.registry))
    async with client:
        for descriptor in {each.digest: each for each in export.layers}.values():
            if not await client.has_blob(reference.repository, descriptor.digest):
                await client.push_blob(reference.repository, descriptor, _opener(store, descriptor))
        digest = store.blobs.put(export.config)
        about = Descriptor(CONFIG, digest, len(export.config))
        await client.push_blob(reference.repository, about, _opener(store, about))
        await client.put_manifest(
            reference.repository, reference.tag, export.manifest, OCI_MANIFEST
        )


def _opener(store: Store, descriptor: Descriptor) -> Any:
    async def pieces(offset: int) -> Any:
        with store.blobs.open(descriptor.digest) as file:
            os.lseek(file.fileno(), offset, os.SEEK_SET)
            while piece := await asyncio.to_thread(file.read, 1 << 20):
                yield piece

    return pieces


def archive(store: Store, export: Export) -> Iterator[bytes]:
    """A cache as an OCI image layout in a tar archive, in pieces."""
    digest = sha256(export.manifest)
    about = Descriptor(OCI_MANIFEST, digest, len(export.manifest))
    yield from layout_tar.document("oci-layout", LAYOUT_VERSION)
    yield from layout_tar.document("index.json", encode(Index(2, [about], OCI_INDEX)))
    yield from layout_tar.document(layout_tar.blob_path(digest), export.manifest)
    yield from layout_tar.document(layout_tar.blob_path(sha256(export.config)), export.config)
    for descriptor in {each.digest: each for each in export.layers}.values():
        yield from layout_tar.blob(store.blobs, descriptor.digest)
    yield tar_writer.END


def inline(steps: Iterable[Step]) -> dict[str, str]:
    """The annotation of an image that carries its own cache; empty when it would be too large."""
    text = msgspec.json.encode(listed(steps), order="deterministic")
    return {ANNOTATION: text.decode()} if len(text) <= _MAX_ANNOTATION else {}
