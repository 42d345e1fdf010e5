"""Message sockets and attached streams on the event loop."""

import asyncio
import os
import socket
from typing import Any

import pytest

from skerry.base.errors import CommandNotFound, Conflict, Unavailable
from skerry.base.isolation import Exit, Started
from skerry.runtime import wire
from skerry.runtime.driver.link import Control, Link
from skerry.runtime.driver.streams import stream_pair


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(120)
    return ours, theirs


def nothing(*_: Any) -> None:
    return


async def test_messages_wait_for_a_slow_peer_in_order_and_keep_their_descriptors() -> None:
    ours, theirs = pair()
    link = Link(ours, nothing, nothing)
    count = 3000
    for number in range(count):
        reader, writer = os.pipe()
        os.close(reader)
        link.send({"n": number}, fds=(writer,))
    loop = asyncio.get_running_loop()
    for number in range(count):
        message = await loop.run_in_executor(None, wire.receive, theirs)
        assert message is not None
        assert message.head["n"] == number
        (fd,) = message.fds
        os.close(fd)
    link.close()
    theirs.close()


async def test_end_is_told_once_and_not_after_close() -> None:
    ended = []
    ours, theirs = pair()
    link = Link(ours, nothing, lambda: ended.append(1))
    theirs.close()
    await asyncio.sleep(0.01)
    link.close()
    ours, theirs = pair()
    link = Link(ours, nothing, lambda: ended.append(2))
    link.close()
    theirs.close()
    await asyncio.sleep(0.01)
    assert ended == [1]


async def test_an_exit_that_comes_early_waits_for_release() -> None:
    exits: list[Exit | None] = []
    ours, theirs = pair()
    control = Control(ours, exits.append)
    end = Exit(3, False, 5.0)
    wire.send(theirs, {"event": "taken"})
    wire.send(theirs, {"event": "started", "pid": 7, "start_time": 8})
    wire.send(theirs, {"event": "exit", **end._asdict()})
    assert await control.started == Started(7, 8)
    assert await control.ended == end
    assert control.taken
    assert exits == []
    control.release()
    assert exits == []
    await asyncio.sleep(0)
    control.release()
    theirs.close()
    await asyncio.sleep(0.01)
    assert exits == [end]
    control.close()


async def test_a_keeper_that_leaves_without_a_word() -> None:
    exits: list[Exit | None] = []
    ours, theirs = pair()
    control = Control(ours, exits.append)
    wire.send(theirs, {"event": "started", "pid": 7, "start_time": 8})
    await control.started
    control.release()
    theirs.close()
    assert await control.ended is None
    assert exits == [None]
    with pytest.raises(Unavailable):
        await control.request("status")


async def test_failures_are_raised_by_their_type() -> None:
    ours, theirs = pair()
    control = Control(ours, nothing)
    wire.send(theirs, {"event": "failed", "error": wire.error_to_wire(CommandNotFound("no x"))})
    with pytest.raises(CommandNotFound, match="no x"):
        await control.started
    theirs.close()
    ours, theirs = pair()
    control = Control(ours, nothing)
    theirs.close()
    with pytest.raises(Unavailable):
        await control.started


async def test_answers_find_their_questions() -> None:
    ours, theirs = pair()
    control = Control(ours, nothing)
    questions = [asyncio.create_task(control.request("op", n=n)) for n in range(3)]
    await asyncio.sleep(0)
    asked = [wire.receive(theirs) for _ in range(3)]
    for message in reversed(asked):
        assert message is not None
        answer: dict[str, Any] = {"reply": message.head["seq"], "n": message.head["n"]}
        if answer["n"] == 1:
            answer["error"] = wire.error_to_wire(Conflict("busy"))
        wire.send(theirs, answer)
    assert (await questions[0])["n"] == 0
    with pytest.raises(Conflict, match="busy"):
        await questions[1]
    assert (await questions[2])["n"] == 2
    late = asyncio.create_task(control.request("op"))
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(Unavailable):
        await late
    control.close()


async def test_a_stream_half_closes_and_ends() -> None:
    stream, fd = stream_pair()
    with socket.socket(fileno=fd) as other:
        other.settimeout(120)
        await stream.write(b"in")
        await stream.close_stdin()
        assert other.recv(10) == b"in"
        assert other.recv(10) == b""
        other.send(b"out")
        assert await stream.read() == b"out"
    assert await stream.read() == b""
    await stream.write(b"to nobody")
    await stream.close()
    await stream.close()
    assert await stream.read() == b""
