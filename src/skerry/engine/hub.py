"""The engine's images as a registry: `skerry registry serve --store`.

Theory. A registry holds more than images: uploads on their way, indexes, artifacts, referrers.
Those lie in a folder of their own, `<root>/registry-incoming`, as in any registry of ours. An image
manifest that gets a tag becomes an image of this engine under the name `repository:tag`, and its
blobs move into the engine's store. One that the engine cannot hold (a config or layers that are no
image's, as tools for artifacts and the specification's own tests push) stays in the folder. What
the engine holds under a name can be pulled by it: `busybox`, `team/app`, `ghcr.io/team/app`. A name
with a port in it is no repository's and is left out.

The server runs inside the engine, which alone may write its store, and only as long as whoever
asked for it stays connected. What is acknowledged is recorded: a push ends with the image in the
records.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from skerry.base.architectures import architecture
from skerry.base.errors import Conflict, Forbidden, InvalidInput, NotFound, SkerryError
from skerry.base.oci_image import DOCKER_CONFIG, OCI_CONFIG
from skerry.base.references import parse_reference
from skerry.engine.archives import Archives
from skerry.registry.server import documents, listening
from skerry.registry.server.access import Htpasswd
from skerry.registry.server.application import Application
from skerry.registry.server.call import Options
from skerry.registry.server.directory import Directory
from skerry.registry.server.documents import Document
from skerry.registry.server.names import ordered
from skerry.registry.server.refusals import Refusal
from skerry.registry.server.storage import Blob, Limits, Manifest
from skerry.store import Store
from skerry.store.compression import file_chunks
from skerry.store.formats.intake import Intake, Packed
from skerry.store.image import Image

log = logging.getLogger(__name__)

FOLDER = "registry-incoming"


class HubStorage(Directory):
    """A `Storage` whose images are the engine's."""

    def __init__(self, root: str, store: Store, archives: Archives, limits: Limits) -> None:
        super().__init__(os.path.join(root, FOLDER), limits)
        self._store = store
        self._archives = archives

    def repositories(self) -> list[str]:
        """Those of the folder and those of the engine's names."""
        return ordered(list({*super().repositories(), *(name for name, _, _ in self._all())}))

    def tags(self, repository: str) -> list[str]:
        """Ordered."""
        found = {tag for name, tag, _ in self._all() if name == _plain(repository)}
        with contextlib.suppress(Refusal) if found else contextlib.nullcontext():
            found.update(super().tags(repository))
        return ordered(list(found))

    def resolve(self, repository: str, tag: str) -> str:
        """An index that was pushed, else the image of that name."""
        try:
            return super().resolve(repository, tag)
        except Refusal:
            for name, each, image in self._all():
                if (name, each) == (_plain(repository), tag):
                    return image.manifest
            raise

    def manifest(self, repository: str, digest: str) -> Manifest:
        """As it was pushed or pulled."""
        for image in self._of(repository):
            if image.manifest == digest:
                with contextlib.suppress(NotFound):
                    return Manifest(digest, image.media_type, self._store.blobs.read(digest))
        return super().manifest(repository, digest)

    def blob(self, repository: str, digest: str, *, claim: bool = False) -> Blob:
        """Of the folder, else of an image with a name in the repository."""
        try:
            return super().blob(repository, digest, claim=claim)
        except Refusal:
            held = any(digest in (image.id, *image.blobs) for image in self._of(repository))
            if not held or not self._store.blobs.has(digest):
                raise
            return Blob(self._store.blobs.path(digest), self._store.blobs.size(digest))

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """From the folder; an image's blob is linked into it."""
        if super().mount(repository, digest, source):
            return True
        places = [source] if source else [name for name, _, _ in self._all()]
        if not any(digest in (each.id, *each.blobs) for at in places for each in self._of(at)):
            return False
        path = self._blob(digest)
        with self._claims.of(digest):
            try:
                os.link(self._store.blobs.path(digest), path)
            except FileExistsError:
                os.utime(path)
            except OSError:
                return False
            self._add_link(repository, digest)
        return True

    def put_manifest(
        self, repository: str, document: Document, tag: str, *, complete: bool = True
    ) -> None:
        """An image with a tag goes to the engine, all else to the folder; of an index with a tag
        this machine's image goes to the engine as well."""
        config = document.blobs[0].media_type if document.blobs else ""
        name = f"{repository}:{tag}"
        if not tag or document.is_index or config not in (OCI_CONFIG, DOCKER_CONFIG):
            super().put_manifest(repository, document, tag, complete=complete)
            if tag:
                self._follow(repository, document, name)
            return
        try:
            self._archives.admit([name], "push")
            # Also under its digest, for whoever lists referrers or names it in an index.
            super().put_manifest(repository, document, "", complete=complete)
            image = self._take(repository, document, name)
        except Refusal:
            raise
        except InvalidInput as error:
            # Clients put more under an image's media types than images that can run.
            log.info("%s stays outside the engine: %s", name, error.message)
            super().put_manifest(repository, document, tag, complete=complete)
            self._follow(repository, document, name)
            return
        except SkerryError as error:
            code = "DENIED" if isinstance(error, Conflict | Forbidden) else "MANIFEST_INVALID"
            raise Refusal(code, error.message) from None
        self._archives.emit("load", image)
        with contextlib.suppress(Refusal):
            super().delete_tag(repository, tag)
        for piece in document.blobs:
            self._drop(repository, piece.digest)

    def _follow(self, repository: str, document: Document, name: str) -> None:
        """The engine's `name` becomes what the folder's tag is now, or nobody's."""
        for piece in document.manifests:
            if piece.platform.split("/")[:2] != ["linux", architecture()]:
                continue
            with contextlib.suppress(Refusal, SkerryError):
                self._archives.admit([name], "push")
                held = self.manifest(repository, piece.digest)
                child = documents.parse(held.data, held.media_type)
                self._archives.emit("load", self._take(repository, child, name))
                for blob in child.blobs:
                    self._drop(repository, blob.digest)
                return
        with contextlib.suppress(SkerryError):
            self._store.images.untag(name)

    def _drop(self, repository: str, digest: str) -> None:
        """The folder's copy of what the engine holds now, unless another repository needs it."""
        with self._claims.of(digest), contextlib.suppress(Refusal, FileNotFoundError):
            super().delete_blob(repository, digest)
            if not self._linked(digest):
                os.unlink(self._blob(digest))

    def _take(self, repository: str, document: Document, name: str) -> Image:
        with Intake(self._store.images, f"push {name}") as intake:
            for piece in document.blobs:
                if intake.blobs.has(piece.digest) or piece.foreign:
                    continue
                with (
                    open(self.blob(repository, piece.digest).path, "rb") as file,
                    intake.blobs.ingest() as writer,
                ):
                    for chunk in file_chunks(file):
                        writer.write(chunk)
                    intake.keep(writer.commit(piece.digest, piece.size))
            packed = Packed(document.data, document.media_type, (name,))
            return intake.record([packed])[0]

    def delete_tag(self, repository: str, tag: str) -> None:
        """Of the folder and of the engine."""
        known = any((n, t) == (_plain(repository), tag) for n, t, _ in self._all())
        with contextlib.suppress(Refusal) if known else contextlib.nullcontext():
            super().delete_tag(repository, tag)
        if known:
            self._untag(f"{_plain(repository)}:{tag}")

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Every name that the image has in the repository, and what the folder has."""
        names = [
            f"{name}:{tag}"
            for name, tag, image in self._all()
            if name == _plain(repository) and image.manifest == digest
        ]
        with contextlib.suppress(Refusal) if names else contextlib.nullcontext():
            super().delete_manifest(repository, digest)
        for name in names:
            self._untag(name)

    def _untag(self, name: str) -> None:
        """The name alone: the image may be a container's."""
        try:
            self._store.images.untag(name)
        except SkerryError as error:
            raise Refusal("MANIFEST_UNKNOWN", error.message) from None

    def _all(self) -> Iterator[tuple[str, str, Image]]:
        """(repository, tag, image) of every name that a registry can have."""
        for image in self._store.images.list():
            for name in image.tags:
                repository, _, tag = name.rpartition(":")
                if ":" not in repository:
                    yield repository, tag, image

    def _of(self, repository: str) -> Iterator[Image]:
        """Those that have a name in the repository, and those that were pushed to it and have lost
        theirs to newer ones."""
        wanted = _plain(repository)
        named = {image.id: image for name, _, image in self._all() if name == wanted}
        yield from named.values()
        for image in self._store.images.list():
            if image.id not in named and self.knows(repository, image.manifest):
                yield image


def _plain(repository: str) -> str:
    """`busybox` for `library/busybox`, as names are shown here."""
    with contextlib.suppress(SkerryError):
        return parse_reference(f"{repository}:x").familiar.rpartition(":")[0]
    return repository


class Wanted(NamedTuple):
    """How to serve. Paths are files of the engine's host."""

    listen: str = "127.0.0.1:5000"
    read_only: bool = False
    delete: bool = True
    page: bool = True
    htpasswd: str = ""
    cert: str = ""
    key: str = ""


@contextlib.asynccontextmanager
async def serve(
    root: str, store: Store, archives: Archives, wanted: Wanted
) -> AsyncIterator[tuple[str, int]]:
    """Serve inside the block; gives the address. Conflict when it is served already."""
    limits = Limits()
    context = listening.tls(wanted.cert, wanted.key)
    users = Htpasswd(wanted.htpasswd) if wanted.htpasswd else None
    sock = listening.listen(wanted.listen)
    try:
        storage = await asyncio.to_thread(HubStorage, root, store, archives, limits)
    except BaseException:
        sock.close()
        raise
    options = Options(wanted.read_only, wanted.delete, wanted.page)
    application = Application(storage, options, users=users)
    door = listening.Door(application, limits)
    server = await door.open(sock, context)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        await door.close()
        await asyncio.to_thread(application.close)
        storage.collect(grace=limits.grace)
        storage.close()
