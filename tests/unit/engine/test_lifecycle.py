"""Start, stop, kill, restart, pause, wait: the states and who is told."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from skerry.base.errors import CommandNotFound, Conflict, InvalidInput, NotModified, SystemFault
from skerry.base.isolation import Attach
from skerry.engine import lifecycle
from skerry.engine.engine import Engine

Create = Callable[..., Any]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_started_container_runs_and_ends(
    engine: Engine, driver: Any, create: Create, heard: Callable[[], list[str]]
) -> None:
    container = await create("one")
    await engine.containers.start("one")
    assert container.state.status == "running"
    assert container.state.pid == 4242
    waiting = asyncio.ensure_future(engine.lifecycle.wait(container))
    await settle()
    driver.end(container.id, 3)
    assert (await waiting).code == 3
    assert container.state.status == "exited"
    assert container.state.exit_code == 3
    assert heard() == ["create", "start", "die"]


async def test_a_kill_for_lack_of_memory_is_told_while_it_runs_and_once(
    engine: Engine, driver: Any, create: Create, heard: Callable[[], list[str]]
) -> None:
    container = await create("one")
    driver.on_oom(container.id, False)
    driver.on_oom("nobody", False)
    assert not container.state.oom_killed
    await engine.containers.start("one")
    driver.on_oom(container.id, True)
    assert container.state.oom_killed
    # An engine that was started anew reads the same count again.
    driver.on_oom(container.id, True)
    driver.on_oom(container.id, False)
    driver.end(container.id, 137, oom=True)
    assert container.state.oom_killed
    await engine.containers.start("one")
    assert not container.state.oom_killed
    driver.end(container.id, 137, oom=True)
    await settle()
    assert heard() == ["create", "start", "oom", "oom", "die", "start", "oom", "die"]


async def test_an_end_that_cannot_be_written_is_told_and_written_later(
    engine: Engine, driver: Any, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await create("one")
    await engine.containers.start("one")
    records, put, written = engine.store.records, engine.store.records.put, asyncio.Event()
    monkeypatch.setattr(lifecycle, "_SAVE_AGAIN", 0.0)

    def full(*_: Any) -> None:
        raise SystemFault("database or disk is full")

    monkeypatch.setattr(records, "put", full)
    with pytest.raises(SystemFault):
        engine.containers.rename("one", "two")
    assert engine.containers.find("one") is container
    waiting = asyncio.ensure_future(engine.lifecycle.wait(container))
    await settle()
    driver.end(container.id, 3)
    assert (await waiting).code == 3

    def again(*row: Any) -> None:
        put(*row)
        written.set()

    monkeypatch.setattr(records, "put", again)
    await asyncio.wait_for(written.wait(), 120)
    assert records.get("container", container.id)["state"]["exit_code"] == 3


async def test_a_program_that_ends_before_start_returns(
    engine: Engine, driver: Any, create: Create, heard: Callable[[], list[str]]
) -> None:
    container = await create()
    driver.ends_at_once = 5
    await engine.containers.start(container.id)
    assert container.state.status == "exited"
    assert container.state.exit_code == 5
    assert heard() == ["create", "start", "die"]


async def test_starting_twice_is_not_modified(engine: Engine, create: Create) -> None:
    container = await create()
    await engine.containers.start(container.id)
    with pytest.raises(NotModified):
        await engine.containers.start(container.id)


async def test_a_command_that_is_not_there_leaves_the_container_created(
    engine: Engine, driver: Any, create: Create
) -> None:
    container = await create()
    driver.fail = CommandNotFound('exec: "x": executable file not found in $PATH')
    with pytest.raises(CommandNotFound) as caught:
        await engine.containers.start(container.id)
    said = caught.value.message
    assert said.startswith("failed to create task for container: ")
    assert said.endswith(': exec: "x": executable file not found in $PATH')
    assert container.state.error == said
    assert container.state.status == "created"
    assert container.state.exit_code == 127
    driver.fail = None
    await engine.containers.start(container.id)
    assert container.state.status == "running"


async def test_a_failed_start_removes_a_container_with_rm(
    engine: Engine, driver: Any, create: Create
) -> None:
    container = await create(host={"AutoRemove": True})
    driver.fail = SystemFault("no")
    with pytest.raises(SystemFault):
        await engine.containers.start(container.id)
    await settle()
    assert engine.roster.get(container.id) is None


async def test_stop_sends_the_stop_signal(engine: Engine, driver: Any, create: Create) -> None:
    container = await create(StopSignal="SIGUSR1")
    await engine.containers.start(container.id)
    await engine.lifecycle.stop(container)
    assert ("signal", 10) in driver.calls
    assert container.state.exit_code == 138
    assert container.record.manually_stopped


async def test_stop_kills_what_does_not_listen(engine: Engine, driver: Any, create: Create) -> None:
    container = await create()
    driver.ignores = {15}
    await engine.containers.start(container.id)
    await engine.lifecycle.stop(container, 0)
    assert [call for call in driver.calls if call[0] == "signal"] == [
        ("signal", 15),
        ("signal", 9),
    ]
    assert container.state.exit_code == 137


async def test_stopping_twice_is_not_modified(engine: Engine, create: Create) -> None:
    container = await create()
    with pytest.raises(NotModified):
        await engine.lifecycle.stop(container)


async def test_kill_needs_a_running_container(engine: Engine, create: Create) -> None:
    container = await create("killed")
    with pytest.raises(Conflict, match="is not running"):
        await engine.lifecycle.kill(container)
    with pytest.raises(InvalidInput, match="invalid signal"):
        await engine.lifecycle.kill(container, "SIGNOTHING")


async def test_pause_and_unpause(engine: Engine, driver: Any, create: Create) -> None:
    container = await create()
    with pytest.raises(Conflict, match="is not running"):
        await engine.lifecycle.pause(container)
    await engine.containers.start(container.id)
    await engine.lifecycle.pause(container)
    assert container.state.status == "paused"
    assert container.running
    with pytest.raises(Conflict, match="already paused"):
        await engine.lifecycle.pause(container)
    with pytest.raises(Conflict, match="paused"):
        await engine.containers.start(container.id)
    await engine.lifecycle.unpause(container)
    assert container.state.status == "running"


async def test_a_paused_container_can_be_stopped(engine: Engine, create: Create) -> None:
    container = await create()
    await engine.containers.start(container.id)
    await engine.lifecycle.pause(container)
    await engine.lifecycle.stop(container)
    assert container.state.status == "exited"


async def test_a_container_with_rm_goes_at_its_end(
    engine: Engine, driver: Any, create: Create, heard: Callable[[], list[str]]
) -> None:
    container = await create(host={"AutoRemove": True})
    await engine.containers.start(container.id)
    waiting = asyncio.ensure_future(engine.lifecycle.wait(container, "removed"))
    await settle()
    driver.end(container.id, 9)
    assert (await waiting).code == 9
    assert engine.roster.get(container.id) is None
    assert heard() == ["create", "start", "die", "destroy"]
    assert engine.store.records.all("container") == []


async def test_on_failure_starts_again_until_the_limit(
    engine: Engine, driver: Any, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skerry.engine.restart.FIRST", 0.0)
    policy = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}}
    container = await create(host=policy)
    await engine.containers.start(container.id)
    driver.end(container.id, 1)
    assert container.state.status == "restarting"
    await container.restart_task
    assert container.state.status == "running"
    driver.end(container.id, 1)
    assert container.state.status == "exited"
    assert container.record.restart_count == 1


async def test_a_stopped_container_is_not_restarted(engine: Engine, create: Create) -> None:
    container = await create(host={"RestartPolicy": {"Name": "always"}})
    await engine.containers.start(container.id)
    await engine.lifecycle.stop(container)
    assert container.state.status == "exited"
    assert container.restart_task is None


async def test_stop_ends_the_pause_before_a_restart(
    engine: Engine, driver: Any, create: Create
) -> None:
    container = await create(host={"RestartPolicy": {"Name": "always"}})
    await engine.containers.start(container.id)
    driver.end(container.id, 1)
    assert container.state.status == "restarting"
    await engine.lifecycle.stop(container)
    assert container.state.status == "exited"
    await settle()
    assert container.state.status == "exited"


async def test_clients_that_attached_before_get_the_first_byte(
    engine: Engine, driver: Any, create: Create
) -> None:
    container = await create()
    stream = await engine.containers.attach(container.id, Attach(False, True, False))
    await engine.containers.start(container.id)
    assert ("start", container.id, Attach(False, True, False)) in driver.calls
    driver.stream.chunks.put_nowait(b"hello")
    assert await stream.read() == b"hello"


async def test_clients_are_let_go_when_the_start_fails(
    engine: Engine, driver: Any, create: Create
) -> None:
    container = await create()
    stream = await engine.containers.attach(container.id, Attach())
    driver.fail = SystemFault("no")
    with pytest.raises(SystemFault):
        await engine.containers.start(container.id)
    assert await stream.read() == b""


async def test_one_write_a_step(
    engine: Engine, driver: Any, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[str] = []
    put, delete = engine.store.records.put, engine.store.records.delete
    monkeypatch.setattr(engine.store.records, "put", lambda *a: (writes.append("put"), put(*a))[1])
    monkeypatch.setattr(
        engine.store.records, "delete", lambda *a: (writes.append("delete"), delete(*a))[1]
    )
    container = await create()
    await engine.containers.start(container.id)
    driver.end(container.id, 0)
    await engine.containers.remove(container.id)
    assert writes == ["put", "put", "put", "delete"]
