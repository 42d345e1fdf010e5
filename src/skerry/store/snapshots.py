"""Snapshots: a container's own writable directory on top of its image's layers.

`<root>/snapshots/<id>/` holds `upper`, `work` and the symbolic link `image`, whose target is the
image's id. The link is made before the rest and is what the collector goes by.
"""

import os
import re
import stat
from typing import Final

from skerry.base.errors import Conflict, InvalidInput, NotFound, SystemFault
from skerry.base.isolation import Overlay
from skerry.store import changes as comparison
from skerry.store.changes import ADDED, DELETED, MODIFIED, MOUNT_POINTS, Change
from skerry.store.faults import told
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.records import Records
from skerry.store.scratch import Scratch
from skerry.store.trees import DiskUsage

IMAGE: Final = "image"
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
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    def prepare(self, id: str, image_id: str | None) -> Overlay:  # noqa: A002
        """Make the snapshot; None is the empty image. Conflict when it exists."""
        folder = self._path(id)
        with self._leases.lock:
            lower = self._lower(image_id)
            with told(f"make the snapshot {id}"):
                try:
                    os.mkdir(folder, 0o700)
                except FileExistsError:
                    raise Conflict(f"a snapshot named {id} exists already") from None
                if image_id:
                    os.symlink(image_id, f"{folder}/image")
        try:
            with told(f"make the writable layer of {id}"):
                return self._make(folder, lower)
        except SystemFault:
            self._scratch.discard(folder)
            raise

    def overlay(self, id: str) -> Overlay:  # noqa: A002
        """What to mount for an existing snapshot, or NotFound."""
        folder = self._existing(id)
        lower = self._lower(self.image(id)) or (f"{folder}/lower",)
        return Overlay(lower, f"{folder}/upper", f"{folder}/work")

    def image(self, id: str) -> str | None:  # noqa: A002
        """The id of the image it was made from; None for the empty image. NotFound."""
        try:
            return os.readlink(f"{self._existing(id)}/image")
        except FileNotFoundError:
            return None

    def list(self) -> Ids:
        """The ids of all snapshots."""
        return sorted(os.listdir(self._folder))

    def images(self) -> set[str]:
        """The ids of the images below all snapshots."""
        found = set()
        for id_ in os.listdir(self._folder):
            try:
                found.add(os.readlink(f"{self._folder}/{id_}/image"))
            except OSError:
                continue
        return found

    def changes(self, id: str, *, ignore: frozenset[str] = MOUNT_POINTS) -> Changes:  # noqa: A002
        """What the container changed, by path, as `docker diff`.

        `ignore` names absolute paths that were made for the container, such as mount points.
        """
        overlay = self.overlay(id)
        return comparison.changes(overlay.upper, overlay.lower, ignore)

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
        # overlayfs refuses the same folder twice; what it adds further down is hidden anyway.
        return tuple(dict.fromkeys(self._layers.path(diff) for diff in reversed(data["layers"])))


__all__ = ["ADDED", "DELETED", "MODIFIED", "Change", "Snapshots"]
