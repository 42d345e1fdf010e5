"""The asynchronous client: the same rules and limits."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skerry.base import errors
from skerry.sdk import AsyncEngine

Start = Callable[..., Any]
Reply = Callable[..., bytes]


async def test_calls(scripted: Start, reply: Reply) -> None:
    server = scripted(reply(b"OK", kind="text/plain"))
    async with AsyncEngine(server.host) as engine:
        assert await engine.ping()


async def test_chunks_and_lines(scripted: Start) -> None:
    server = scripted(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'4\r\n{"a"\r\n7\r\n: 1}\n{"\r\n7\r\nb": 2}\n\r\n0\r\n\r\n'
    )
    async with AsyncEngine(server.host) as engine:
        assert [event async for event in engine.events()] == [{"a": 1}, {"b": 2}]


async def test_errors_by_status(scripted: Start, reply: Reply) -> None:
    server = scripted(reply(b'{"message": "no"}', "409 Conflict"))
    async with AsyncEngine(server.host) as engine:
        with pytest.raises(errors.Conflict, match="no"):
            await engine.containers.get("x")


async def test_no_engine(tmp_path: Path) -> None:
    async with AsyncEngine(f"unix://{tmp_path}/nothing") as engine:
        with pytest.raises(errors.Unavailable):
            await engine.ping()


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (b"nonsense\r\n\r\n", errors.InvalidInput),
        (b"HTTP/1.1 200 OK\r\nX: y", errors.Unavailable),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", errors.LimitExceeded),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", errors.Unavailable),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            errors.InvalidInput,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            errors.Unavailable,
        ),
    ],
)
async def test_hostile_answers(
    scripted: Start, script: bytes, kind: type[errors.SkerryError]
) -> None:
    server = scripted(script)
    async with AsyncEngine(server.host) as engine:
        with pytest.raises(kind):
            await asyncio.wait_for(engine.info(), 120)
