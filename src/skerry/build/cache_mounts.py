"""Directories that RUN steps keep between builds: `RUN --mount=type=cache`.

`<root>/build/mounts/<name>/` by the digest of the mount's id, or wherever it was placed. Sharing is
by the engine's memory: a step that was killed holds nothing.
"""

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from skerry.base.errors import Conflict, InvalidInput, NotFound, SystemFault
from skerry.build.state import fingerprint
from skerry.store import Store
from skerry.store.archive import extract_tar, tar_stream
from skerry.store.faults import told
from skerry.store.trees import DiskUsage, remove_tree

KIND: Final = "build-mount"


class CacheMount(NamedTuple):
    """One directory as listed."""

    name: str
    """12 hex digits."""
    id: str
    path: str
    placed: bool
    created_at: float
    used_at: float
    uses: int
    in_use: bool


class CacheMounts:
    """All of one root."""

    def __init__(self, store: Store, root: str) -> None:
        self._store = store
        self._folder = os.path.join(root, "build", "mounts")
        self._holders: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._making: dict[str, threading.Lock] = {}

    def all(self) -> "list[CacheMount]":
        """By id."""
        found = [self._plain(each.id, each.data) for each in self._store.records.all(KIND)]
        return sorted(found, key=lambda each: (each.id, each.name))

    def find(self, text: str) -> CacheMount:
        """By id, name or the beginning of a name. NotFound, InvalidInput."""
        mounts = self.all()
        exact = [each for each in mounts if text in (each.id, each.name)]
        found = exact or [each for each in mounts if text and each.name.startswith(text)]
        if not found:
            raise NotFound(f"no such cache mount: {text:.200}")
        if len(found) > 1:
            raise InvalidInput(f"{text:.80} means {len(found)} cache mounts")
        return found[0]

    def size(self, mount: CacheMount) -> int:
        """Bytes on disk."""
        return DiskUsage().tree(mount.path)

    @contextlib.asynccontextmanager
    async def hold(
        self,
        id: str,
        sharing: str,
        mode: int,
        owner: tuple[int, int],
        fill: Callable[[str], None] | None = None,
    ) -> AsyncIterator[str]:
        """The directory's path, kept while the block runs. `fill` is called in a thread with a new
        directory's path, before anybody sees it.

        `locked` waits for the others, `private` takes another directory when they have this one.
        """
        name = self._name(id)
        if sharing == "private":
            number = 1
            while self._holders.get(name):
                number += 1
                name = self._name(f"{id}\0{number}")
        lock = self._locks.setdefault(name, asyncio.Lock()) if sharing == "locked" else None
        if lock is not None:
            await lock.acquire()
        self._holders[name] = self._holders.get(name, 0) + 1
        try:
            yield await asyncio.to_thread(self._prepare, name, id, mode, owner, fill)
        finally:
            self._holders[name] -= 1
            if not self._holders[name]:
                del self._holders[name]
            if lock is not None:
                lock.release()

    def _name(self, id: str) -> str:
        return fingerprint("cache", id)[:12]

    def _prepare(
        self,
        name: str,
        id: str,
        mode: int,
        owner: tuple[int, int],
        fill: Callable[[str], None] | None = None,
    ) -> str:
        # Steps side by side may want the same one for the first time.
        with self._making.setdefault(name, threading.Lock()):
            try:
                data = self._store.records.get(KIND, name)
            except NotFound:
                data = {"id": id, "path": "", "created_at": time.time(), "uses": 0}
            path = data["path"] or f"{self._folder}/{name}"
            if not os.path.isdir(path):
                with told(f"make the cache mount {id}"):
                    _make(path, mode, owner, fill)
            data.update(used_at=time.time(), uses=data["uses"] + 1)
            self._store.records.put(KIND, name, data)
            return path

    def place(self, mount: CacheMount, target: str) -> CacheMount:
        """Let the directory lie at `target`, an absolute path on the engine's host, from now on.

        What it holds moves along. Conflict while it is in use, InvalidInput for a path that exists.
        """
        self._check_free(mount)
        if not os.path.isabs(target) or "\0" in target:
            raise InvalidInput(f"not an absolute path: {target!r:.200}")
        if os.path.lexists(target):
            raise InvalidInput(f"{target} exists already", hint="name a folder that is to be made")
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.move(mount.path, target)
        except OSError as error:
            raise SystemFault(f"cannot move the cache mount to {target}: {error}") from None
        data = self._store.records.get(KIND, mount.name)
        data["path"] = os.path.normpath(target)
        self._store.records.put(KIND, mount.name, data)
        return self._plain(mount.name, data)

    def remove(self, mount: CacheMount) -> None:
        """Delete it with what it holds; one that was placed elsewhere is emptied of nothing but
        forgotten. Conflict while it is in use."""
        self._check_free(mount)
        self._store.records.delete(KIND, mount.name)
        if not mount.placed:
            self._store.scratch.discard(mount.path)

    def export(self, mount: CacheMount) -> Iterator[bytes]:
        """A tar archive of what it holds."""
        fd = os.open(mount.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield from tar_stream(fd, "/", name=".")
        finally:
            os.close(fd)

    def take_in(self, id: str, stream: BinaryIO) -> CacheMount:
        """Unpack an archive into the directory of an id. One that is made for it goes again when
        the archive is bad."""
        name = self._name(id)
        new = all(each.id != name for each in self._store.records.all(KIND))
        path = self._prepare(name, id, 0o755, (0, 0))
        mount = self._plain(name, self._store.records.get(KIND, name))
        self._check_free(mount)
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            extract_tar(stream, fd)
        except BaseException:
            with contextlib.suppress(Conflict):
                if new:
                    self.remove(mount)
            raise
        finally:
            os.close(fd)
        return mount

    def _check_free(self, mount: CacheMount) -> None:
        if self._holders.get(mount.name):
            raise Conflict(f"cache mount {mount.id} is in use by a build")

    def _plain(self, name: str, data: dict[str, Any]) -> CacheMount:
        return CacheMount(
            name,
            data["id"].replace("\0", "#"),
            data["path"] or f"{self._folder}/{name}",
            bool(data["path"]),
            data.get("created_at", 0.0),
            data.get("used_at", 0.0),
            data.get("uses", 0),
            bool(self._holders.get(name)),
        )


def _make(path: str, mode: int, owner: tuple[int, int], fill: Callable[[str], None] | None) -> None:
    """Made elsewhere and renamed: whoever dies while it is filled leaves no half one."""
    unfinished = f"{path}.new"
    remove_tree(unfinished)
    os.makedirs(unfinished, 0o700)
    if fill is not None:
        fill(unfinished)
    os.chown(unfinished, *owner)
    os.chmod(unfinished, mode)
    os.rename(unfinished, path)
