"""Taking what a guest says is its container's writable layer into a folder of the host.

The stream is a tar from a stranger: it goes through the reader that takes image layers from
anywhere, with its limits, and below a descriptor. The folder is replaced as a whole.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator

from skerry.store.extract import Extractor
from skerry.store.tar_reader import Limits, TarReader

LIMITS = Limits(size=64 << 30)
_CHUNK = 256 * 1024


def take(sock: socket.socket, upper: str) -> None:
    """Unpack the stream and put it in `upper`'s place; InvalidInput, LimitExceeded, SystemFault."""
    fresh = tempfile.mkdtemp(prefix=".mirror-", dir=os.path.dirname(upper))
    try:
        with sock:
            os.chmod(fresh, 0o755)
            folder = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                reader = TarReader(_chunks(sock), "what the machine has written", LIMITS)
                with Extractor(folder, reader) as extractor:
                    extractor.run()
            finally:
                os.close(folder)
        old = f"{fresh}.old"
        os.rename(upper, old)
        os.rename(fresh, upper)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _chunks(sock: socket.socket) -> Iterator[bytes]:
    while data := sock.recv(_CHUNK):
        yield data
