"""Images at rest: blobs, layers, snapshots and the records about them."""

from skerry.store.store import Store, open_store

__all__ = ["Store", "open_store"]
