"""Mark and sweep, and the account of every byte below the root.

Both go by the same plan, so a collection gives back exactly what the account called reclaimable.
The plan is made and its victims are renamed into the trash while the leases' lock is held, which
takes milliseconds; deleting them afterwards needs no lock.
"""

import os
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from skerry.store import referrers
from skerry.store.blobs import Blobs
from skerry.store.image import Image, Removed
from skerry.store.images import Images
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.partials import OLDEST
from skerry.store.removal import delete_record
from skerry.store.scratch import Scratch
from skerry.store.snapshots import REMOVED_IMAGE, Snapshots
from skerry.store.steps import Steps
from skerry.store.trees import DiskUsage

_CATEGORIES: Final = {
    "blobs": "images",
    "layers": "images",
    "index.json": "images",
    "oci-layout": "images",
    "snapshots": "snapshots",
    "frozen": "snapshots",
    "containers": "containers",
    "volumes": "volumes",
    "build": "build cache",
    "kit": "machine kits",
    "templates": "machine templates",
    "machines": "machine disks",
    "vms": "full machines",
    "skerry.db": "records",
    "skerry.db-wal": "records",
    "skerry.db-shm": "records",
    "partial": "temporary",
    "tmp": "temporary",
    "trash": "temporary",
}
"""By the first component below the root; all else, and the root's own folder, is `other`."""


class Category(NamedTuple):
    """Bytes on disk (`st_blocks` * 512, hard links once), and how many a prune gives back."""

    bytes: int
    reclaimable: int
    items: int


class Usage(NamedTuple):
    """`categories` adds up to `total`, which is what `du -s --block-size=1 ROOT` says.

    Categories: images (blobs, layers, index), snapshots, containers, volumes, build cache (layers
    that only recorded build steps need, cache mounts, downloads), machine kits, machine templates,
    machine disks, full machines, records, temporary, other.
    """

    total: int
    reclaimable: int
    categories: dict[str, Category]


class Reclaimed(NamedTuple):
    """What a collection took away. `bytes` are on disk, by the same measure as Usage."""

    bytes: int
    images: list[Removed]
    blobs: int
    layers: int


class _Plan(NamedTuple):
    images: list[Image]
    blobs: list[str]
    layers: list[str]
    records: list[str]
    """Ids of images that were removed by force and that no snapshot needs any more."""
    bytes: int


class Collector:
    """The garbage collector. Thread-safe; safe beside ingests that hold a lease."""

    def __init__(
        self,
        root: str,
        images: Images,
        blobs: Blobs,
        layers: Layers,
        snapshots: Snapshots,
        steps: Steps,
        scratch: Scratch,
        leases: Leases,
    ) -> None:
        self._root = root
        self._images = images
        self._blobs = blobs
        self._layers = layers
        self._snapshots = snapshots
        self._steps = steps
        self._scratch = scratch
        self._leases = leases

    def collect(
        self, in_use: Iterable[str] = (), *, dangling: bool = True, unused: bool = False
    ) -> Reclaimed:
        """Remove what nothing refers to.

        Roots are tagged images, images in `in_use` (ids) or under a snapshot, and held leases.
        `dangling=False` keeps untagged images, `unused=True` also removes tagged ones not in use.
        """
        with self._leases.lock:
            plan = self._plan(in_use, dangling=dangling, unused=unused)
            removed: list[Removed] = []
            for image in plan.images:
                for name in sorted(self._images.references(image.id)):
                    self._images.forget_name(name)
                    removed.append(Removed(untagged=name.familiar))
                removed += delete_record(self._images, image)
            for id_ in plan.records:
                self._images.records.delete(REMOVED_IMAGE, id_)
            self._discard(plan)
            self._forget_artifacts()
            self._images.write_index()
            waiting = self._trash_before(plan)
        partials = self._blobs.partials
        waiting += sum(DiskUsage().tree(path) for path in partials.idle())
        partials.remove()
        self._scratch.empty_trash()
        return Reclaimed(plan.bytes + waiting, removed, len(plan.blobs), len(plan.layers))

    def sweep(self) -> None:
        """Move blobs and layers that no image refers to into the trash; for when a store opens."""
        with self._leases.lock:
            plan = self._plan((), dangling=False, unused=False, measure=False)
            self._discard(plan)

    def usage(self, in_use: Iterable[str] = (), *, unused: bool = False) -> Usage:
        """Where the bytes are. `collect` with the same arguments frees the reclaimable."""
        with self._leases.lock:
            plan = self._plan(in_use, dangling=True, unused=unused)
            images = len(self._images.list())
            cached = self.only_cached()
        disk = DiskUsage()
        sizes = dict.fromkeys([*dict.fromkeys(_CATEGORIES.values()), "other"], 0)
        sizes["other"] += disk.of(os.lstat(self._root))
        for name in sorted(os.listdir(self._root)):
            sizes[_CATEGORIES.get(name, "other")] += disk.tree(os.path.join(self._root, name))
        steps = sum(DiskUsage().tree(self._layers.path(diff_id)) for diff_id in cached)
        sizes["images"] -= steps
        sizes["build cache"] += steps
        trash = self._below(self._scratch.trash)
        trash += sum(DiskUsage().tree(path) for path in self._blobs.partials.idle())
        reclaimable = {"images": plan.bytes, "temporary": trash}
        counts = {
            "images": images,
            "snapshots": len(self._snapshots.list()) + len(self._snapshots.frozen.list()),
            "containers": self._count("containers"),
            "volumes": self._count("volumes"),
            "build cache": len(self._steps.all()),
        }
        categories = {
            name: Category(size, reclaimable.get(name, 0), counts.get(name, 0))
            for name, size in sizes.items()
        }
        return Usage(sum(sizes.values()), plan.bytes + trash, categories)

    def doomed(self, in_use: Iterable[str] = ()) -> set[str]:
        """Ids of the images that `collect` with the same argument would remove."""
        with self._leases.lock:
            return {image.id for image in self._plan(in_use, dangling=True, unused=False).images}

    def only_cached(self) -> list[str]:
        """Diff ids of the layers that recorded build steps keep and no image has."""
        held = {diff_id for image in self._images.list() for diff_id in image.layers}
        for each in self._images.records.all(REMOVED_IMAGE):
            held.update(each.data["layers"])
        here = set(self._layers.all())
        return sorted((self._steps.layers() & here) - held)

    def empty_trash(self) -> int:
        """Delete what removals left; bytes given back."""
        size = self._below(self._scratch.trash)
        self._scratch.empty_trash()
        self._blobs.partials.remove(older_than=OLDEST)
        return size

    def _plan(
        self, in_use: Iterable[str], *, dangling: bool, unused: bool, measure: bool = True
    ) -> _Plan:
        below = self._snapshots.images()
        roots = {*in_use, *below}
        images = {image.id: image for image in self._images.list()}
        kept: dict[str, Image] = {}
        for image in images.values():
            if image.id in roots or (not unused if image.tags else not dangling):
                ancestor: Image | None = image
                while ancestor and ancestor.id not in kept:
                    kept[ancestor.id] = ancestor
                    ancestor = images.get(ancestor.parent)
        touched = self._leases.touched()
        if touched:
            # Work in flight may be about to name an image that it has just recorded.
            kept |= {id_: image for id_, image in images.items() if id_ in touched}
        content = set(touched)
        for image in kept.values():
            content.update(image.content(), image.layers)
        content |= self._steps.layers()
        for artifact in referrers.everything(self._images):
            if artifact.subject in content:
                content.update((artifact.digest, *artifact.blobs))
        records = []
        for each in self._images.records.all(REMOVED_IMAGE):
            if each.id in below:
                content.update(each.data["layers"])
            else:
                records.append(each.id)
        blobs = [digest for digest in self._blobs.all() if digest not in content]
        layers = [diff_id for diff_id in self._layers.all() if diff_id not in content]
        size = 0
        if measure:
            disk = DiskUsage()
            size = sum(disk.tree(self._blobs.path(digest)) for digest in blobs)
            size += sum(disk.tree(self._layers.path(diff_id)) for diff_id in layers)
        # Children first: a parent's lines come after them, as Docker's do.
        doomed = sorted(
            (image for image in images.values() if image.id not in kept),
            key=lambda image: -len(image.layers),
        )
        return _Plan(doomed, blobs, layers, records, size)

    def _discard(self, plan: _Plan) -> None:
        for digest in plan.blobs:
            self._blobs.discard(digest)
        for diff_id in plan.layers:
            self._layers.discard(diff_id)

    def _forget_artifacts(self) -> None:
        """The records of artifacts whose image has gone."""
        here = {image.manifest for image in self._images.list()}
        for artifact in referrers.everything(self._images):
            if artifact.subject not in here:
                self._images.records.delete(referrers.KIND, artifact.digest)

    def _trash_before(self, plan: _Plan) -> int:
        """Bytes in the trash that the plan has not just put there."""
        return max(0, self._below(self._scratch.trash) - plan.bytes)

    def _below(self, folder: str) -> int:
        """Bytes of what is in a folder, without the folder itself."""
        disk = DiskUsage()
        total = 0
        for name in os.listdir(folder):
            total += disk.tree(os.path.join(folder, name))
        return total

    def _count(self, folder: str) -> int:
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                return sum(1 for each in entries if stat.S_ISDIR(each.stat().st_mode))
        except FileNotFoundError:
            return 0
