"""Snapshots to and from a file: `skerry snapshot export` and `import`.

An archive is taken in as a new container, stopped, with the snapshot as the only point of its
history. What is in it may be anybody's: its image and layer go through the readers of images, and
of its container's options only those are taken over that reach nothing outside the container.
"""

import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, BinaryIO, Final

from skerry.base.errors import InvalidInput, NotFound, Unsupported
from skerry.base.ids import check_name, new_id
from skerry.engine import merging, mounts, record, validation
from skerry.engine import snapshot as snapshots
from skerry.engine.archives import blocking, in_pieces
from skerry.engine.containers import Containers
from skerry.engine.roster import Roster
from skerry.engine.snapshot import Snapshot
from skerry.engine.snapshots import Snapshots
from skerry.engine.walls import VM, wall_of
from skerry.store import Store, snapshot_archive
from skerry.store.compression import file_chunks
from skerry.store.extract import Extractor
from skerry.store.formats.intake import Intake
from skerry.store.formats.reading import read as read_images
from skerry.store.pack import PackOptions, pack
from skerry.store.tar_reader import TarReader
from skerry.store.trees import DIRECTORY

LAYER: Final = "layer.tar"
IMAGE: Final = "image.tar"

KEPT_OPTIONS: Final = frozenset(
    """CapDrop CpuPeriod CpuQuota CpuShares CpusetCpus Init Memory MemoryReservation MemorySwap
    NanoCpus PidsLimit ReadonlyRootfs Runtime ShmSize Tmpfs""".split()
)
"""Of HostConfig: what limits a container, never what opens it to the host."""


class SnapshotFiles:
    """The service."""

    def __init__(
        self, store: Store, roster: Roster, containers: Containers, service: Snapshots
    ) -> None:
        self._store = store
        self._roster = roster
        self._containers = containers
        self._service = service

    def export(self, reference: str, *, with_image: bool = True) -> AsyncIterator[bytes]:
        """The archive of a snapshot; without its image it can only be imported where that is."""
        chosen = self._service.find(reference)
        if wall_of(self._service.owner(chosen).record.host) == VM:
            raise Unsupported(
                "snapshots of machines cannot be exported",
                hint="commit the machine, and save the image",
            )
        return in_pieces(self._export(chosen, with_image=with_image))

    def _export(self, chosen: Snapshot, *, with_image: bool) -> Iterator[bytes]:
        saved = self._service.owner(chosen).record
        about = {
            "name": chosen.name,
            "created_at": chosen.created_at,
            "comment": chosen.comment,
            "kind": chosen.kind,
            "image": saved.image_id,
            "container": {
                "name": saved.name,
                "image": saved.image,
                "config": saved.config,
                "host": kept_options(saved.host),
            },
        }
        with self._store.scratch.folder("export") as folder:
            files = {LAYER: f"{folder}/{LAYER}"}
            with self._store.snapshots.flattened(chosen.id) as upper:
                _spool(files[LAYER], _packed(upper))
            if with_image:
                files[IMAGE] = f"{folder}/{IMAGE}"
                image = self._store.images.save([saved.image_id], "oci-archive", "gzip")
                _spool(files[IMAGE], image)
            yield from snapshot_archive.write(about, files)

    async def import_(self, stream: BinaryIO, name: str = "") -> tuple[str, Snapshot]:
        """Take an archive in; the new container's id and its snapshot."""
        if name:
            check_name(name)
            self._roster.check_free(name)
        layer = new_id()
        with self._store.snapshots.frozen.hold(layer):
            about = await blocking(lambda: self._take_in(stream, layer))
            saved = self._record(about, name)
            taken = _snapshot(about, layer, saved.id)
            taken.size = self._store.snapshots.frozen.usage(layer)
            snapshots.save(self._store, taken)
            try:
                await self._containers.add(saved, layer)
            except BaseException:
                snapshots.forget(self._store, saved.id)
                raise
            self._store.snapshots.set_node(saved.id, layer)
        return saved.id, taken

    def _take_in(self, stream: BinaryIO, layer: str) -> dict[str, Any]:
        with self._store.scratch.folder("import") as folder:
            opened = snapshot_archive.read(file_chunks(stream), folder)
            about = opened.about
            if about.get("kind") != snapshots.DISK or LAYER not in opened.files:
                raise InvalidInput("snapshot archive: it holds no layer that can be taken in")
            image = about.get("image")
            if not isinstance(image, str):
                raise InvalidInput("snapshot archive: it names no image")
            with self._store.leases.hold():
                if IMAGE in opened.files:
                    self._take_image(opened.files[IMAGE])
                try:
                    found = self._store.images.get(image)
                    if found.id != image:
                        raise NotFound(image)
                except NotFound:
                    raise InvalidInput(
                        f"snapshot archive: its image {image:.80} is not here",
                        hint="load or pull the image first, or export the snapshot with it",
                    ) from None
                self._store.snapshots.take_in(
                    image, layer, lambda fd: _unpack(opened.files[LAYER], fd)
                )
        return about

    def _take_image(self, path: str) -> None:
        images = self._store.images
        with (
            Intake(images, "image in the snapshot archive") as intake,
            open(path, "rb") as stream,
        ):
            packed = read_images(intake, stream, images.layers.limits)
            # Names are the user's: an archive does not move them.
            intake.record([each._replace(names=()) for each in packed])

    def _record(self, about: Mapping[str, Any], name: str) -> record.Record:
        said = about.get("container")
        said = said if isinstance(said, dict) else {}
        config = validation.CONFIG(_table(said, "config"), "config")
        host = validation.HOST(kept_options(_table(said, "host")), "host")
        image = self._store.images.get(str(about["image"]))
        config = merging.merge(config, image.config)
        config.pop("MacAddress", None)
        return record.Record(
            id=new_id(),
            name=name or self._free_name(said.get("name")),
            image=image.tags[0] if image.tags else image.id,
            image_id=image.id,
            created_at=time.time_ns(),
            config=config,
            host=host,
            mounts=mounts.requested(config, host, []),
            ever_started=True,
        )

    def _free_name(self, wanted: object) -> str:
        if isinstance(wanted, str):
            try:
                check_name(wanted)
            except InvalidInput:
                return self._roster.free_name()
            if not self._roster.has_name(wanted):
                return wanted
        return self._roster.free_name()


def kept_options(host: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a HostConfig that an archive carries."""
    return {key: value for key, value in host.items() if key in KEPT_OPTIONS}


def _table(said: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = said.get(key)
    if not isinstance(value, dict):
        raise InvalidInput(f"snapshot archive: it says no {key} of its container")
    return value


def _snapshot(about: Mapping[str, Any], id: str, container: str) -> Snapshot:
    name, created, comment = (about.get(key) for key in ("name", "created_at", "comment"))
    if not isinstance(name, str) or not isinstance(created, int) or not isinstance(comment, str):
        raise InvalidInput("snapshot archive: its snapshot has no name, time or comment")
    created = min(max(created, 0), time.time_ns())
    check_name(name, "snapshot")
    return Snapshot(id, name, container, created, comment=comment[: snapshots.MAX_COMMENT])


def _packed(upper: str) -> Iterator[bytes]:
    fd = os.open(upper, DIRECTORY)
    try:
        yield from pack(fd, PackOptions(top=True, whiteouts=True, holes=True))
    finally:
        os.close(fd)


def _spool(path: str, pieces: Iterator[bytes]) -> None:
    with open(path, "xb") as file:
        for piece in pieces:
            file.write(piece)


def _unpack(path: str, fd: int) -> None:
    with open(path, "rb") as file:
        reader = TarReader(file_chunks(file), "layer in the snapshot archive")
        with Extractor(fd, reader) as extractor:
            extractor.run()
