"""Layers: unpacked once per diff id into `<root>/layers/<hex>`, shared, never written again."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack

from skerry.base.digests import Verifier, hex_of
from skerry.base.errors import InvalidInput, NotFound
from skerry.base.oci_image import Descriptor
from skerry.store.blobs import Blobs
from skerry.store.compression import Pump, decompressed, file_chunks, is_compressed
from skerry.store.extract import Extractor
from skerry.store.leases import Leases
from skerry.store.limits import DEFAULT, Unpacking
from skerry.store.records import Records
from skerry.store.scratch import Scratch
from skerry.store.tar_reader import Limits, TarReader
from skerry.store.trees import DIRECTORY

_KIND = "layer"


class Layers:
    """Unpacked layers by diff id. Thread-safe; the same layer is unpacked by one thread only."""

    def __init__(
        self,
        root: str,
        blobs: Blobs,
        records: Records,
        scratch: Scratch,
        leases: Leases,
        unpacking: Unpacking = DEFAULT,
    ) -> None:
        self.limits = Limits(size=unpacking.size, unpacking=unpacking)
        self._folder = os.path.join(root, "layers")
        self._blobs = blobs
        self._records = records
        self._scratch = scratch
        self._leases = leases
        self._busy: dict[str, threading.Lock] = {}
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    def unpack(
        self, descriptor: Descriptor, diff_id: str, chunks: Iterator[bytes] | None = None
    ) -> str:
        """Unpack the layer's blob unless it is here already; the folder's path.

        `chunks` is the blob while it comes in, instead of the stored one; it ends only when the
        blob is verified and stored. Both digests are verified. Errors name the layer and the entry:
        InvalidInput for hostile or broken archives, LimitExceeded for bombs, DigestMismatch.
        Nothing is left behind then.
        """
        target = self._path(diff_id)
        with self._leases.hold():
            with self._leases.lock:
                lock = self._busy.setdefault(diff_id, threading.Lock())
            with lock:
                if not self.has(diff_id):
                    self._unpack(descriptor, diff_id, target, chunks)
        return target

    def adopt(self, folder: str, diff_id: str, size: int) -> None:
        """Take a finished tree over as the layer with this diff id; the folder is gone afterwards.

        The caller has packed it and vouches for the diff id; `size` is the sum of its files' bytes.
        A layer that is here already stays.
        """
        with self._leases.hold(), self._leases.lock:
            self._leases.touch(diff_id)
            if os.path.isdir(self._path(diff_id)):
                self._scratch.discard(folder)
                return
            self._records.put(_KIND, diff_id, {"size": size})
            os.rename(folder, self._path(diff_id))

    def path(self, diff_id: str) -> str:
        """The folder of an unpacked layer, or NotFound."""
        path = self._path(diff_id)
        if not os.path.isdir(path):
            raise NotFound(f"layer {diff_id} is not unpacked")
        return path

    def has(self, diff_id: str) -> bool:
        """Whether the layer is unpacked; if so it outlives the leases that are held now."""
        path = self._path(diff_id)
        with self._leases.lock:
            found = os.path.isdir(path)
            if found:
                self._leases.touch(diff_id)
        return found

    def size(self, diff_id: str) -> int:
        """Sum of the sizes of the layer's files in bytes, Docker's measure."""
        size: int = self._records.get(_KIND, diff_id)["size"]
        return size

    def all(self) -> list[str]:
        """The diff ids of all unpacked layers."""
        return [f"sha256:{name}" for name in sorted(os.listdir(self._folder))]

    def discard(self, diff_id: str) -> None:
        """Move a layer to the trash and forget it; for the collector, which holds the lock."""
        self._scratch.discard(self._path(diff_id))
        self._records.delete(_KIND, diff_id)

    def _path(self, diff_id: str) -> str:
        if not diff_id.startswith("sha256:"):
            raise InvalidInput(f"{diff_id:.100}: only sha256 diff ids are supported")
        return os.path.join(self._folder, hex_of(diff_id))

    def _unpack(
        self, descriptor: Descriptor, diff_id: str, target: str, arriving: Iterator[bytes] | None
    ) -> None:
        what = f"layer {descriptor.digest}"
        packed = plain = Verifier()
        with self._scratch.folder("layer") as folder, ExitStack() as opened:
            if arriving is not None:
                stream = arriving
            else:
                file = opened.enter_context(self._blobs.open(descriptor.digest))
                stream = _hashed(file_chunks(file), packed)
                if is_compressed(os.pread(file.fileno(), 8, 0)):
                    plain = Verifier()

            def chunks() -> Iterator[bytes]:
                out = decompressed(stream, what, unpacking=self.limits.unpacking)
                return out if plain is packed and arriving is None else _hashed(out, plain)

            os.chmod(folder, 0o755)
            directory = os.open(folder, DIRECTORY)
            try:
                with Pump(chunks()) as pump:
                    reader = TarReader(pump.chunks(), what, self.limits)
                    meter = self._blobs.room.meter()
                    with Extractor(directory, reader, meter=meter) as extractor:
                        extractor.run()
            finally:
                os.close(directory)
            if arriving is None:
                packed.check(descriptor.digest, descriptor.size, what=what)
            plain.check(diff_id, what=f"{what}, uncompressed")
            self._records.put(_KIND, diff_id, {"size": extractor.size})
            with self._leases.lock:
                os.rename(folder, target)
                self._leases.touch(diff_id)


def _hashed(chunks: Iterator[bytes], into: Verifier) -> Iterator[bytes]:
    for chunk in chunks:
        into.update(chunk)
        yield chunk
