"""Snapshots: a container's own writable directory on top of its image's layers.

`<root>/snapshots/<id>/` holds `upper`, `work` and the symbolic link `image`, whose target is the
image's id. The link is made before the rest and is what the collector goes by. The link `base`,
when there is one, names the frozen layer that lies between; the link `node` names the last point
in the container's history that it was frozen at or taken back to.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from skerry.base.errors import Conflict, InvalidInput, NotFound, SystemFault
from skerry.base.isolation import DISK, MIRRORED, Overlay
from skerry.kernel.inodes import exchange, spread_subdirectories
from skerry.store import changes as comparison
from skerry.store.changes import ADDED, DELETED, MODIFIED, MOUNT_POINTS, Change
from skerry.store.difference import from_base
from skerry.store.faults import told
from skerry.store.frozen import BASE, DEEPEST, Frozen, base_of
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.records import Records
from skerry.store.scratch import Scratch
from skerry.store.tree_copy import copy_tree, merge_below
from skerry.store.trees import DIRECTORY, DiskUsage

IMAGE: Final = "image"
NODE: Final = "node"
REMOVED_IMAGE: Final = "removed-image"
"""Kind of the records of images that were removed by force while a snapshot needs their layers."""

_ID: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
Changes = list[Change]
Ids = list[str]


class Snapshots:
    """Writable layers by container id. Thread-safe."""

    def __init__(
        self, root: str, records: Records, layers: Layers, scratch: Scratch, leases: Leases
    ) -> None:
        self._folder = os.path.join(root, "snapshots")
        self._records = records
        self._layers = layers
        self._scratch = scratch
        self._leases = leases
        self.frozen = Frozen(root, scratch)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        # A build copies whole contexts into one, and others delete theirs meanwhile.
        spread_subdirectories(self._folder)

    def prepare(self, id: str, image_id: str | None, base: str = "") -> Overlay:  # noqa: A002
        """Make the snapshot above an image (None is the empty one), or above the frozen layer
        `base` of that image. Conflict when it exists."""
        with self._leases.lock:
            return self._prepare(id, self._below(image_id, base), image_id, base)

    def prepare_on(self, id: str, diff_ids: Iterable[str]) -> Overlay:  # noqa: A002
        """As prepare, on layers that are no image's (bottom-most first), such as a build's.

        The caller keeps the layers by a lease: the snapshot does not.
        """
        with self._leases.lock:
            return self._prepare(id, self._folders(diff_ids))

    def _prepare(
        self,
        id: str,  # noqa: A002
        lower: tuple[str, ...],
        image_id: str | None = None,
        base: str = "",
    ) -> Overlay:
        folder = self._path(id)
        with told(f"make the snapshot {id}"):
            try:
                os.mkdir(folder, 0o700)
            except FileExistsError:
                raise Conflict(f"a snapshot named {id} exists already") from None
            _link(folder, image_id, base)
        try:
            with told(f"make the writable layer of {id}"):
                return self._make(folder, lower)
        except SystemFault:
            self._scratch.discard(folder)
            raise

    def overlay(self, id: str) -> Overlay:  # noqa: A002
        """What to mount for an existing snapshot, or NotFound."""
        folder = self._existing(id)
        lower = self._below(self.image(id), base_of(folder)) or (f"{folder}/lower",)
        return Overlay(lower, f"{folder}/upper", f"{folder}/work")

    def frozen_overlay(self, id: str) -> Overlay:  # noqa: A002
        """What to mount, read-only, to see a frozen layer with all that is below it."""
        return Overlay(self._below(_image(self.frozen.path(id)), id))

    def frozen_image(self, id: str) -> str | None:  # noqa: A002
        """The id of the image below a frozen layer."""
        return _image(self.frozen.path(id))

    def image(self, id: str) -> str | None:  # noqa: A002
        """The id of the image it was made from; None for the empty image. NotFound."""
        return _image(self._existing(id))

    def base(self, id: str) -> str:  # noqa: A002
        """The frozen layer it stands on; empty for the image itself."""
        return base_of(self._existing(id))

    def node(self, id: str) -> str:  # noqa: A002
        """The point of its history that `set_node` or `reset` named last; empty for none."""
        try:
            return os.readlink(f"{self._existing(id)}/{NODE}")
        except FileNotFoundError:
            return ""

    def set_node(self, id: str, node: str) -> None:  # noqa: A002
        """Say which point of its history it continues; empty for none."""
        folder = self._existing(id)
        with told(f"mark the snapshot {id}"):
            if not node:
                os.unlink(f"{folder}/{NODE}")
                return
            fresh = f"{folder}/{NODE}.new"
            if os.path.lexists(fresh):
                os.unlink(fresh)
            os.symlink(node, fresh)
            os.rename(fresh, f"{folder}/{NODE}")

    def freeze(self, id: str, as_id: str, *, in_use: bool) -> None:  # noqa: A002
        """Keep what is written now as the frozen layer `as_id`. The caller holds that one.

        When nothing has it mounted (`in_use` is false) the writable layer itself becomes the frozen
        one, in one step and whatever its size, and the container goes on above it. Otherwise it is
        copied, so the caller stops the writers; the container stays on what it stands on.
        """
        folder, kept = self._existing(id), self.frozen.path(as_id)
        base = base_of(folder)
        flat = base and len(self.frozen.chain(base)) >= DEEPEST
        if flat and os.path.exists(f"{folder}/{DISK}"):
            raise Conflict(
                f"the disk of {id} stands on {DEEPEST} frozen ones",
                hint="commit it, and go on in a container of that image",
            )
        with self._scratch.folder("freeze") as fresh, told(f"freeze the layer of {id}"):
            if in_use or flat:
                _link(fresh, _image(folder), "" if flat else base)
                self._copy(folder, fresh, self.frozen.chain(base) if flat else [])
                os.rename(fresh, kept)
            else:
                if os.path.exists(f"{folder}/{DISK}"):
                    self._drop_mirror(folder)
                _link(fresh, _image(folder), as_id)
                self._make(fresh, (f"{folder}/upper",))
                os.rename(fresh, kept)
                # Before this step the new folder is nobody's, after it nothing is missing.
                exchange(folder, kept)

    def _drop_mirror(self, folder: str) -> None:
        """What a machine has written is on its disk; the copy of it in `upper` would add up with
        the copies in the layers above."""
        stamp = f"{folder}/{MIRRORED}"
        if os.path.lexists(stamp):
            os.unlink(stamp)
        if os.listdir(f"{folder}/upper"):
            mode = stat.S_IMODE(os.stat(f"{folder}/upper").st_mode)
            self._scratch.discard(f"{folder}/upper")
            os.mkdir(f"{folder}/upper")
            os.chmod(f"{folder}/upper", mode)

    def reset(self, id: str, base: str, node: str = "") -> None:  # noqa: A002
        """Drop what is written and go on above a frozen layer; nothing may have it mounted."""
        folder = self._existing(id)
        image_id = _image(self.frozen.path(base))
        with self._scratch.folder("reset") as fresh, told(f"take back the layer of {id}"):
            _link(fresh, image_id, base)
            if node:
                os.symlink(node, f"{fresh}/{NODE}")
            self._make(fresh, self._below(image_id, base))
            exchange(fresh, folder)
            self._scratch.discard(fresh)

    def take_in(
        self,
        image_id: str | None,
        as_id: str,
        fill: Callable[[int], None],
        *,
        base: str = "",
        beside: Callable[[str], None] | None = None,
    ) -> None:
        """Make a frozen layer of an image, or of the frozen layer `base` of it, from elsewhere:
        `fill` writes into the open folder, `beside` what a machine has beside that. The caller
        holds it."""
        with self._scratch.folder("freeze") as fresh, told(f"make the frozen layer {as_id}"):
            _link(fresh, image_id, base)
            self._make(fresh, self._below(image_id, base))
            fd = os.open(f"{fresh}/upper", DIRECTORY)
            try:
                fill(fd)
            finally:
                os.close(fd)
            if beside is not None:
                beside(fresh)
            os.rename(fresh, self.frozen.path(as_id))

    def flattened(self, id: str) -> AbstractContextManager[str]:  # noqa: A002
        """The folder of a frozen layer and those below it as one layer, to be read in the block."""
        return self._flattened(self.frozen.chain(id))

    @contextmanager
    def _flattened(self, ids: Ids) -> Iterator[str]:
        if len(ids) == 1:
            with self.frozen.hold(ids[0]):
                yield f"{self.frozen.path(ids[0])}/upper"
            return
        with self._scratch.folder("flat") as fresh, told("merge layers"):
            self._copy(self.frozen.path(ids[0]), fresh, ids[1:])
            yield f"{fresh}/upper"

    def _copy(self, folder: str, fresh: str, below: Ids) -> None:
        """`upper` of one folder copied into another, and what is in the frozen layers below it."""
        os.mkdir(f"{fresh}/upper", 0o755)
        target = os.open(f"{fresh}/upper", DIRECTORY)
        try:
            for path in (folder, *map(self.frozen.path, below)):
                source = os.open(f"{path}/upper", DIRECTORY)
                try:
                    (copy_tree if path == folder else merge_below)(source, target)
                finally:
                    os.close(source)
        finally:
            os.close(target)

    def sweep_frozen(self, named: Iterable[str]) -> int:
        """Put away the frozen layers that neither `named` nor any container needs; how many went.

        A container that is being made on a layer has its link before that layer may lose its name.
        """
        bases = [base_of(f"{self._folder}/{id_}") for id_ in os.listdir(self._folder)]
        return self.frozen.sweep([*named, *filter(None, bases)])

    def list(self) -> Ids:
        """The ids of all snapshots."""
        return sorted(os.listdir(self._folder))

    def images(self) -> set[str]:
        """The ids of the images below all snapshots and frozen layers."""
        found = set()
        for folder in (self._folder, self.frozen.folder):
            for id_ in os.listdir(folder):
                try:
                    found.add(os.readlink(f"{folder}/{id_}/image"))
                except OSError:
                    continue
        return found

    def changes(self, id: str, *, ignore: frozenset[str] = MOUNT_POINTS) -> Changes:  # noqa: A002
        """What the container changed, by path, as `docker diff`.

        `ignore` names absolute paths that were made for the container, such as mount points.
        """
        overlay = self.overlay(id)
        if not self.base(id):
            return comparison.changes(overlay.upper, overlay.lower, ignore)
        lower = self._lower(self.image(id))
        if not lower:
            lower = (f"{self._existing(id)}/lower",)
            os.makedirs(lower[0], exist_ok=True)
        return from_base(overlay, Overlay(lower), ignore)

    def frozen_as_files(self, id: str) -> bool:  # noqa: A002
        """Whether a frozen layer, or one below it, has its files in its folder, not on a disk."""
        chain = self.frozen.chain(id)
        return any(not os.path.exists(f"{self.frozen.path(each)}/{DISK}") for each in chain)

    def usage(self, id: str) -> int:  # noqa: A002
        """Sum of the sizes in bytes of the files in the writable layer: Docker's SizeRw."""
        return DiskUsage(apparent=True).tree(f"{self._existing(id)}/upper")

    def remove(self, id: str) -> None:  # noqa: A002
        """Move it to the trash; idempotent. The space comes back with `gc.empty_trash()`."""
        self._scratch.discard(self._path(id))

    def _path(self, id: str) -> str:  # noqa: A002
        if not _ID.fullmatch(id):
            raise InvalidInput(f"not a snapshot's id: {id!r:.140}")
        return f"{self._folder}/{id}"

    def _make(self, folder: str, lower: tuple[str, ...]) -> Overlay:
        upper, work = f"{folder}/upper", f"{folder}/work"
        for path in (upper, work):
            os.mkdir(path, 0o755)
        if not lower:
            # overlayfs wants at least one layer below.
            lower = (f"{folder}/lower",)
            os.mkdir(lower[0], 0o755)
        # What is mounted has the root of its top-most layer, which is `upper`.
        status = os.stat(lower[0])
        if status.st_uid or status.st_gid:
            os.chown(upper, status.st_uid, status.st_gid)
        os.chmod(upper, stat.S_IMODE(status.st_mode))
        return Overlay(lower, upper, work)

    def _existing(self, id: str) -> str:  # noqa: A002
        folder = self._path(id)
        if not os.path.isdir(folder):
            raise NotFound(f"no such snapshot: {id}")
        return folder

    def _below(self, image_id: str | None, base: str) -> tuple[str, ...]:
        return self.frozen.uppers(base) + self._lower(image_id)

    def layers(self, image_id: str) -> tuple[str, ...]:
        """The folders of an image's layers, top-most first, to be mounted read-only. NotFound."""
        return self._lower(image_id)

    def _lower(self, image_id: str | None) -> tuple[str, ...]:
        """The layers' folders, top-most first."""
        if not image_id:
            return ()
        try:
            data = self._records.get(IMAGE, image_id)
        except NotFound:
            try:
                data = self._records.get(REMOVED_IMAGE, image_id)
            except NotFound:
                raise NotFound(f"No such image: {image_id}") from None
        return self._folders(data["layers"])

    def _folders(self, diff_ids: Iterable[str]) -> tuple[str, ...]:
        # overlayfs refuses the same folder twice; what it adds further down is hidden anyway.
        return tuple(dict.fromkeys(self._layers.path(each) for each in reversed([*diff_ids])))


def _link(folder: str, image_id: str | None, base: str) -> None:
    if image_id:
        os.symlink(image_id, f"{folder}/{IMAGE}")
    if base:
        os.symlink(base, f"{folder}/{BASE}")


def _image(folder: str) -> str | None:
    try:
        return os.readlink(f"{folder}/{IMAGE}")
    except FileNotFoundError:
        return None


__all__ = ["ADDED", "DELETED", "MODIFIED", "Change", "Snapshots"]
