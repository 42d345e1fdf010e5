"""Files in and out of a container: `docker cp`, export, the state of a path.

A running container is seen through its init's root (`/proc/PID/root`), with its volumes and tmpfs;
a stopped one through its layers with its volumes, binds and images mounted in them (`root_view`),
and one whose files are in a machine through its layers, or the volume that the path leads to; while
the machine runs, by a copy of what it has written that has only those contents which are asked for
(`Lifecycle.seen`). Every path is resolved beneath that root, so links in the container never lead
out of it.
"""

import asyncio
import contextlib
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, NamedTuple

from skerry.base.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    KernelFault,
    LimitExceeded,
    NotFound,
)
from skerry.base.isolation import Overlay, Unpacking
from skerry.engine import facts, users
from skerry.engine.archives import in_pieces
from skerry.engine.container import Container
from skerry.engine.isolation import Driver
from skerry.engine.lifecycle import Lifecycle
from skerry.engine.record import MountPoint
from skerry.engine.root_view import RootView
from skerry.engine.threads import blocking
from skerry.engine.volumes import Volumes
from skerry.engine.walls import VM, Walls, runs_in_machine, wall_of
from skerry.kernel import descriptors, mounts
from skerry.store import Store
from skerry.store.archive import extract_tar, tar_stream
from skerry.store.compression import decompressed, file_chunks
from skerry.store.pack import pack
from skerry.store.tar_reader import Limits

_PUMPS = 32

MOST_LISTED = 100_000
"""Entries of a folder in one answer."""

Body = contextlib.AbstractAsyncContextManager[BinaryIO]
KERNELS = frozenset({"dev", "proc", "sys"})
"""What is left out of a copy of a live root: it is the kernel's and never stands still."""


class PathStat(NamedTuple):
    """What a path is; `mode` as stat(2) has it."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str


class _View(NamedTuple):
    """A root and a path in it. `refusal` says why nothing may be written there; a live root is one
    that processes see."""

    root: int
    path: str
    refusal: str = ""
    live: bool = False


def _clean(path: str) -> tuple[str, bool]:
    """An absolute path without dots, and whether the last component is to be followed."""
    if "\0" in path or len(path) > 4096:
        raise InvalidInput(f"invalid path {path!r:.80}")
    follow = path.endswith(("/", "/.")) or path in ("", ".")
    return posixpath.normpath("/" + path.lstrip("/")), follow


class Archive:
    """The service."""

    def __init__(
        self, store: Store, volumes: Volumes, driver: Driver, lifecycle: Lifecycle
    ) -> None:
        self._store = store
        self._volumes = volumes
        self._driver = driver
        self._run_dir = lifecycle.run_dir
        self._seen = lifecycle.seen
        self._pumps = ThreadPoolExecutor(_PUMPS, "archives")

    @contextlib.asynccontextmanager
    async def _view(
        self,
        container: Container,
        path: str,
        *,
        write: bool = False,
        lock: bool = False,
        contents: tuple[str, ...] = (),
    ) -> AsyncIterator[_View]:
        """The root under which a path of the container lies; closed at the end. With `lock` a
        stopped container stays stopped meanwhile. `contents` is of `Lifecycle.seen`."""
        async with contextlib.AsyncExitStack() as stack:
            in_machine = wall_of(container.record.host) == VM
            mounted = [] if in_machine else _mounted(container)
            if not container.running and (lock or mounted):
                # A start would mount the same upper folder a second time.
                await stack.enter_async_context(container.lock)
            refusal = ""
            root = facts.root_of(container.record)
            live = root >= 0
            if root < 0 and mounted:
                root = await self._assembled(container, mounted, stack)
            else:
                place = self._volume_of(container, path) if root < 0 else None
                if place is not None:
                    root, path, refusal = self._in_volume(place, path)
                elif root < 0:
                    seen = await stack.enter_async_context(self._seen(container, contents))
                    root = await blocking(partial(_open, seen, write=write))
                stack.callback(os.close, root)
            yield _View(root, path, self._refusal(container, path) or refusal, live)

    async def _assembled(
        self, container: Container, points: list[MountPoint], stack: contextlib.AsyncExitStack
    ) -> int:
        """The root with its mounts, until the stack unwinds."""
        holder = f"{container.id} copy"
        await self._volumes.hold(points, holder)
        stack.push_async_callback(self._volumes.release, points, holder)
        snapshots = self._store.snapshots
        images = {
            point.source: snapshots.layers(point.source)
            for point in points
            if point.kind == "image"
        }
        overlay = snapshots.overlay(container.id)
        view = await blocking(partial(RootView, overlay, points, images))
        stack.callback(view.close)
        return view.root

    def _refusal(self, container: Container, path: str) -> str:
        """Why nothing may be written at a path, empty when it may."""
        refusal = ""
        for point in container.record.mounts:
            if point.read_only and (path + "/").startswith(point.target + "/"):
                refusal = "mounted volume is marked read-only"
        if container.record.host.get("ReadonlyRootfs") and not _in_mount(container, path):
            refusal = "container rootfs is marked read-only"
        return refusal

    @staticmethod
    def _volume_of(container: Container, path: str) -> MountPoint | None:
        """What a path that is not seen through the container's root leads into."""
        for point in reversed(container.record.mounts):
            if point.kind != "tmpfs" and (path + "/").startswith(point.target + "/"):
                return point
        return None

    def _in_volume(self, point: MountPoint, path: str) -> tuple[int, str, str]:
        refusal = "mounted volume is marked read-only" if point.read_only else ""
        if point.subpath or point.kind == "image":
            raise Conflict(
                f"{point.target} is a part of a volume or an image, "
                "which is mounted only while the container runs"
            )
        self._volumes.check_visible(point)
        try:
            if os.path.isdir(point.source):
                root = os.open(point.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                return root, path[len(point.target) :] or "/", refusal
            head, name = posixpath.split(point.source)
            root = os.open(head, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            return root, f"/{name}", refusal
        except OSError as error:
            raise NotFound(f"cannot open {point.source}: {error.strerror}") from None

    async def stat(self, container: Container, path: str) -> PathStat:
        """What a path is. NotFound in Docker's words."""
        clean, follow = _clean(path)
        async with self._view(container, clean) as view:
            return _status(container, view, path, clean, follow)

    async def listing(self, container: Container, path: str) -> list[PathStat]:
        """What is in a folder, by name. NotFound; InvalidInput when it is no folder,
        LimitExceeded."""
        clean, _ = _clean(path)
        async with self._view(container, clean) as view:
            return await blocking(partial(self._list, container, view, path))

    def _list(self, container: Container, view: _View, path: str) -> list[PathStat]:
        with _opened(container, view, path, True) as place:
            try:
                folder = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY)
            except NotADirectoryError:
                raise InvalidInput(f"{path} is not a folder") from None
            try:
                names = sorted(os.listdir(folder))
                if len(names) > MOST_LISTED:
                    raise LimitExceeded(f"{path} holds more than {MOST_LISTED} entries")
                return [found for name in names if (found := _entry(folder, name))]
            finally:
                os.close(folder)

    @contextlib.asynccontextmanager
    async def get(
        self, container: Container, path: str
    ) -> AsyncIterator[tuple[PathStat, AsyncIterator[bytes]]]:
        """The path's state and a tar archive of it, whose names start with its last component."""
        clean, follow = _clean(path)
        name = "." if path.endswith("/.") or path == "." else posixpath.basename(clean) or "."
        contents = await self._contents(container, path, clean, follow)
        async with self._view(container, clean, contents=contents) as view:
            found = _status(container, view, path, clean, follow)
            place = f"{view.path}/" if stat.S_ISDIR(found.mode) else view.path
            skip = KERNELS if view.live and clean == "/" else frozenset[str]()
            pieces = in_pieces(tar_stream(view.root, place, name=name, skip=skip))
            async with contextlib.aclosing(pieces) as chunks:  # type: ignore[type-var]
                yield found, chunks

    async def _contents(
        self, container: Container, path: str, clean: str, follow: bool
    ) -> tuple[str, ...]:
        """Where a path leads in a machine that runs, for `Lifecycle.seen`."""
        if not runs_in_machine(container.record):
            return ()
        async with self._view(container, clean) as view:
            with _opened(container, view, path, follow) as fd:
                # As seen below the root of a mount of its own, or of the layers' own folder.
                place = os.readlink(f"/proc/self/fd/{fd}")
                above = os.readlink(f"/proc/self/fd/{view.root}").rstrip("/")
            return (place.removeprefix(above).strip("/"),)

    def export(self, container: Container) -> AsyncIterator[bytes]:
        """The container's whole tree, without its volumes, as a tar archive."""
        overlay = self._store.snapshots.overlay(container.id)

        def chunks() -> Iterator[bytes]:
            root = facts.open_root(overlay)
            try:
                fd = descriptors.open_in_root(root, "/", os.O_RDONLY | os.O_DIRECTORY)
                try:
                    yield from pack(fd)
                finally:
                    os.close(fd)
            finally:
                os.close(root)

        return in_pieces(chunks())

    async def put(
        self,
        container: Container,
        path: str,
        body: Body,
        *,
        keep_kinds: bool = False,
        as_user: bool = False,
    ) -> None:
        """Unpack a tar archive into a folder; `body` is entered when all is ready for it.

        NotFound, InvalidInput, Forbidden as Docker.
        """
        clean, _ = _clean(path)
        async with contextlib.AsyncExitStack() as stack:
            distant = isinstance(self._driver, Walls) and (
                wall_of(container.record.host) == VM and not _in_mount(container, clean)
            )
            view = await stack.enter_async_context(
                self._view(container, clean, write=not distant, lock=True)
            )
            if view.refusal:
                raise Forbidden(view.refusal)
            with _opened(container, view, path, True) as fd:
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    raise InvalidInput("extraction point is not a directory")
                target = view.path
            # Without a user of its own the archive's owners are kept, as Docker does.
            as_user = as_user and bool(container.record.config.get("User"))
            owner = self._owner(container, view) if as_user else None
            container.record.ever_started = True
            if distant:
                await self._put_behind(container, target, body, keep_kinds, owner)
                return
            async with body as stream:
                await blocking(
                    partial(
                        extract_tar,
                        stream,
                        view.root,
                        target,
                        no_overwrite_dir_non_dir=keep_kinds,
                        owner=owner,
                    )
                )

    async def _put_behind(
        self,
        container: Container,
        path: str,
        body: Body,
        keep_kinds: bool,
        owner: tuple[int, int] | None,
    ) -> None:
        """Unpack in the container's machine, which gets the plain archive over a pipe."""
        walls = self._driver
        assert isinstance(walls, Walls)

        def pump(stream: BinaryIO, writing: int) -> None:
            with contextlib.suppress(BrokenPipeError), open(writing, "wb") as pipe:
                for chunk in decompressed(file_chunks(stream), "archive", limit=Limits().size):
                    pipe.write(chunk)

        overlay = self._store.snapshots.overlay(container.id)

        async def unpack(reading: int) -> None:
            try:
                wanted = Unpacking(reading, path, keep_kinds, owner)
                await walls.unpack(container.id, overlay, self._run_dir(container.id), wanted)
            finally:
                # Nobody reads any more, and the pump may be waiting for somebody who does.
                os.close(reading)

        async with body as stream:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            failures = await asyncio.gather(
                blocking(partial(pump, stream, writing), self._pumps),
                unpack(reading),
                return_exceptions=True,
            )
        # That an archive ends early in the machine comes of what was wrong with it here.
        for failure in failures:
            if isinstance(failure, BaseException):
                raise failure

    def _owner(self, container: Container, view: _View) -> tuple[int, int]:
        wanted = container.record.config.get("User", "")
        found: users.User = facts.lookup_user(view.root, wanted)
        return found.uid, found.gid


def _open(overlay: Overlay, *, write: bool) -> int:
    return mounts.overlay_fd(overlay) if write else facts.open_root(overlay)


def _mounted(container: Container) -> list[MountPoint]:
    """Its mounts but for memory, which there is only while it runs."""
    return [point for point in container.record.mounts if point.kind != "tmpfs"]


def _status(container: Container, view: _View, path: str, clean: str, follow: bool) -> PathStat:
    with _opened(container, view, path, follow) as fd:
        found = _stat(fd, posixpath.basename(clean) or "/", view)
    if path.endswith(("/", "/.")) and not stat.S_ISDIR(found.mode):
        raise InvalidInput(f"lstat {path}: not a directory")
    return found


def _in_mount(container: Container, path: str) -> bool:
    return any((path + "/").startswith(point.target + "/") for point in container.record.mounts)


@contextlib.contextmanager
def _opened(container: Container, view: _View, path: str, follow: bool) -> Iterator[int]:
    """An O_PATH descriptor of a path; NotFound in Docker's words."""
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = descriptors.open_in_root(view.root, view.path, flags)
    except (KernelFault, NotFound):
        raise NotFound(
            f"Could not find the file {path} in container {container.record.name}"
        ) from None
    try:
        yield fd
    finally:
        os.close(fd)


def _entry(folder: int, name: str) -> PathStat | None:
    """One entry of an open folder; None when it has just gone."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        link = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(status.st_mode) else ""
    except OSError:
        return None
    return PathStat(name, status.st_size, status.st_mode, status.st_mtime_ns, link)


def _stat(fd: int, name: str, view: _View) -> PathStat:
    status = os.fstat(fd)
    link = ""
    if stat.S_ISLNK(status.st_mode):
        link = os.readlink("", dir_fd=fd)
        link = posixpath.normpath(posixpath.join(posixpath.dirname(view.path), link))
    return PathStat(name, status.st_size, status.st_mode, status.st_mtime_ns, link)
