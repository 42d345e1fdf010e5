"""The processes between engine and program: what they hold, what can be reached of them."""

import os
import signal
from pathlib import Path

import pytest
from tests.kernel.isolation_suite import BOTH, alive, read_until, until
from tests.kernel.test_driver import ContainerWorld
from tests.kernel.test_driver import world as _world

from skerry.runtime import rundir
from skerry.runtime.driver import RuntimeDriver

pytestmark = pytest.mark.root
world = _world


def spawner_of(world: ContainerWorld) -> int:
    assert isinstance(world.driver, RuntimeDriver)
    return world.driver.spawner_pid


def links(pid: int) -> dict[int, str]:
    folder = f"/proc/{pid}/fd"
    return {int(fd): os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}


async def test_a_program_has_its_three_streams_and_nothing_else(world: ContainerWorld) -> None:
    for options in ({"terminal": (24, 80)}, {"open_stdin": True}, {}):
        task = world.task(["sleep", "1000"], **options)
        started, _ = await world.start(task)
        assert set(links(started.pid)) == {0, 1, 2}
    process = world.exec_task(task, ["sleep", "1000"])
    inner, _ = await world.driver.exec(process, world.on_exit, attach=None)
    assert set(links(inner.pid)) == {0, 1, 2}


async def test_programs_heed_all_signals_whatever_the_engine_was_started_with(
    world: ContainerWorld,
) -> None:
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGRTMIN + 3)
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in ignored]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        task = world.task(["sleep", "1000"])
        started, _ = await world.start(task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before:
            signal.signal(number, handler)
    inner, _ = await world.driver.exec(
        world.exec_task(task, ["sleep", "1000"]), world.on_exit, attach=None
    )
    for pid in (started.pid, inner.pid):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        rows = dict(line.split(":\t", 1) for line in lines)
        assert [int(rows[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]


async def test_the_interpreter_cannot_be_written_even_after_its_end(world: ContainerWorld) -> None:
    task = world.task(["sleep", "1000"])
    await world.start(task)
    keeper = rundir.keeper_of(task.run_dir)
    assert keeper is not None
    held = [os.open(f"/proc/{pid}/exe", os.O_RDONLY) for pid in (keeper.pid, spawner_of(world))]
    os.kill(spawner_of(world), signal.SIGKILL)
    await world.delete(task)
    await until(lambda: not alive(keeper.pid), "the keeper stays")
    for fd in held:
        assert os.fstat(fd).st_ino == os.stat("/proc/self/exe").st_ino
        # While another Python runs, an attempt to write fails for that reason (ETXTBSY) already.
        assert os.fstatvfs(fd).f_flag & os.ST_RDONLY
        os.close(fd)


async def test_a_keeper_holds_no_plan_and_nothing_of_the_engine(world: ContainerWorld) -> None:
    task = world.task(["sleep", "1000"])
    await world.start(task)
    keeper = rundir.keeper_of(task.run_dir)
    assert keeper is not None
    # `started` may be told while the descriptors are still on their way.
    await until(lambda: task.log.path in links(keeper.pid).values(), "the log is not handed over")
    await until(lambda: "memfd" not in str(links(keeper.pid)), "the plan stays")
    held = links(keeper.pid)
    sockets = [name for name in held.values() if name.startswith("socket:")]
    assert len(sockets) == 2, "the engine's line and the listening socket"
    assert {held[0], held[1], held[2]} == {os.devnull}
    assert len(held) <= 13, held
    assert os.getpgid(keeper.pid) == os.getsid(keeper.pid) == keeper.pid


async def test_a_silent_keeper_is_small(world: ContainerWorld) -> None:
    tasks = [world.task(["sleep", "1000"]) for _ in range(5)]
    for task in tasks:
        await world.start(task)
    sizes = []
    for task in tasks:
        keeper = rundir.keeper_of(task.run_dir)
        assert keeper is not None
        rollup = Path(f"/proc/{keeper.pid}/smaps_rollup").read_text().splitlines()
        (line,) = [line for line in rollup if line.startswith("Private_Dirty:")]
        sizes.append(int(line.split()[1]))
    # The first ones share fewer pages with the spawner, which is still warming up.
    assert min(sizes) < 900, f"private kilobytes of keepers: {sizes}"


async def test_the_spawner_has_one_thread_and_goes_with_its_engine(world: ContainerWorld) -> None:
    task = world.task("echo up; sleep 1000")
    _, stream = await world.start(task, BOTH)
    assert stream is not None
    await read_until(stream, b"up\n")
    await stream.close()
    pid = spawner_of(world)
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    assert os.getsid(pid) != os.getsid(0)
    await world.next_engine()
    assert not alive(pid)
    keeper = rundir.keeper_of(task.run_dir)
    assert keeper is not None
    assert alive(keeper.pid)
