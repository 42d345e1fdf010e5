"""A blob's bytes, taken up again where a connection was cut (RFC 9110 ranges).

The size of the descriptor is the limit: a byte more ends the download. A server that ignores
`Range` sends from the start; what is held already is then passed over.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from skerry.base.digests import Verifier
from skerry.base.errors import (
    DigestMismatch,
    RegistryError,
    RegistryMismatch,
    RegistryProtocol,
)
from skerry.base.oci_image import Descriptor
from skerry.registry.transport import Ask, Transport
from skerry.registry.wire import Answer, Cut

PROGRESS: Final = 64 << 10
"""Bytes that make a connection a success: fewer, and it counts as a failed attempt. Otherwise a
server that sends one byte and closes could keep us for as long as the blob has bytes."""

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


class Download:
    """One blob on its way, from one source or, after failures, from the next."""

    def __init__(
        self, repository: str, descriptor: Descriptor, start: int, seen: Verifier | None
    ) -> None:
        self._repository = repository
        self._descriptor = descriptor
        self.offset = start
        self.seen = seen
        self.reference = f"{repository}@{descriptor.digest}"

    async def run(self, source: Transport) -> AsyncGenerator[bytes, None]:
        """The rest of the blob; RegistryError when this source cannot give it."""
        descriptor = self._descriptor
        failed = 0
        while self.offset < descriptor.size or (descriptor.size == 0 and failed == 0):
            before = self.offset
            try:
                async with aclosing(self._once(source)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                if self.offset == descriptor.size:
                    break
                reason = f"the answer ended after {self.offset} of {descriptor.size} bytes"
            except Cut as cut:
                reason = str(cut)
            failed = 1 if self.offset - before >= PROGRESS else failed + 1
            if failed >= source.attempts:
                raise source.unreachable(self.reference, reason, failed)
            await source.pause(failed)

    def finish(self, registry: str) -> None:
        """RegistryMismatch unless the bytes are those of the descriptor."""
        if self.seen is not None:
            try:
                self.seen.check(self._descriptor.digest, self._descriptor.size, what="blob")
            except DigestMismatch as error:
                raise RegistryMismatch(registry, self.reference, error.message) from None

    async def _once(self, source: Transport) -> AsyncGenerator[bytes, None]:
        digest = self._descriptor.digest
        headers = {"Range": f"bytes={self.offset}-"} if self.offset else {}
        ask = Ask(
            "GET",
            f"{source.repository(self._repository)}/blobs/{digest}",
            self.reference,
            (source.scope(self._repository),),
            headers,
            ok=frozenset({200, 206}),
        )
        async with source.open(ask) as answer:
            passed_over = self._passed_over(source, answer)
            async with aclosing(answer.chunks()) as chunks:
                async for chunk in chunks:
                    if passed_over:
                        dropped = min(passed_over, len(chunk))
                        passed_over -= dropped
                        chunk = chunk[dropped:]
                        if not chunk:
                            continue
                    self._take(source, chunk)
                    yield chunk

    def _passed_over(self, source: Transport, answer: Answer) -> int:
        """How many bytes of the answer are held already; raises when it is not what was asked."""
        size = self._descriptor.size
        if answer.status == 200:
            if answer.length is not None and answer.length != size:
                raise self._mismatch(source, f"{answer.length} bytes")
            return self.offset
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if not match or int(match.group(1)) != self.offset:
            raise RegistryProtocol(
                source.registry, self.reference, f"asked for bytes from {self.offset}, got others"
            )
        if match.group(3) != "*" and int(match.group(3)) != size:
            raise self._mismatch(source, f"{match.group(3)} bytes")
        return 0

    def _take(self, source: Transport, chunk: bytes) -> None:
        if self.offset + len(chunk) > self._descriptor.size:
            raise self._mismatch(source, "more bytes")
        if self.seen is not None:
            self.seen.update(chunk)
        self.offset += len(chunk)

    def _mismatch(self, source: Transport, what: str) -> RegistryError:
        size = self._descriptor.size
        return RegistryMismatch(
            source.registry, self.reference, f"blob: {what}, the descriptor says {size}"
        )
