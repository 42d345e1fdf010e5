"""Blocking work in threads."""

import asyncio
import threading

import pytest

from skerry.engine.threads import blocking


async def test_cancelled_twice_it_still_waits_for_the_thread() -> None:
    begun, go = threading.Event(), threading.Event()
    ended = []

    def work() -> None:
        begun.set()
        go.wait(120)
        ended.append(True)
        raise ValueError("nobody asks any more")

    task = asyncio.ensure_future(blocking(work))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended
