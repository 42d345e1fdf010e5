"""The sandboxes that there are now, and their files.

`<run-root>/net/sandboxes/<container id>.json` is written before the kernel is asked, so that
whatever an engine was doing when it was killed, the next one knows everything that may be there.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator

from skerry.engine.networks import Networks
from skerry.network import sandbox as words
from skerry.network.sandbox import Sandbox, Segment
from skerry.store.faults import told

log = logging.getLogger(__name__)

FILE_LIMIT = 1 << 22


class Sandboxes:
    """By container id. `folder` is where the files are; it is made when it is first needed."""

    def __init__(self, folder: str, networks: Networks) -> None:
        self._folder = folder
        self._networks = networks
        self._live: dict[str, Sandbox] = {}

    def get(self, container_id: str) -> Sandbox | None:
        """A container's."""
        return self._live.get(container_id)

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def segments(self, sandbox: Sandbox) -> dict[str, Segment]:
        """The networks that a sandbox is in, by id."""
        found = {}
        for each in sandbox.endpoints:
            network = self._networks.get(each.network_id)
            if network is not None:
                found[network.id] = network.segment()
        return found

    def everything(self) -> list[tuple[Sandbox, dict[str, Segment]]]:
        """All, each with its networks."""
        return [(each, self.segments(each)) for each in self]

    def keep(self, sandbox: Sandbox) -> None:
        """Have it from now on, in memory."""
        self._live[sandbox.container_id] = sandbox

    def put(self, sandbox: Sandbox) -> None:
        """Have it from now on, in memory and on disk."""
        self.keep(sandbox)
        self.write(sandbox)

    def forget(self, sandbox: Sandbox) -> None:
        """Be without it; its addresses are free."""
        self._live.pop(sandbox.container_id, None)
        for each in sandbox.endpoints:
            self._networks.release(each)
        with contextlib.suppress(OSError):
            os.unlink(self._file(sandbox.container_id))

    # Files

    def _file(self, container_id: str) -> str:
        return os.path.join(self._folder, f"{container_id}.json")

    def write(self, sandbox: Sandbox) -> None:
        """Replace the file in one step. Also called on the worker."""
        path = self._file(sandbox.container_id)
        fresh = f"{path}.new"
        data = json.dumps(words.to_plain(sandbox)).encode()
        with told(f"write {path}"):
            try:
                fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                os.makedirs(self._folder, 0o700, exist_ok=True)
                fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(data)
            os.rename(fresh, path)

    def load(self) -> bool:
        """Read what an earlier engine left, if one was here at all."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return False
        for name in names:
            path = os.path.join(self._folder, name)
            try:
                if not name.endswith(".json"):
                    raise ValueError("left by a killed engine")
                with open(path, "rb") as file:
                    sandbox = words.from_plain(json.loads(file.read(FILE_LIMIT)))
                self.keep(sandbox)
                for each in sandbox.endpoints:
                    network = self._networks.get(each.network_id)
                    if network is not None:
                        self._networks.hold(network, each.ipv4)
                        self._networks.hold(network, each.ipv6)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: %s", path, error)
                with contextlib.suppress(OSError):
                    os.unlink(path)
        return True
