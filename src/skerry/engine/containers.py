"""The containers: make, find, list, rename, change, remove. What makes them run is `lifecycle`."""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from skerry.base.errors import Conflict, InvalidInput, NotFound, SkerryError, Unsupported
from skerry.base.ids import check_name, new_id
from skerry.base.isolation import Attach, Overlay, Stats
from skerry.base.settings import Settings
from skerry.engine import (
    admission,
    attach,
    facts,
    health,
    log_options,
    merging,
    mounts,
    processes,
    record,
    resources,
    restart,
    snapshot,
    volumes,
)
from skerry.engine.container import Container
from skerry.engine.endpoints import Endpoints
from skerry.engine.events import Events
from skerry.engine.filters import Filters, Selection, label_matches
from skerry.engine.isolation import Driver, Stream
from skerry.engine.lifecycle import Lifecycle
from skerry.engine.roster import Roster
from skerry.engine.walls import VM, Walls, wall_of
from skerry.store import Store
from skerry.store.faults import told

log = logging.getLogger(__name__)

LIMIT = 100_000
"""Containers of one engine."""


class Removed(NamedTuple):
    """What a prune took away."""

    ids: list[str]
    bytes: int


class Containers:
    """The service."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        driver: Driver,
        events: Events,
        roster: Roster,
        lifecycle: Lifecycle,
        volumes: volumes.Volumes,
        host: facts.Host,
        endpoints: Endpoints,
    ) -> None:
        self._settings = settings
        self.host_clock = processes.HostClock()
        self._store = store
        self._driver = driver
        self._events = events
        self._roster = roster
        self._lifecycle = lifecycle
        self._volumes = volumes
        self._host = host
        self._endpoints = endpoints
        lifecycle.remove = self._remove_at_end
        lifecycle.volumes = volumes

    def find(self, reference: str) -> Container:
        """By id, name or beginning of an id; NotFound."""
        return self._roster.find(reference)

    def all(self) -> list[Container]:
        """Every container."""
        return list(self._roster)

    async def create(
        self,
        config: Mapping[str, Any],
        host: Mapping[str, Any],
        network: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> tuple[Container, list[str]]:
        """Make a container, stopped. Returns it and Docker's warnings.

        `config` and `host` have passed `validation`. NotFound for a missing image, Conflict for a
        taken name, InvalidInput for what contradicts itself.
        """
        if len(self._roster) >= LIMIT:
            raise Conflict(f"there are already {LIMIT} containers")
        name = check_name(name.removeprefix("/")) if name else self._roster.free_name()
        self._roster.check_free(name)
        reference = config.get("Image") or ""
        try:
            image = self._store.images.get(reference)
        except NotFound:
            # Clients pull upon that and try again: what is wrong all the same comes first.
            admission.check(config, host, self._host)
            mounts.requested(config, host, [])
            raise
        merged = merging.merge(config, image.config)
        host = dict(host)
        discarded = admission.discard(host, self._host.layout)
        admission.check(merged, host, self._host)
        try:
            places, notes = await self._endpoints.check(merged, host, network or {})
            inherited = self._inherited(host)
        except NotFound as missing:
            # Of a create, clients take 404 for a missing image, and pull.
            raise InvalidInput(missing.message, hint=missing.hint) from None
        self._roster.check_free(name)
        saved = record.Record(
            id=new_id(),
            name=name,
            image=reference,
            image_id=image.id,
            created_at=time.time_ns(),
            config=merged,
            host=host,
            network=places,
            mounts=mounts.requested(merged, host, inherited),
        )
        return await self.add(saved), [*discarded, *admission.warnings(host), *notes]

    async def add(self, saved: record.Record, base: str = "") -> Container:
        """Make a container of a complete record, above its image or a frozen layer of that."""
        container = Container(saved)
        # The name is taken before the first await: two creates with one name must not both pass.
        self._roster.add(container)
        try:
            await self._make(container, base)
        except BaseException:
            self._roster.discard(container)
            self._sweep_files(container)
            raise
        self._lifecycle.emit(container, "create")
        return container

    def _inherited(self, host: Mapping[str, Any]) -> list[record.MountPoint]:
        """The mounts of `--volumes-from`."""
        result = []
        for text in host.get("VolumesFrom") or ():
            reference, _, mode = text.partition(":")
            if mode not in ("", "ro", "rw", "z", "Z"):
                raise InvalidInput(f"invalid mode: {mode}")
            for point in self._roster.find(reference).record.mounts:
                if point.kind == "tmpfs":
                    continue
                copy = record.MountPoint(
                    point.kind,
                    point.target,
                    source=point.source,
                    name=point.name,
                    mode=point.mode,
                    read_only=point.read_only or mode == "ro",
                    propagation=point.propagation,
                    options=list(point.options),
                    copy_up=False,
                    subpath=point.subpath,
                )
                result.append(copy)
        return result

    async def _make(self, container: Container, base: str) -> None:
        """Everything on disk; the record comes last, so that a crash leaves only nameless rests."""
        saved = container.record
        state_dir = self._lifecycle.state_dir(saved.id)
        mounts.make_sources(saved.mounts)
        with told(f"make {state_dir}"):
            os.mkdir(state_dir, 0o711)
        overlay = self._store.snapshots.prepare(saved.id, saved.image_id, base)
        if overlay.upper and wall_of(saved.host) != VM:
            # Many programs ask for it to know whether they are in a container.
            with told(f"make /.dockerenv of {saved.id}"):
                mark = os.open(f"{overlay.upper}/.dockerenv", os.O_CREAT | os.O_WRONLY, 0o755)
            os.close(mark)
        for point in saved.mounts:
            if point.kind == "image":
                point.source = self._store.images.get(point.name).id
        empty = self._volumes.provide(saved.mounts)
        if empty:
            await self._volumes.hold(empty, saved.id)
            root = facts.open_root(Overlay(overlay.lower))
            try:
                for point in empty:
                    await volumes.copy_up(root, point.target, point.source)
            finally:
                os.close(root)
                await self._volumes.release(empty, saved.id)
        self._lifecycle.save(container)

    def _sweep_files(self, container: Container) -> None:
        """Remove what a failed create left; the next recovery finds the rest."""
        try:
            self._store.snapshots.remove(container.id)
            self._remove_volumes(container)
        except SkerryError as error:
            log.warning("%s", error)
        shutil.rmtree(self._lifecycle.state_dir(container.id), ignore_errors=True)

    async def start(self, reference: str) -> None:
        """See Lifecycle."""
        await self._lifecycle.start(self.find(reference))

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it. Conflict while it runs, unless forced."""
        container = self.find(reference)
        if container.removing:
            raise Conflict(f"removal of container {reference} is already in progress")
        status = container.state.status
        if status in ("running", "paused", "restarting") and not force:
            advice = (
                "unpause and then stop the container before removal or force remove"
                if status == "paused"
                else "stop the container before removing or force remove"
            )
            raise Conflict(
                f'cannot remove container "{container.record.name}": container is '
                f"{status}: {advice}"
            )
        await self._remove(container, volumes=volumes)

    async def _remove_at_end(self, container: Container) -> None:
        """--rm: the container and its anonymous volumes."""
        if container.removing:
            return
        try:
            await self._remove(container, volumes=True)
        except Exception:
            # Its end was not written, since the removal would have been the next write.
            if self._roster.get(container.id) is container:
                self._lifecycle.note(container)
            raise

    async def _remove(self, container: Container, *, volumes: bool) -> None:
        container.removing = True
        try:
            if container.running or container.state.status == "restarting":
                if container.running:
                    await self._lifecycle.kill(container)
                else:
                    await self._lifecycle.end(container)
            async with container.lock:
                await self._erase(container, volumes=volumes)
        except BaseException:
            container.removing = False
            raise
        self._lifecycle.emit(container, "destroy")
        container.tell_removed()

    async def _erase(self, container: Container, *, volumes: bool) -> None:
        """From the outside in: processes and cgroups, the record, then files.

        Once the record is gone, recovery removes whatever a crash leaves of the rest.
        """
        id = container.id
        health.end(container)
        state_dir = self._lifecycle.state_dir(id)
        await self._driver.delete(id, state_dir, self._lifecycle.run_dir(id))
        await self._endpoints.release(container)
        await self._volumes.release(container.record.mounts, id)
        self._store.records.delete(record.KIND, id)
        self._roster.discard(container)
        stacked = self._store.snapshots.node(id) or self._store.snapshots.base(id)
        self._store.snapshots.remove(id)
        if stacked:
            snapshot.forget(self._store, id)
        self._store.scratch.discard(state_dir)
        if volumes:
            self._remove_volumes(container)

    def _remove_volumes(self, container: Container) -> None:
        for point in container.record.mounts:
            own = point.kind == "volume" and point.anonymous and point.name
            if own and not self._volumes.in_use(point.name):
                self._volumes.remove(point.name, force=True)

    def rename(self, reference: str, name: str) -> None:
        """Give it another name."""
        container = self.find(reference)
        old = container.record.name
        if not name:
            raise InvalidInput("Neither old nor new names may be empty")
        if name.removeprefix("/") == old:
            raise InvalidInput("Renaming a container with the same name as its current name")
        try:
            name = check_name(name.removeprefix("/"))
            self._roster.check_free(name)
        except (InvalidInput, Conflict) as wrong:
            raise type(wrong)(f"Error when allocating new name: {wrong.message}") from None
        self._roster.rename(container, name)
        try:
            self._lifecycle.save(container)
        except SkerryError:
            self._roster.rename(container, old)
            raise
        self._endpoints.rename(container)
        self._lifecycle.emit(container, "rename", oldName=f"/{old}")

    async def update(self, reference: str, changes: Mapping[str, Any]) -> list[str]:
        """Change limits and the restart policy; at once when it runs."""
        container = self.find(reference)
        changes = dict(changes)
        discarded = admission.discard(changes, self._host.layout)
        async with container.lock:
            if wall_of(container.record.host) != VM:
                resources.check_update(container.id, container.record.host, changes)
            host = {**container.record.host, **changes}
            if changes.get("NanoCpus"):
                host.pop("CpuQuota", None)
                host.pop("CpuPeriod", None)
            resources.check(host)
            policy = restart.parse(host.get("RestartPolicy"))
            if host.get("AutoRemove") and policy.name != "no":
                raise InvalidInput("Restart policy cannot be updated because AutoRemove is enabled")
            if container.running:
                limits = resources.changed_resources(host, changes)
                if limits:
                    await self._driver.update(container.id, limits)
            before, container.record.host = container.record.host, host
            try:
                self._lifecycle.save(container)
            except SkerryError:
                container.record.host = before
                raise
        self._lifecycle.emit(container, "update")
        return [*discarded, *admission.warnings(changes)]

    def select(
        self,
        filters: Filters,
        *,
        all: bool = False,
        limit: int = 0,
    ) -> list[Container]:
        """Newest first, as `docker ps`."""
        images = {each: self._image_ids(each) for each in filters.get("ancestor", ())}
        selection = Selection(filters, self._roster, images)
        everything = all or limit > 0 or selection.shows_stopped
        chosen = [
            container
            for container in self._roster
            if (everything or container.running or container.state.status == "restarting")
            and selection.accepts(container)
        ]
        chosen.sort(key=lambda each: each.record.created_at, reverse=True)
        return chosen[:limit] if limit > 0 else chosen

    def _image_ids(self, reference: str) -> set[str]:
        try:
            return {self._store.images.get(reference).id}
        except SkerryError:
            return set()

    async def attach(self, reference: str, how: Attach) -> Stream:
        """Join the streams, now or as soon as it starts. Conflict when it is paused."""
        container = self.find(reference)
        if container.state.status == "paused":
            raise Conflict(
                f"container {container.id} is paused, unpause the container before attach"
            )
        if container.running:
            return await self._driver.attach(
                container.id, self._lifecycle.run_dir(container.id), how
            )
        pending = attach.Pending(how)
        container.pending.append(pending)
        return pending

    def withdraw(self, reference: str, stream: Stream) -> None:
        """A client that waited for the start has gone."""
        container = self._roster.get(reference)
        if container is not None and stream in container.pending:
            container.pending = [each for each in container.pending if each is not stream]

    async def resize(self, reference: str, rows: int, columns: int) -> None:
        """Set the terminal's size."""
        container = self.find(reference)
        if not container.running:
            raise Conflict(f"container {container.id} is not running")
        await self._driver.resize(self._lifecycle.run_dir(container.id), rows, columns)

    def log_path(self, container: Container) -> str:
        """Where its log is; Unsupported when it keeps none."""
        name = log_options.file_name(container.id, container.record.host)
        if not name:
            raise Unsupported("configured logging driver does not support reading")
        return f"{self._lifecycle.state_dir(container.id)}/{name}"

    def has_log_to_come(self, container: Container) -> bool:
        """Whether a follower should go on."""
        return container.running or container.state.status == "restarting"

    async def top(self, reference: str, arguments: str) -> processes.Table:
        """The container's processes, as `ps` shows them."""
        container = self.find(reference)
        if not container.running:
            raise Conflict(f"container {container.id} is not running")
        if isinstance(self._driver, Walls):
            rows = await self._driver.processes(container.id)
            if rows is not None:
                return processes.Table(processes.FULL_FORMAT, rows)
        return await processes.top(await self._driver.pids(container.id), arguments)

    async def stats(self, container: Container) -> Stats | None:
        """One reading, None when it does not run."""
        if not container.running:
            return None
        return await self._driver.stats(container.id)

    def size(self, container: Container) -> int:
        """Bytes that the container has written to its own layer."""
        return self._store.snapshots.usage(container.id)

    async def prune(self, filters: Filters) -> Removed:
        """Remove every stopped container that the filters (label, label!, until) leave."""
        if unknown := filters.keys() - {"label", "label!", "until"}:
            raise InvalidInput(f"invalid filter '{min(unknown)}'")
        ids: list[str] = []
        freed = 0
        for container in self._roster:
            if container.running or container.state.status == "restarting" or container.removing:
                continue
            if not prunable(
                container.record.config.get("Labels") or {}, container.record.created_at, filters
            ):
                continue
            size = self.size(container)
            try:
                await self._remove(container, volumes=False)
            except SkerryError as error:
                log.warning("prune: %s", error)
                continue
            ids.append(container.id)
            freed += size
        # Now and here, or whoever empties it next would report the same bytes once more.
        freed = max(freed, await asyncio.to_thread(self._store.gc.empty_trash))
        self._events.emit("container", "prune", "", {"reclaimed": str(freed)})
        return Removed(ids, freed)


def prunable(labels: Mapping[str, str], created_at: int, filters: Filters) -> bool:
    """Docker's prune filters: `until` in nanoseconds, `label` and `label!`."""
    for key, wanted in filters.items():
        if key == "until":
            if created_at > min(int(each) for each in wanted):
                return False
        elif key == "label":
            if not all(label_matches(labels, each) for each in wanted):
                return False
        elif key == "label!":
            if any(label_matches(labels, each) for each in wanted):
                return False
        elif key not in ("all", "dangling"):
            raise InvalidInput(f"invalid filter '{key}'")
    return True
