"""The client of one registry: manifests, blobs, tags, referrers, search, login.

One `Client` serves one operation of the engine (a pull, a push) or many at once; it keeps
connections and tokens until it is closed. Every answer is limited in size and time; every digest is
verified while it streams. Errors are `base.errors.RegistryError` and its kinds; each names the
registry, the reference and the reason. Reads go to the registry's mirrors first, in order.

    async with Client("docker.io", load_registries(root), Credentials()) as client:
        image = await client.image("library/busybox", "latest")
        async with aclosing(client.blob("library/busybox", image.manifest.layers[0])) as chunks:
            async for chunk in chunks: ...
"""

from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from skerry.base.digests import Verifier
from skerry.base.oci_image import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    Platform,
)
from skerry.registry.auth import Credentials
from skerry.registry.config import Registries

ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)

Opener = Callable[[int], BinaryIO | AsyncIterator[bytes]]
"""`opener(offset)`: the blob's bytes from `offset` on, as a file (it is closed) or as chunks."""
Report = Callable[[int], None]
"""Called with the bytes of the blob that the other side has, now and then."""


class Document(NamedTuple):
    """A manifest or index as it came, verified."""

    data: bytes
    media_type: str
    digest: str

    @property
    def descriptor(self) -> Descriptor:
        """Its descriptor."""
        return Descriptor(self.media_type, self.digest, len(self.data))


class ImageManifest(NamedTuple):
    """One platform's image."""

    chain: tuple[Document, ...]
    """From what the reference names (an index, or the manifest itself) down to the manifest."""
    manifest: Manifest

    @property
    def root(self) -> Document:
        """What the reference names: its digest is the one to show."""
        return self.chain[0]

    @property
    def document(self) -> Document:
        """The image manifest."""
        return self.chain[-1]


class Login(NamedTuple):
    """An accepted login."""

    identity_token: str
    """To be stored instead of the password when not empty."""


class RateLimit(NamedTuple):
    """What the registry said last of its limits; None where it said nothing."""

    limit: int | None
    remaining: int | None
    window: int | None
    """Seconds."""


class SearchResult(NamedTuple):
    """One repository found."""

    name: str
    description: str
    stars: int
    official: bool
    automated: bool


class Client:
    """See the module. Safe for many tasks of one event loop."""

    def __init__(self, registry: str, registries: Registries, credentials: Credentials) -> None:
        """`registry` as in `Reference.registry`. Nothing is sent before the first call."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        """Drop the connections. Idempotent."""
        raise NotImplementedError

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the last answer that spoke of limits said."""
        raise NotImplementedError

    async def ping(self) -> None:
        """Ask for `/v2/` with our credentials; RegistryError when that is not accepted."""
        raise NotImplementedError

    async def login(self) -> Login:
        """Try the credentials; RegistryUnauthorized when they are not accepted."""
        raise NotImplementedError

    async def resolve(
        self, repository: str, reference: str, accept: Sequence[str] = ACCEPT
    ) -> Descriptor:
        """The descriptor that a tag or digest stands for, by HEAD where the registry can."""
        raise NotImplementedError

    async def manifest(
        self, repository: str, reference: str, accept: Sequence[str] = ACCEPT
    ) -> Document:
        """A manifest (at most 4 MiB) or index (8 MiB) by tag or digest, verified."""
        raise NotImplementedError

    async def image(
        self, repository: str, reference: str, platform: Platform | None = None
    ) -> ImageManifest:
        """The manifest for `platform` (None: this machine's), through at most 4 nested indexes.

        RegistryNotFound lists the platforms there are when none fits.
        """
        raise NotImplementedError

    def blob(
        self,
        repository: str,
        descriptor: Descriptor,
        start: int = 0,
        *,
        seen: Verifier | None = None,
        verify: bool = True,
    ) -> AsyncIterator[bytes]:
        """The blob's bytes from `start` on; a cut connection is taken up again by Range.

        At the end size and digest have been checked, else RegistryMismatch. For `start` > 0 the
        digest is only checked when `seen` has hashed the bytes before. `verify=False` leaves the
        digest to a caller that hashes while it writes. Close the iterator (`aclosing`).
        """
        raise NotImplementedError

    async def read_blob(
        self, repository: str, descriptor: Descriptor, limit: int = 8 << 20
    ) -> bytes:
        """A small blob (a config), verified; RegistryLimit when it is over `limit` bytes."""
        raise NotImplementedError

    async def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the registry itself (no mirror) has it in this repository."""
        raise NotImplementedError

    async def mount_blob(self, repository: str, digest: str, from_: str) -> bool:
        """Mount from another repository of the registry; False when it would have to be sent."""
        raise NotImplementedError

    async def push_blob(
        self,
        repository: str,
        descriptor: Descriptor,
        opener: Opener,
        *,
        chunk: int = 0,
        report: Report | None = None,
    ) -> None:
        """Upload a blob: in one request, or in PATCHes of `chunk` bytes.

        A cut is taken up where the registry says it stopped. Does not ask whether it is there.
        """
        raise NotImplementedError

    async def put_manifest(
        self, repository: str, reference: str, data: bytes, media_type: str
    ) -> str:
        """Store a manifest under a tag or its digest; returns the digest.

        A manifest with a `subject` is added to the referrers tag of a registry that keeps none.
        """
        raise NotImplementedError

    async def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete by digest, or a tag where the registry can. Unsupported when it cannot."""
        raise NotImplementedError

    async def delete_blob(self, repository: str, digest: str) -> None:
        """Delete a blob. Unsupported when the registry does not."""
        raise NotImplementedError

    async def tags(self, repository: str) -> list[str]:
        """All tags, all pages."""
        raise NotImplementedError

    async def referrers(
        self, repository: str, digest: str, artifact_type: str = ""
    ) -> list[Descriptor]:
        """Manifests whose subject is `digest`, by API or by tag scheme; [] when there are none."""
        raise NotImplementedError

    async def catalog(self, limit: int = 10_000) -> list[str]:
        """Repositories, all pages up to `limit`."""
        raise NotImplementedError

    async def search(self, term: str, limit: int = 25) -> list[SearchResult]:
        """Docker Hub's v1 search; where there is none, the catalog's names that hold `term`."""
        raise NotImplementedError
