"""Snapshots: a container's own writable directory on top of its image's layers.

`<root>/snapshots/<id>/` holds `upper`, `work` and the symbolic link `image` to the image's id.
"""

from typing import NamedTuple

from skerry.base.isolation import Overlay
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.records import Records
from skerry.store.scratch import Scratch

MODIFIED = 0
ADDED = 1
DELETED = 2


class Change(NamedTuple):
    """One line of `docker diff`: `kind` is MODIFIED, ADDED or DELETED as in Docker's API."""

    kind: int
    path: str


Changes = list[Change]
Ids = list[str]


class Snapshots:
    """Writable layers by container id. Thread-safe."""

    def __init__(
        self, root: str, records: Records, layers: Layers, scratch: Scratch, leases: Leases
    ) -> None:
        raise NotImplementedError

    def prepare(self, id: str, image_id: str | None) -> Overlay:  # noqa: A002
        """Make the snapshot; None is the empty image. Conflict when it exists."""
        raise NotImplementedError

    def overlay(self, id: str) -> Overlay:  # noqa: A002
        """What to mount for an existing snapshot, or NotFound."""
        raise NotImplementedError

    def image(self, id: str) -> str | None:  # noqa: A002
        """The id of the image it was made from."""
        raise NotImplementedError

    def list(self) -> Ids:
        """The ids of all snapshots."""
        raise NotImplementedError

    def changes(self, id: str) -> Changes:  # noqa: A002
        """What the container changed, by path, as `docker diff`."""
        raise NotImplementedError

    def usage(self, id: str) -> int:  # noqa: A002
        """Bytes that the writable layer takes on disk."""
        raise NotImplementedError

    def remove(self, id: str) -> None:  # noqa: A002
        """Move it to the trash; idempotent. The space comes back with `gc.empty_trash()`."""
        raise NotImplementedError
