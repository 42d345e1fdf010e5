"""Sending a blob: one session, in one request or several, taken up again after a cut.

Order (distribution-spec, "Pushing blobs"): POST opens a session (or mounts), PUT with the digest
sends everything and closes it. In chunks: PATCHes with Content-Range, then an empty PUT. After a
cut GET on the session tells how much arrived; the rest goes on from there by PATCH. A session that
is gone is replaced by a new one, from the start.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import BinaryIO, Final

from yarl import URL

from skerry.base.errors import RegistryError, RegistryNotFound, RegistryProtocol
from skerry.base.oci_image import Descriptor
from skerry.registry.transport import Ask, Transport
from skerry.registry.wire import Answer, Hopeless

Opener = Callable[[int], BinaryIO | AsyncIterator[bytes]]
"""`opener(offset)`: the blob's bytes from `offset` on, as a file (it is closed) or as chunks."""
Report = Callable[[int], None]
"""Called with the bytes of the blob that have been sent, now and then."""

BLOCK: Final = 1 << 20
LONGEST_CHUNK: Final = 1 << 40
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")


class Upload:
    """One blob on its way to one repository."""

    def __init__(
        self,
        target: Transport,
        repository: str,
        descriptor: Descriptor,
        opener: Opener,
        chunk: int,
        report: Report | None,
    ) -> None:
        self._target = target
        self._repository = target.repository(repository)
        self._descriptor = descriptor
        self._opener = opener
        self._chunk = chunk
        self._report = report
        self._reference = f"{repository}@{descriptor.digest}"
        self._scopes = (target.scope(repository, "pull,push"),)
        self._session = ""

    async def mount(self, from_: str, scope: str) -> bool:
        """Whether the registry has it from another repository now; else a session is open."""
        answer = await self._post({"mount": self._descriptor.digest, "from": from_}, scope)
        if answer.status == 201:
            return True
        self._accept(answer)
        return False

    async def cancel(self) -> None:
        """Close a session that nothing will be sent to."""
        if self._session:
            ask = self._ask("DELETE", ok=frozenset({200, 202, 204, 404, 405}))
            await self._target.head(ask)
            self._session = ""

    async def run(self) -> None:
        """Send it all; RegistryError when the registry does not take it."""
        offset, failed = 0, 0
        while True:
            before = offset
            try:
                if not self._session:
                    offset = 0
                    self._accept(await self._post({}))
                    before = 0
                await self._send(offset)
                return
            except RegistryError as error:
                if not self._worth_another(error):
                    raise
                failed += 1
                if failed >= self._target.attempts:
                    raise
                await self._target.pause(failed)
                offset = await self._arrived()
                if offset > before:
                    failed = 0

    def _worth_another(self, error: RegistryError) -> bool:
        """A cut, or a session that is elsewhere than we think or gone (404, 416)."""
        if error.retryable:
            return True
        lost = isinstance(error, RegistryNotFound) or "416" in error.reason
        return lost and bool(self._session)

    async def _send(self, offset: int) -> None:
        size = self._descriptor.size
        if not self._chunk and offset == 0:
            await self._put(size)
            return
        while offset < size:
            end = min(size, offset + (self._chunk or LONGEST_CHUNK))
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(end - offset),
                "Content-Range": f"{offset}-{end - 1}",
            }
            ask = self._ask("PATCH", ok=frozenset({202, 204}), headers=headers)
            ask = ask._replace(body=partial(self._read, offset, end))
            self._accept(await self._target.head(ask))
            offset = end
        await self._put(0)

    async def _put(self, length: int) -> None:
        """Close the session, with the whole blob or nothing in the request."""
        ask = self._ask(
            "PUT",
            ok=frozenset({200, 201, 204}),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(length)},
            query={"digest": self._descriptor.digest},
        )
        if length:
            ask = ask._replace(body=lambda: self._read(0, length))
        answer = await self._target.head(ask)
        said = answer.headers.get("Docker-Content-Digest", "")
        if said and said != self._descriptor.digest:
            raise RegistryProtocol(
                self._target.registry, self._reference, f"the registry stored {said:.100} instead"
            )
        if self._report:
            self._report(self._descriptor.size)

    async def _arrived(self) -> int:
        """How much of the blob the session holds; a session that does not say is given up."""
        if not self._session:
            return 0
        try:
            answer = await self._target.head(
                self._ask("GET", ok=frozenset({202, 204}), repeat=True)
            )
        except RegistryError as error:
            if error.retryable:
                raise
            self._session = ""
            return 0
        match = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
        self._accept(answer, keep=True)
        last = int(match.group(1)) if match else -1
        # `0-0` is what some registries say of an empty session too.
        arrived = last + 1 if last > 0 else 0
        if not arrived or arrived > self._descriptor.size:
            # The registry may still be storing what came before the cut, and a PUT of everything,
            # which names no range, would be put behind that: it gets a session of its own.
            self._session = ""
            return 0
        return arrived

    async def _post(self, query: dict[str, str], *scopes: str) -> Answer:
        ask = Ask(
            "POST",
            f"{self._repository}/blobs/uploads/",
            self._reference,
            (*self._scopes, *scopes),
            query=query,
            ok=frozenset({201, 202}) if query else frozenset({202}),
        )
        return await self._target.head(ask)

    def _accept(self, answer: Answer, *, keep: bool = False) -> None:
        """Go on where the answer says; `keep` the place we have when it says nothing."""
        location = answer.headers.get("Location", "")
        if not location and (keep or self._session):
            return
        try:
            if not location:
                raise Hopeless("opens no upload")
            self._session = str(self._target.target(answer.url, location))
        except Hopeless as error:
            raise RegistryProtocol(
                self._target.registry, self._reference, f"the upload {error}"
            ) from None

    def _ask(
        self,
        method: str,
        *,
        ok: frozenset[int],
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        repeat: bool = False,
    ) -> Ask:
        return Ask(
            method,
            str(URL(self._session, encoded=True)),
            self._reference,
            self._scopes,
            headers or {},
            query or {},
            None,
            ok,
            repeat,
        )

    async def _read(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The blob's bytes of a range; RegistryError when the caller's content is shorter."""
        place = start
        async with aclosing(_blocks(self._opener(start))) as blocks:
            async for block in blocks:
                block = block[: end - place]
                place += len(block)
                yield block
                if self._report:
                    self._report(place)
                if place == end:
                    return
        raise Hopeless(f"the blob ends after {place} of {self._descriptor.size} bytes")


async def _blocks(source: BinaryIO | AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if isinstance(source, AsyncIterator):
        async for block in source:
            yield block
        return
    with source:
        while block := await asyncio.to_thread(source.read, BLOCK):
            yield block
