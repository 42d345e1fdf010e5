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

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self, TypeVar

from skerry.base.digests import Verifier, parse_digest
from skerry.base.errors import (
    InvalidInput,
    RegistryDenied,
    RegistryError,
    RegistryLimit,
    RegistryNotFound,
    RegistryProtocol,
    RegistryUnauthorized,
    RegistryUnreachable,
    Unsupported,
)
from skerry.base.oci_image import OCI_INDEX, Descriptor, Index, Platform, encode
from skerry.registry import documents, listings
from skerry.registry.auth import Credentials
from skerry.registry.config import DOCKER_HUB, Registries
from skerry.registry.documents import ACCEPT, Document, ImageManifest, Login
from skerry.registry.downloads import Download
from skerry.registry.listings import SearchResult
from skerry.registry.rate_limits import RateLimit
from skerry.registry.transport import Ask, Transport
from skerry.registry.uploads import Opener, Report, Upload
from skerry.registry.wire import Limits, Wire

__all__ = [
    "ACCEPT",
    "Client",
    "Document",
    "ImageManifest",
    "Limits",
    "Login",
    "Opener",
    "RateLimit",
    "Report",
    "SearchResult",
]

_REPOSITORY: Final = re.compile(
    r"(?=.{1,255}$)[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
T = TypeVar("T")


class Client:
    """See the module. Safe for many tasks of one event loop."""

    def __init__(
        self,
        registry: str,
        registries: Registries,
        credentials: Credentials,
        *,
        limits: Limits | None = None,
    ) -> None:
        """`registry` as in `Reference.registry`. Nothing is sent before the first call."""
        self.registry = registry
        self._wire = Wire(registries, limits or Limits())
        settings = registries.of(registry)
        self._own = Transport(
            self._wire, registry, settings, _prefix(settings.location), credentials
        )
        self._sources = [self._mirror(each, credentials) for each in settings.mirrors]
        self._sources.append(self._own)
        self._subjects = asyncio.Lock()

    def _mirror(self, location: str, credentials: Credentials) -> Transport:
        host = location.partition("/")[0]
        settings = self._wire.registries.of(host)
        # Credentials that came with the request are for the registry, not for its mirrors.
        prefix = "/".join(filter(None, (_prefix(settings.location), _prefix(location))))
        return Transport(self._wire, self.registry, settings, prefix, credentials.of_mirror())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connections. Idempotent."""
        await self._wire.close()

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the last answer that spoke of limits said."""
        return self._own.rate_limit

    async def ping(self) -> None:
        """Ask for `/v2/` with our credentials; RegistryError when that is not accepted."""
        await self._own.head(Ask("GET", "", ""))

    async def login(self) -> Login:
        """Try the credentials; RegistryUnauthorized when they are not accepted."""
        own = self._own
        answer = await own.head(Ask("GET", "", "", ok=frozenset({200, 401}), anonymous=True))
        if answer.status == 401:
            await own.login(answer)
        return Login(own.authorizer.refresh_token)

    async def resolve(
        self, repository: str, reference: str, accept: Sequence[str] = ACCEPT
    ) -> Descriptor:
        """The descriptor that a tag or digest stands for, by HEAD where the registry can."""
        _check(repository, reference)
        return await self._read(lambda s: documents.resolve(s, repository, reference, accept))

    async def manifest(
        self, repository: str, reference: str, accept: Sequence[str] = ACCEPT
    ) -> Document:
        """A manifest (at most 4 MiB) or index (8 MiB) by tag or digest, verified."""
        _check(repository, reference)
        return await self._read(lambda s: documents.fetch(s, repository, reference, accept))

    async def image(
        self, repository: str, reference: str, platform: Platform | None = None
    ) -> ImageManifest:
        """The manifest for `platform` (None: this machine's), through at most 4 nested indexes.

        RegistryNotFound lists the platforms there are when none fits.
        """
        _check(repository, reference)
        return await self._read(lambda s: documents.image(s, repository, reference, platform))

    async def blob(
        self,
        repository: str,
        descriptor: Descriptor,
        start: int = 0,
        *,
        seen: Verifier | None = None,
        verify: bool = True,
    ) -> AsyncGenerator[bytes, None]:
        """The blob's bytes from `start` on; a cut connection is taken up again by Range.

        At the end size and digest have been checked, else RegistryMismatch. For `start` > 0 the
        digest is only checked when `seen` has hashed the bytes before. `verify=False` leaves the
        digest to a caller that hashes while it writes. Close the iterator (`aclosing`).
        """
        _check(repository, descriptor.digest)
        if seen is None and verify and start == 0:
            seen = Verifier(descriptor.digest.partition(":")[0])
        download = Download(repository, descriptor, start, seen)
        for source in tuple(self._sources):
            try:
                async with aclosing(download.run(source)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                break
            except RegistryError as error:
                if source is self._own:
                    raise
                self._pass_over(source, error)
        download.finish(self.registry)

    async def read_blob(
        self, repository: str, descriptor: Descriptor, limit: int = 8 << 20
    ) -> bytes:
        """A small blob (a config), verified; RegistryLimit when it is over `limit` bytes."""
        if descriptor.size > limit:
            raise RegistryLimit(
                self.registry,
                f"{repository}@{descriptor.digest}",
                f"blob of {descriptor.size} bytes, at most {limit} are read here",
            )
        data = bytearray()
        async with aclosing(self.blob(repository, descriptor)) as chunks:
            async for chunk in chunks:
                data += chunk
        return bytes(data)

    async def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the registry itself (no mirror) has it in this repository."""
        _check(repository, digest)
        own = self._own
        ask = Ask(
            "HEAD",
            f"{own.repository(repository)}/blobs/{digest}",
            f"{repository}@{digest}",
            (own.scope(repository, "pull,push"),),
            ok=frozenset({200, 404}),
        )
        return (await own.head(ask)).status == 200

    async def mount_blob(self, repository: str, digest: str, from_: str) -> bool:
        """Mount from another repository of the registry; False when it would have to be sent."""
        _check(repository, digest)
        _check(from_, digest)
        upload = Upload(self._own, repository, Descriptor("", digest, 0), _nothing, 0, None)
        try:
            if await upload.mount(self._own.repository(from_), self._own.scope(from_)):
                return True
            await upload.cancel()
        except (RegistryDenied, RegistryUnauthorized, RegistryNotFound):
            pass  # we may push here and not read there
        return False

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
        _check(repository, descriptor.digest)
        await Upload(self._own, repository, descriptor, opener, chunk, report).run()

    async def put_manifest(
        self, repository: str, reference: str, data: bytes, media_type: str
    ) -> str:
        """Store a manifest under a tag or its digest; returns the digest.

        A manifest with a `subject` is added to the referrers tag of a registry that keeps none.
        """
        _check(repository, reference)
        own = self._own
        seen = Verifier(reference.partition(":")[0] if ":" in reference else "sha256")
        seen.update(data)
        what = documents.named(repository, reference)
        if ":" in reference and seen.digest != reference:
            raise InvalidInput(f"{what}: the manifest's digest is {seen.digest}")
        ask = Ask(
            "PUT",
            f"{own.repository(repository)}/manifests/{reference}",
            what,
            (own.scope(repository, "pull,push"),),
            {"Content-Type": media_type},
            body=lambda: data,
            ok=frozenset({200, 201, 202}),
        )
        answer = await own.head(ask)
        told = answer.headers.get("Docker-Content-Digest", seen.digest)
        if told != seen.digest and told.partition(":")[0] == "sha256":
            raise RegistryProtocol(self.registry, what, f"the registry stored {told:.100} instead")
        subject = _subject(data)
        if subject and "OCI-Subject" not in answer.headers:
            await self._refer(repository, subject, _referrer(data, media_type, seen.digest))
        return seen.digest

    async def _refer(self, repository: str, subject: str, referrer: Descriptor) -> None:
        """Add to the index that stands for a missing referrers API (referrers tag schema)."""
        async with self._subjects:
            held = await self._tagged(repository, subject)
            if any(each.digest == referrer.digest for each in held):
                return
            index = Index(2, [*held, referrer], OCI_INDEX)
            await self.put_manifest(
                repository, listings.fallback_tag(subject), encode(index), OCI_INDEX
            )

    async def _tagged(self, repository: str, digest: str) -> list[Descriptor]:
        tag = listings.fallback_tag(digest)
        try:
            document = await documents.fetch(self._own, repository, tag, (OCI_INDEX,))
        except RegistryNotFound:
            return []
        what = documents.named(repository, tag)
        return documents.as_index(self.registry, what, document).manifests

    async def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete by digest, or a tag where the registry can. Unsupported when it cannot."""
        _check(repository, reference)
        await self._delete(repository, "manifests", reference)

    async def delete_blob(self, repository: str, digest: str) -> None:
        """Delete a blob. Unsupported when the registry does not."""
        _check(repository, digest)
        await self._delete(repository, "blobs", digest)

    async def _delete(self, repository: str, kind: str, reference: str) -> None:
        own = self._own
        what = documents.named(repository, reference)
        ask = Ask(
            "DELETE",
            f"{own.repository(repository)}/{kind}/{reference}",
            what,
            (own.scope(repository, "delete,pull,push"),),
            ok=frozenset({200, 202, 204, 400, 405, 501}),
        )
        if (await own.head(ask)).status >= 400:
            raise Unsupported(f"{self.registry}/{what}: the registry does not delete this")

    async def tags(self, repository: str) -> list[str]:
        """All tags, all pages."""
        _check(repository)
        return await self._read(lambda source: listings.tags(source, repository))

    async def referrers(
        self, repository: str, digest: str, artifact_type: str = ""
    ) -> list[Descriptor]:
        """Manifests whose subject is `digest`, by API or by tag scheme; [] when there are none."""
        _check(repository, digest)
        own = self._own
        found = await listings.referrers_api(own, repository, digest, artifact_type)
        if found is None:
            found = await self._tagged(repository, digest)
        # A registry need not filter.
        return [each for each in found if not artifact_type or each.artifact_type == artifact_type]

    async def catalog(self, limit: int = 10_000) -> list[str]:
        """Repositories, all pages up to `limit`."""
        return await listings.catalog(self._own, limit)

    async def search(self, term: str, limit: int = 25) -> list[SearchResult]:
        """Docker Hub's v1 search; where there is none, the catalog's names that hold `term`."""
        hub = self.registry == DOCKER_HUB
        limit = max(1, min(limit, 100))
        try:
            return await listings.search(self._own, term, limit, hub)
        except RegistryError as error:
            if hub or error.retryable:
                raise
        names = [name for name in await self.catalog(100_000) if term.lower() in name]
        return [SearchResult(name, "", 0, False, False) for name in names[:limit]]

    async def _read(self, ask: Callable[[Transport], Awaitable[T]]) -> T:
        """From the first source that can; the registry's own error when none can."""
        for source in self._sources[:-1]:
            try:
                return await ask(source)
            except RegistryError as error:
                self._pass_over(source, error)
        return await ask(self._own)

    def _pass_over(self, mirror: Transport, error: RegistryError) -> None:
        """A mirror that cannot be reached is not waited for again with every blob."""
        if isinstance(error, RegistryUnreachable) and mirror in self._sources:
            self._sources.remove(mirror)


def _prefix(location: str) -> str:
    return location.partition("/")[2]


def _check(repository: str, *references: str) -> None:
    """InvalidInput unless the parts can stand in a path."""
    if not _REPOSITORY.fullmatch(repository):
        raise InvalidInput(f"invalid repository name: {repository!r:.120}")
    for reference in references:
        if ":" in reference:
            parse_digest(reference)
        elif not _TAG.fullmatch(reference):
            raise InvalidInput(f"invalid tag: {reference!r:.120}")


def _nothing(offset: int) -> AsyncGenerator[bytes, None]:
    raise AssertionError(f"nothing is sent from {offset}")


def _subject(data: bytes) -> str:
    """The digest of the manifest's subject, empty when it has none."""
    try:
        found = json.loads(data)
        subject = found["subject"]["digest"]
        return parse_digest(subject)
    except (ValueError, LookupError, TypeError, InvalidInput, RecursionError):
        return ""


def _referrer(data: bytes, media_type: str, digest: str) -> Descriptor:
    """How a manifest is listed among the referrers of its subject."""
    found = json.loads(data)
    kind = found.get("artifactType") or (found.get("config") or {}).get("mediaType") or ""
    annotations = found.get("annotations") or {}
    return Descriptor(media_type, digest, len(data), annotations=annotations, artifact_type=kind)
