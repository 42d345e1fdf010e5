"""A volume's contents as a tar stream, out and in."""

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import BinaryIO

from skerry.base.errors import Conflict, SystemFault
from skerry.engine.archives import as_file, in_pieces
from skerry.engine.record import MountPoint
from skerry.engine.roster import Roster
from skerry.engine.threads import blocking
from skerry.engine.volumes import STAGING, Volume, Volumes
from skerry.kernel import quota
from skerry.kernel.descriptors import exchange
from skerry.store import Store
from skerry.store.archive import extract_whole, tar_stream


class VolumeArchives:
    """The service."""

    def __init__(self, store: Store, volumes: Volumes, roster: Roster) -> None:
        self._store = store
        self._volumes = volumes
        self._roster = roster

    async def export(self, name: str) -> AsyncGenerator[bytes, None]:
        """Everything in it, names below `./`. NotFound before the first piece."""
        volume = self._volumes.get(name)
        async with self._held(volume):

            def chunks() -> Iterator[bytes]:
                root = os.open(volume.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    yield from tar_stream(root)
                finally:
                    os.close(root)

            async with contextlib.aclosing(in_pieces(chunks())) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece

    async def restore(self, name: str, chunks: AsyncIterator[bytes]) -> Volume:
        """Replace what is in a volume, in one step: it has the old contents or the new, never a
        part. Made when it is missing; Conflict while a container that has it runs.

        A volume with a device is a foreign file system: there the archive is laid over.
        """
        fresh = self._volumes.find(name) is None
        volume = self._volumes.create(name)
        try:
            if volume.mounts:
                async with self._held(volume), as_file(chunks) as stream:
                    await blocking(lambda: _unpack(stream, volume.path))
            else:
                await self._replace(volume, chunks)
        except BaseException:
            if fresh:
                self._volumes.remove(name, force=True)
            raise
        return volume

    async def _replace(self, volume: Volume, chunks: AsyncIterator[bytes]) -> None:
        self._refuse_when_running(volume)
        staging = os.path.join(os.path.dirname(volume.path), STAGING)
        try:
            os.mkdir(staging, 0o700)
        except FileExistsError:
            raise Conflict(f"volume {volume.name}: another import is under way") from None
        except OSError as error:
            raise SystemFault(f"cannot make {staging}: {error.strerror}") from None
        try:
            os.chmod(staging, 0o755)
            if volume.options.get("size"):
                _same_project(volume.path, staging)
            async with as_file(chunks) as stream:
                await blocking(lambda: _unpack(stream, staging))
            self._refuse_when_running(volume)
            exchange(staging, volume.path)
        finally:
            self._store.scratch.discard(staging)

    def _refuse_when_running(self, volume: Volume) -> None:
        for id in self._volumes.in_use(volume.name):
            container = self._roster.get(id)
            if container is not None and (container.running or container.starting):
                raise Conflict(f"volume {volume.name} is in use by the running container {id}")

    @contextlib.asynccontextmanager
    async def _held(self, volume: Volume) -> AsyncIterator[None]:
        points = [MountPoint("volume", "/", name=volume.name)]
        holder = f"archive-{os.urandom(8).hex()}"
        await self._volumes.hold(points, holder)
        try:
            yield
        finally:
            await self._volumes.release(points, holder)


def _unpack(stream: BinaryIO, path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        extract_whole(stream, directory)
    finally:
        os.close(directory)


def _same_project(old: str, new: str) -> None:
    """Count the new contents for the volume's quota."""
    with contextlib.ExitStack() as stack:
        before, after = quota.open_directory(old), quota.open_directory(new)
        stack.callback(os.close, before)
        stack.callback(os.close, after)
        quota.set_project(after, quota.project_of(before))
