"""Where the disk went: `docker system df` over the store's account."""

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from skerry.base.errors import NotFound
from skerry.base.isolation import Overlay
from skerry.engine.containers import Containers
from skerry.engine.images import Images
from skerry.engine.isolation import Driver
from skerry.engine.volumes import Volume, Volumes
from skerry.engine.walls import Walls
from skerry.store import Store
from skerry.store.gc import Usage as StoreUsage
from skerry.store.image import Image


class VolumeUsage(NamedTuple):
    """A volume, its bytes and how many containers hold it."""

    volume: Volume
    bytes: int
    users: int


class ImageUsage(NamedTuple):
    """Bytes on disk of an image's layers and blobs; `shared` is what other images hold too."""

    bytes: int
    shared: int


class Usage(NamedTuple):
    """The store's categories, and what the objects take one by one."""

    store: StoreUsage
    images: dict[str, ImageUsage]
    images_total: int
    """Every layer and blob of an image counted once."""
    images_used: int
    """The part of it that images of containers hold."""
    containers: dict[str, int]
    """Container id to bytes of its own layer."""
    volumes: list[VolumeUsage]


class Accounts:
    """The service."""

    def __init__(
        self, store: Store, containers: Containers, images: Images, volumes: Volumes, driver: Driver
    ) -> None:
        self._driver = driver
        self._store = store
        self._containers = containers
        self._images = images
        self._volumes = volumes

    async def usage(self) -> Usage:
        """Measure everything; reads every folder, so it runs in a thread."""
        machines: dict[str, int] = {}
        if isinstance(self._driver, Walls):
            machines = self._driver.machine_leftovers(self._chains(spare=False))
        found = await asyncio.to_thread(self._usage)
        return found._replace(store=with_reclaimable(found.store, machines))

    async def tidy(self) -> int:
        """Remove what machines have made of images that are gone, and kits and templates that no
        machine uses; the bytes that were freed."""
        if isinstance(self._driver, Walls):
            return await self._driver.tidy(self._chains(spare=True))
        return 0

    def _chains(self, *, spare: bool) -> list[Overlay]:
        """The chains of layers that may be mounted again. `spare` counts images in that a prune
        would remove."""
        snapshots = self._store.snapshots
        doomed = set() if spare else self._store.gc.doomed(self._images.in_use())
        ids = {image.id for image in self._store.images.list()} - doomed
        chains = []
        for id in ids | snapshots.images():
            with suppress(NotFound):
                chains.append(Overlay(snapshots.layers(id)))
        for container in self._containers.all():
            with suppress(NotFound):
                chains.append(snapshots.overlay(container.id))
        return chains

    def _usage(self) -> Usage:
        in_use = self._images.in_use()
        contents = {each.id: self._contents(each) for each in self._images.select({}, all=True)}
        holders = Counter(item for held in contents.values() for item in held)
        everything = {item: size for held in contents.values() for item, size in held.items()}
        used = {item: size for id in in_use for item, size in contents.get(id, {}).items()}
        images = {
            id: ImageUsage(
                sum(held.values()),
                sum(size for item, size in held.items() if holders[item] > 1),
            )
            for id, held in contents.items()
        }
        return Usage(
            self._store.gc.usage(in_use),
            images,
            sum(everything.values()),
            sum(used.values()),
            {each.id: self._containers.size(each) for each in self._containers.all()},
            [
                VolumeUsage(each, volume_bytes(each), len(self._volumes.in_use(each.name)))
                for each in self._volumes.all()
            ],
        )

    def _contents(self, image: Image) -> dict[str, int]:
        """Path of each layer and blob of an image, and its bytes on disk."""
        sizes = {}
        for diff_id in image.layers:
            path = self._store.layers.path(diff_id)
            sizes[path] = tree_bytes(path) + own_bytes(path)
        for digest in image.content():
            path = self._store.blobs.path(digest)
            sizes[path] = own_bytes(path)
        return sizes


def with_reclaimable(found: StoreUsage, more: Mapping[str, int]) -> StoreUsage:
    """The store's account with what others would give back, by category."""
    categories = {
        name: each._replace(reclaimable=each.reclaimable + more.get(name, 0))
        for name, each in found.categories.items()
    }
    return found._replace(reclaimable=found.reclaimable + sum(more.values()), categories=categories)


def volume_bytes(volume: Volume) -> int:
    """Bytes on disk; 0 for a device of elsewhere, which takes none of ours."""
    return 0 if volume.mounts else tree_bytes(volume.path)


def own_bytes(path: str) -> int:
    """Bytes on disk of one file or folder itself; 0 when it has just gone."""
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def tree_bytes(path: str) -> int:
    """Bytes on disk below a folder; hard links count once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [path]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    key = (status.st_dev, status.st_ino)
                    if status.st_nlink == 1 or key not in seen:
                        seen.add(key)
                        total += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
        except OSError:
            continue
    return total
