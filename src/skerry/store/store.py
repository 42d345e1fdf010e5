"""The store as one object: everything below one root, owned by one process at a time."""

import fcntl
import os
import time
from typing import Final

from skerry.base.errors import Conflict
from skerry.store import limits
from skerry.store.blobs import Blobs
from skerry.store.bootstrap import Bootstrap
from skerry.store.gc import Collector
from skerry.store.images import Images
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.records import Records
from skerry.store.scratch import Scratch
from skerry.store.snapshots import Snapshots
from skerry.store.steps import Steps

LOCK_SECONDS: Final = 5.0
"""How long to wait for a dying owner's lock."""


class Store:
    """The rooms of the store. All methods block and may be called from any thread."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        unpacking = limits.load(self.root)
        self._lock_fd = _lock(self.root)
        self.records = Records(os.path.join(self.root, "skerry.db"))
        self.leases = Leases()
        self.scratch = Scratch(self.root)
        self.blobs = Blobs(self.root, self.scratch, self.leases, unpacking.reserve)
        self.layers = Layers(
            self.root, self.blobs, self.records, self.scratch, self.leases, unpacking
        )
        self.steps = Steps(self.records, self.layers, self.leases)
        self.snapshots = Snapshots(self.root, self.records, self.layers, self.scratch, self.leases)
        self.images = Images(
            self.root,
            self.records,
            self.blobs,
            self.layers,
            self.snapshots,
            self.scratch,
            self.leases,
        )
        self.gc = Collector(
            self.root,
            self.images,
            self.blobs,
            self.layers,
            self.snapshots,
            self.steps,
            self.scratch,
            self.leases,
        )
        self.bootstrap = Bootstrap(self.images)
        # Whatever came in before a crash and no image names may not have reached the disk.
        self.gc.sweep()

    def close(self) -> None:
        """Close the records and let another process have the root."""
        self.steps.write_uses()
        self.records.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_store(root: str) -> Store:
    """Open or make the store in `root`; what a crash left half-done is put away.

    Conflict when another process has it open, InvalidInput for a `limits.toml` that is none.
    """
    return Store(root)


def _lock(root: str) -> int:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise Conflict(
                    f"open the store in {root}: another engine has it open",
                    hint="stop that engine, or use another --root",
                ) from None
            time.sleep(0.02)
