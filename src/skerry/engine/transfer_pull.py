"""Pulling: a manifest is chosen and checked, its layers come in beside each other, then the image
is recorded. Until that last step the store's images are as they were.

What an unfinished pull leaves: nothing when what came was wrong; finished layers when the way to
the registry broke or the client left, so that the next pull need not fetch them, for the collector
to take away otherwise.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Protocol

from skerry.base.errors import (
    InvalidInput,
    NotFound,
    RegistryDenied,
    RegistryError,
    RegistryNotFound,
    RegistryUnauthorized,
    RegistryUnreachable,
    SkerryError,
    SystemFault,
)
from skerry.base.oci_image import (
    DOCKER_CONFIG,
    MAX_DOCUMENT,
    OCI_CONFIG,
    ImageConfig,
    Platform,
    parse_config,
)
from skerry.base.references import Reference
from skerry.engine.transfer_layers import Layer, Layers
from skerry.engine.transfer_progress import Listener, Tell, end, layer_message
from skerry.registry.client import Client, ImageManifest
from skerry.store import Store
from skerry.store.blobs import Blobs
from skerry.store.image import Image

_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", ""})
"""Registries of before 2016 call configurations octet streams."""


_CODE = re.compile(r"\b([A-Z]+(?:_[A-Z]+)*): (.*?)(?: \(HTTP [0-9]+\))?$")
"""The distribution specification's error code and message in a client's reason."""


class Policy(Protocol):
    """Who says which images may come in."""

    async def admit(self, client: Client, reference: Reference, digests: Sequence[str]) -> None:
        """Forbidden when the image may not be pulled; asked before any layer is fetched.

        `digests`: of its index, when that is how it was found, and of its manifest.
        """


class Pull:
    """One `docker pull`: one client, one repository."""

    def __init__(
        self,
        store: Store,
        layers: Layers,
        client: Client,
        policy: Policy | None,
        platform: Platform | None,
    ) -> None:
        self._store = store
        self._layers = layers
        self._client = client
        self._policy = policy
        self._platform = platform

    async def one(self, reference: Reference, tell: Tell) -> Image:
        """Pull what `reference` names by its digest, or else its tag; the image as recorded."""
        wanted = reference.digest or reference.tag
        try:
            found = await self._client.image(reference.repository, wanted, self._platform)
        except RegistryError as error:
            raise in_dockers_words(error, reference) from None
        tell({"status": f"Pulling from {reference.repository}", "id": wanted})
        if self._policy is not None:
            await self._policy.admit(
                self._client, reference, [found.root.digest, found.document.digest]
            )
        plain = reference._replace(tag="", digest="")
        names = [str(plain._replace(digest=found.root.digest))]
        shown = reference
        if not reference.digest:
            names.append(str(reference))
        else:
            shown = reference._replace(tag="")
        before = self._id(shown)
        image = await self._known(found, names) or await self._take_in(
            reference, found, names, tell
        )
        tell({"status": f"Digest: {found.root.digest}"})
        state = "Image is up to date" if before == image.id else "Downloaded newer image"
        tell({"status": f"Status: {state} for {shown.familiar}"})
        return image

    async def all_tags(self, reference: Reference, tell: Tell) -> list[Image]:
        """Every tag of the repository, one after the other."""
        try:
            tags = await self._client.tags(reference.repository)
        except RegistryError as error:
            raise in_dockers_words(error, reference) from None
        if not tags:
            raise NotFound(f"pull {reference.familiar_name}: the repository has no tags")
        return [await self.one(reference._replace(tag=tag), tell) for tag in tags]

    def _id(self, reference: Reference) -> str:
        try:
            return self._store.images.get(reference.familiar).id
        except NotFound:
            return ""

    async def _known(self, found: ImageManifest, names: list[str]) -> Image | None:
        """The image when all of it is here; it only gets the names then."""
        try:
            image = self._store.images.get(found.manifest.config.digest)
        except NotFound:
            return None
        if image.manifest != found.document.digest:
            return None
        with self._store.leases.hold():
            blobs, layers = self._store.blobs, self._store.layers
            if not all(map(blobs.has, image.content())) or not all(map(layers.has, image.layers)):
                return None
            for name in names:
                image = await asyncio.to_thread(self._store.images.tag, image.id, name)
        return image

    async def _take_in(
        self, reference: Reference, found: ImageManifest, names: list[str], tell: Tell
    ) -> Image:
        brought: list[Layer] = []
        try:
            with self._store.leases.hold():
                layers = await self._plan(reference, found)
                brought += [layer for layer in layers if not self._layers.held(layer)]
                self._store.blobs.room.require(_size(brought, self._store.blobs), "layers")
                await self._bring(reference, layers, tell)
                return await asyncio.to_thread(
                    self._store.images.add,
                    found.document.data,
                    media_type=found.document.media_type,
                    tags=names,
                )
        except SkerryError as error:
            if not isinstance(error, RegistryUnreachable):
                blobs = [layer.descriptor.digest for layer in brought]
                await asyncio.to_thread(
                    self._store.images.release,
                    [*blobs, found.manifest.config.digest, found.document.digest],
                    [layer.diff_id for layer in brought],
                )
            named = _of_image(error, reference)
            if named is not error:
                raise named from error
            raise

    async def _plan(self, reference: Reference, found: ImageManifest) -> list[Layer]:
        """Fetch the configuration and match it with the manifest's layers."""
        manifest, what = found.manifest, f"{reference.familiar}: image config"
        if manifest.config.media_type not in _CONFIGS:
            raise InvalidInput(
                f"pull {reference.familiar}: it is no image but an artifact "
                f"({manifest.config.media_type!r:.100})"
            )
        try:
            data = await self._client.read_blob(reference.repository, manifest.config, MAX_DOCUMENT)
        except RegistryError as error:
            raise in_dockers_words(error, reference) from None
        config = parse_config(data, what)
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise InvalidInput(
                f"{what}: {len(config.rootfs.diff_ids)} diff ids for {len(manifest.layers)} layers"
            )
        self._check_platform(reference, config)
        await asyncio.to_thread(self._store.blobs.put, data)
        return [Layer(*pair) for pair in zip(manifest.layers, config.rootfs.diff_ids, strict=True)]

    def _check_platform(self, reference: Reference, config: ImageConfig) -> None:
        if config.os != "linux":
            raise InvalidInput(
                f"pull {reference.familiar}: image operating system {config.os!r:.40} cannot be "
                "used on this platform"
            )
        wanted = self._platform
        if wanted is not None and config.architecture != wanted.architecture:
            raise NotFound(
                f"image with reference {reference.familiar} was found but its platform "
                f"({config.os}/{config.architecture}) does not match the specified platform "
                f"({wanted.os}/{wanted.architecture})"
            )

    async def _bring(self, reference: Reference, layers: list[Layer], tell: Tell) -> None:
        """All layers, those that are missing beside each other; the first error ends them all."""
        tasks: list[asyncio.Task[None]] = []
        for layer in {layer.key: layer for layer in layers}.values():
            if self._layers.held(layer):
                tell(layer_message(layer.shown, "Already exists"))
                continue
            tell(layer_message(layer.shown, "Pulling fs layer"))
            work = self._layers.bring(
                self._client, reference.repository, layer, _listener(layer.shown, tell)
            )
            tasks.append(asyncio.create_task(work))
        if not tasks:
            return
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            await end(tasks)


def _size(layers: list[Layer], blobs: Blobs) -> int:
    """What has to come."""
    missing = {each.descriptor.digest: each.descriptor.size for each in layers}
    return sum(size for digest, size in missing.items() if not blobs.has(digest))


def _listener(shown: str, tell: Tell) -> Listener:
    def listen(status: str, current: int, total: int) -> None:
        tell(layer_message(shown, status, current, total))

    return listen


def _of_image(error: SkerryError, reference: Reference) -> SkerryError:
    """The same error, said of this image: a layer of two that come at once fails for both."""
    names_it = isinstance(error, RegistryError) or reference.familiar in error.message
    ours = isinstance(error, InvalidInput) or type(error) is SystemFault
    if names_it or not ours:
        return error
    return type(error)(f"{reference}: {error.message}", hint=error.hint)


def in_dockers_words(error: RegistryError, reference: Reference) -> RegistryError:
    """The same error, said as Docker says it where clients go by its words."""
    code = _CODE.search(error.reason)
    reason = f"{code[1].lower().replace('_', ' ')}: {code[2]}" if code else error.reason
    if isinstance(error, RegistryUnauthorized | RegistryDenied):
        hidden = RegistryNotFound(error.registry, error.reference, error.reason, hint=error.hint)
        hidden.message = (
            f"pull access denied for {reference.familiar_name}, repository does not exist or may "
            f"require 'docker login': {reason}"
        )
        return hidden
    if isinstance(error, RegistryNotFound) and code:
        repository = code[1] == "NAME_UNKNOWN"
        what = "repository" if repository else "manifest for"
        name = reference.familiar_name if repository else reference.familiar
        error.message = f"{what} {name} not found: {reason}"
    return error
