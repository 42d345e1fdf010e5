"""What the server asks of the place where it keeps things.

All methods block and may be called from several threads at a time. Whatever has been returned from
a method that changes something outlives a kill of the process, and, unless the storage was told not
to care, a power cut. Names, tags and digests that come in have been checked. Errors are `Refusal`.
"""

from typing import Any, NamedTuple, Protocol

from skerry.registry.server.documents import Document, Piece


class Limits(NamedTuple):
    """What is refused. Sizes in bytes, times in seconds."""

    manifest: int = 4 << 20
    blob: int = 256 << 30
    uploads: int = 512
    """Sessions that are open at a time."""
    tags: int = 100_000
    """Of one repository."""
    connections: int = 2048
    idle: float = 60.0
    """A client that neither sends nor takes a byte for so long is dropped."""
    upload_age: float = 24 * 3600.0
    """A session that nobody has touched for so long is cancelled."""
    grace: float = 3600.0
    """What was pushed, mounted or asked for since is never collected."""


class Blob(NamedTuple):
    """A blob's file."""

    path: str
    size: int


class Manifest(NamedTuple):
    """A stored manifest, byte for byte as it was pushed."""

    digest: str
    media_type: str
    data: bytes


class Upload(Protocol):
    """A session. One caller at a time (the server sees to it)."""

    id: str
    repository: str
    size: int

    def append(self, chunk: bytes) -> None:
        """Add bytes. SIZE_INVALID over the limit; UNAVAILABLE when the disk is full."""
        ...

    def close(self) -> None:
        """Let go of the file until the next `append`."""
        ...


class Storage(Protocol):
    """Repositories, their tags, manifests, referrers and blobs, and uploads on their way in."""

    limits: Limits

    def repositories(self) -> list[str]:
        """All that hold a manifest, ordered."""
        ...

    def tags(self, repository: str) -> list[str]:
        """Ordered. NAME_UNKNOWN."""
        ...

    def resolve(self, repository: str, tag: str) -> str:
        """The tag's digest. MANIFEST_UNKNOWN."""
        ...

    def manifest(self, repository: str, digest: str) -> Manifest:
        """MANIFEST_UNKNOWN."""
        ...

    def put_manifest(
        self, repository: str, document: Document, tag: str, *, complete: bool = True
    ) -> None:
        """Store, list as a referrer, then set the tag (may be empty). Repeating it is fine.

        With `complete`, MANIFEST_BLOB_UNKNOWN when the repository lacks something it needs.
        """
        ...

    def delete_tag(self, repository: str, tag: str) -> None:
        """MANIFEST_UNKNOWN."""
        ...

    def delete_manifest(self, repository: str, digest: str) -> None:
        """With the tags that name it. MANIFEST_UNKNOWN."""
        ...

    def referrers(self, repository: str, digest: str) -> list[dict[str, Any]]:
        """Descriptors of the manifests whose subject it is; none is no error."""
        ...

    def blob(self, repository: str, digest: str, *, claim: bool = False) -> Blob:
        """BLOB_UNKNOWN. `claim` keeps the collector off it for the time of grace."""
        ...

    def piece(self, repository: str, digest: str) -> Piece:
        """What a manifest of the repository says of a blob. BLOB_UNKNOWN when none speaks of it."""
        ...

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Take over a blob of another repository (of any when `source` is empty)."""
        ...

    def delete_blob(self, repository: str, digest: str) -> None:
        """From this repository. BLOB_UNKNOWN."""
        ...

    def start_upload(self, repository: str) -> Upload:
        """TOOMANYREQUESTS over the limit."""
        ...

    def upload(self, repository: str, id_: str) -> Upload:
        """One that was started, also before a restart. BLOB_UPLOAD_UNKNOWN."""
        ...

    def commit_upload(self, upload: Upload, digest: str) -> None:
        """Verify and make it a blob of its repository. DIGEST_INVALID ends the session too."""
        ...

    def cancel_upload(self, upload: Upload) -> None:
        """Forget it and its bytes."""
        ...

    def cancel_stale(self) -> int:
        """Cancel the uploads that nobody has touched for `limits.upload_age`; how many."""
        ...

    def collect(self, *, grace: float, untagged: bool = False) -> "Collected":
        """Remove what nothing needs and nobody has touched for `grace` seconds."""
        ...


class Collected(NamedTuple):
    """What a collection removed."""

    blobs: int = 0
    bytes: int = 0
    links: int = 0
    manifests: int = 0
    uploads: int = 0
