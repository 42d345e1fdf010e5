"""Pushing: an image's blobs beside each other, then its manifest, byte for byte as it is stored.

A blob goes over the wire only when the registry has it neither in the repository nor in another one
of ours that it can be mounted from.
"""

import asyncio
from typing import BinaryIO, Final

from skerry.base.errors import InvalidInput, NotFound, RegistryError
from skerry.base.oci_image import Descriptor, Manifest, parse_manifest
from skerry.base.references import Reference, parse_reference
from skerry.engine import artifacts
from skerry.engine.transfer_progress import Listener, Meter, Tell, end, layer_message
from skerry.registry.client import Client
from skerry.store import Store, referrers
from skerry.store.image import Image
from skerry.store.repacking import gzip_layers

UPLOADS: Final = 5
"""Blobs that go out at the same time: Docker's max-concurrent-uploads."""
_SOURCES: Final = 3
"""Repositories that are tried to mount one blob from."""


class Push:
    """One `docker push`: one client, one repository."""

    def __init__(self, store: Store, client: Client) -> None:
        self._store = store
        self._client = client
        self._uploads = asyncio.Semaphore(UPLOADS)

    def images(self, reference: Reference) -> list[tuple[Reference, Image]]:
        """What to push: the tag, or every tag of the repository when none is named.

        NotFound in Docker's words; InvalidInput for a digest.
        """
        if reference.digest:
            raise InvalidInput("cannot push a digest reference")
        found = [
            (name, image)
            for image in self._store.images.list()
            for name in map(parse_reference, image.tags)
            if name.name == reference.name and reference.tag in ("", name.tag)
        ]
        if not found:
            raise NotFound(
                f"An image does not exist locally with the tag: {reference.familiar_name}"
            )
        return sorted(found, key=lambda each: each[0])

    async def one(self, reference: Reference, image: Image, tell: Tell) -> None:
        """Push one tag."""
        for diff_id in dict.fromkeys(image.layers):
            tell(layer_message(_short(diff_id), "Preparing"))
        image = await asyncio.to_thread(gzip_layers, self._store.images, image)
        with self._store.leases.hold():
            for digest in image.content():
                if not self._store.blobs.has(digest):
                    raise NotFound(f"push {reference.familiar}: blob {digest} is missing")
            data = self._store.blobs.read(image.manifest)
            await self._blobs(reference, image, parse_manifest(data), tell)
            digest = await self._client.put_manifest(
                reference.repository, reference.tag, data, image.media_type
            )
            about = referrers.artifacts(self._store.images, digest)
            await artifacts.send(self._client, reference, about, self._store.blobs.open)
        name = reference._replace(tag="", digest=digest)
        await asyncio.to_thread(self._store.images.tag, image.id, str(name))
        tell({"status": f"{reference.tag}: digest: {digest} size: {len(data)}"})
        aux = {"Tag": reference.tag, "Digest": digest, "Size": len(data)}
        tell({"progressDetail": {}, "aux": aux})

    async def _blobs(
        self, reference: Reference, image: Image, manifest: Manifest, tell: Tell
    ) -> None:
        """All blobs beside each other; the first error ends them all."""
        pairs: dict[str, tuple[Descriptor, str]] = {}
        for descriptor, diff_id in zip(manifest.layers, image.layers, strict=True):
            pairs.setdefault(descriptor.digest, (descriptor, _short(diff_id)))
        sources = self._sources(reference)
        work = [
            self._blob(reference, descriptor, sources, _listener(shown, tell))
            for descriptor, shown in pairs.values()
        ]
        work.append(self._blob(reference, manifest.config, {}, _silent))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            await end(tasks)

    def _sources(self, reference: Reference) -> dict[str, list[str]]:
        """Blob to the other repositories of this registry that had it, as far as we know."""
        sources: dict[str, list[str]] = {}
        for image in self._store.images.list():
            for name in self._store.images.references(image.id):
                known = name.digest and name.registry == reference.registry
                if known and name.repository != reference.repository:
                    for digest in image.blobs:
                        sources.setdefault(digest, []).append(name.repository)
        return sources

    async def _blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        sources: dict[str, list[str]],
        say: Listener,
    ) -> None:
        if self._uploads.locked():
            say("Waiting", 0, 0)
        async with self._uploads:
            repository, digest = reference.repository, descriptor.digest
            if await self._client.has_blob(repository, digest):
                say("Layer already exists", 0, 0)
                return
            for source in sources.get(digest, ())[:_SOURCES]:
                if await self._mounted(repository, digest, source):
                    say(f"Mounted from {source}", 0, 0)
                    return
            meter = Meter("Pushing", descriptor.size, say)

            def opener(start: int) -> BinaryIO:
                file = self._store.blobs.open(digest)
                file.seek(start)
                return file

            await self._client.push_blob(repository, descriptor, opener, report=meter.at)
            say("Pushed", 0, 0)

    async def _mounted(self, repository: str, digest: str, source: str) -> bool:
        try:
            return await self._client.mount_blob(repository, digest, source)
        except RegistryError:
            # No right to read there, or no such repository any more: then it is sent.
            return False


def _short(diff_id: str) -> str:
    return diff_id.partition(":")[2][:12]


def _listener(shown: str, tell: Tell) -> Listener:
    def listen(status: str, current: int, total: int) -> None:
        tell(layer_message(shown, status, current, total))

    return listen


def _silent(status: str, current: int, total: int) -> None:
    """Docker does not speak of configurations."""
