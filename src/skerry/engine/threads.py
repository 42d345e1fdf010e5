"""Blocking work in threads, which nobody leaves behind: cancelled, it is waited for."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import TypeVar

_T = TypeVar("_T")


async def blocking(work: Callable[[], _T], pool: Executor | None = None) -> _T:
    """In a thread, which has ended when this returns or raises, also when it is cancelled. What
    may have to wait for a guest has a `pool` of its own: nobody else waits for those threads."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(pool, work))


async def to_its_end(work: Awaitable[_T]) -> _T:
    """Its result; it has ended when this returns or raises, also when the caller is cancelled."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        # Whoever cancels twice must not free what is still worked on.
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise
