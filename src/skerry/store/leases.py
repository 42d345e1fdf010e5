"""Leases: what work in flight has stored or relied on stays until the work is done.

A blob or layer becomes garbage the moment nothing refers to it, and an image under construction
refers to nothing yet. Work that stores content therefore holds a lease; whatever is touched while
any lease is held survives the collector. Leases live in memory: after a crash no work is in flight.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Leases:
    """Held leases and the digests that were touched under them. Thread-safe."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Held by the collector while it marks and sweeps, and by whoever makes a new reference."""
        self._held = 0
        self._touched: set[str] = set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep everything that is touched inside the block, by any thread, until its end."""
        with self.lock:
            self._held += 1
        try:
            yield
        finally:
            with self.lock:
                self._held -= 1
                if not self._held:
                    self._touched.clear()

    def touch(self, digest: str) -> None:
        """Note that a digest was stored or relied on."""
        with self.lock:
            if self._held:
                self._touched.add(digest)

    def touched(self) -> frozenset[str]:
        """What must survive; to be called with the lock held."""
        return frozenset(self._touched)
