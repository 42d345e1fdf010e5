"""Containers in which the kernel kills for lack of memory: told once each time."""

import asyncio
import os
import select
from collections.abc import Iterator
from typing import Any, cast

import pytest

from skerry.base.errors import Unsupported
from skerry.kernel.cgroups_group import OomWatch
from skerry.runtime.driver import oom


class FakeGroup:
    """A group with cgroup v1's kind of watch."""

    def __init__(self, kills: int = 0, *, limited: bool = True) -> None:
        self.kills = kills
        self.limited = limited
        self.event = -1

    def watch_oom(self) -> OomWatch:
        if not self.limited:
            raise Unsupported("no memory controller")
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return OomWatch(self.event, select.POLLIN)

    def oom_kills(self) -> int:
        return self.kills

    def wake(self) -> None:
        os.eventfd_write(self.event, 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(oom, "AFTER", 0.0)
    monkeypatch.setattr(oom, "LOOKS", (0.0, 0.05))
    yield


async def heard(told: "asyncio.Queue[tuple[str, bool]]") -> tuple[str, bool]:
    return await asyncio.wait_for(told.get(), 60)


async def test_kills_are_told_even_when_they_are_counted_late() -> None:
    told: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    watches = oom.OomWatches(lambda *what: told.put_nowait(what))
    before, fresh, without = FakeGroup(3), FakeGroup(), FakeGroup(limited=False)
    for name, group in (("before", before), ("fresh", fresh), ("without", without)):
        watches.watch(name, cast(Any, group))
    assert await heard(told) == ("before", True)
    while fresh.event < 0:
        await asyncio.sleep(0)
    fresh.wake()
    asyncio.get_running_loop().call_later(0.02, setattr, fresh, "kills", 1)
    assert await heard(told) == ("fresh", False)
    fresh.kills = 2
    fresh.wake()
    assert await heard(told) == ("fresh", False)
    assert told.empty()
    watches.forget("fresh")
    watches.forget("fresh")
    watches.close()


async def test_nothing_stays_open() -> None:
    watches = oom.OomWatches(lambda *_: None)
    group = FakeGroup()
    watches.watch("a", cast(Any, group))
    while group.event < 0:
        await asyncio.sleep(0)
    watches.watch("a", cast(Any, FakeGroup()))
    watches.close()
    assert not watches._by_fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(group.event)
