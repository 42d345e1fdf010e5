"""Build steps that were done before: key to layer. The layers stay while their step is recorded.

A key says everything that the step read (`skerry.build` makes it); the layer is what it changed,
an empty string when that was nothing. Blobs belong to layers, not to steps: a layer is compressed
only when an image needs it.
"""

import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from skerry.base.errors import NotFound
from skerry.store.layers import Layers
from skerry.store.leases import Leases
from skerry.store.records import Records

KIND: Final = "build-step"
_BLOB: Final = "build-blob"
_REMEMBERED: Final = 4096


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One recorded step. Times in seconds since the epoch."""

    key: str
    layer: str
    """Diff id, or empty when the step changed no file."""
    description: str
    parent: str
    """Chain id of the layers below, empty for none."""
    created_at: float
    used_at: float
    uses: int = 0
    kind: str = "regular"
    """As BuildKit names it: regular, source.local, source.git.checkout, …"""
    chain: tuple[str, ...] = ()
    """The layers below and this one, bottom-most first: what a shell in this state needs."""
    config: dict[str, Any] = {}
    """Env, User, WorkingDir and Shell of the state, for the same."""


StepList = list[Step]


def layers_kept(records: Records) -> set[str]:
    """The diff ids that recorded steps keep."""
    return {str(each.data.get("layer")) for each in records.all(KIND)} - {""}


class Steps:
    """Recorded steps by key. Thread-safe.

    Nobody else writes these records. What was read or written is remembered; uses are noted in
    memory and written by `write_uses`, at the latest when somebody wants to know them.
    """

    def __init__(self, records: Records, layers: Layers, leases: Leases) -> None:
        self._records = records
        self._layers = layers
        self._leases = leases
        self._known: dict[str, Step] = {}
        self._uses: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def find(self, key: str) -> Step | None:
        """The step, if its layer is here as well; it outlives the leases that are held now."""
        if not key:
            return None
        step = self._known.get(key)
        if step is None:
            with self._lock:
                try:
                    step = msgspec.convert(self._records.get(KIND, key), Step)
                except (NotFound, msgspec.ValidationError):
                    return None
                self._remember(step)
        if step.layer and not self._layers.has(step.layer):
            return None
        return step

    def put(self, step: Step) -> None:
        """Record a step or replace its record."""
        with self._lock:
            self._records.put(KIND, step.key, msgspec.to_builtins(step))
            self._remember(step)

    def _remember(self, step: Step) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[step.key] = step

    def used(self, keys: Iterable[str]) -> None:
        """Note one more use of each, now."""
        now = time.time()
        with self._lock:
            for key in keys:
                self._uses[key] = (self._uses.get(key, (0, now))[0] + 1, now)

    def write_uses(self) -> None:
        """Record the uses that were noted."""
        with self._lock:
            if not self._uses:
                return
            with self._records.transaction():
                for key, (count, at) in self._uses.items():
                    try:
                        data = self._records.get(KIND, key)
                    except NotFound:
                        continue
                    data["uses"] = data.get("uses", 0) + count
                    data["used_at"] = at
                    self._records.put(KIND, key, data)
            self._uses.clear()

    def all(self) -> StepList:
        """Every recorded step; damaged records are left out."""
        self.write_uses()
        found = []
        for each in self._records.all(KIND):
            try:
                found.append(msgspec.convert(each.data, Step))
            except msgspec.ValidationError:
                continue
        return found

    def remove(self, key: str) -> bool:
        """Forget a step; its layer goes with the next collection, if nothing else needs it."""
        with self._lock:
            self._known.pop(key, None)
            return self._records.delete(KIND, key)

    def layers(self) -> set[str]:
        """The diff ids that recorded steps keep."""
        return layers_kept(self._records)

    def blob(self, diff_id: str) -> dict[str, Any] | None:
        """Digest, size and media type of a layer's compressed form, as `set_blob` noted it."""
        try:
            return self._records.get(_BLOB, diff_id)
        except NotFound:
            return None

    def set_blob(self, diff_id: str, descriptor: dict[str, Any]) -> None:
        """Note the compressed form of a layer. It may be collected: check that it is still here."""
        self._records.put(_BLOB, diff_id, descriptor)

    def forget_blobs(self, kept: set[str]) -> None:
        """Drop the notes about layers that are no longer here."""
        for each in self._records.all(_BLOB):
            if each.id.partition("+")[0] not in kept:
                self._records.delete(_BLOB, each.id)
