"""What each kind of step reads, and how it is done: from an operation to key parts and an action.

`prepared` reads only; the action it returns is called when the cache does not know the key.
Blocking work is done in threads; a thread that works on a snapshot has ended before the action
returns, since the snapshot is removed afterwards.
"""

import asyncio
import contextlib
import errno
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, NamedTuple

from skerry.base.errors import InvalidInput, KernelFault
from skerry.base.isolation import Overlay
from skerry.build import copying, modes
from skerry.build.operations import Copy, Run, Workdir
from skerry.build.ownership import owner_of
from skerry.build.reading import excluder
from skerry.build.repositories import is_remote
from skerry.build.request import Options
from skerry.build.run_step import Runner
from skerry.build.sources import Remote
from skerry.build.state import State, fingerprint
from skerry.build.tree import Tree
from skerry.build.trees import StageState, Trees
from skerry.build.unpacking import unpack, unpacked
from skerry.engine import facts
from skerry.engine.engine import Engine
from skerry.engine.threads import blocking
from skerry.kernel import mounts
from skerry.kernel.descriptors import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    make_directories,
    openat2,
)
from skerry.store.paths import open_long

Perform = Callable[[str, Overlay], Awaitable[None]]
"""Do the step on a snapshot (its id, what to mount)."""
_REMEMBERED: Final = 512
_PLAIN: Final = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS


class Work(NamedTuple):
    """What a step reads, by parts of its key (`keys.Key`), and how to do it."""

    parts: dict[str, str]
    files: dict[str, str]
    perform: Perform


class Memory:
    """Digests of what was selected from states, and one lock a key: shared by all builds."""

    def __init__(self) -> None:
        self._digests: OrderedDict[str, tuple[str, dict[str, str]]] = OrderedDict()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def get(self, key: str) -> tuple[str, dict[str, str]] | None:
        """A digest that was computed before."""
        found = self._digests.get(key)
        if found is not None:
            self._digests.move_to_end(key)
        return found

    def put(self, key: str, value: tuple[str, dict[str, str]]) -> None:
        """Remember one."""
        self._digests[key] = value
        if len(self._digests) > _REMEMBERED:
            self._digests.popitem(last=False)

    @contextlib.asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """One at a time for each key: two builds do not do the same step twice."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)


class Steps:
    """The steps of one build."""

    def __init__(
        self,
        engine: Engine,
        options: Options,
        trees: Trees,
        runner: Runner,
        remote: Remote,
        memory: Memory,
    ) -> None:
        self._engine = engine
        self._options = options
        self._trees = trees
        self._runner = runner
        self._remote = remote
        self._memory = memory
        self.alone = memory.alone
        self.plain_key = runner.plain_key

    @contextlib.asynccontextmanager
    async def prepared(
        self, operation: Run | Copy | Workdir, state: State, stage_state: StageState, step: str
    ) -> AsyncIterator[Work]:
        """What the operation reads on top of a state. Errors name the operation's object."""
        if isinstance(operation, Workdir):
            yield self._workdir(operation, state)
        elif isinstance(operation, Run):
            async with self._runner.prepared(operation, state, stage_state, step) as work:
                yield Work(*work)
        else:
            async with contextlib.AsyncExitStack() as held:
                tree, known, found = await self._source(operation, stage_state, held)
                unpacking = unpacked(operation)
                async with self.copied(tree, found, known, unpacking=unpacking) as made:
                    yield made

    def has_directory(self, state: State, path: str) -> bool:
        """Whether a state's root has a directory at a path."""
        if not state.layers:
            return path == "/"
        root = -1
        try:
            root = facts.open_root(self._trees.overlay(state))
            os.close(open_long(root, path, os.O_PATH | os.O_DIRECTORY))
        except KernelFault:
            return False
        finally:
            if root >= 0:
                os.close(root)
        return True

    def _workdir(self, operation: Workdir, state: State) -> Work:
        async def perform(_id: str, overlay: Overlay) -> None:
            await blocking(lambda: _make_directory(overlay, operation.path))

        return Work({"step": fingerprint("workdir", operation.path)}, {}, perform)

    async def _source(
        self, operation: Copy, stage_state: StageState, held: contextlib.AsyncExitStack
    ) -> tuple[Tree, State | None, Copy]:
        if operation.files:
            sources = (*operation.sources, *(name for name, _ in operation.files))
            inline = self._remote.inline(operation, held)
            return inline, None, operation._replace(sources=sources)
        if operation.add and any(map(is_remote, operation.sources)):
            local = None
            if not all(map(is_remote, operation.sources)):
                local, _ = await self._trees.source("", stage_state)
            joined, renamed = await self._remote.fetch(operation, local, held)
            return joined, None, renamed
        tree, known = await self._trees.source(operation.from_, stage_state)
        return tree, known, operation

    @contextlib.asynccontextmanager
    async def copied(
        self, tree: Tree, operation: Copy, known: State | None = None, *, unpacking: bool = False
    ) -> AsyncIterator[Work]:
        """A copy out of a tree; `known` is the state that the tree shows, if it does."""
        request = self._request(operation)
        chosen: list[copying.Source] = []

        def look() -> tuple[str, dict[str, str]]:
            chosen.extend(copying.select(tree, request))
            return copying.digest(tree, chosen, request)

        memo = ""
        found = None
        if known is not None:
            memo = fingerprint(known.chain, *request.sources, operation.chmod, *operation.exclude)
            found = self._memory.get(memo)
        if found is None:
            found = await blocking(look)
            if memo:
                self._memory.put(memo, found)
        digest, files = found

        async def perform(_id: str, overlay: Overlay) -> None:
            def work() -> None:
                if not chosen:
                    look()
                left = operation if unpacking else operation._replace(add=False)
                self._place(tree, chosen, request, left, overlay)

            await blocking(work)

        parts = {
            "step": fingerprint(
                "copy",
                request.target,
                operation.chown,
                operation.chmod,
                f"{operation.parents}{operation.link}{unpacking}",
                "" if self._options.epoch is None else str(self._options.epoch),
            ),
            "files": digest,
        }
        yield Work(parts, files, perform)

    def _request(self, operation: Copy) -> copying.Request:
        return copying.Request(
            operation.sources,
            operation.target,
            modes.parse(operation.chmod) if operation.chmod else None,
            operation.parents,
            excluder(operation.exclude) if operation.exclude else None,
        )

    def _place(
        self,
        tree: Tree,
        sources: list[copying.Source],
        request: copying.Request,
        operation: Copy,
        overlay: Overlay,
    ) -> None:
        bare = not any(os.listdir(each) for each in overlay.lower)
        root = (
            os.open(overlay.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if bare
            else mounts.overlay_fd(overlay)
        )
        try:
            owner = owner_of(root, operation.chown) if operation.chown else None
            made = (self._options.epoch or 0) * 10**9
            how = copying.Placement(owner, made or time.time_ns())
            left = sources
            if operation.add:
                left = unpack(tree, sources, request, root, owner)
            if not bare and any(each.directory for each in left):
                with _direct(overlay, root, request.target) as faster:
                    copying.place(tree, left, request, faster, how)
            else:
                copying.place(tree, left, request, root, how)
        finally:
            os.close(root)


@contextlib.contextmanager
def _direct(overlay: Overlay, root: int, target: str) -> Iterator[int]:
    """The root to write a new directory through: the upper folder itself when nothing is at the
    target yet and no link leads there. Through overlayfs every file costs several times as much.
    """
    if not _brought_up(root, target.strip("/").split("/")):
        yield root
        return
    upper = os.open(overlay.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield upper
    finally:
        os.close(upper)


def _brought_up(root: int, parts: list[str]) -> bool:
    """Whether a path is not there, and its nearest parent that is was brought to the upper
    folder, without a link on the way."""
    for count in range(len(parts), -1, -1):
        path = "/".join(parts[:count]) or "."
        try:
            above = openat2(root, path, os.O_PATH | os.O_NOFOLLOW, resolve=_PLAIN)
        except KernelFault as fault:
            if fault.errno == errno.ENOENT and parts[0] not in ("", "."):
                continue
            return False
        try:
            if count == len(parts):
                return False
            # Something made and taken away brings the parents up.
            probe = f".skerry-{os.urandom(8).hex()}"
            os.mkdir(probe, dir_fd=above)
            os.rmdir(probe, dir_fd=above)
        except OSError:
            return False
        finally:
            os.close(above)
        return True
    return False


def _make_directory(overlay: Overlay, path: str) -> None:
    root = mounts.overlay_fd(overlay)
    try:
        os.close(make_directories(root, path))
    except KernelFault as fault:
        raise InvalidInput(f"WORKDIR {path}: {os.strerror(fault.errno)}") from None
    finally:
        os.close(root)
