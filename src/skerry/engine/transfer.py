"""Images to and from registries: pull, push, search, login, and what a registry says of an image.

The registry's client and the store do not know each other; this service carries blobs between them.
"""

import re
from collections.abc import AsyncIterator

from skerry.base.architectures import go
from skerry.base.errors import InvalidInput, RegistryError
from skerry.base.oci_image import INDEXES, Platform, parse_config, parse_index, parse_manifest
from skerry.base.references import DEFAULT_REGISTRY, Reference, parse_reference
from skerry.engine.events import Events
from skerry.engine.transfer_layers import Layers
from skerry.engine.transfer_progress import Message, Tell, follow
from skerry.engine.transfer_pull import Policy, Pull, in_dockers_words
from skerry.engine.transfer_push import Push
from skerry.registry.auth import Credential, Credentials, anonymous
from skerry.registry.client import Client, Document, Login, SearchResult
from skerry.registry.config import Registries, load_registries
from skerry.store import Store

_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SERVER = re.compile(r"(?:https?://)?([^/\s]+)(?:/.*)?")
_HUB_NAMES = ("index.docker.io", "registry-1.docker.io", "hub.docker.com", "")


class Transfer:
    """The service. `policy`, when set, is asked about every image before its layers come in."""

    def __init__(self, store: Store, events: Events, root: str) -> None:
        self._store = store
        self._events = events
        self._root = root
        self._layers = Layers(store)
        self.policy: Policy | None = None

    def pull(
        self,
        name: str,
        *,
        platform: str = "",
        credential: Credential | None = None,
    ) -> AsyncIterator[Message]:
        """`docker pull`. A name without tag and digest stands for all tags.

        Yields Docker's progress messages. Errors before the first one come with Docker's words;
        closing the iterator ends the pull.
        """
        reference = parse_reference(name, default_tag="")
        wanted = parse_platform(platform)

        async def work(tell: Tell) -> None:
            client = self.client(reference.registry, credential)
            try:
                pull = Pull(self._store, self._layers, client, self.policy, wanted)
                if reference.tag or reference.digest:
                    await pull.one(reference, tell)
                else:
                    await pull.all_tags(reference, tell)
            finally:
                # Another pull may have joined a layer that came by this client.
                await self._layers.settle(client)
                await client.close()
            self._emit("pull", reference)

        return follow(work)

    def push(
        self, name: str, *, tag: str = "", credential: Credential | None = None
    ) -> AsyncIterator[Message]:
        """`docker push`. Without a tag, in `name` or apart, all of the repository's tags."""
        reference = parse_reference(f"{name}:{tag}" if tag else name, default_tag="")

        async def work(tell: Tell) -> None:
            async with self.client(reference.registry, credential) as client:
                push = Push(self._store, client)
                tell({"status": f"The push refers to repository [{reference.name}]"})
                found = push.images(reference)
                for each, image in found:
                    await push.one(each, image, tell)
            self._emit("push", reference)

        return follow(work)

    async def search(
        self, term: str, limit: int = 25, credential: Credential | None = None
    ) -> list[SearchResult]:
        """Repositories by a word: `term` or `registry/term`."""
        head, slash, rest = term.partition("/")
        elsewhere = slash and ("." in head or ":" in head or head == "localhost")
        registry, term = (head, rest) if elsewhere else (DEFAULT_REGISTRY, term)
        if not 1 <= limit <= 100:
            raise InvalidInput(f"limit {limit} is outside the range of [1, 100]")
        async with self.client(registry, credential) as client:
            return await client.search(term, limit)

    async def login(self, server: str, credential: Credential) -> Login:
        """`docker login`: whether a registry accepts the credential; RegistryUnauthorized."""
        async with self.client(server_name(server), credential) as client:
            return await client.login()

    async def distribution(
        self, name: str, credential: Credential | None = None
    ) -> tuple[Document, list[Platform]]:
        """What the registry says a name is, and the platforms it is there for."""
        reference = parse_reference(name)
        async with self.client(reference.registry, credential) as client:
            try:
                found = await client.manifest(
                    reference.repository, reference.digest or reference.tag
                )
            except RegistryError as error:
                raise in_dockers_words(error, reference) from None
            return found, await self._platforms(client, reference, found)

    async def _platforms(
        self, client: Client, reference: Reference, found: Document
    ) -> list[Platform]:
        if found.media_type in INDEXES:
            index = parse_index(found.data, str(reference))
            return [each.platform for each in index.manifests if each.platform]
        manifest = parse_manifest(found.data, str(reference))
        data = await client.read_blob(reference.repository, manifest.config)
        config = parse_config(data, str(reference))
        return [Platform(config.architecture, config.os, config.os_version, config.variant)]

    def client(self, registry: str, credential: Credential | None = None) -> Client:
        """A client of one registry, with this engine's settings. The caller closes it."""
        who = Credentials(given=credential) if credential else anonymous()
        return Client(registry, self._settings(), who)

    def _settings(self) -> Registries:
        # Read each time: a changed file needs no restart.
        return load_registries(self._root)

    def _emit(self, action: str, reference: Reference) -> None:
        attributes = {"name": reference.familiar_name}
        self._events.emit("image", action, reference.familiar, attributes)


def parse_platform(text: str) -> Platform | None:
    """`linux/arm64/v8`, `linux/arm64` or `arm64`; None for this machine's. InvalidInput."""
    if not text:
        return None
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidInput(
            f'"{text:.80}" is an invalid platform', hint="write OS/ARCH[/VARIANT]: linux/amd64"
        )
    if len(parts) == 1 and parts[0] != "linux":
        parts = ["linux", *parts]
    if parts == ["linux"]:
        return None
    if parts[0] != "linux":
        raise InvalidInput(f"platform {text:.80}: only linux images can be used here")
    variant = parts[2] if len(parts) > 2 else ""
    return Platform(go(parts[1]), parts[0], variant=variant)


def server_name(address: str) -> str:
    """A registry's name out of an auth object's server address (`https://host:port/v1/`)."""
    found = _SERVER.fullmatch(address.strip())
    host = found[1] if found else address.strip()
    return DEFAULT_REGISTRY if host in _HUB_NAMES else host
