"""Uploads to a container whose files are in a machine."""

import asyncio
import contextlib
import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import pytest

from skerry.base.errors import Conflict, MachineFault
from skerry.base.isolation import Overlay, Unpacking
from skerry.engine.archive import Archive
from skerry.engine.walls import Walls

SENT = bytes(4 << 20)
"""More than a pipe holds, whatever its size."""


class Machine:
    """A machine that takes so many bytes of an upload, and then ends as it is told to."""

    def __init__(self, takes: int, then: BaseException | None) -> None:
        self.takes, self.then, self.taken = takes, then, 0

    async def unpack(self, _id: str, _layers: Overlay, _run_dir: str, wanted: Unpacking) -> None:
        def take() -> None:
            while self.taken < self.takes and (data := os.read(wanted.fd, 1 << 16)):
                self.taken += len(data)

        await asyncio.to_thread(take)
        if self.then:
            raise self.then

    async def look(self, *_: object) -> None: ...

    async def mirror(self, *_: object) -> None: ...

    async def processes(self, *_: object) -> list[list[str]]:
        return []

    async def rewire(self, *_: object) -> None: ...


@contextlib.asynccontextmanager
async def body() -> AsyncIterator[BinaryIO]:
    yield io.BytesIO(SENT)


async def upload(machine: Machine, folder: Path) -> None:
    @contextlib.asynccontextmanager
    async def seen(*_: object) -> AsyncIterator[Overlay]:
        yield Overlay((), str(folder))

    layers = SimpleNamespace(overlay=lambda _id: Overlay((), str(folder)))
    lifecycle = SimpleNamespace(run_dir=lambda _id: str(folder), seen=seen)
    walls = Walls({"vm": lambda: cast(Any, machine)}, lambda _id: "vm")
    store: Any = SimpleNamespace(snapshots=layers)
    record = SimpleNamespace(host={"Runtime": "skerry-vm"}, mounts=[], running=True, name="box")
    container: Any = SimpleNamespace(id="box", record=record, running=True)
    archive = Archive(store, cast(Any, None), cast(Any, walls), cast(Any, lifecycle))
    await asyncio.wait_for(archive.put(container, "/", body()), 120)


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    pipes = [
        target
        for name in set(os.listdir("/proc/self/fd")) - before
        if (target := _target(name)).startswith("pipe:")
    ]
    assert not pipes


def _target(name: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{name}")
    return ""


@pytest.mark.parametrize("taken", [0, 1, 300_000])
@pytest.mark.parametrize("error", [Conflict("box was removed"), MachineFault("it has ended")])
async def test_one_that_is_removed_meanwhile_ends_the_upload(
    tmp_path: Path, taken: int, error: Exception
) -> None:
    with pytest.raises(type(error), match=str(error)):
        await upload(Machine(taken, error), tmp_path)


async def test_what_is_not_read_is_dropped_and_all_comes_that_is(tmp_path: Path) -> None:
    few, all_ = Machine(1, None), Machine(len(SENT) + 1, None)
    await upload(few, tmp_path)
    await upload(all_, tmp_path)
    assert few.taken < len(SENT) == all_.taken
