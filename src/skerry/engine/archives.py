"""Images in and out as files: `docker save`, `load` and `import`.

The archives are streams: no path of the engine's host ever comes from a client. The store blocks,
so it reads from a pipe in a thread, and what it writes is fetched from it piece by piece.
"""

import asyncio
import collections
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from skerry.base.errors import InvalidInput
from skerry.base.references import parse_reference
from skerry.engine import artifacts
from skerry.engine.events import Events
from skerry.engine.images import Progress, report
from skerry.engine.transfer import parse_platform
from skerry.store import Store
from skerry.store.formats.intake import Packed
from skerry.store.image import Image

if TYPE_CHECKING:
    from skerry.engine.signing import Gate

AHEAD: Final = 4 << 20
"""Bytes of a body that may lie unread."""


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

    def admit_packed(self, packed: Packed, what: str) -> None:
        """As `admit`, for an image that may bring its signatures, or those of its index."""
        if self.policy is not None:
            signed = [
                (each.descriptor.digest, artifacts.signatures(each.artifacts, self._store.blobs))
                for each in (*packed.chosen_from, packed)
            ]
            self.policy.admit_file(packed.names, what, signed)

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

            brought: set[str] = set()

            def admit(packed: Packed) -> None:
                self.admit_packed(packed, "load")
                brought.update(parse_reference(name).familiar for name in packed.names)

            for image in self._store.images.load(stream, progress=note, tag=tag, admit=admit):
                self.emit("load", image)
                # It may have had other names before.
                names = [name for name in image.tags if name in brought]
                for name in names or [f"ID: {image.id}"]:
                    tell({"stream": f"Loaded image{':' if names else ''} {name}\n"})

        return report(work)

    def save(
        self,
        names: Iterable[str],
        layout: str = "docker-archive",
        compression: str = "none",
        *,
        referrers: bool = False,
    ) -> AsyncIterator[bytes]:
        """`docker save`, in pieces. Errors about names and formats are raised here."""
        names = [each for name in names for each in self._tags_of(name)]
        chunks = self._store.images.save(names, layout, compression, referrers=referrers)
        for name in names:
            self.emit("save", self._store.images.get(name))
        return in_pieces(chunks)

    def _tags_of(self, name: str) -> list[str]:
        """Every tag of a repository for a name without tag and digest, else the name itself."""
        try:
            wanted = parse_reference(name, default_tag="")
        except InvalidInput:
            return [name]
        if wanted.tag or wanted.digest:
            return [name]
        tags = sorted(
            tag
            for image in self._store.images.list()
            for tag in image.tags
            if parse_reference(tag).name == wanted.name
        )
        return tags or [name]

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


class PieceFile:
    """A blocking file out of pieces."""

    def read1(self, size: int = -1) -> bytes:
        """The next bytes, at most `size`; empty at the end. InvalidInput when the sender left."""
        raise NotImplementedError

    def read(self, size: int = -1) -> bytes:
        """As files do: `size` bytes, or all that are left; InvalidInput when the sender left."""
        parts = []
        while size and (piece := self.read1(size)):
            parts.append(piece)
            if size > 0:
                size -= len(piece)
        return b"".join(parts)


class _Body(PieceFile):
    """A request's body, put in by the loop and read by a thread; whoever puts waits while
    `AHEAD` bytes lie unread. An end that is not the sender's own raises: an archive that was cut
    between two members looks whole."""

    def __init__(self) -> None:
        self._pieces: collections.deque[bytes] = collections.deque()
        self._held = 0
        self._changed = threading.Condition()
        self._ended = self._whole = self._closed = False
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()

    async def feed(self, chunks: AsyncIterator[bytes]) -> None:
        """Put in all that comes, until the reader closes."""
        whole = False
        try:
            async for chunk in chunks:
                if self._put(chunk):
                    await self._wanted.wait()
                if self._closed:
                    break
            whole = True
        finally:
            with self._changed:
                self._whole, self._ended = whole, True
                self._changed.notify()

    def _put(self, chunk: bytes) -> bool:
        """Whether there is enough for now."""
        with self._changed:
            self._pieces.append(chunk)
            self._held += len(chunk)
            self._wanted.clear()
            self._changed.notify()
            return self._held >= AHEAD and not self._closed

    def read1(self, size: int = -1) -> bytes:
        """See PieceFile."""
        with self._changed:
            while not self._pieces:
                if self._closed or self._whole:
                    return b""
                if self._ended:
                    raise InvalidInput("the request's body was cut off")
                self._changed.wait()
            piece = self._pieces.popleft()
            if 0 <= size < len(piece):
                self._pieces.appendleft(piece[size:])
                piece = piece[:size]
            was_full = self._held >= AHEAD // 2
            self._held -= len(piece)
            if was_full and self._held < AHEAD // 2:
                self._loop.call_soon_threadsafe(self._wanted.set)
        return piece

    def close(self) -> None:
        """A read that waits returns. Idempotent; called on the loop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._wanted.set()


@contextlib.asynccontextmanager
async def as_file(chunks: AsyncIterator[bytes]) -> AsyncIterator[BinaryIO]:
    """What comes in as a blocking file for a thread, with back-pressure.

    Reading raises InvalidInput when the chunks stopped coming before their end.
    """
    body = _Body()
    feeding = asyncio.ensure_future(body.feed(chunks))
    try:
        yield cast(BinaryIO, body)
    finally:
        feeding.cancel()
        body.close()
        await asyncio.gather(feeding, return_exceptions=True)
