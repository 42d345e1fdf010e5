"""What a build tells, and how its end is told."""

import asyncio

import pytest

from skerry.build.errors import Cancelled
from skerry.build.events import Tell, follow


async def test_what_comes_together_is_told_together() -> None:
    async def work(tell: Tell) -> None:
        tell({"kind": "a"})
        tell({"kind": "b"})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tell({"kind": "c"})

    found = [[each["kind"] for each in events] async for events in follow(work)]
    assert found == [["a", "b"], ["c"]]


async def test_a_build_that_somebody_else_ended_says_so() -> None:
    tasks = []

    async def work(tell: Tell) -> None:
        tasks.append(asyncio.current_task())
        tell({"kind": "a"})
        await asyncio.Event().wait()

    seen = []
    with pytest.raises(Cancelled):
        async for events in follow(work):
            seen += events
            task = tasks[0]
            assert task is not None
            task.cancel()
    assert [each["kind"] for each in seen] == ["a"]


async def test_an_error_follows_the_last_events() -> None:
    async def work(tell: Tell) -> None:
        tell({"kind": "a"})
        raise ValueError

    seen = []
    with pytest.raises(ValueError):
        async for events in follow(work):
            seen += events
    assert len(seen) == 1
