"""An engine that was killed: what the next one makes of records and keepers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skerry.base.errors import SystemFault
from skerry.base.isolation import Exit, Started
from skerry.engine import record, restart
from skerry.engine.engine import Engine

MakeEngine = Callable[[], Engine]


async def killed(engine: Engine) -> None:
    """Leave everything as a killed engine leaves it."""
    engine.store.close()


async def start_one(make: MakeEngine, **host: Any) -> str:
    """A running container of an engine that is killed then; its id."""
    engine = make()
    container, _ = await engine.containers.create({"Image": "busybox", "Cmd": ["x"]}, host)
    await engine.containers.start(container.id)
    os.makedirs(engine.lifecycle.run_dir(container.id), exist_ok=True)
    await killed(engine)
    return container.id


async def recovered(make: MakeEngine, found: dict[str, Any]) -> Engine:
    engine = make()
    driver: Any = engine.driver
    driver.found = found
    snapshots: Any = engine.store.snapshots
    snapshots.ids = set(found)
    await engine.__aenter__()
    return engine


async def test_what_runs_is_adopted(make_engine: MakeEngine) -> None:
    id = await start_one(make_engine)
    engine = await recovered(make_engine, {id: Started(77, 5)})
    container = engine.containers.find(id)
    assert (container.state.status, container.state.pid) == ("running", 77)
    driver: Any = engine.driver
    driver.end(id, 3)
    assert (container.state.status, container.state.exit_code) == ("exited", 3)
    await engine.__aexit__()


async def test_what_ended_meanwhile_has_its_code(make_engine: MakeEngine) -> None:
    id = await start_one(make_engine)
    engine = await recovered(make_engine, {id: Exit(9, True, 1.7e9)})
    state = engine.containers.find(id).state
    assert (state.status, state.exit_code, state.oom_killed) == ("exited", 9, True)
    await engine.__aexit__()


async def test_what_nobody_saw_end_is_exited(make_engine: MakeEngine) -> None:
    id = await start_one(make_engine)
    engine = await recovered(make_engine, {})
    state = engine.containers.find(id).state
    assert state.status == "exited"
    assert state.exit_code == 255
    assert "not seen" in state.error
    await engine.__aexit__()


async def test_a_start_that_was_not_saved_is_found(make_engine: MakeEngine) -> None:
    engine = make_engine()
    container, _ = await engine.containers.create({"Image": "busybox", "Cmd": ["x"]}, {})
    os.makedirs(engine.lifecycle.run_dir(container.id))
    await killed(engine)
    engine = await recovered(make_engine, {container.id: Started(78, 5)})
    assert engine.containers.find(container.id).state.status == "running"
    await engine.__aexit__()


async def test_containers_with_rm_are_removed(make_engine: MakeEngine) -> None:
    id = await start_one(make_engine, AutoRemove=True)
    engine = await recovered(make_engine, {id: Exit(0, False, 1.7e9)})
    container = engine.roster.get(id)
    if container is not None:
        await container.wait_removed()
    assert engine.roster.get(id) is None
    assert engine.store.records.all(record.KIND) == []
    await engine.__aexit__()


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
async def test_restart_policies_are_applied(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    # The first pause is 100 ms, which a busy machine may spend before the state is looked at.
    monkeypatch.setattr(restart, "pause", lambda *_: 3600.0)
    id = await start_one(make_engine, RestartPolicy={"Name": policy})
    engine = await recovered(make_engine, {id: Exit(1, False, 1.7e9)})
    container = engine.containers.find(id)
    assert container.state.status == "restarting"
    assert container.restart_task is not None
    await engine.__aexit__()


async def test_rests_without_a_record_go(make_engine: MakeEngine, tmp_path: Path) -> None:
    rest = "cd" * 32
    for folder in ("root/containers", "run/containers"):
        (tmp_path / folder / rest).mkdir(parents=True)
        (tmp_path / folder / rest / "file").touch()
    (tmp_path / "root/volumes/lost/_data").mkdir(parents=True)
    engine = make_engine()
    snapshots: Any = engine.store.snapshots
    snapshots.ids = {rest}
    async with engine:
        assert not (tmp_path / "root/containers" / rest).exists()
        assert not (tmp_path / "run/containers" / rest).exists()
        assert not (tmp_path / "root/volumes/lost").exists()
        assert snapshots.ids == set()
        driver: Any = engine.driver
        assert ("delete", rest) in driver.calls


async def test_a_record_that_cannot_be_read_is_left_alone(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.store.records.put(record.KIND, "ef" * 32, {"version": 99})
    await killed(engine)
    engine = make_engine()
    async with engine:
        assert len(engine.roster) == 0
        assert len(engine.store.records.all(record.KIND)) == 1


def test_records_of_another_version() -> None:
    with pytest.raises(SystemFault, match="version 99"):
        record.from_plain({"version": 99})
    with pytest.raises(SystemFault, match="damaged"):
        record.from_plain({"version": 1, "id": 5})


async def test_records_come_back_as_they_were(make_engine: MakeEngine) -> None:
    engine = make_engine()
    host = {"Binds": ["vol:/v:ro"], "Memory": 8 << 20}
    container, _ = await engine.containers.create(
        {"Image": "busybox", "Cmd": ["x"], "Labels": {"a": "b"}}, host, {}, "same"
    )
    assert record.from_plain(record.to_plain(container.record)) == container.record
    await killed(engine)
    engine = make_engine()
    async with engine:
        assert engine.containers.find("same").record == container.record
