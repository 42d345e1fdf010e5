"""The images: list, look, name, remove, load, commit, and the base images made on the spot.

What takes long runs in a thread; the store is safe for that.
"""

import asyncio
import fnmatch
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from skerry.base.errors import Conflict, InvalidInput, NotFound, SkerryError, Unsupported
from skerry.base.oci_image import Platform
from skerry.base.references import parse_reference
from skerry.engine.containers import prunable
from skerry.engine.events import Events
from skerry.engine.filters import Filters, label_matches, truth
from skerry.engine.logs import parse_time
from skerry.engine.roster import Roster
from skerry.registry.documents import show
from skerry.store import Store
from skerry.store.images import HistoryLine, Image, Removed

Progress = dict[str, Any]
"""One line of Docker's progress stream: `status`, `id`, `stream`, `error`, …"""

KNOWN_FILTERS = frozenset(["before", "dangling", "label", "reference", "since", "until"])


class Images:
    """The service."""

    def __init__(self, store: Store, events: Events, roster: Roster) -> None:
        self._store = store
        self._events = events
        self._roster = roster

    def get(self, reference: str, platform: Platform | None = None) -> Image:
        """By name or id; NotFound in Docker's words, also when it is for another platform."""
        image = self._store.images.get(reference)
        if platform:
            has = Platform(image.architecture, image.os, variant=image.variant)
            if not _runs_as(has, platform):
                raise NotFound(
                    f"image with reference {reference:.200} was found but its platform "
                    f"({show(has)}) does not match the specified platform ({show(platform)})"
                )
        return image

    def history(self, reference: str) -> list[HistoryLine]:
        """Newest step first."""
        return self._store.images.history(reference)

    def users(self, image: Image) -> int:
        """How many containers were made from it."""
        return len(self._roster.users_of_image(image.id))

    def select(self, filters: Filters, *, all: bool = False) -> list[Image]:
        """Newest first. Filters as Docker's; without `all`, unnamed parents are left out."""
        for key in filters:
            if key not in KNOWN_FILTERS:
                raise InvalidInput(f"invalid filter '{key}'")
        for pattern in filters.get("reference", ()):
            if "]" not in pattern[pattern.rfind("[") :] and "[" in pattern:
                raise InvalidInput("syntax error in pattern")
        images = self._store.images.list()
        parents = {image.parent for image in images if image.parent}
        bounds = {
            key: [parse_time(self.get(each).created) for each in filters.get(key, ())]
            for key in ("before", "since")
        }
        chosen = []
        for image in images:
            created = parse_time(image.created)
            if not image.tags and image.id in parents and not all:
                continue
            if any(created >= bound for bound in bounds["before"]):
                continue
            if any(created <= bound for bound in bounds["since"]):
                continue
            if _accepts(image, filters, created):
                chosen.append(_named(image, filters.get("reference")))
        return chosen

    def tag(self, reference: str, target: str) -> None:
        """Give it a further name."""
        image = self._store.images.tag(reference, target)
        self._emit("tag", image.id, parse_reference(target).familiar, image.config)

    async def remove(
        self, reference: str, *, force: bool = False, prune_parents: bool = True
    ) -> list[Removed]:
        """Docker's rmi."""
        in_use: dict[str, list[tuple[str, bool]]] = {}
        for container in self._roster:
            for id in container.record.images():
                in_use.setdefault(id, []).append((container.id, container.running))
        image = self.get(reference)
        if force:
            self._refuse_mounted(image)
        removed = await asyncio.to_thread(
            self._store.images.remove,
            reference,
            force=force,
            in_use=in_use,
            prune_parents=prune_parents,
        )
        self._tell_removed(removed, image.config, image.id)
        return removed

    def _refuse_mounted(self, image: Image) -> None:
        """A container's own layers survive a forced removal; those that it mounts would not."""
        for container in self._roster:
            if image.id in container.record.images()[1:]:
                raise Conflict(
                    f"unable to delete {image.id}: container {container.id} mounts the image"
                )

    def _tell_removed(self, removed: list[Removed], config: Mapping[str, Any], id: str) -> None:
        for line in removed:
            if line.untagged:
                self._emit("untag", id, line.untagged, config)
            else:
                self._emit("delete", line.deleted, line.deleted, config)

    def _emit(self, action: str, id: str, name: str, config: Mapping[str, Any]) -> None:
        labels = config.get("Labels") or {}
        self._events.emit("image", action, id, {**labels, "name": name})

    async def prune(self, filters: Filters) -> tuple[list[Removed], int]:
        """Remove unnamed images that nobody uses, with `dangling=false` all unused ones.

        Returns what went and the bytes on disk that came back.
        """
        for key in filters:
            if key not in ("dangling", "label", "label!", "until"):
                raise InvalidInput(f"invalid filter '{key}'")
        unused = not truth("dangling", filters, True)
        in_use = self.in_use()
        narrow = any(key in filters for key in ("label", "label!", "until"))
        if not narrow:
            result = await asyncio.to_thread(self._store.gc.collect, in_use, unused=unused)
            removed, freed = result.images, result.bytes
        else:
            removed = await self._prune_narrow(filters, in_use, unused=unused)
            rest = await asyncio.to_thread(self._store.gc.collect, self._all_ids())
            freed = rest.bytes
        self._tell_removed(removed, {}, "")
        self._events.emit("image", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    async def _prune_narrow(
        self, filters: Filters, in_use: set[str], *, unused: bool
    ) -> list[Removed]:
        removed: list[Removed] = []
        for image in self._store.images.list():
            if image.id in in_use or (image.tags and not unused):
                continue
            labels = image.config.get("Labels") or {}
            if prunable(labels, parse_time(image.created), filters):
                try:
                    removed += await asyncio.to_thread(
                        self._store.images.remove, image.id, force=True
                    )
                except SkerryError:
                    continue
        return removed

    def in_use(self) -> set[str]:
        """Ids of the images that containers were made from."""
        return {id for container in self._roster for id in container.record.images()}

    def _all_ids(self) -> set[str]:
        return {image.id for image in self._store.images.list()}

    async def commit(
        self,
        container_id: str,
        parent: str,
        config: dict[str, Any],
        *,
        command: str = "",
        tag: str = "",
        author: str = "",
        comment: str = "",
    ) -> str:
        """An image of a container's tree, which `command` has made; returns its id."""
        image = await asyncio.to_thread(
            self._store.images.commit,
            parent,
            container_id,
            config,
            tags=[tag] if tag else [],
            author=author,
            comment=comment,
            created_by=command,
        )
        return image.id

    def bootstrap(
        self,
        name: str,
        *,
        include: tuple[str, ...] = (),
        mirror: str = "",
        tag: str = "",
        key: str = "",
    ) -> AsyncIterator[Progress]:
        """Make a base image: `busybox`, `debian:SUITE`, `alpine:VERSION`. Yields progress lines."""
        kind, _, version = name.partition(":")
        if kind not in ("busybox", "debian", "alpine"):
            raise Unsupported(
                f"cannot make a base image {name!r:.80}",
                hint="known are busybox, debian:SUITE and alpine:VERSION",
            )

        given = {"--include": include, "--mirror": mirror, "--key": key}
        for option in ("--include",) if kind == "alpine" else tuple(given):
            if kind != "debian" and given[option]:
                raise InvalidInput(f"{option} means nothing for {kind}")
        left = threading.Event()

        def work(tell: Callable[[Any], None]) -> None:
            base = self._store.bootstrap
            if kind == "busybox":
                id = base.busybox(tag=tag, progress=tell)
            elif kind == "debian":
                id = base.debian(
                    version or "bookworm",
                    include,
                    mirror=mirror or None,
                    key=key or None,
                    tag=tag,
                    progress=tell,
                    wanted=lambda: not left.is_set(),
                )
            else:
                id = base.alpine(
                    version or "latest", mirror or None, key=key or None, tag=tag, progress=tell
                )
            image = self.get(id)
            self._emit("import", image.id, image.tags[0] if image.tags else image.id, image.config)
            tell({"status": f"Digest: {image.manifest}"})
            tell({"status": f"Status: Made image {image.tags[0] if image.tags else image.id}"})
            tell({"aux": {"ID": image.id}})

        return report(work, left)


def _runs_as(has: Platform, wanted: Platform) -> bool:
    same = (has.os, has.architecture) == (wanted.os, wanted.architecture)
    return same and (has.variant == wanted.variant or not (has.variant and wanted.variant))


def _accepts(image: Image, filters: Filters, created: int) -> bool:
    labels = image.config.get("Labels") or {}
    for key, wanted in filters.items():
        if key == "dangling":
            if truth(key, filters) != (not image.tags):
                return False
        elif key == "label":
            if not all(label_matches(labels, each) for each in wanted):
                return False
        elif key == "reference":
            if not any(_matches(name, wanted) for name in (*image.tags, *image.digests)):
                return False
        elif key == "until" and created > min(int(each) for each in wanted):
            return False
    return True


def _named(image: Image, patterns: Iterable[str] | None) -> Image:
    """With only those of its names that a reference filter asked for, as Docker lists it."""
    if not patterns:
        return image
    return image._replace(
        tags=tuple(name for name in image.tags if _matches(name, patterns)),
        digests=tuple(name for name in image.digests if _matches(name, patterns)),
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Docker matches the familiar name with and without its tag, as path.Match does."""
    return any(
        form.count("/") == pattern.count("/") and fnmatch.fnmatchcase(form, pattern)
        for pattern in patterns
        for form in (name, name.rpartition("@")[0] or name.rpartition(":")[0])
    )


async def report(
    work: Callable[[Callable[[Any], None]], None], left: threading.Event | None = None
) -> AsyncIterator[Progress]:
    """Run blocking work in a thread and yield what it tells; its error is raised at the end. When
    nobody listens any more the work goes on, but `left` is set."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Progress | None] = asyncio.Queue()
    failure: list[BaseException] = []

    def tell(line: str | Progress) -> None:
        plain = {"status": line} if isinstance(line, str) else line
        loop.call_soon_threadsafe(queue.put_nowait, plain)

    def run() -> None:
        try:
            work(tell)
        except BaseException as error:
            failure.append(error)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    thread = threading.Thread(target=run, name="skerry-work", daemon=True)
    thread.start()
    try:
        while (line := await queue.get()) is not None:
            yield line
    finally:
        if left is not None:
            left.set()
    thread.join()
    if failure:
        raise failure[0]
