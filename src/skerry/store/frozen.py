"""Frozen layers: what containers had written at some instant, shared and never written again.

`<root>/frozen/<id>/` has the form of a container's snapshot folder: `upper` holds the changes, the
symbolic link `image` names the image below all, the link `base` the frozen layer right below, when
there is one. Snapshots and forks stand on them: a container whose own folder has a `base` sees that
layer, the layers below it and its image.

A layer is needed as long as a snapshot's record, a container or another needed layer names it; the
rest goes with `sweep`.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from skerry.base.errors import InvalidInput, NotFound, SystemFault
from skerry.store.scratch import Scratch
from skerry.store.trees import DiskUsage

BASE: Final = "base"
DEEPEST: Final = 64
"""Layers of one chain; overlayfs stops at 500 with the image's (fs/overlayfs/params.h)."""

_ID: Final = re.compile(r"[0-9a-f]{64}")
Ids = list[str]


class Frozen:
    """Frozen layers by id. Thread-safe."""

    def __init__(self, root: str, scratch: Scratch) -> None:
        self.folder = os.path.join(root, "frozen")
        self._scratch = scratch
        self._lock = threading.Lock()
        self._held: set[str] = set()
        os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def path(self, id: str) -> str:  # noqa: A002
        """Where a layer is or would be."""
        if not _ID.fullmatch(id):
            raise InvalidInput(f"not a frozen layer's id: {id!r:.140}")
        return f"{self.folder}/{id}"

    def has(self, id: str) -> bool:  # noqa: A002
        """Whether it is there."""
        return os.path.isdir(self.path(id))

    def list(self) -> Ids:
        """The ids of all."""
        return sorted(os.listdir(self.folder))

    def chain(self, id: str) -> Ids:  # noqa: A002
        """The layer and those below it, top-most first; NotFound when one is missing."""
        ids: Ids = []
        while id:
            if not self.has(id):
                raise NotFound(f"the frozen layer {id} is missing")
            if id in ids:
                raise SystemFault(f"the frozen layer {id} stands on itself")
            ids.append(id)
            id = base_of(self.path(id))  # noqa: A001
        return ids

    def uppers(self, id: str) -> tuple[str, ...]:  # noqa: A002
        """The folders to mount for a layer, top-most first; empty for no layer."""
        return tuple(f"{self.path(each)}/upper" for each in self.chain(id)) if id else ()

    def usage(self, id: str) -> int:  # noqa: A002
        """Bytes on disk of a layer, with whatever was saved beside it."""
        return DiskUsage().tree(self.path(id))

    @contextmanager
    def hold(self, id: str) -> Iterator[None]:  # noqa: A002
        """Keep a layer that nothing names yet."""
        with self._lock:
            self._held.add(id)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(id)

    def sweep(self, named: Iterable[str]) -> int:
        """Put away the layers that neither `named` nor what they stand on has; how many went."""
        with self._lock:
            needed: set[str] = set()
            for id_ in {*named, *self._held}:
                while id_ and id_ not in needed:
                    needed.add(id_)
                    id_ = base_of(self.path(id_))
            gone = [id_ for id_ in self.list() if id_ not in needed]
            for id_ in gone:
                self._scratch.discard(f"{self.folder}/{id_}")
        return len(gone)


def base_of(folder: str) -> str:
    """What the layer in a folder stands on; empty for the image itself."""
    try:
        return os.readlink(f"{folder}/{BASE}")
    except FileNotFoundError:
        return ""
