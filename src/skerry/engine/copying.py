"""Copies of images between archives, this engine and registries: `skerry copy`.

Every copy has the same three steps. The source's blobs are stored under a lease, its manifest is
kept in memory, then they are written where they should go. Nothing is unpacked unless the target is
this engine, and an image that only passes through leaves no blob behind. Blobs and manifests go
through unchanged, so digests survive, except that a docker-archive has no manifest to keep.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, BinaryIO, Final, NamedTuple

from skerry.base.errors import InvalidInput, NotFound, SkerryError, Unsupported
from skerry.base.oci_image import Descriptor
from skerry.base.references import Reference, parse_reference
from skerry.engine import artifacts
from skerry.engine.archives import Archives, in_pieces
from skerry.engine.images import Progress
from skerry.engine.threads import blocking
from skerry.engine.transfer import Transfer
from skerry.engine.transfer_blobs import arrive, download
from skerry.registry.auth import Credential
from skerry.registry.client import Client
from skerry.registry.documents import as_index, as_manifest, named
from skerry.store import Store
from skerry.store.arrival import Arrival
from skerry.store.formats import writing
from skerry.store.formats.intake import Choice, Extent, Intake, Packed, packed_image
from skerry.store.formats.reading import read
from skerry.store.referrers import blobs_of
from skerry.store.save import choose

ARCHIVE, IMAGE, REGISTRY = "archive", "image", "registry"
KINDS: Final = (ARCHIVE, IMAGE, REGISTRY)
_AT_ONCE: Final = 3
"""Blobs that are fetched from or sent to a registry at the same time."""
_MAX_NAME: Final = 255


class Source(NamedTuple):
    """Where an image comes from."""

    kind: str
    reference: str
    """Of an archive: which of its images, or empty for all."""
    stream: BinaryIO | None = None
    """Of an archive: its bytes."""
    credential: Credential | None = None
    referrers: bool = True
    """Whether what is about the image comes along, where the target can hold it."""
    choice: Choice = Choice()
    """Which images of an index."""


class Copying:
    """The service."""

    def __init__(self, store: Store, archives: Archives, transfer: Transfer) -> None:
        self._store = store
        self._archives = archives
        self._transfer = transfer

    async def to_archive(
        self, source: Source, name: str, layout: str = writing.OCI, compression: str = "none"
    ) -> AsyncIterator[bytes]:
        """An archive of what the source holds; `name` is the image's name in it, when not empty."""
        writing.check_format(layout, compression)
        if layout not in (writing.DOCKER, writing.OCI):
            raise Unsupported(f"copy does not write {layout}", hint="save does")
        with Intake(self._store.images, _what(source)) as intake:
            source = source._replace(referrers=source.referrers and layout == writing.OCI)
            packed = _renamed(intake, await self._gather(intake, source), name, layout)
            if layout == writing.DOCKER:
                _refuse_indexes(packed, "a docker-archive")
            for each in packed:
                await blocking(partial(intake.verify, each))
            stream = writing.compressed(
                writing.write(self._store.images, packed, layout), compression
            )
            async with aclosing(in_pieces(stream)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece

    async def to_image(self, source: Source, name: str) -> AsyncIterator[Progress]:
        """Into this engine, as `name` or under the names it has."""
        with Intake(self._store.images, _what(source)) as intake:
            packed = _renamed(intake, await self._gather(intake, source), name, writing.DOCKER)
            _refuse_indexes(packed, "the engine")
            for each in packed if source.kind == ARCHIVE else ():
                self._archives.admit_packed(each, "copy")
            if source.kind == REGISTRY and name:
                self._archives.admit_renamed(source.reference, name)
            for image in await blocking(lambda: intake.record(packed)):
                self._archives.emit("load", image)
                for shown in [name] if name else image.tags or [image.id]:
                    yield {"status": f"Copied {shown}", "aux": {"ID": image.id}}

    async def to_registry(
        self, source: Source, name: str, credential: Credential | None = None
    ) -> AsyncIterator[Progress]:
        """To a registry, as `name`."""
        reference = parse_reference(name)
        if reference.digest:
            raise InvalidInput(f"cannot copy to {name:.200}: name a tag, not a digest")
        with Intake(self._store.images, _what(source)) as intake:
            packed = _renamed(intake, await self._gather(intake, source), name, writing.DOCKER)
            for each in packed:
                await blocking(partial(intake.verify, each))
                async with self._transfer.client(reference.registry, credential) as client:
                    digest = await self._push(client, reference, each)
                yield {"status": f"Copied {reference.familiar} ({digest})", "aux": {"ID": digest}}

    async def _gather(self, intake: Intake, source: Source) -> list[Packed]:
        if source.kind == ARCHIVE:
            stream = source.stream
            if stream is None:
                raise InvalidInput("an archive to copy from has to come in the request's body")
            limits = self._store.images.layers.limits
            packed = await blocking(lambda: read(intake, stream, limits, source.choice))
            if not source.referrers:
                packed = [_alone(each) for each in packed]
            return _selected(intake, packed, source.reference)
        if source.kind == IMAGE:
            chosen = choose(self._store.images, [source.reference])
            return [
                packed_image(self._store.images, *each, about=source.referrers)
                for each in chosen.values()
            ]
        return [await self._fetch(intake, source)]

    async def _fetch(self, intake: Intake, source: Source) -> Packed:
        reference = parse_reference(source.reference)
        transfer = self._transfer
        async with transfer.client(reference.registry, source.credential) as client:
            wanted = reference.digest or reference.tag
            if source.choice.whole:
                packed = await _documents(client, reference, wanted)
                digests = [packed.descriptor.digest]
            else:
                found = await client.image(reference.repository, wanted, source.choice.platform)
                packed = Packed(found.document.data, found.document.media_type, ())
                digests = [found.root.digest, found.document.digest]
            if transfer.policy is not None:
                await transfer.policy.admit(client, reference, digests)
            limit = asyncio.Semaphore(_AT_ONCE)

            async def one(descriptor: Descriptor) -> None:
                async with limit:
                    await _bring(intake, client, reference, descriptor)

            await _all([one(each) for each in _blobs(packed)])

            async def with_artifacts(each: Packed) -> Packed:
                about = await artifacts.fetch(
                    client,
                    reference,
                    each.descriptor,
                    one,
                    lambda data: intake.keep(intake.blobs.put(data)),
                )
                parts = [await with_artifacts(part) for part in each.parts]
                return each._replace(artifacts=about, parts=tuple(parts))

            if source.referrers:
                packed = await with_artifacts(packed)
        names = (str(reference._replace(digest="")),) if reference.tag else ()
        return packed._replace(names=names)

    async def _push(self, client: Client, reference: Reference, packed: Packed) -> str:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(descriptor: Descriptor) -> None:
            def opener(offset: int) -> BinaryIO:
                file = self._store.blobs.open(descriptor.digest)
                file.seek(offset)
                return file

            async with limit:
                if not await client.has_blob(reference.repository, descriptor.digest):
                    await client.push_blob(reference.repository, descriptor, opener)

        await _all([one(each) for each in _blobs(packed)])
        digest = ""
        for each in packed.walk():
            name = reference.tag if each is packed else each.descriptor.digest
            digest = await client.put_manifest(
                reference.repository, name, each.manifest, each.media_type
            )
            await artifacts.send(client, reference, each.artifacts, self._store.blobs.open)
        return digest


async def _documents(client: Client, reference: Reference, wanted: str) -> Packed:
    """What a tag or digest stands for with all that it leads to, documents only."""
    extent = Extent(f"{client.registry}/{reference.repository}:{wanted}")

    async def one(name: str, depth: int) -> Packed:
        document = await client.manifest(reference.repository, name)
        extent.add(depth, len(document.data))
        packed = Packed(document.data, document.media_type, ())
        what = named(reference.repository, document.digest)
        if not packed.is_index:
            as_manifest(client.registry, what, document)
            return packed
        listed = as_index(client.registry, what, document).manifests
        parts = [await one(each.digest, depth + 1) for each in listed]
        return packed._replace(parts=tuple(parts))

    return await one(wanted, 0)


def _blobs(packed: Packed) -> list[Descriptor]:
    """Configurations and layers of all images in it, each once."""
    found: dict[str, Descriptor] = {}
    for each in packed.walk():
        if not each.is_index:
            found |= {blob.digest: blob for blob in blobs_of(each.parsed())}
    return list(found.values())


def _alone(packed: Packed) -> Packed:
    """Without what is about it."""
    return packed._replace(artifacts=(), parts=tuple(map(_alone, packed.parts)))


def _refuse_indexes(packed: list[Packed], goal: str) -> None:
    """Unsupported for targets that hold one platform of an image."""
    if any(each.is_index for each in packed):
        raise Unsupported(
            f"{goal} holds one platform of an image, not an index of several",
            hint="copy one of them (--platform OS/ARCH), or all to a registry or an OCI layout",
        )


async def _bring(
    intake: Intake, client: Client, reference: Reference, descriptor: Descriptor
) -> None:
    """A blob into the store."""
    if intake.blobs.has(descriptor.digest):
        return

    async def silent() -> None:
        return

    async def work(arrival: Arrival) -> None:
        await download(client, reference.repository, descriptor, arrival, silent)
        await blocking(lambda: arrival.commit(descriptor.digest, descriptor.size, lasting=False))

    # Before it is here: whoever is cancelled meanwhile must not leave it behind.
    intake.keep(descriptor.digest)
    await arrive(intake.blobs, descriptor.digest, work)


async def _all(work: list[Any]) -> None:
    """Side by side; the first error ends the others before it is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _what(source: Source) -> str:
    return "image archive" if source.kind == ARCHIVE else f"image {source.reference:.200}"


def _selected(intake: Intake, packed: list[Packed], reference: str) -> list[Packed]:
    """Those that `reference` names; all without one."""
    if not reference:
        return packed
    wanted = {reference, _familiar(reference)}
    for each in packed:
        for name in each.names:
            if name in wanted or _familiar(name) in wanted:
                return [each._replace(names=(name,))]
    listed = ", ".join(name for each in packed[:10] for name in each.names[:3]) or "nameless images"
    raise NotFound(f"{intake.what}: it holds no image {reference!r:.200}, but {listed:.400}")


def _familiar(name: str) -> str:
    try:
        return parse_reference(name).familiar
    except SkerryError:
        return name


def _renamed(intake: Intake, packed: list[Packed], name: str, layout: str) -> list[Packed]:
    """With the target's name, which only one image can have; names as the target needs them."""
    if name:
        if len(packed) > 1:
            listed = ", ".join(each.names[0] if each.names else "?" for each in packed[:10])
            intake.fail(f"it holds {len(packed)} images ({listed:.400}): say which one to copy")
        packed = [each._replace(names=(name,)) for each in packed]
    for each in packed:
        for one in each.names:
            if layout != writing.OCI:
                parse_reference(one)
            elif len(one) > _MAX_NAME or not one.isascii() or not one.isprintable() or " " in one:
                raise InvalidInput(f"invalid name for an image in a layout: {one!r:.80}")
    return packed


__all__ = ["ARCHIVE", "IMAGE", "KINDS", "REGISTRY", "Copying", "Source"]
