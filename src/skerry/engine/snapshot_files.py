"""Snapshots to and from a file: `skerry snapshot export` and `import`.

An archive is taken in as a new container, stopped, with the snapshot as the only point of its
history. What is in it may be anybody's: its image and layer go through the readers of images, and
of its container's options only those are taken over that reach nothing outside the container.
What a machine has beside is its driver's (`pack_snapshot`, `take_snapshot`): its disk, and
memory and devices when it was kept with them.
"""

import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, BinaryIO, Final

from skerry.base.errors import InvalidInput, NotFound, Unsupported
from skerry.base.ids import check_name, new_id
from skerry.base.isolation import DISK, Overlay
from skerry.engine import merging, mounts, record, validation
from skerry.engine import snapshot as snapshots
from skerry.engine.archives import in_pieces
from skerry.engine.containers import Containers
from skerry.engine.isolation import Driver
from skerry.engine.roster import Roster
from skerry.engine.snapshot import Snapshot
from skerry.engine.snapshots import MADE_OF, Snapshots
from skerry.engine.threads import blocking
from skerry.engine.walls import VM, Walls, wall_of
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
MACHINE_FILES: Final = ("memory.zst", "devices")
"""Of a machine that was kept with its memory, besides its disk."""

KEPT_OPTIONS: Final = frozenset(
    """CapDrop CpuPeriod CpuQuota CpuShares CpusetCpus Init Memory MemoryReservation MemorySwap
    NanoCpus PidsLimit ReadonlyRootfs Runtime ShmSize Tmpfs""".split()
)
"""Of HostConfig: what limits a container, never what opens it to the host."""


class SnapshotFiles:
    """The service."""

    def __init__(
        self,
        store: Store,
        driver: Driver,
        roster: Roster,
        containers: Containers,
        service: Snapshots,
    ) -> None:
        self._store = store
        self._driver = driver
        self._roster = roster
        self._containers = containers
        self._service = service

    def export(self, reference: str, *, with_image: bool = True) -> AsyncIterator[bytes]:
        """The archive of a snapshot; without its image it can only be imported where that is."""
        chosen = self._service.find(reference)
        if chosen.kind == snapshots.MACHINE and not self._service.made_of(chosen):
            raise Unsupported(
                f"the snapshot {chosen.name} does not say what its machine is made of",
                hint="restore it and take another: an older skerry has taken this one",
            )
        return in_pieces(self._export(chosen, with_image=with_image))

    def _export(self, chosen: Snapshot, *, with_image: bool) -> Iterator[bytes]:
        saved = self._service.owner(chosen).record
        host = kept_options(saved.host)
        machine = wall_of(saved.host) == VM
        if machine:
            host["Runtime"] = "skerry-vm"
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
                "host": host,
            },
        }
        with self._store.scratch.folder("export") as folder:
            files = {}
            if not machine or self._store.snapshots.frozen_as_files(chosen.id):
                files[LAYER] = f"{folder}/{LAYER}"
                with self._store.snapshots.flattened(chosen.id) as upper:
                    _spool(files[LAYER], _packed(upper))
            if machine:
                about["machine"], more = self._machines().pack_snapshot(
                    self._store.snapshots.frozen_overlay(chosen.id),
                    self._store.snapshots.frozen.path(chosen.id),
                    self._service.made_of(chosen),
                    folder,
                )
                files.update(more)
            if with_image:
                files[IMAGE] = f"{folder}/{IMAGE}"
                image = self._store.images.save([saved.image_id], "oci-archive", "gzip")
                _spool(files[IMAGE], image)
            yield from snapshot_archive.write(about, files)

    def _machines(self) -> Walls:
        if not isinstance(self._driver, Walls):
            raise Unsupported("this engine has no machines")
        return self._driver

    async def import_(self, stream: BinaryIO, name: str = "") -> tuple[str, Snapshot]:
        """Take an archive in; the new container's id and its snapshot."""
        if name:
            check_name(name)
            self._roster.check_free(name)
        layer, below = new_id(), new_id()
        with contextlib.ExitStack() as held:
            for each in (layer, below):
                held.enter_context(self._store.snapshots.frozen.hold(each))
            about = await blocking(lambda: self._take_in(stream, layer, below))
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

    def _take_in(self, stream: BinaryIO, layer: str, below: str) -> dict[str, Any]:
        """Make the frozen layer, of a machine's files perhaps on another, `below`."""
        with self._store.scratch.folder("import") as folder:
            opened = snapshot_archive.read(file_chunks(stream), folder)
            about, files = opened.about, opened.files
            machine = _check_files(about, files)
            image = about.get("image")
            if not isinstance(image, str):
                raise InvalidInput("snapshot archive: it names no image")
            with self._store.leases.hold():
                if IMAGE in files:
                    self._take_image(files[IMAGE])
                try:
                    found = self._store.images.get(image)
                    if found.id != image:
                        raise NotFound(image)
                except NotFound:
                    raise InvalidInput(
                        f"snapshot archive: its image {image:.80} is not here",
                        hint="load or pull the image first, or export the snapshot with it",
                    ) from None
                base = ""
                if LAYER in files:
                    base = below if machine else ""
                    self._store.snapshots.take_in(
                        image, base or layer, lambda fd: _unpack(files[LAYER], fd)
                    )
                if machine:
                    self._take_machine(about, files, image, layer, base)
        return about

    def _take_machine(
        self, about: Mapping[str, Any], files: dict[str, str], image: str, layer: str, base: str
    ) -> None:
        layers = self._store.snapshots
        overlay = layers.frozen_overlay(base) if base else Overlay(layers.layers(image))

        def beside(folder: str) -> None:
            made_of = self._machines().take_snapshot(about["machine"], files, overlay, folder)
            if made_of:
                with open(f"{folder}/{MADE_OF}", "x") as file:
                    json.dump(made_of, file)

        layers.take_in(image, layer, lambda _: None, base=base, beside=beside)

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


def _check_files(about: Mapping[str, Any], files: Mapping[str, str]) -> bool:
    """Whether there is a machine's disk; InvalidInput unless an archive's files are those of its
    kind."""
    machine = "machine" in about and DISK in files
    wanted = {DISK, *MACHINE_FILES} if about.get("kind") == snapshots.MACHINE else set()
    if about.get("kind") not in (snapshots.DISK, snapshots.MACHINE) or not (
        LAYER in files or machine
    ):
        raise InvalidInput("snapshot archive: it holds no layer that can be taken in")
    if not files.keys() >= wanted or (machine and not wanted and {*MACHINE_FILES} & files.keys()):
        raise InvalidInput("snapshot archive: it does not hold the machine that it says it holds")
    host = about.get("container", {}).get("host") if isinstance(about.get("container"), dict) else 0
    if machine and not (isinstance(host, dict) and wall_of(kept_options(host)) == VM):
        raise InvalidInput("snapshot archive: it holds a machine's disk, but no machine")
    return machine


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
    kind, comment = str(about["kind"]), comment[: snapshots.MAX_COMMENT]
    return Snapshot(id, name, container, created, kind=kind, comment=comment)


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
