"""The API over an engine in memory, on a unix socket."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.unit.engine.conftest import (
    create,
    driver,
    engine,
    heard,
    image_root,
    make_engine,
)

from skerry.api.server import serve
from skerry.engine.engine import Engine

__all__ = ["create", "driver", "engine", "heard", "image_root", "make_engine"]


@pytest.fixture
async def socket_path(engine: Engine, tmp_path: Path) -> AsyncIterator[str]:
    """Where the API listens."""
    path = str(tmp_path / "api.sock")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    listening.setblocking(False)
    _, runner = await serve(engine, [listening])
    yield path
    await runner.cleanup()


@pytest.fixture
async def http(socket_path: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of it."""
    connector = aiohttp.UnixConnector(socket_path)
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:
        yield session
