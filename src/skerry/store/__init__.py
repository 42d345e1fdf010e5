"""Images at rest: blobs, layers, snapshots and the records about them."""
