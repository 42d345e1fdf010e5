"""Whatever is killed, and whenever: nothing is left that recovery cannot find."""

import asyncio
import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kernel.isolation_suite import BOTH, alive, logged, read_until, until
from tests.kernel.test_driver import ContainerWorld
from tests.kernel.test_driver import world as _world

from skerry.base.errors import Unavailable
from skerry.base.isolation import Exit, Started, Task
from skerry.runtime import rundir
from skerry.runtime.driver import RuntimeDriver, driver
from skerry.runtime.driver.spawning import Spawner

pytestmark = pytest.mark.root
world = _world

REPOSITORY = Path(__file__).resolve().parents[2]

ENGINE = """
import asyncio, json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/src"]
from skerry.base.isolation import ExecTask, LogOptions, Overlay, Task
from skerry.runtime.driver import RuntimeDriver, driver
from skerry.runtime.driver.spawning import Spawner

def revive(fields):
    task = Task(**fields)
    return task._replace(rootfs=Overlay(*task.rootfs), log=LogOptions(*task.log))

async def main():
    driver = RuntimeDriver(cgroup_parent=sys.argv[2])
    tasks = [revive(fields) for fields in json.loads(sys.stdin.read())]
    print("ready", flush=True)

    async def live(task):
        ended = asyncio.Event()
        await driver.create(task)
        await driver.start(task, lambda id, end: ended.set())
        process = dict(task.spec["process"], args=["/bin/true"], terminal=False)
        done = asyncio.Event()
        run_dir = task.run_dir + "/exec/e1"
        await driver.exec(
            ExecTask("e1" + task.id, task.id, process, run_dir), lambda id, end: done.set(),
            attach=None,
        )
        await done.wait()
        await driver.delete(task.id, task.state_dir, task.run_dir)

    while tasks:
        await asyncio.gather(*(live(tasks.pop()) for _ in range(min(3, len(tasks)))))

asyncio.run(main())
"""


def lock_holder(task: Task) -> int:
    keeper = rundir.keeper_of(task.run_dir)
    assert keeper is not None
    return keeper.pid


async def test_engine_killed_at_any_instant_leaves_only_what_delete_removes(
    world: ContainerWorld,
) -> None:
    chance = random.Random(7)
    for _ in range(12):
        tasks = [world.task(["sleep", "1000"]) for _ in range(9)]
        engine = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(REPOSITORY), world.parent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert engine.stdin is not None
        assert engine.stdout is not None
        engine.stdin.write(json.dumps([task._asdict() for task in tasks]).encode())
        engine.stdin.close()
        assert engine.stdout.readline() == b"ready\n"
        select.select([engine.stdout], [], [], chance.uniform(0, 0.25))
        engine.kill()
        engine.wait()
        engine.stdout.close()
        await world.next_engine()
        found = [await world.driver.recover(task.id, task.run_dir, world.on_exit) for task in tasks]
        for task, state in zip(tasks, found, strict=True):
            # The engine may have killed it with its last breath: then its end must be told.
            if isinstance(state, Started) and not alive(state.pid):
                await world.ended(task.id)
            await world.delete(task)
        await until(lambda: not world.leftovers(), f"left behind: {world.leftovers()}")


async def test_keeper_killed_under_a_living_engine(world: ContainerWorld) -> None:
    task = world.task("sleep 1000 & sleep 1000")
    started, _ = await world.start(task)
    os.kill(lock_holder(task), signal.SIGKILL)
    end = await world.ended(task.id)
    assert end.code == 137
    assert "keeper" in end.error
    assert not alive(started.pid)
    assert rundir.read_exit(task.run_dir) == end
    await world.start(task)
    del world.exits[task.id]
    await world.driver.signal(task.id, task.run_dir, signal.SIGKILL)
    assert (await world.ended(task.id)).error == ""


async def test_keeper_killed_while_no_engine_lives(world: ContainerWorld) -> None:
    task = world.task("sleep 1000 & sleep 1000")
    started, _ = await world.start(task)
    await world.driver.close()
    os.kill(lock_holder(task), signal.SIGKILL)
    await world.next_engine()
    for _ in range(2):
        end = await world.driver.recover(task.id, task.run_dir, world.on_exit)
        assert isinstance(end, Exit)
        assert (end.code, bool(end.error)) == (137, True)
    assert not alive(started.pid)
    assert not (Path(task.run_dir) / rundir.SOCKET).exists()


async def test_keeper_of_an_exec_killed(world: ContainerWorld) -> None:
    task = world.task(["sleep", "1000"])
    started, _ = await world.start(task)
    process = world.exec_task(task, ["sleep", "1000"])
    inner, _ = await world.driver.exec(process, world.on_exit, attach=None)
    keeper = rundir.keeper_of(process.run_dir)
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
    assert "keeper" in (await world.ended(process.id)).error
    assert not alive(inner.pid)
    assert alive(started.pid)


async def test_execs_while_keepers_stand_by_and_are_killed(world: ContainerWorld) -> None:
    """Whether one stands by, is half ready, was killed or has just been: an exec runs once."""
    assert isinstance(world.driver, RuntimeDriver)
    task = world.task(["sleep", "1000"])
    await world.start(task)

    def standing_by() -> list[int]:
        pids = [int(pid) for pid in children(world.driver.spawner_pid)]
        return [pid for pid in pids if _comm(pid) == "skerry-standby"]

    for kill_it in (False, True, False):
        end, output = await world.exec(task, "echo $$; exit 3")
        assert (end.code, list(output)) == (3, [1])
        await until(lambda: len(standing_by()) == 1, "no keeper stands by after an exec")
        if kill_it:
            os.kill(standing_by()[0], signal.SIGKILL)
    both = [world.exec(task, "echo once") for _ in range(3)]
    assert {tuple(output.items()) for _, output in await asyncio.gather(*both)} == {
        ((1, b"once\n"),)
    }


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def test_keeper_killed_while_it_launches(world: ContainerWorld) -> None:
    marker = world.home / "launching"

    def change(spec: dict[str, object]) -> None:
        script = f"touch {marker}; while test -e {marker}; do sleep 0.05; done"
        spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    task = world.task(["true"], change=change)
    await world.driver.create(task)
    starting = asyncio.create_task(world.driver.start(task, world.on_exit))
    await until(marker.exists, "the hook does not run")
    os.kill(lock_holder(task), signal.SIGKILL)
    with pytest.raises(Unavailable):
        await starting
    marker.unlink()
    assert rundir.keeper_of(task.run_dir) is None
    await world.delete(task)
    await until(lambda: not world.leftovers(), f"left behind: {world.leftovers()}")
    assert task.id not in world.exits


async def test_engine_killed_during_a_launch_that_hangs(
    world: ContainerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_RECOVERY_PATIENCE", 0.5)
    marker = world.home / "launching"

    def change(spec: dict[str, object]) -> None:
        script = f"touch {marker}; while test -e {marker}; do sleep 0.05; done"
        spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    task = world.task(["true"], change=change)
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(REPOSITORY), world.parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert engine.stdin is not None
    engine.stdin.write(json.dumps([task._asdict()]).encode())
    engine.stdin.close()
    await until(marker.exists, "the hook does not run")
    engine.kill()
    engine.wait()
    assert await world.driver.recover(task.id, task.run_dir, world.on_exit) is None
    marker.unlink()
    assert rundir.keeper_of(task.run_dir) is None
    await world.delete(task)
    await until(lambda: not world.leftovers(), f"left behind: {world.leftovers()}")


async def test_start_that_is_given_up_leaves_nothing(world: ContainerWorld) -> None:
    for _ in range(5):
        task = world.task(["sleep", "1000"])
        await world.driver.create(task)
        starting = asyncio.create_task(world.driver.start(task, world.on_exit))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await until(
            lambda task=task: os.path.exists(os.path.join(task.run_dir, rundir.EXIT)), "it runs on"
        )
        await world.delete(task)
    assert not world.exits, "an end was told of what never started"


async def test_spawner_killed_between_requests(world: ContainerWorld) -> None:
    before = world.task(["sleep", "1000"])
    started, _ = await world.start(before)
    assert isinstance(world.driver, RuntimeDriver)
    os.kill(world.driver.spawner_pid, signal.SIGKILL)
    task = world.task("echo still here")
    end, output = await world.run(task)
    assert (end.code, output) == (0, {1: b"still here\n"})
    assert alive(started.pid)
    await world.driver.signal(before.id, before.run_dir, signal.SIGKILL)
    assert (await world.ended(before.id)).code == 137


async def test_spawner_killed_with_requests_in_flight(world: ContainerWorld) -> None:
    assert isinstance(world.driver, RuntimeDriver)
    await world.run(world.task(["true"]))
    tasks = [world.task(["true"]) for _ in range(10)]
    pid = world.driver.spawner_pid
    os.kill(pid, signal.SIGSTOP)
    running = [asyncio.create_task(world.run(task)) for task in tasks]
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    # Nothing was begun, so all of them are repeated and nobody sees it.
    assert [end.code for end, _ in await asyncio.gather(*running)] == [0] * 10


async def test_spawner_that_cannot_start_is_said_so(
    world: ContainerWorld,
) -> None:
    driver = RuntimeDriver(cgroup_parent=world.parent, spawner=Spawner("raise SystemExit(3)"))
    task = world.task(["true"])
    await driver.create(task)
    with pytest.raises(Unavailable, match="spawner"):
        await driver.start(task, world.on_exit)
    await driver.delete(task.id, task.state_dir, task.run_dir)
    await driver.close()


async def test_a_stopped_keeper_blocks_nobody_else(world: ContainerWorld) -> None:
    task = world.task(["sleep", "1000"])
    await world.start(task)
    keeper = lock_holder(task)
    os.kill(keeper, signal.SIGSTOP)
    try:
        assert (await world.run(world.task(["true"])))[0].code == 0
    finally:
        os.kill(keeper, signal.SIGCONT)


async def test_output_goes_on_while_the_engine_is_away(world: ContainerWorld) -> None:
    task = world.task("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done")
    _, stream = await world.start(task, BOTH)
    assert stream is not None
    await read_until(stream, b"line 3\n")
    await world.next_engine()
    log = Path(task.log.path)
    await until(lambda: b"line 20\\n" in log.read_bytes(), "the log has stopped")
    assert isinstance(await world.driver.recover(task.id, task.run_dir, world.on_exit), Started)
    texts = [text for _, text in logged(task)]
    assert texts == [f"line {number}\n" for number in range(1, len(texts) + 1)]
    await stream.close()


async def test_a_task_without_pid_namespace_ends_as_a_whole(world: ContainerWorld) -> None:
    def change(spec: dict[str, dict[str, list[dict[str, str]]]]) -> None:
        spaces = spec["linux"]["namespaces"]
        spec["linux"]["namespaces"] = [space for space in spaces if space["type"] != "pid"]

    task = world.task("(sleep 1000 &) ; (sh -c 'exit 0' &) ; sleep 1000", change=change)
    started, _ = await world.start(task)
    keeper = lock_holder(task)
    await until(lambda: len(children(keeper)) == 2, "the orphan is not the keeper's")
    await world.driver.signal(task.id, task.run_dir, signal.SIGTERM)
    assert (await world.ended(task.id)).code == 128 + signal.SIGTERM
    assert not alive(started.pid)
    await world.delete(task)
    await until(lambda: not world.leftovers(), f"left behind: {world.leftovers()}")


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
