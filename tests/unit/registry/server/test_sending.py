"""A file to a client, by threads and by the loop in turns."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pytest

from skerry.registry.server import sending
from skerry.registry.server.sending import Sender

SIZE = 12 << 20


class Line(NamedTuple):
    """A server's transport, the client's end of it, and a file to send."""

    transport: asyncio.Transport
    client: socket.socket
    file: BinaryIO


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    ours, client = socket.socketpair()
    client.setblocking(False)
    with client, open(path, "rb", buffering=0) as file:
        _, writer = await asyncio.open_connection(sock=ours)
        assert isinstance(writer.transport, asyncio.Transport)
        yield Line(writer.transport, client, file)
        writer.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    found = Sender()
    yield found
    await asyncio.to_thread(found.close)


async def receive(client: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < size and (more := await loop.sock_recv(client, 1 << 20)):
        data += more
    return bytes(data)


@pytest.mark.parametrize("turn", [0.0, 1.0], ids=["loop", "threads"])
async def test_every_byte_arrives_in_order(
    line: Line,
    sender: Sender,
    monkeypatch: pytest.MonkeyPatch,
    turn: float,
    open_descriptors: Callable[[], int],
) -> None:
    monkeypatch.setattr(sending, "TURN", turn)
    whole = os.pread(line.file.fileno(), SIZE, 0)
    before = open_descriptors()
    start, end = 17, SIZE - 5
    sent, got = await asyncio.gather(
        sender.send(line.transport, line.file, start, end, 60), receive(line.client, end - start)
    )
    assert sent == end and got == whole[start:end]
    assert open_descriptors() == before


async def test_headers_go_first(line: Line, sender: Sender) -> None:
    # More than the socket holds, so the transport keeps some of it back.
    head = b"h" * (2 << 20)
    line.transport.write(head)
    assert line.transport.get_write_buffer_size()
    _, got = await asyncio.gather(
        sender.send(line.transport, line.file, 0, 100_000, 60),
        receive(line.client, len(head) + 100_000),
    )
    assert got == head + os.pread(line.file.fileno(), 100_000, 0)


async def test_clients_that_take_nothing_hold_no_thread(
    line: Line, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PATIENCE", 1)
    with pytest.raises(TimeoutError):
        await sender.send(line.transport, line.file, 0, SIZE, 0.1)
    assert sender._free == sending.THREADS


async def test_a_client_that_goes_while_it_is_served(
    line: Line, sender: Sender, open_descriptors: Callable[[], int]
) -> None:
    before = open_descriptors()
    sent = asyncio.ensure_future(sender.send(line.transport, line.file, 0, SIZE, 60))
    await receive(line.client, 1)
    line.client.close()
    with pytest.raises(ConnectionError):
        await sent
    assert sender._free == sending.THREADS
    assert open_descriptors() <= before


async def test_a_request_that_is_cancelled(
    line: Line, sender: Sender, open_descriptors: Callable[[], int]
) -> None:
    before = open_descriptors()
    sent = asyncio.ensure_future(sender.send(line.transport, line.file, 0, SIZE, 60))
    await receive(line.client, 1)
    sent.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sent
    await asyncio.to_thread(sender.close)
    assert open_descriptors() <= before


async def test_a_file_that_ends_early(line: Line, sender: Sender) -> None:
    os.truncate(line.file.name, 1000)
    assert await sender.send(line.transport, line.file, 0, SIZE, 60) == 1000
    assert await receive(line.client, 1000) == os.pread(line.file.fileno(), 1000, 0)
