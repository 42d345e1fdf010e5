"""Images in and out as files: `docker save`, `load` and `import`.

The archives are streams: no path of the engine's host ever comes from a client. The store blocks,
so it reads from a pipe in a thread, and what it writes is fetched from it piece by piece.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar, cast

from skerry.base.errors import InvalidInput
from skerry.engine.events import Events
from skerry.engine.images import Progress, report
from skerry.engine.transfer import parse_platform
from skerry.store import Store
from skerry.store.image import Image

if TYPE_CHECKING:
    from skerry.engine.signing import Gate

PIECE: Final = 1 << 20
_T = TypeVar("_T")


class Archives:
    """The service."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events
        self.policy: Gate | None = None

    def admit(self, names: Sequence[str], what: str) -> None:
        """Forbidden when the policy does not let in an image with these names from a file."""
        if self.policy is not None:
            self.policy.admit_file(names, what)

    def admit_renamed(self, source: str, name: str) -> None:
        """As `admit`, for an image that was let in as `source` and gets another name."""
        if self.policy is not None and not self.policy.same_rule(source, name):
            self.policy.admit_file([name], "copy")

    def load(self, stream: BinaryIO, tag: str = "") -> AsyncIterator[Progress]:
        """`docker load`, out of a blocking file: all images of the archive, or none."""

        def work(tell: Callable[[Any], None]) -> None:
            def note(line: str) -> None:
                if line.startswith("passed over"):
                    tell({"stream": f"{line}\n"})

            def admit(names: Sequence[str]) -> None:
                self.admit(names, "load")

            for image in self._store.images.load(stream, progress=note, tag=tag, admit=admit):
                self.emit("load", image)
                names = image.tags or (f"ID: {image.id}",)
                for name in names:
                    tell({"stream": f"Loaded image{':' if image.tags else ''} {name}\n"})

        return report(work)

    def save(
        self, names: Iterable[str], layout: str = "docker-archive", compression: str = "none"
    ) -> AsyncIterator[bytes]:
        """`docker save`, in pieces. Errors about names and formats are raised here."""
        names = list(names)
        chunks = self._store.images.save(names, layout, compression)
        for name in names:
            self.emit("save", self._store.images.get(name))
        return in_pieces(chunks)

    def import_rootfs(
        self,
        stream: BinaryIO,
        config: dict[str, Any],
        *,
        tag: str = "",
        message: str = "",
        platform: str = "",
    ) -> AsyncIterator[Progress]:
        """`docker import`: the id of the image is the only line."""
        place = parse_platform(platform)
        self.admit([tag] if tag else [], "import")

        def work(tell: Callable[[Any], None]) -> None:
            image = self._store.images.import_rootfs(
                stream, config, tags=[tag] if tag else [], message=message, platform=place
            )
            self.emit("import", image)
            tell({"status": image.id})

        return report(work)

    def emit(self, action: str, image: Image) -> None:
        """Tell whoever listens to events."""
        labels = image.config.get("Labels") or {}
        name = image.tags[0] if image.tags else image.id
        self._events.emit("image", action, image.id, {**labels, "name": name})


async def in_pieces(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """What a blocking generator yields, each piece made in a thread. Close it (`aclosing`)."""
    loop = asyncio.get_running_loop()
    pending: asyncio.Future[bytes] | None = None
    try:
        while True:
            pending = loop.run_in_executor(None, next, chunks, b"")
            piece = await asyncio.shield(pending)
            if not piece:
                return
            yield piece
    finally:
        # A generator cannot be closed while a thread is inside it.
        if pending is not None:
            await asyncio.wait([pending])
            pending.exception()
        close = getattr(chunks, "close", None)
        if close is not None:
            await loop.run_in_executor(None, close)


async def blocking(work: Callable[[], _T]) -> _T:
    """In a thread, which has ended when this returns or raises, also when it is cancelled."""
    done = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        done.exception()
        raise


class _Body:
    """The reading end of a pipe. An end that is not the sender's own raises: an archive that was
    cut between two members looks whole."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "rb", buffering=PIECE)
        self.whole = False

    def read(self, size: int = -1) -> bytes:
        """As files do; InvalidInput when the sender left."""
        data = self._file.read(size)
        if not data and not self.whole:
            raise InvalidInput("the request's body was cut off")
        return data

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


@contextlib.asynccontextmanager
async def as_file(chunks: AsyncIterator[bytes]) -> AsyncIterator[BinaryIO]:
    """What comes in as a blocking file for a thread; the pipe between gives the back-pressure.

    Reading raises InvalidInput when the chunks stopped coming before their end.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    body = _Body(read_fd)
    feeding = asyncio.ensure_future(_feed(chunks, write_fd, body))
    try:
        yield cast(BinaryIO, body)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        # The thread has come to its end, or its read returns at the pipe's end.
        await asyncio.to_thread(body.close)


async def _feed(chunks: AsyncIterator[bytes], fd: int, body: _Body) -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(fd, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            async for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            body.whole = True
    finally:
        writer.close()
