"""The build cache as a list, and what a prune takes from it.

Entries are steps (with their layers), cache mounts and downloads. The size of a step is that of its
layer on disk; a layer that an image has as well is `shared` and gives nothing back.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from skerry.base.errors import Conflict, InvalidInput
from skerry.build import downloads, keys
from skerry.build.cache_mounts import CacheMounts
from skerry.store import Store, limits
from skerry.store.trees import DiskUsage

FILTERS: Final = frozenset(
    "until unused-for id parent type description inuse shared private label label!".split()
)


class Entry(NamedTuple):
    """One line of `docker system df -v`'s build cache."""

    id: str
    parent: str
    kind: str
    """regular, source.local, source.http, exec.cachemount."""
    description: str
    in_use: bool
    shared: bool
    size: int
    created_at: float
    used_at: float
    uses: int


class Rule(NamedTuple):
    """What may go. Sizes in bytes, ages in seconds; 0 sets no bound."""

    everything: bool = False
    """Also what images share, whose records only make the next build faster."""
    keep_bytes: int = 0
    """Stop when the cache is as small as this (reserved space)."""
    max_bytes: int = 0
    """Only go so far that it is not larger than this."""
    min_free: int = 0
    """Only until so much of the disk is free."""
    unused_for: float = 0.0
    filters: dict[str, frozenset[str]] = {}  # noqa: RUF012 - never written


class Pruned(NamedTuple):
    """What went."""

    ids: list[str]
    bytes: int


class Inventory:
    """The cache of one root. All methods block."""

    def __init__(self, store: Store, mounts: CacheMounts, folder: str) -> None:
        self._store = store
        self._mounts = mounts
        self._downloads = folder

    def entries(self) -> list[Entry]:
        """All, the least recently used first."""
        only = set(self._store.gc.only_cached())
        here = set(self._store.layers.all())
        held = self._store.leases.touched()
        sizes = {
            diff_id: DiskUsage().tree(self._store.layers.path(diff_id))
            for diff_id in self._store.steps.layers() & here
        }
        seen: set[str] = set()
        found = []
        for step in self._store.steps.all():
            repeated = step.layer in seen
            seen.add(step.layer)
            found.append(
                Entry(
                    step.key,
                    step.parent,
                    step.kind,
                    step.description,
                    step.layer in held,
                    bool(step.layer) and (repeated or step.layer not in only),
                    sizes.get(step.layer, 0),
                    step.created_at,
                    step.used_at,
                    step.uses,
                )
            )
        found += self._mounted()
        found += self._downloaded()
        return sorted(found, key=lambda each: (each.used_at, each.id))

    def _mounted(self) -> Iterable[Entry]:
        for mount in self._mounts.all():
            yield Entry(
                mount.name,
                "",
                "exec.cachemount",
                f"cache mount {mount.id}",
                mount.in_use,
                False,
                self._mounts.size(mount),
                mount.created_at,
                mount.used_at,
                mount.uses,
            )

    def _downloaded(self) -> Iterable[Entry]:
        seen: set[str] = set()
        for each in self._store.records.all(downloads.KIND):
            path = f"{self._downloads}/{each.data['digest']}"
            with contextlib.suppress(OSError):
                size = os.lstat(path).st_blocks * 512
                yield Entry(
                    each.id,
                    "",
                    "source.http",
                    each.data["url"],
                    False,
                    each.data["digest"] in seen,
                    size,
                    each.data["created_at"],
                    each.data["used_at"],
                    0,
                )
                seen.add(each.data["digest"])

    def prune(self, rule: Rule) -> Pruned:
        """Take away what the rule says, the least recently used first."""
        for key in rule.filters:
            if key not in FILTERS:
                raise InvalidInput(f"failed to prune build cache: invalid filter '{key}'")
        entries = self.entries()
        total = sum(each.size for each in entries if not each.shared)
        gone: list[str] = []
        freed = 0
        for entry in entries:
            if not self._may_go(entry, rule):
                continue
            if self._enough(rule, total - freed, freed):
                break
            try:
                self._remove(entry)
            except Conflict:
                continue
            gone.append(entry.id)
            freed += 0 if entry.shared else entry.size
        self._collect()
        return Pruned(gone, freed)

    def _may_go(self, entry: Entry, rule: Rule) -> bool:
        if entry.in_use or (entry.shared and not rule.everything):
            return False
        if rule.unused_for and time.time() - entry.used_at < rule.unused_for:
            return False
        return all(any(_matches(entry, key, v) for v in vs) for key, vs in rule.filters.items())

    def _enough(self, rule: Rule, left: int, freed: int) -> bool:
        bounds = []
        if rule.max_bytes:
            bounds.append(left <= rule.max_bytes)
        if rule.min_free:
            bounds.append(limits.free(self._store.root)[0] + freed >= rule.min_free)
        if rule.keep_bytes and left <= rule.keep_bytes:
            return True
        return bool(bounds) and all(bounds)

    def _remove(self, entry: Entry) -> None:
        if entry.kind == "exec.cachemount":
            self._mounts.remove(self._mounts.find(entry.id))
        elif entry.kind == "source.http":
            self._store.records.delete(downloads.KIND, entry.id)
        else:
            self._store.steps.remove(entry.id)

    def _collect(self) -> None:
        """Layers and files that nothing names any more."""
        kept = {each.data["digest"] for each in self._store.records.all(downloads.KIND)}
        if os.path.isdir(self._downloads):
            for name in os.listdir(self._downloads):
                if name not in kept:
                    self._store.scratch.discard(f"{self._downloads}/{name}")
        self._store.gc.sweep()
        self._store.gc.empty_trash()
        self._store.steps.forget_blobs(set(self._store.layers.all()))
        if not self._store.steps.all():
            for each in self._store.records.all(keys.SEEN):
                self._store.records.delete(keys.SEEN, each.id)


def _matches(entry: Entry, key: str, value: str) -> bool:
    if key in ("until", "unused-for"):
        return time.time() - entry.used_at >= seconds(value)
    if key in ("inuse", "shared", "private"):
        wanted = value.lower() not in ("0", "false", "no")
        return {"inuse": entry.in_use, "shared": entry.shared, "private": not entry.shared}[
            key
        ] == wanted
    if key in ("label", "label!"):
        # No part of the cache has labels: Docker takes the filter along with those of other nouns.
        return key == "label!"
    if key == "id":
        return entry.id.startswith(value)
    if key == "description":
        return value in entry.description
    return {"parent": entry.parent, "type": entry.kind}[key] == value


def seconds(text: str) -> float:
    """A Go duration (`24h`, `1h30m`, `90s`) in seconds. InvalidInput."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"invalid duration: {text!r:.40}", hint="write 24h or 1h30m")
    return sum(float(number) * units[unit] for number, unit in parts)
