"""Images: their records, names and life. An image's id is its config's digest, as in Docker.

The records are the truth: `index.json` is written from them, and again at open when a crash came
between. A name is a record of its own, so that it can move in one write.
"""

import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Final

from skerry.base.errors import InvalidInput, NotFound
from skerry.base.oci_image import (
    MANIFESTS,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Platform,
    parse_config,
    parse_manifest,
)
from skerry.base.references import Reference, parse_reference
from skerry.store import commit, history, index, load, referrers, removal, save
from skerry.store.blobs import Blobs
from skerry.store.changes import MOUNT_POINTS
from skerry.store.image import HistoryLine, Image, Progress, Removed, from_record, to_record
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.records import Records
from skerry.store.scratch import Scratch
from skerry.store.snapshots import IMAGE, REMOVED_IMAGE, Snapshots

_NAME: Final = "image-name"
_FULL_ID: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_ID_PREFIX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{1,63})")

ImageList = list[Image]
HistoryLines = list[HistoryLine]
RemovedLines = list[Removed]
ContainerList = list[tuple[str, bool]]


class Images:
    """Images by name and id. Thread-safe."""

    def __init__(
        self,
        root: str,
        records: Records,
        blobs: Blobs,
        layers: Layers,
        snapshots: Snapshots,
        scratch: Scratch,
        leases: Leases,
    ) -> None:
        self.blobs = blobs
        self.layers = layers
        self.snapshots = snapshots
        self.leases = leases
        self.scratch = scratch
        self.records = records
        self._root = root
        self.write_index()

    def list(self) -> ImageList:
        """All images, newest first."""
        names = self._names()
        images = [
            from_record(each.id, each.data, names.get(each.id, ()))
            for each in self.records.all(IMAGE)
        ]
        return sorted(images, key=lambda image: (image.created, image.id), reverse=True)

    def get(self, name_or_id: str) -> Image:
        """By name (`busybox`, `busybox:latest`, `busybox@sha256:…`), id, `sha256:` id, or unique id
        prefix; NotFound with Docker's words ("No such image: …")."""
        full = _FULL_ID.fullmatch(name_or_id)
        if full:
            return self._image(f"sha256:{full[1]}", name_or_id)
        shown = name_or_id
        try:
            reference = parse_reference(name_or_id)
        except InvalidInput:
            if not _ID_PREFIX.fullmatch(name_or_id):
                raise
        else:
            shown = reference.familiar
            id_ = self._id_of(reference)
            if id_:
                return self._image(id_, shown)
        prefix = _ID_PREFIX.fullmatch(name_or_id)
        if prefix:
            wanted = f"sha256:{prefix[1]}"
            found = [each.id for each in self.records.all(IMAGE) if each.id.startswith(wanted)]
            if len(found) > 1:
                raise InvalidInput(f"image id {name_or_id} is ambiguous")
            if found:
                return self._image(found[0], shown)
        raise NotFound(f"No such image: {shown}")

    def config(self, image: Image | str) -> ImageConfig:
        """The whole configuration document."""
        image = self.get(image) if isinstance(image, str) else image
        return parse_config(self.blobs.read(image.id), f"config of image {image.id}", own=True)

    def history(self, image: Image | str) -> HistoryLines:
        """How it was made, newest step first."""
        image = self.get(image) if isinstance(image, str) else image
        return history.lines(self, image)

    def tag(self, name_or_id: str, reference: str) -> Image:
        """Give an image a further name; the name moves when another image had it."""
        name = self._new_name(reference)
        with self.leases.lock:
            image = self.get(name_or_id)
            with self.records.transaction():
                self._put_names(image.id, [name])
            self.write_index()
        return self.get(image.id)

    def untag(self, reference: str) -> None:
        """Take a name away; the image stays. NotFound when nothing has it."""
        name = parse_reference(reference)
        with self.leases.lock:
            if not self.records.delete(_NAME, str(name)):
                raise NotFound(f"No such image: {name.familiar}")
            self.write_index()

    def remove(
        self,
        name: str,
        *,
        force: bool = False,
        in_use: dict[str, ContainerList] | None = None,
        prune_parents: bool = True,
    ) -> RemovedLines:
        """Docker's rmi. `in_use` maps image ids to (container id, running) pairs.

        Conflict, with Docker's words, when containers or several names keep it.
        """
        with self.leases.lock:
            request = removal.Request(force, in_use or {}, prune_parents)
            lines = removal.remove(self, name, request)
            self.write_index()
        return lines

    def add(
        self,
        manifest: bytes,
        *,
        media_type: str = "",
        tags: Iterable[str] = (),
        parent: str = "",
        progress: Progress | None = None,
    ) -> Image:
        """Take in an image whose blobs are all stored: check, unpack its layers, record it.

        To be called under a lease that is older than the blobs. Taking in the same image again only
        adds the names. InvalidInput, LimitExceeded, DigestMismatch; NotFound for a missing blob.
        """
        names = [self._new_name(tag) for tag in tags]
        document = parse_manifest(manifest, "image manifest")
        what = f"config {document.config.digest}"
        config = parse_config(self.blobs.read(document.config.digest), what)
        diff_ids = config.rootfs.diff_ids
        if len(document.layers) != len(diff_ids):
            raise InvalidInput(
                f"{what}: {len(diff_ids)} diff ids for {len(document.layers)} layers"
            )
        with self.leases.hold():
            digest = self.blobs.put(manifest)
            content = dict.fromkeys([*(each.digest for each in document.layers), digest])
            for each in (*content, document.config.digest):
                if not self.blobs.has(each):
                    raise NotFound(f"no such blob: {each}")
            with ThreadPoolExecutor(1, "skerry-flush") as pool:
                flushed = pool.submit(self.blobs.flush, [*content, document.config.digest])
                for descriptor, diff_id in zip(document.layers, diff_ids, strict=True):
                    if progress and not self.layers.has(diff_id):
                        progress(f"unpacking layer {diff_id[7:19]} ({descriptor.size} bytes)")
                    self.layers.unpack(descriptor, diff_id)
                flushed.result()
            media_type = media_type or document.media_type or OCI_MANIFEST
            if media_type not in MANIFESTS:
                raise InvalidInput(f"{media_type!r:.100} is no image manifest's media type")
            data = to_record(
                config,
                Descriptor(media_type, digest, len(manifest)),
                [layer.digest for layer in document.layers],
                sum(self.layers.size(diff_id) for diff_id in diff_ids),
                parent,
            )
            self._record(document.config.digest, data, names)
        return self.get(document.config.digest)

    def import_layout(self, folder: str, *, progress: Progress | None = None) -> ImageList:
        """Take in every image of an OCI image layout folder."""
        return load.import_layout(self, folder, progress)

    def load(
        self,
        stream: BinaryIO,
        *,
        progress: Progress | None = None,
        tag: str = "",
        admit: load.Admit | None = None,
    ) -> ImageList:
        """`docker load`: an archive of images in any known format, plain or compressed; all of its
        images or none. `tag` is one more name for the only image of an archive; `admit` raises
        for the names of one that may not come in."""
        return load.load(self, stream, progress, tag, admit)

    def import_rootfs(
        self,
        stream: BinaryIO,
        config: dict[str, Any],
        *,
        tags: Iterable[str] = (),
        message: str = "",
        platform: Platform | None = None,
    ) -> Image:
        """`docker import`: a tar of a root file system as an image of one layer; `config` is its
        Config object."""
        return load.import_rootfs(
            self,
            stream,
            config,
            tags=tags,
            message=message,
            platform=platform,
            limits=self.layers.limits,
        )

    def save(
        self,
        names: Iterable[str],
        layout: str = "docker-archive",
        compression: str = "none",
        *,
        referrers: bool = False,
    ) -> Iterator[bytes]:
        """`docker save`: the images with these names or ids as an archive, in pieces.

        `layout` is docker-archive, oci-archive, lxc or rootfs (the last two hold one image);
        `compression` none, gzip or zstd; with `referrers`, what is kept about the images goes along
        in an oci-archive. Errors about names come before the first piece.
        """
        return save.save(self, names, layout, compression, referrers=referrers)

    def commit(
        self,
        parent: str | None,
        snapshot: str,
        config: dict[str, Any],
        *,
        tags: Iterable[str] = (),
        author: str = "",
        comment: str = "",
        created_by: str = "",
        created: float | None = None,
        compression: str = "gzip",
        ignore: frozenset[str] = MOUNT_POINTS,
    ) -> Image:
        """A new image: the parent's layers and the snapshot's changes; `config` is its Config.

        `created` is in seconds since the epoch (now by default), `compression` gzip, zstd or none;
        `ignore` names absolute paths that were made for the container, such as mount points.
        """
        with self.leases.hold():
            step = commit.Step(author, comment, created_by, created, compression, ignore)
            return commit.commit(self, parent, snapshot, config, step, tags)

    def references(self, image_id: str) -> "set[Reference]":
        """All names of an image."""
        named = self.records.all(_NAME)
        return {parse_reference(each.id) for each in named if each.data["image"] == image_id}

    def release(self, digests: Iterable[str], diff_ids: Iterable[str] = ()) -> None:
        """Put away those blobs and layers that no image needs and no work in flight holds."""
        with self.leases.lock:
            # Apart: a plain layer's blob has the same digest as the layer itself.
            blobs, layers = set(self.leases.touched()), set(self.leases.touched())
            for each in self.records.all(IMAGE):
                blobs.update((each.id, each.data["manifest"], *each.data["blobs"]))
            for kind in (IMAGE, REMOVED_IMAGE):
                for each in self.records.all(kind):
                    layers.update(each.data["layers"])
            for artifact in referrers.everything(self):
                if artifact.subject in blobs:
                    blobs.update((artifact.digest, *artifact.blobs))
            for digest in set(digests) - blobs:
                self.blobs.discard(digest)
            for diff_id in set(diff_ids) - layers:
                self.layers.discard(diff_id)

    def forget_name(self, name: Reference) -> None:
        """Drop one name's record; the caller brings `index.json` up to date."""
        self.records.delete(_NAME, str(name))

    def _names(self) -> dict[str, set[Reference]]:
        names: dict[str, set[Reference]] = {}
        for each in self.records.all(_NAME):
            names.setdefault(each.data["image"], set()).add(parse_reference(each.id))
        return names

    def _image(self, id_: str, shown: str) -> Image:
        try:
            data = self.records.get(IMAGE, id_)
        except NotFound:
            raise NotFound(f"No such image: {shown}") from None
        return from_record(id_, data, self.references(id_))

    def _id_of(self, reference: Reference) -> str:
        """The image with this name, or an empty string."""
        try:
            id_: str = self.records.get(_NAME, str(reference))["image"]
            return id_
        except NotFound:
            pass
        if reference.digest:
            for image in self.list():
                if f"{reference.familiar_name}@{reference.digest}" in image.digests:
                    return image.id
        return ""

    def _new_name(self, reference: str) -> Reference:
        name = parse_reference(reference)
        if _FULL_ID.fullmatch(name.familiar_name):
            raise InvalidInput(f"cannot use {reference!r:.80} as a name: it looks like an id")
        if name.familiar_name in ("sha256", "sha384", "sha512"):
            raise InvalidInput("refusing to create an ambiguous tag using digest algorithm as name")
        return name

    def _put_names(self, id_: str, names: Iterable[Reference]) -> None:
        for name in names:
            self.records.put(_NAME, str(name), {"image": id_})
        data = self.records.get(IMAGE, id_)
        self.records.put(IMAGE, id_, {**data, "tagged_at": time.time()})

    def _record(self, id_: str, data: dict[str, Any], names: Iterable[Reference]) -> None:
        with self.leases.lock:
            with self.records.transaction():
                self.records.put(IMAGE, id_, data)
                self._put_names(id_, names)
            self.write_index()

    def write_index(self) -> None:
        """Bring `index.json` in line with the records."""
        with self.leases.lock:
            index.write_index(self._root, self.list(), self.scratch)


__all__ = ["HistoryLine", "Image", "Images", "Progress", "Removed"]
