"""Layers: each unpacked once per diff id into `<root>/layers/<hex>`, shared and never written again."""

from skerry.base.oci_image import Descriptor
from skerry.store.blobs import Blobs
from skerry.store.leases import Leases
from skerry.store.records import Records
from skerry.store.scratch import Scratch


class Layers:
    """Unpacked layers by diff id. Thread-safe; the same layer is unpacked by one thread only."""

    def __init__(
        self, root: str, blobs: Blobs, records: Records, scratch: Scratch, leases: Leases
    ) -> None:
        raise NotImplementedError

    def unpack(self, descriptor: Descriptor, diff_id: str) -> str:
        """Unpack the layer's blob unless it is here already; the folder's path.

        Both digests are verified. Errors name the layer and the entry: InvalidInput for hostile or
        broken archives, LimitExceeded for bombs, DigestMismatch. Nothing is left behind then.
        """
        raise NotImplementedError

    def path(self, diff_id: str) -> str:
        """The folder of an unpacked layer, or NotFound."""
        raise NotImplementedError

    def has(self, diff_id: str) -> bool:
        """Whether the layer is unpacked."""
        raise NotImplementedError

    def size(self, diff_id: str) -> int:
        """Sum of the sizes of the layer's files in bytes, Docker's measure."""
        raise NotImplementedError
