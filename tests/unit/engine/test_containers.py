"""Create, find, list, rename, update, remove, prune; volumes; execs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.conftest import FakeStream

from skerry.base.errors import Conflict, InvalidInput, NotFound
from skerry.base.isolation import Attach, Exit
from skerry.engine import attach
from skerry.engine.engine import Engine
from skerry.kernel.cgroups import Hierarchy, Layout

Create = Callable[..., Any]


def names(containers: Any) -> list[str]:
    return [container.record.name for container in containers]


def filters(**wanted: str) -> dict[str, frozenset[str]]:
    return {key.replace("_", "-"): frozenset({value}) for key, value in wanted.items()}


async def test_found_by_name_id_and_prefix(engine: Engine, create: Create) -> None:
    container = await create("found")
    for reference in ("found", "/found", container.id, container.id[:12]):
        assert engine.containers.find(reference) is container
    with pytest.raises(NotFound, match="No such container: absent"):
        engine.containers.find("absent")
    with pytest.raises(NotFound):
        engine.containers.find("")
    others = [await create() for _ in range(17)]
    digits = {each.id[0] for each in (*others, container)}
    assert len(digits) < 18
    first = next(d for d in digits if sum(e.id[0] == d for e in (*others, container)) > 1)
    with pytest.raises(InvalidInput, match="Multiple IDs"):
        engine.containers.find(first)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (filters(name="^run"), ["runs"]),
        (filters(status="created"), ["labelled", "fresh"]),
        (filters(status="exited"), ["ended"]),
        (filters(exited="3"), ["ended"]),
        (filters(exited="4"), []),
        (filters(label="a"), ["labelled"]),
        (filters(label="a=c"), []),
        (filters(ancestor="busybox"), ["labelled", "ended", "runs", "fresh"]),
        (filters(ancestor="other"), []),
        (filters(volume="/data"), ["labelled"]),
        (filters(network="none"), ["labelled"]),
        (filters(before="runs"), ["fresh"]),
        (filters(since="runs"), ["labelled", "ended"]),
        (filters(health="none"), ["labelled", "ended", "runs", "fresh"]),
        (filters(is_task="true"), []),
        (filters(publish="80"), []),
    ],
)
async def test_filters(
    engine: Engine, driver: Any, create: Create, wanted: Any, expected: list[str]
) -> None:
    await create("fresh")
    await create("runs")
    ended = await create("ended")
    host = {"NetworkMode": "none", "Tmpfs": {"/data": ""}}
    await create("labelled", host, Labels={"a": "b"})
    for name in ("runs", "ended"):
        await engine.containers.start(name)
    driver.end(ended.id, 3)
    assert names(engine.containers.select(wanted, all=True)) == expected


async def test_only_running_ones_are_listed_unless_asked(engine: Engine, create: Create) -> None:
    for name in ("one", "two", "three"):
        await create(name)
    await engine.containers.start("two")
    assert names(engine.containers.select({})) == ["two"]
    assert names(engine.containers.select({}, all=True)) == ["three", "two", "one"]
    assert names(engine.containers.select({}, limit=1)) == ["three"]


async def test_rename(engine: Engine, create: Create) -> None:
    await create("old")
    await create("other")
    with pytest.raises(Conflict):
        engine.containers.rename("old", "other")
    with pytest.raises(InvalidInput):
        engine.containers.rename("old", "!")
    engine.containers.rename("old", "new")
    assert engine.containers.find("new").record.name == "new"
    with pytest.raises(NotFound):
        engine.containers.find("old")
    await create("old")


async def test_update_of_a_running_container(engine: Engine, driver: Any, create: Create) -> None:
    container = await create()
    with pytest.raises(Conflict, match="update the memoryswap at the same time"):
        await engine.containers.update(container.id, {"Memory": 64 << 20})
    await engine.containers.update(container.id, {"Memory": 64 << 20, "MemorySwap": 64 << 20})
    assert not [call for call in driver.calls if call[0] == "update"]
    await engine.containers.start(container.id)
    await engine.containers.update(container.id, {"PidsLimit": 5})
    told = next(call[1] for call in driver.calls if call[0] == "update")
    assert told["pids"] == {"limit": 5}
    with pytest.raises(InvalidInput):
        await engine.containers.update(container.id, {"Memory": 1})
    assert container.record.host["Memory"] == 64 << 20
    for changes, expected in (
        ({"CpuPeriod": 50_000}, {"cpu": {"period": 50_000}}),
        ({"CpuQuota": 10_000}, {"cpu": {"period": 50_000, "quota": 10_000}}),
        ({"MemorySwap": -1}, {"memory": {"limit": 64 << 20, "swap": -1}}),
        ({"PidsLimit": -1}, {"pids": {"limit": -1}}),
        ({"Memory": 96 << 20}, {"memory": {"limit": 96 << 20, "swap": -1}}),
    ):
        await engine.containers.update(container.id, changes)
        assert driver.calls[-1] == ("update", expected)


async def test_what_the_kernel_cannot_do_and_is_no_limit_is_discarded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    unified = Layout("unified", (), Hierarchy(("memory",), "/nowhere", "/"))
    monkeypatch.setattr(engine.host, "layout", unified)
    wanted = {
        "Memory": 64 << 20,
        "MemorySwappiness": 0,
        "OomKillDisable": True,
        "BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 100}],
    }
    container, warnings = await engine.containers.create({"Image": "busybox"}, wanted)
    assert container.record.host == {"Memory": 64 << 20}
    assert len(warnings) == 4  # The last tells of the network.
    assert warnings[1] == "Your kernel does not support OomKillDisable. OomKillDisable discarded."
    assert await engine.containers.update(container.id, {"BlkioWeight": 300}) == [
        "Your kernel does not support Block I/O weight or the cgroup is not mounted. "
        "Weight discarded."
    ]
    assert "BlkioWeight" not in container.record.host


async def test_remove(engine: Engine, driver: Any, create: Create) -> None:
    container = await create("gone")
    await engine.containers.start("gone")
    with pytest.raises(Conflict, match="stop the container before removing or force remove"):
        await engine.containers.remove("gone")
    await engine.containers.remove("gone", force=True)
    assert ("signal", 9) in driver.calls
    assert ("delete", container.id) in driver.calls
    assert engine.store.snapshots.list() == []
    assert not Path(engine.lifecycle.state_dir(container.id)).exists()


async def test_a_failed_create_leaves_nothing(
    engine: Engine, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise Conflict("no")

    monkeypatch.setattr(engine.store.records, "put", refuse)
    with pytest.raises(Conflict):
        await create("half")
    assert len(engine.roster) == 0
    assert engine.store.snapshots.list() == []
    assert not list((Path(engine.settings.root) / "containers").iterdir())


async def test_prune(engine: Engine, driver: Any, create: Create) -> None:
    await create("one", Labels={"keep": "1"})
    await create("two")
    await create("runs")
    await engine.containers.start("runs")
    removed = await engine.containers.prune({"label!": frozenset({"keep"})})
    assert len(removed.ids) == 1
    assert removed.bytes == 7
    assert names(engine.containers.select({}, all=True)) == ["runs", "one"]
    with pytest.raises(InvalidInput):
        await engine.containers.prune({"colour": frozenset({"red"})})


async def test_volumes_are_filled_from_the_image_once(
    engine: Engine, create: Create, image_root: Path
) -> None:
    (image_root / "data").mkdir(mode=0o750)
    (image_root / "data/file").write_text("from the image")
    container = await create(host={"Binds": ["named:/data"]})
    source = Path(container.record.mounts[0].source)
    assert (source / "file").read_text() == "from the image"
    (source / "file").write_text("changed")
    await create(host={"Binds": ["named:/data"]})
    assert (source / "file").read_text() == "changed"
    with pytest.raises(Conflict, match="volume is in use"):
        engine.volumes.remove("named")


async def test_anonymous_volumes_go_with_their_container(engine: Engine, create: Create) -> None:
    kept = await create(host={"Binds": ["/data"]})
    gone = await create(Volumes={"/data": {}})
    assert len(engine.volumes.all()) == 2
    await engine.containers.remove(gone.id, volumes=True)
    assert [each.name for each in engine.volumes.all()] == [kept.record.mounts[0].name]
    await engine.containers.remove(kept.id)
    assert len(engine.volumes.all()) == 1


async def test_mounts_of_another_container(engine: Engine, create: Create) -> None:
    await create("first", {"Binds": ["shared:/a"], "Tmpfs": {"/t": ""}})
    second = await create("second", {"VolumesFrom": ["first:ro"]})
    (point,) = second.record.mounts
    assert (point.target, point.name, point.read_only) == ("/a", "shared", True)


async def test_execs(engine: Engine, driver: Any, create: Create) -> None:
    container = await create()
    with pytest.raises(Conflict, match="is not running"):
        engine.execs.create(container.id, {"Cmd": ["x"]})
    await engine.containers.start(container.id)
    with pytest.raises(InvalidInput, match="No exec command"):
        engine.execs.create(container.id, {})
    exec = engine.execs.create(container.id, {"Cmd": ["ls"], "Env": ["A=b"]})
    await engine.execs.start(exec, None)
    task, on_exit = driver.execs[exec.id]
    assert task.detach
    assert task.process["args"] == ["ls"]
    assert "A=b" in task.process["env"]
    assert task.run_dir.startswith(engine.lifecycle.run_dir(container.id))
    on_exit(exec.id, Exit(5, False, 0.0))
    assert (exec.running, exec.code) == (False, 5)
    with pytest.raises(Conflict, match="has already run"):
        await engine.execs.start(exec, None)
    await engine.lifecycle.pause(container)
    with pytest.raises(Conflict, match="is paused"):
        engine.execs.create(container.id, {"Cmd": ["x"]})


async def test_usage_adds_up(engine: Engine, create: Create) -> None:
    container = await create(host={"Binds": ["data:/d"]})
    Path(container.record.mounts[0].source, "file").write_bytes(b"x" * 10_000)
    usage = await engine.accounts.usage()
    assert usage.containers == {container.id: 7}
    assert usage.volumes[0].bytes >= 10_000
    assert usage.volumes[0].users == 1


async def test_one_stream_for_two_clients() -> None:
    import struct

    out = struct.pack(">BxxxI", 1, 3) + b"out"
    err = struct.pack(">BxxxI", 2, 3) + b"err"
    stream = FakeStream(out[:5], out[5:] + err, b"")
    first, second = attach.Pending(Attach()), attach.Pending(Attach(stderr=False))
    assert attach.union([first, second]) == Attach()
    attach.deliver(stream, [first, second], terminal=False)
    assert await first.read() + await first.read() in (out + err, out + err)
    assert await second.read() == out
    assert await second.read() == b""
    await first.close()
    assert not stream.closed
    await second.close()
    assert stream.closed
