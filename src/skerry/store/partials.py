"""Blobs that came in half: kept by digest, so that the next pull goes on where the last one ended.

`partial/<hex>` is the beginning of a blob, not verified. While somebody writes to it the file has
a suffix of its own, so two never write to one; after a crash the suffix goes when the store opens.
Whoever takes one hashes what is there and in the end checks the whole: a wrong beginning costs a
download, never a wrong blob.
"""

import contextlib
import os
import time
from typing import Final

LEAST: Final = 1 << 20
"""Bytes below which a beginning is not worth keeping."""
OLDEST: Final = 24 * 3600.0
"""Seconds after which nobody is expected to come back for it."""


class Partials:
    """The folder of one store. Thread-safe by renames."""

    def __init__(self, root: str) -> None:
        self.folder = os.path.join(root, "partial")
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        for name in os.listdir(self.folder):
            if "." in name:
                self.put_back(os.path.join(self.folder, name))

    def take(self, hex_digest: str) -> str:
        """A path to write at, of the caller's own: what is there is the blob's beginning."""
        path = os.path.join(self.folder, hex_digest)
        own = f"{path}.{os.urandom(6).hex()}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, own)
        return own

    def put_back(self, own: str) -> None:
        """Keep what was taken and went on, unless it is too little or less than another's."""
        path = own.rpartition(".")[0]
        with contextlib.suppress(FileNotFoundError):
            if os.stat(own).st_size >= max(LEAST, _size(path)):
                os.rename(own, path)
            else:
                os.unlink(own)

    def remove(self, *, older_than: float = 0.0) -> None:
        """Forget those that nobody writes to and nobody has touched for so many seconds."""
        before = time.time() - older_than
        for path in self.idle():
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_mtime <= before:
                    os.unlink(path)

    def idle(self) -> list[str]:
        """Paths of those that nobody writes to."""
        return [
            os.path.join(self.folder, name) for name in os.listdir(self.folder) if "." not in name
        ]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
