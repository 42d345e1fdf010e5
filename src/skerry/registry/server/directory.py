"""Storage in a folder of its own. One process at a time holds its lock.

    blobs/<algorithm>/<hex>                                  bytes, of manifests too (OCI layout)
    repositories/<name>/_blobs/<algorithm>/<hex>             empty: the repository has this blob
    repositories/<name>/_manifests/<algorithm>/<hex>         media type
    repositories/<name>/_referrers/<algorithm>/<hex>/<algorithm>-<hex>   descriptor, JSON
    repositories/<name>/_tags/<tag>                          digest
    uploads/<id>/{repository,data}  tmp/  lock

Order is what keeps it whole through a crash: bytes, then the link, then the referrer, then the tag,
and the other way round to remove. A reader takes a name whose target is missing for a missing name.

The collector and the writers meet in `_claims`: whoever relies on a blob sets its time under the
digest's lock, and the collector looks at the time and removes under the same lock.
"""

import contextlib
import fcntl
import os
import time
from typing import Any

import msgspec

from skerry.base.errors import Conflict, SystemFault
from skerry.registry.server import collector, names
from skerry.registry.server.disk import Disk, Stripes, entries, read_small, told
from skerry.registry.server.documents import Document, Piece
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Blob, Collected, Limits, Manifest, Upload
from skerry.registry.server.uploads import FileUpload, Uploads

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_FRESH = 30.0
"""Seconds within which a blob's time need not be set again."""


class Directory:
    """A `Storage` on a file system. Thread-safe."""

    def __init__(self, root: str, limits: Limits | None = None, *, sync: bool = True) -> None:
        self.limits = limits or Limits()
        self.root = os.path.abspath(root)
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            self._lock = os.open(
                os.path.join(self.root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise SystemFault(f"cannot use {self.root} as storage: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Conflict(
                f"another registry server uses {self.root}", hint="stop it, or use another folder"
            ) from None
        self._disk = Disk(self.root, sync=sync)
        self._uploads = Uploads(self._disk, self.limits)
        self._claims = Stripes()
        self._repositories = Stripes()
        self._tag_counts: dict[str, int] = {}
        for folder in ("blobs/sha256", "blobs/sha512", "repositories"):
            self._disk.folder(os.path.join(self.root, folder))
        if not os.path.exists(os.path.join(self.root, "oci-layout")):
            self._disk.write(os.path.join(self.root, "oci-layout"), _LAYOUT)
        self._names = set(collector.repositories(self.root))

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)

    def repositories(self) -> list[str]:
        """All that hold a manifest."""
        return names.ordered(list(self._names))

    def tags(self, repository: str) -> list[str]:
        """Ordered."""
        self._known(repository)
        return names.ordered(entries(self._in(repository, "_tags")))

    def resolve(self, repository: str, tag: str) -> str:
        """The tag's digest."""
        found = read_small(self._in(repository, "_tags", tag))
        if not found:
            self._known(repository)
            raise Refusal("MANIFEST_UNKNOWN", f"{repository} has no tag {tag}", detail={"tag": tag})
        return found

    def manifest(self, repository: str, digest: str) -> Manifest:
        """As it was pushed."""
        media_type = read_small(self._in(repository, "_manifests", names.path_of(digest)))
        if media_type:
            with contextlib.suppress(FileNotFoundError), open(self._blob(digest), "rb") as file:
                return Manifest(digest, media_type, file.read(self.limits.manifest + 1))
        self._known(repository)
        raise Refusal(
            "MANIFEST_UNKNOWN", f"{repository} has no manifest {digest}", detail={"digest": digest}
        )

    def knows(self, repository: str, digest: str) -> bool:
        """Whether a manifest with this digest was pushed to the repository and not deleted."""
        return bool(read_small(self._in(repository, "_manifests", names.path_of(digest))))

    def put_manifest(
        self, repository: str, document: Document, tag: str, *, complete: bool = True
    ) -> None:
        """Bytes, link, referrer, tag; in this order."""
        with self._repositories.of(repository), told(f"store a manifest in {repository}"):
            if complete:
                self._require(repository, document)
            if tag:
                self._count_tag(repository, tag)
            settled = [self._store_manifest(repository, document)]
            if document.subject:
                folder = self._in(repository, "_referrers", names.path_of(document.subject))
                name = document.digest.replace(":", "-")
                descriptor = msgspec.json.encode(document.as_referrer())
                self._disk.write(os.path.join(folder, name), descriptor)
                settled.append(folder)
            if tag:
                # The tag must not reach the disk before what it names.
                self._disk.settle(*settled)
                path = self._in(repository, "_tags", tag)
                self._disk.write(path, document.digest.encode())
                settled = [os.path.dirname(path)]
            self._disk.settle(*settled)
            self._names.add(repository)

    def _store_manifest(self, repository: str, document: Document) -> str:
        path = self._blob(document.digest)
        with self._claims.of(document.digest):
            if not self._touch(path):
                self._disk.write(path, document.data)
                self._disk.settle(os.path.dirname(path))
        link = self._in(repository, "_manifests", names.path_of(document.digest))
        self._disk.write(link, document.media_type.encode())
        return os.path.dirname(link)

    def _require(self, repository: str, document: Document) -> None:
        """All that the document needs is here, and stays at least for the time of grace."""
        for piece in document.blobs:
            if piece.foreign:
                continue
            try:
                size = self.blob(repository, piece.digest, claim=True).size
            except Refusal:
                raise Refusal(
                    "MANIFEST_BLOB_UNKNOWN",
                    f"{repository} does not have the blob {piece.digest}",
                    detail={"digest": piece.digest},
                ) from None
            if size != piece.size:
                raise Refusal(
                    "MANIFEST_INVALID",
                    f"{piece.digest} has {size} bytes, the manifest says {piece.size}",
                )
        for piece in document.manifests:
            link = self._in(repository, "_manifests", names.path_of(piece.digest))
            with self._claims.of(piece.digest):
                if not (self._touch(link) and self._touch(self._blob(piece.digest))):
                    raise Refusal(
                        "MANIFEST_BLOB_UNKNOWN",
                        f"{repository} does not have the manifest {piece.digest}",
                        detail={"digest": piece.digest},
                    )

    def _count_tag(self, repository: str, tag: str) -> None:
        if os.path.exists(self._in(repository, "_tags", tag)):
            return
        count = self._tag_counts.get(repository)
        if count is None:
            count = len(entries(self._in(repository, "_tags")))
        if count >= self.limits.tags:
            raise Refusal("DENIED", f"{repository} has {count} tags, no more are taken")
        self._tag_counts[repository] = count + 1

    def delete_tag(self, repository: str, tag: str) -> None:
        """The manifest stays."""
        with self._repositories.of(repository), told(f"delete a tag of {repository}"):
            self.resolve(repository, tag)
            os.unlink(self._in(repository, "_tags", tag))
            self._tag_counts.pop(repository, None)
            self._disk.settle(self._in(repository, "_tags"))

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Its tags first, so that none is left naming nothing."""
        with self._repositories.of(repository), told(f"delete a manifest of {repository}"):
            self.manifest(repository, digest)
            collector.drop_manifest(self.root, repository, digest)
            self._tag_counts.pop(repository, None)
            folder = os.path.dirname(self._in(repository, "_manifests", names.path_of(digest)))
            self._disk.settle(self._in(repository, "_tags"), folder)
            if not collector.holds_manifest(self.root, repository):
                self._names.discard(repository)

    def referrers(self, repository: str, digest: str) -> list[dict[str, Any]]:
        """In the order of their digests."""
        folder = self._in(repository, "_referrers", names.path_of(digest))
        found = []
        for name in sorted(entries(folder)):
            link = self._in(repository, "_manifests", name.replace("-", "/", 1))
            text = read_small(os.path.join(folder, name), self.limits.manifest)
            if text and os.path.exists(link):
                found.append(msgspec.json.decode(text, type=dict[str, Any]))
        return found

    def blob(self, repository: str, digest: str, *, claim: bool = False) -> Blob:
        """A blob that the repository has."""
        link, path = self._link(repository, digest), self._blob(digest)
        with self._claims.of(digest) if claim else contextlib.nullcontext():
            try:
                times = (os.stat(link).st_mtime, os.stat(path).st_mtime)
                size = os.stat(path).st_size
            except (FileNotFoundError, NotADirectoryError):
                raise Refusal(
                    "BLOB_UNKNOWN",
                    f"{repository} does not have the blob {digest}",
                    detail={"digest": digest},
                ) from None
            if claim and min(times) < time.time() - _FRESH:
                os.utime(link)
                os.utime(path)
        return Blob(path, size)

    def piece(self, repository: str, digest: str) -> Piece:
        """From the manifests."""
        for each in collector.links(self.root, repository, "_manifests"):
            found = collector.document(self.root, repository, each)
            for piece in found.blobs if found else ():
                if piece.digest == digest:
                    return piece
        raise Refusal("BLOB_UNKNOWN", f"no manifest of {repository} speaks of {digest}")

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """A link more."""
        if source and not os.path.exists(self._link(source, digest)):
            return False
        with told(f"mount a blob into {repository}"), self._claims.of(digest):
            if not source and not self._linked(digest):
                return False
            if not self._touch(self._blob(digest)):
                return False
            self._add_link(repository, digest)
        return True

    def _linked(self, digest: str) -> bool:
        """Whether any repository gives it out as a blob: a manifest is not for mounting."""
        return any(os.path.exists(self._link(name, digest)) for name in self.repositories())

    def _add_link(self, repository: str, digest: str) -> None:
        link = self._link(repository, digest)
        self._disk.folder(os.path.dirname(link))
        os.close(os.open(link, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.utime(link)
        self._disk.settle(os.path.dirname(link))

    def delete_blob(self, repository: str, digest: str) -> None:
        """The link; the bytes are the collector's."""
        with self._claims.of(digest), told(f"delete a blob of {repository}"):
            self.blob(repository, digest)
            os.unlink(self._link(repository, digest))
            self._disk.settle(os.path.dirname(self._link(repository, digest)))

    def start_upload(self, repository: str) -> Upload:
        """A session of its own."""
        return self._uploads.start(repository)

    def upload(self, repository: str, id_: str) -> Upload:
        """A session that was started."""
        return self._uploads.find(repository, id_)

    def commit_upload(self, upload: Upload, digest: str) -> None:
        """Bytes to the disk, then their name, then the repository's link."""
        assert isinstance(upload, FileUpload)
        seen = upload.digest(digest.partition(":")[0])
        if seen != digest:
            self._uploads.end(upload)
            raise Refusal(
                "DIGEST_INVALID",
                f"the content's digest is {seen}, not {digest}",
                detail={"digest": digest},
            )
        path = self._blob(digest)
        if not os.path.exists(path):
            upload.ready(sync=self._disk.sync)
        with told(f"store a blob in {upload.repository}"), self._claims.of(digest):
            if not self._touch(path):
                upload.ready(sync=self._disk.sync)
                os.rename(upload.path, path)
                os.utime(path)
                self._disk.settle(os.path.dirname(path))
            self._add_link(upload.repository, digest)
        self._uploads.end(upload)

    def cancel_upload(self, upload: Upload) -> None:
        """Forget it and its bytes."""
        assert isinstance(upload, FileUpload)
        self._uploads.end(upload)

    def cancel_stale(self) -> int:
        """Uploads that were given up."""
        stale = list(self._uploads.stale(self.limits.upload_age))
        for upload in stale:
            self._uploads.end(upload)
        return len(stale)

    def collect(self, *, grace: float, untagged: bool = False) -> Collected:
        """See `collector`."""
        stale = self.cancel_stale()
        found = collector.collect(
            self.root,
            before=time.time() - grace,
            untagged=untagged,
            claims=self._claims,
            repositories_locks=self._repositories,
        )
        self._names = set(collector.repositories(self.root)) | {
            name for name in self._names if collector.holds_manifest(self.root, name)
        }
        self._tag_counts.clear()
        return found._replace(uploads=stale)

    @staticmethod
    def _touch(path: str) -> bool:
        """Whether it is there; if so it is young now."""
        try:
            os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _known(self, repository: str) -> None:
        if repository not in self._names:
            raise Refusal(
                "NAME_UNKNOWN", f"no such repository: {repository}", detail={"name": repository}
            )

    def _blob(self, digest: str) -> str:
        return os.path.join(self.root, "blobs", names.path_of(digest))

    def _in(self, repository: str, *parts: str) -> str:
        return os.path.join(self.root, "repositories", repository, *parts)

    def _link(self, repository: str, digest: str) -> str:
        return self._in(repository, "_blobs", names.path_of(digest))
