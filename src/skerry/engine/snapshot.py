"""A snapshot as saved, and the tree that a container's snapshots make.

A snapshot is a point in a container's history: its frozen layer has the snapshot's own id.
Snapshots belong to their container and go with it. Times are nanoseconds since the epoch.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from skerry.base.errors import Conflict, InvalidInput, NotFound, SystemFault
from skerry.store import Store

VERSION = 1
KIND = "snapshot"

DISK, MACHINE = "disk", "machine"
"""What is in it: the file system alone, or memory and devices as well."""

_ID = re.compile(r"[0-9a-f]{1,64}")
MAX_COMMENT = 4096


class Snapshot(msgspec.Struct):
    """One snapshot."""

    id: str
    name: str
    """Unique among those of its container."""
    container: str
    created_at: int
    parent: str = ""
    """The snapshot that the container continued from when this one was taken."""
    kind: str = DISK
    comment: str = ""
    size: int = 0
    """Bytes on disk of its own layer, memory included."""
    pause_ms: float = 0.0
    """How long a running machine stood still for it."""
    version: int = VERSION


class Branch(NamedTuple):
    """A snapshot in the tree, with what was taken after it."""

    snapshot: Snapshot
    children: "list[Branch]"


def load(store: Store, container: str = "") -> list[Snapshot]:
    """All of a container, or of all containers, oldest first; SystemFault for a damaged record."""
    found = [from_plain(each.data) for each in store.records.all(KIND)]
    chosen = [each for each in found if container in ("", each.container)]
    return sorted(chosen, key=lambda each: (each.created_at, each.id))


def save(store: Store, snapshot: Snapshot) -> None:
    """Write the record."""
    store.records.put(KIND, snapshot.id, msgspec.to_builtins(snapshot))


def from_plain(data: dict[str, Any]) -> Snapshot:
    """As it was saved."""
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise SystemFault(
            f"snapshot record has version {version!r}, this engine knows {VERSION}",
            hint="start the newer skerry that wrote it",
        )
    try:
        return msgspec.convert(data, Snapshot)
    except msgspec.ValidationError as error:
        raise SystemFault(f"snapshot record {data.get('id')!r:.70} is damaged: {error}") from None


def forget(store: Store, container: str) -> None:
    """Drop the snapshots of a container that is gone, and the layers that only they needed."""
    kept = []
    for each in store.records.all(KIND):
        if each.data.get("container") == container:
            store.records.delete(KIND, each.id)
        else:
            kept.append(each.id)
    store.snapshots.sweep_frozen(kept)


def find(snapshots: Iterable[Snapshot], reference: str, names: dict[str, str]) -> Snapshot:
    """By id, beginning of an id, `CONTAINER:NAME`, or a NAME that only one container has.

    `names` maps container ids to names. NotFound, InvalidInput when ambiguous.
    """
    snapshots = list(snapshots)
    holder, colon, name = reference.rpartition(":")
    found = [
        each
        for each in snapshots
        if each.name == name
        and (not colon or names.get(each.container) == holder or each.container.startswith(holder))
    ]
    if not found and _ID.fullmatch(reference):
        found = [each for each in snapshots if each.id.startswith(reference)]
    if not found:
        raise NotFound(f"No such snapshot: {reference:.200}")
    if len(found) > 1:
        raise InvalidInput(
            f"several snapshots match {reference:.200}", hint="write CONTAINER:NAME, or the id"
        )
    return found[0]


def free_name(snapshots: Iterable[Snapshot], wanted: str) -> str:
    """`wanted`, or the first free of s1, s2, …; Conflict when it is taken."""
    taken = {each.name for each in snapshots}
    if wanted in taken:
        raise Conflict(f"the container has a snapshot named {wanted!r} already")
    number = len(taken) + 1
    while not wanted or wanted in taken:
        wanted = f"s{number}"
        number += 1
    return wanted


def tree(snapshots: Iterable[Snapshot]) -> list[Branch]:
    """The roots with all that grew from them, oldest first; what lost its parent is a root."""
    branches = {each.id: Branch(each, []) for each in snapshots}
    roots: list[Branch] = []
    for branch in branches.values():
        above = branches.get(branch.snapshot.parent)
        (above.children if above else roots).append(branch)
    return roots


def walk(roots: list[Branch]) -> Iterator[tuple[int, Snapshot]]:
    """(depth, snapshot), each before those that came after it."""
    waiting = [(0, branch) for branch in reversed(roots)]
    while waiting:
        depth, branch = waiting.pop()
        yield depth, branch.snapshot
        waiting += [(depth + 1, below) for below in reversed(branch.children)]
