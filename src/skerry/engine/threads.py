"""Blocking work in threads, which nobody leaves behind: cancelled, it is waited for."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def blocking(work: Callable[[], _T]) -> _T:
    """In a thread, which has ended when this returns or raises, also when it is cancelled."""
    done = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        # Whoever cancels twice must not free what the thread still works on.
        while not done.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([done])
        if not done.cancelled():
            done.exception()
        raise
