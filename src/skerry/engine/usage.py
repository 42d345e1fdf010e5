"""Where the disk went: `docker system df` over the store's account."""

import asyncio
from typing import NamedTuple

from skerry.engine.containers import Containers
from skerry.engine.images import Images
from skerry.engine.volumes import Volume, Volumes
from skerry.store import Store
from skerry.store.gc import Usage as StoreUsage


class VolumeUsage(NamedTuple):
    """A volume, its bytes and how many containers hold it."""

    volume: Volume
    bytes: int
    users: int


class Usage(NamedTuple):
    """The store's categories, and what the objects take one by one."""

    store: StoreUsage
    containers: dict[str, int]
    """Container id to bytes of its own layer."""
    volumes: list[VolumeUsage]


class Accounts:
    """The service."""

    def __init__(
        self, store: Store, containers: Containers, images: Images, volumes: Volumes
    ) -> None:
        self._store = store
        self._containers = containers
        self._images = images
        self._volumes = volumes

    async def usage(self) -> Usage:
        """Measure everything; reads every folder, so it runs in a thread."""
        return await asyncio.to_thread(self._usage)

    def _usage(self) -> Usage:
        in_use = self._images.in_use()
        return Usage(
            self._store.gc.usage(in_use),
            {each.id: self._containers.size(each) for each in self._containers.all()},
            [
                VolumeUsage(each, tree_bytes(each.path), len(self._volumes.in_use(each.name)))
                for each in self._volumes.all()
            ],
        )


def tree_bytes(path: str) -> int:
    """Bytes on disk below a folder; hard links count once."""
    import os

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
