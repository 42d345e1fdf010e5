"""The Python client against our engine."""

import asyncio
import io
import tarfile
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from bench.daemons import Skerry

from skerry.base import errors
from skerry.sdk import AsyncEngine, Container, Engine

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_leaks")]


@pytest.fixture
def client(engine: Skerry) -> Iterator[Engine]:
    with Engine(engine.host, timeout=120) as client:
        yield client


@pytest.fixture
def sleeper(client: Engine) -> Iterator[Container]:
    container = client.containers.start("busybox", "sleep 1000", init=True, memory=64 << 20)
    yield container
    container.remove(force=True)


def test_run(client: Engine) -> None:
    done = client.containers.run("busybox", "sh -c 'echo $A; echo e >&2; exit 3'",
                                 environment={"A": "o"})  # fmt: skip
    assert done == (3, b"o\n", b"e\n")
    assert client.containers.list(all=True) == []


def test_errors_are_types(client: Engine, sleeper: Container) -> None:
    with pytest.raises(errors.NotFound):
        client.containers.get("nosuch")
    with pytest.raises(errors.NotFound):
        client.containers.create("nosuch")
    with pytest.raises(errors.Conflict):
        sleeper.remove()
    with pytest.raises(errors.InvalidInput):
        client.containers.run("busybox", "nosuch")
    assert client.containers.list(all=True) == [sleeper]


def test_life_cycle(client: Engine, sleeper: Container) -> None:
    assert sleeper.status == "running"
    assert client.containers.get(sleeper.name) == sleeper
    assert client.containers.list(filters={"status": ["running"]}) == [sleeper]
    sleeper.start()
    sleeper.pause()
    assert sleeper.status == "paused"
    sleeper.unpause()
    sleeper.update(Memory=32 << 20, MemorySwap=64 << 20)
    assert sleeper.inspect()["HostConfig"]["Memory"] == 32 << 20
    sleeper.rename("renamed")
    assert sleeper.name == "renamed"
    assert any("sleep 1000" in row[-1] for row in sleeper.top()["Processes"])
    assert sleeper.stats()["memory_stats"]["limit"] == 32 << 20
    sleeper.stop(timeout=5)
    sleeper.stop()
    assert sleeper.wait() == 143
    sleeper.restart()
    sleeper.kill()
    assert sleeper.wait() == 137


def test_readings_stream(sleeper: Container) -> None:
    stream = sleeper.stats_stream()
    one, two = next(stream), next(stream)
    assert one["read"] < two["read"]
    stream.close()  # type: ignore[attr-defined]


def test_exec_and_files(sleeper: Container) -> None:
    assert sleeper.exec("cat", input=b"x" * 200_000) == (0, b"x" * 200_000, b"")
    assert sleeper.exec(["sh", "-c", "exit 9"]).exit_code == 9
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    sleeper.put_archive("/root", archive.getvalue())
    assert sleeper.exec("cat /root/file").stdout == b"hello"
    got = io.BytesIO(b"".join(sleeper.get_archive("/root/file")))
    with tarfile.open(fileobj=got) as tar:
        assert tar.getnames() == ["file"]
    assert {"Path": "/root/file", "Kind": 1} in sleeper.changes()


def test_attach_and_logs(client: Engine) -> None:
    container = client.containers.create("busybox", "cat", stdin_open=True)
    try:
        with container.attach(stdin=True) as attached:
            container.start()
            attached.write(b"hello")
            attached.close_stdin()
            assert attached.read() == (b"hello", b"")
        assert container.wait() == 0
        assert container.output() == b"hello"
        assert list(container.logs(stderr=False, tail=0)) == []
    finally:
        container.remove(force=True)


def test_images_and_system(client: Engine, sleeper: Container) -> None:
    assert client.system.ping()
    assert client.images.exists("busybox")
    assert not client.images.exists("nosuch")
    assert client.images.bootstrap("busybox").id == client.images.get("busybox").id
    made = sleeper.commit("made:1", message="m")
    try:
        assert client.images.get("made:1").id == made
        assert any("made:1" in image.tags for image in client.images.list())
        assert client.images.get("made:1").history()[0]["Comment"] == "m"
    finally:
        client.images.remove("made:1")
    usage = client.system.usage()
    assert usage["total"] == sum(each["bytes"] for each in usage["categories"].values())
    assert client.system.doctor()


def test_events(client: Engine, engine: Skerry) -> None:
    with Engine(engine.host, timeout=120) as watcher:
        events = watcher.events(filters={"type": ["container"]})
        client.containers.run("busybox", "true")
        actions = []
        for event in events:
            actions.append(event["Action"])
            if event["Action"] == "destroy":
                break
    assert [each for each in actions if each in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]


async def test_many_at_once(engine: Skerry) -> None:
    async with AsyncEngine(engine.host) as client:
        done = await asyncio.gather(
            *(client.containers.run("busybox", ["sh", "-c", f"echo {n}; exit {n}"])
              for n in range(6))
        )  # fmt: skip
        assert done == [(n, b"%d\n" % n, b"") for n in range(6)]
        container = await client.containers.start("busybox", "sh -c 'echo hi; sleep 1000'")
        try:
            following = container.logs(follow=True)
            assert await anext(following) == (1, b"hi\n")
            assert (await container.exec("cat", input=b"in")).stdout == b"in"
            waiting = asyncio.create_task(container.wait())
            await container.kill()
            assert await waiting == 137
            assert [piece async for piece in following] == []
        finally:
            await container.remove(force=True)
        with pytest.raises(errors.NotFound):
            await client.containers.get(container.id)


async def test_events_in_order(engine: Skerry) -> None:
    async with AsyncEngine(engine.host) as client:
        await client.containers.run("busybox", "true")
        seen = [event async for event in client.events(since=1, until=time.time())]
    times = [event["timeNano"] for event in seen]
    assert all(one <= two for one, two in pairwise(times))
    assert times
