"""Bringing layers: each one once, however many pulls want it, unpacked while it comes in.

A *flight* is one layer on its way. Pulls that want the same one join it and hear its progress; it
ends when the last of them has left. Downloads write to a growing file and are never held up by
unpacking, which follows in a thread of its own. Order does not matter: layers lie side by side.

When a flight fails, those that joined it try by themselves: another registry, or other credentials,
may do better.
"""

import asyncio
import contextlib
from functools import partial
from typing import Final, NamedTuple

from skerry.base.errors import SkerryError, SystemFault
from skerry.base.oci_image import Descriptor
from skerry.engine.threads import blocking
from skerry.engine.transfer_blobs import arrive, download
from skerry.engine.transfer_progress import Listener, Meter, end
from skerry.registry.client import Client
from skerry.store import Store
from skerry.store.arrival import Arrival

DOWNLOADS: Final = 3
"""Layers that come in at the same time, in one engine: Docker's max-concurrent-downloads."""
UNPACKS: Final = 2
"""Layers that are unpacked at the same time: this is work for a processor."""


class Layer(NamedTuple):
    """One layer of a manifest and what it is when unpacked."""

    descriptor: Descriptor
    diff_id: str

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others."""
        return self.descriptor.digest, self.diff_id

    @property
    def shown(self) -> str:
        """Docker's short id for it in a pull."""
        return self.descriptor.digest.partition(":")[2][:12]


class _Flight:
    """One layer on its way; `task` does the work."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self._said: tuple[str, int, int] = ("Pulling fs layer", 0, 0)
        self._listeners: list[Listener] = []

    def join(self, listener: Listener) -> None:
        self._listeners.append(listener)
        if self._said[0] != "Pulling fs layer":
            listener(*self._said)

    def leave(self, listener: Listener) -> bool:
        """Whether that was the last one, and the work is to be ended."""
        self._listeners.remove(listener)
        return not self._listeners and not self.task.done()

    def say(self, status: str, current: int = 0, total: int = 0) -> None:
        self._said = (status, current, total)
        for listener in self._listeners:
            listener(status, current, total)


class Layers:
    """The layers that are on their way to one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._downloads = asyncio.Semaphore(DOWNLOADS)
        self._unpacks = asyncio.Semaphore(UNPACKS)

    def held(self, layer: Layer) -> bool:
        """Whether blob and unpacked layer are here; then they outlive the leases held now."""
        blob = self._store.blobs.has(layer.descriptor.digest)
        return blob and self._store.layers.has(layer.diff_id)

    async def bring(
        self, client: Client, repository: str, layer: Layer, listener: Listener
    ) -> None:
        """Return when the layer is here, unpacked and on the disk.

        To be called under a lease. Raises what the client and the store raise, each naming the
        layer. `listener` hears Docker's words for what happens.
        """
        while True:
            flight = self._flights.get(layer.key)
            own = flight is None
            if flight is None:
                flight = self._start(client, repository, layer)
            flight.join(listener)
            try:
                # A wait, not an await: when the flight is cancelled, we are not.
                await asyncio.wait([flight.task])
            finally:
                if flight.leave(listener):
                    # Nothing of it may be under way when the caller puts away what it left.
                    await end([flight.task])
            if flight.task.cancelled():
                continue
            error = flight.task.exception()
            if error is None:
                return
            if own or not isinstance(error, SkerryError):
                raise error

    async def settle(self, client: Client) -> None:
        """Return when no flight uses the client any more."""
        name = _name(client)
        while users := [f.task for f in self._flights.values() if f.task.get_name() == name]:
            await asyncio.wait(users)

    def _start(self, client: Client, repository: str, layer: Layer) -> _Flight:
        flight = _Flight()
        work = self._bring(client, repository, layer, flight.say)
        flight.task = asyncio.create_task(work, name=_name(client))
        self._flights[layer.key] = flight

        def ended(task: asyncio.Task[None]) -> None:
            if self._flights.get(layer.key) is flight:
                del self._flights[layer.key]

        flight.task.add_done_callback(ended)
        return flight

    async def _bring(self, client: Client, repository: str, layer: Layer, say: Listener) -> None:
        if self.held(layer):
            say("Already exists", 0, 0)
            return
        with self._store.leases.hold():
            if self._store.blobs.has(layer.descriptor.digest):
                async with self._unpacks:
                    await asyncio.to_thread(
                        self._store.layers.unpack, layer.descriptor, layer.diff_id
                    )
            else:
                await self._receive(client, repository, layer, say)
        say("Pull complete", 0, 0)

    async def _receive(self, client: Client, repository: str, layer: Layer, say: Listener) -> None:
        descriptor = layer.descriptor
        if self._downloads.locked():
            say("Waiting", 0, 0)
        await self._downloads.acquire()
        with contextlib.ExitStack() as downloading:
            downloading.callback(self._downloads.release)

            async def work(arrival: Arrival) -> None:
                unpacking = asyncio.create_task(self._unpack(arrival, layer, say))
                meter = Meter("Downloading", descriptor.size, say)

                async def heard() -> None:
                    meter.at(arrival.size)
                    if unpacking.done():
                        # It cannot have come to a good end before the blob has.
                        await unpacking

                try:
                    await download(client, repository, descriptor, arrival, heard)
                    meter.at(arrival.size)
                    say("Verifying Checksum", 0, 0)
                    await blocking(partial(arrival.commit, descriptor.digest, descriptor.size))
                    say("Download complete", 0, 0)
                    downloading.close()
                    await unpacking
                except BaseException:
                    await _give_up(arrival, layer, unpacking)
                    raise

            await arrive(self._store.blobs, descriptor.digest, work)

    async def _unpack(self, arrival: Arrival, layer: Layer, say: Listener) -> None:
        async with self._unpacks:
            loop = asyncio.get_running_loop()
            done = asyncio.Event()
            ticking = asyncio.create_task(_tick(arrival, layer, say, done))
            work = loop.run_in_executor(
                None, self._store.layers.unpack, layer.descriptor, layer.diff_id, arrival.chunks()
            )
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                work.exception()  # Nobody else asks for it; unasked, it would be logged.
                raise
            finally:
                done.set()
                await asyncio.wait([ticking])


async def _give_up(arrival: Arrival, layer: Layer, unpacking: asyncio.Task[None]) -> None:
    """Its thread has to be gone before anybody puts away what was left."""
    arrival.fail(SystemFault(f"layer {layer.descriptor.digest}: given up"))
    await end([unpacking])


async def _tick(arrival: Arrival, layer: Layer, say: Listener, done: asyncio.Event) -> None:
    """Tell how far unpacking is, once the download no longer speaks."""
    meter = Meter("Extracting", layer.descriptor.size, say)
    while not done.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 0.1)
        if arrival.committed:
            meter.at(arrival.taken)


def _name(client: Client) -> str:
    return f"skerry-layer-{id(client)}"
