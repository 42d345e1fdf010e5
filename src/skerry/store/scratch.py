"""Temporary files and folders below the store's root, and its trash.

`tmp/` holds what is being made; it becomes something only by a rename. `trash/` holds what is being
deleted: a rename there takes microseconds, the deletion happens later (ext4 creates files slowly
right after many were deleted). After a crash everything in both is garbage.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from skerry.kernel.inodes import spread_subdirectories
from skerry.store.faults import told
from skerry.store.trees import empty_directory, remove_tree


class Scratch:
    """Makes temporary names, moves things to the trash, empties it. Thread-safe."""

    def __init__(self, root: str) -> None:
        self.tmp = os.path.join(root, "tmp")
        self.trash = os.path.join(root, "trash")
        self._empty_lock = threading.Lock()
        for path in (self.tmp, self.trash):
            os.makedirs(path, mode=0o700, exist_ok=True)
        # Layers are unpacked here.
        spread_subdirectories(self.tmp)
        for name in os.listdir(self.tmp):
            os.rename(os.path.join(self.tmp, name), self._trash_name())

    def path(self, prefix: str) -> str:
        """A fresh path in `tmp/`; nothing is made there yet."""
        return os.path.join(self.tmp, f"{prefix}-{os.urandom(8).hex()}")

    @contextmanager
    def folder(self, prefix: str) -> Iterator[str]:
        """A temporary folder, gone at the end of the block unless it was renamed away."""
        path = self.path(prefix)
        with told("make a temporary folder"):
            os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            if os.path.lexists(path):
                remove_tree(path)

    def discard(self, path: str) -> None:
        """Move a file or folder to the trash; nothing happens when it is not there."""
        try:
            os.rename(path, self._trash_name())
        except FileNotFoundError:
            return

    def empty_trash(self) -> None:
        """Delete what is in the trash."""
        with self._empty_lock:
            empty_directory(self.trash)

    def _trash_name(self) -> str:
        return os.path.join(self.trash, os.urandom(8).hex())
