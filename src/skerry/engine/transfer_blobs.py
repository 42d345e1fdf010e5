"""Bringing one blob from a registry into the store, behind what an earlier download has left."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

from skerry.base.errors import (
    RegistryError,
    RegistryRateLimited,
    RegistryUnreachable,
    SkerryError,
)
from skerry.base.oci_image import Descriptor
from skerry.engine.threads import blocking, to_its_end
from skerry.registry.client import Client
from skerry.store.arrival import Arrival
from skerry.store.blobs import Blobs

_BATCH: Final = 1 << 20
"""Bytes that are hashed and written in one step, away from the event loop."""


async def arrive(blobs: Blobs, digest: str, work: Callable[[Arrival], Awaitable[None]]) -> None:
    """`work` brings the blob into an arrival that goes on behind what is here of it.

    When that turns out not to be the blob's beginning it is forgotten and all is done once more.
    """
    while True:
        making = asyncio.ensure_future(asyncio.to_thread(Arrival, blobs, digest))
        try:
            arrival = await to_its_end(making)
        except asyncio.CancelledError:
            if making.exception() is None:
                with making.result():
                    raise
            raise
        try:
            with arrival:
                await work(arrival)
            return
        except (RegistryUnreachable, RegistryRateLimited):
            raise
        except SkerryError:
            if not arrival.resumed or arrival.committed:
                raise


async def download(
    client: Client,
    repository: str,
    descriptor: Descriptor,
    arrival: Arrival,
    heard: Callable[[], Awaitable[None]],
) -> None:
    """All that is missing; `heard` is called after every piece. The caller commits, to verify."""
    if arrival.size >= descriptor.size:
        # An engine that was killed has left all of it.
        return
    chunks = client.blob(repository, descriptor, arrival.size, verify=False)
    batch: list[bytes] = []
    waiting = 0
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                batch.append(chunk)
                waiting += len(chunk)
                if waiting >= _BATCH:
                    data, batch, waiting = b"".join(batch), [], 0
                    await blocking(partial(arrival.write, data))
                    await heard()
    except RegistryError:
        await blocking(partial(arrival.write, b"".join(batch)))
        raise
    await blocking(partial(arrival.write, b"".join(batch)))
