"""The conformance suite of `skerry.engine.isolation.Driver`: what every driver must do.

A driver's test module derives a class from `IsolationSuite` and gives it a fixture `world`, in
which the driver is made, tasks are described and leftovers are counted. Nothing in here knows how a
driver builds its wall.
"""

import asyncio
import json
import os
import signal
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from skerry.base.errors import CommandNotExecutable, CommandNotFound, Conflict, InvalidInput
from skerry.base.isolation import Attach, ExecTask, Exit, Started, Task
from skerry.engine.isolation import Driver, Stream

DEADLINE = 180.0
"""Seconds: for a machine without KVM, on a host with much else to do."""
BOTH = Attach(stdin=False, stdout=True, stderr=True)
ALL = Attach(stdin=True, stdout=True, stderr=True)


class World:
    """A driver and the tasks of one test."""

    many = 24
    """How many tasks to run at once."""
    some = 10
    """How many to run one after the other, where one might be lucky."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.exits: dict[str, list[Exit]] = {}

    def task(self, script: str | list[str], **options: Any) -> Task:
        """A task that runs `sh -c script`, or a list of arguments.

        Options are Task's, and `terminal`, `change` (a function that edits the configuration).
        """
        raise NotImplementedError

    def exec_task(self, task: Task, script: str | list[str], **options: Any) -> ExecTask:
        """A process in `task`'s container."""
        raise NotImplementedError

    async def next_engine(self) -> None:
        """The engine dies without a word, and another one comes with a fresh driver."""
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """What the driver has left on this host and should not: processes, cgroups, files."""
        raise NotImplementedError

    def on_exit(self, id_: str, end: Exit) -> None:
        """To be given to the driver."""
        self.exits.setdefault(id_, []).append(end)

    async def start(
        self, task: Task, attach: Attach | None = None
    ) -> tuple[Started, Stream | None]:
        """Create and start."""
        await self.driver.create(task)
        return await self.driver.start(task, self.on_exit, attach=attach)

    async def run(self, task: Task) -> tuple[Exit, dict[int, bytes]]:
        """Create, start, wait: the end, and the output by stream."""
        _, stream = await self.start(task, BOTH)
        assert stream is not None
        output = await read_all(stream)
        await stream.close()
        return await self.ended(task.id), unframed(output)

    async def exec(
        self, task: Task, script: str | list[str], **options: Any
    ) -> tuple[Exit, dict[int, bytes]]:
        """Run a process in a container to its end."""
        process = self.exec_task(task, script, **options)
        _, stream = await self.driver.exec(process, self.on_exit, attach=BOTH)
        assert stream is not None
        output = await read_all(stream)
        await stream.close()
        return await self.ended(process.id), unframed(output)

    async def ended(self, id_: str) -> Exit:
        """The end of a task or exec; it is told exactly once."""
        await until(lambda: id_ in self.exits, f"{id_} does not end")
        (end,) = self.exits[id_]
        return end

    async def delete(self, task: Task) -> None:
        """Remove a task."""
        await self.driver.delete(task.id, task.state_dir, task.run_dir)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


async def read_all(stream: Stream) -> bytes:
    """Everything that comes out of a stream until its end."""
    parts = []
    while data := await asyncio.wait_for(stream.read(), DEADLINE):
        parts.append(data)
    return b"".join(parts)


async def read_until(stream: Stream, mark: bytes) -> bytes:
    """What comes out, until `mark` was seen."""
    seen = b""
    while mark not in seen:
        data = await asyncio.wait_for(stream.read(), DEADLINE)
        assert data, f"the stream ended after {seen!r}"
        seen += data
    return seen


def unframed(data: bytes) -> dict[int, bytes]:
    """Docker's frames put together by stream number."""
    streams: dict[int, bytes] = {}
    while data:
        number, length = struct.unpack_from(">BxxxI", data)
        assert len(data) >= 8 + length
        streams[number] = streams.get(number, b"") + data[8 : 8 + length]
        data = data[8 + length :]
    return streams


def logged(task: Task) -> list[tuple[str, str]]:
    """(stream, text) of the task's log entries; one that is being written is left out."""
    lines = Path(task.log.path).read_bytes().rpartition(b"\n")[0].splitlines()
    entries = [json.loads(line) for line in lines]
    return [(entry["stream"], entry["log"]) for entry in entries]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class IsolationSuite:
    """Every test leaves nothing behind: the fixture of the driver's module checks that."""

    # Start, streams, end

    async def test_output_exit_code_and_log(self, world: World) -> None:
        task = world.task("echo out; echo err >&2; exit 7")
        before = time.time()
        end, output = await world.run(task)
        assert output == {1: b"out\n", 2: b"err\n"}
        assert (end.code, end.oom_killed, end.error) == (7, False, "")
        assert before - 1 <= end.finished_at <= time.time() + 1
        assert sorted(logged(task)) == [("stderr", "err\n"), ("stdout", "out\n")]

    async def test_nothing_of_a_short_output_is_lost(self, world: World) -> None:
        for number in range(world.some):
            _, output = await world.run(world.task(["echo", str(number)]))
            assert output == {1: b"%d\n" % number}

    async def test_exit_is_told_after_start_has_returned(self, world: World) -> None:
        for _ in range(world.some):
            task = world.task(["true"])
            await world.driver.create(task)
            await world.driver.start(task, world.on_exit)
            assert task.id not in world.exits
            assert (await world.ended(task.id)).code == 0

    async def test_started_names_the_process(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        started, stream = await world.start(task)
        assert stream is None
        assert alive(started.pid)
        assert started.pid in await world.driver.pids(task.id)

    async def test_large_output_arrives_whole(self, world: World) -> None:
        _, output = await world.run(world.task("head -c 5000000 /dev/zero | tr '\\0' x"))
        assert output == {1: b"x" * 5_000_000}

    @pytest.mark.parametrize("init", [False, True])
    async def test_killed_by_a_signal(self, world: World, init: bool) -> None:
        task = world.task(["sleep", "1000"], init=init)
        await world.start(task)
        await world.driver.signal(task.id, task.run_dir, signal.SIGKILL)
        assert (await world.ended(task.id)).code == 128 + signal.SIGKILL
        with pytest.raises(Conflict):
            await world.driver.signal(task.id, task.run_dir, signal.SIGTERM)

    async def test_signals_reach_the_program(self, world: World) -> None:
        task = world.task(
            "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.01; done"
        )
        _, stream = await world.start(task, BOTH)
        assert stream is not None
        await read_until(stream, b"ready")
        await world.driver.signal(task.id, task.run_dir, signal.SIGUSR1)
        assert unframed(await read_all(stream)) == {1: b"caught\n"}
        assert (await world.ended(task.id)).code == 9
        await stream.close()

    async def test_signal_through_an_init_reaches_the_program(self, world: World) -> None:
        task = world.task(
            "trap 'exit 11' TERM; echo ready; while :; do sleep 0.01; done", init=True
        )
        _, stream = await world.start(task, BOTH)
        assert stream is not None
        await read_until(stream, b"ready")
        await world.driver.signal(task.id, task.run_dir, signal.SIGTERM)
        assert (await world.ended(task.id)).code == 11
        await stream.close()

    async def test_an_init_reaps_orphans(self, world: World) -> None:
        # Orphans of the inner shell become children of process 1, which must not keep zombies.
        script = (
            "for i in 1 2 3; do (sh -c 'echo >> /tmp/ends' &); done;"
            "until [ $(wc -l < /tmp/ends) = 3 ]; do sleep 0.01; done;"
            "while ps -o stat,args | grep -E '^Z|[/]tmp/ends$'; do sleep 0.01; done"
        )
        end, _ = await world.run(world.task(script, init=True))
        assert end.code == 0

    # What cannot be started

    async def test_missing_command(self, world: World) -> None:
        task = world.task(["no-such-command"])
        with pytest.raises(CommandNotFound, match="no-such-command"):
            await world.start(task)
        await world.delete(task)

    async def test_command_that_cannot_be_executed(self, world: World) -> None:
        task = world.task(["/etc/passwd"])
        with pytest.raises(CommandNotExecutable, match="/etc/passwd"):
            await world.start(task)

    async def test_configuration_without_sense(self, world: World) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["process"]["cwd"] = "not/absolute"

        with pytest.raises(InvalidInput):
            await world.driver.create(world.task(["true"], change=change))

    async def test_a_failed_start_can_be_tried_again(self, world: World) -> None:
        task = world.task(["true"])
        broken = task._replace(log=task.log._replace(path="/proc/no/such/folder"))
        await world.driver.create(broken)
        with pytest.raises(Exception, match="opening log"):
            await world.driver.start(broken, world.on_exit)
        await world.start(task)
        assert (await world.ended(task.id)).code == 0

    # Attach, input, terminals

    async def test_input_until_half_close(self, world: World) -> None:
        task = world.task(["cat"], open_stdin=True, stdin_once=True)
        _, stream = await world.start(task, ALL)
        assert stream is not None
        data = os.urandom(400_000).hex().encode()

        async def send() -> None:
            assert stream is not None
            await stream.write(data)
            await stream.close_stdin()

        sending = asyncio.create_task(send())
        assert unframed(await read_all(stream)) == {1: data}
        await sending
        await stream.close()
        assert (await world.ended(task.id)).code == 0

    async def test_input_that_the_program_does_not_read_makes_the_writer_wait(
        self, world: World
    ) -> None:
        task = world.task(["sleep", "1000"], open_stdin=True)
        _, stream = await world.start(task, ALL)
        assert stream is not None
        writing = asyncio.create_task(stream.write(b"x" * 50_000_000))
        started = time.monotonic()
        await world.driver.pids(task.id)
        assert time.monotonic() - started < DEADLINE
        assert not writing.done()
        await world.driver.signal(task.id, task.run_dir, signal.SIGKILL)
        await asyncio.wait_for(writing, DEADLINE)
        await stream.close()
        await world.ended(task.id)

    async def test_later_attach_sees_what_comes_from_then_on(self, world: World) -> None:
        task = world.task(
            "read x; echo got $x; read y; echo got $y", open_stdin=True, stdin_once=False
        )
        _, first = await world.start(task, ALL)
        assert first is not None
        await first.write(b"1\n")
        await read_until(first, b"got 1\n")
        await first.close()
        second = await world.driver.attach(task.id, task.run_dir, ALL)
        await second.write(b"2\n")
        assert unframed(await read_all(second)) == {1: b"got 2\n"}
        await second.close()
        assert (await world.ended(task.id)).code == 0
        assert [text for _, text in logged(task)] == ["got 1\n", "got 2\n"]

    async def test_attach_to_what_does_not_run(self, world: World) -> None:
        task = world.task(["true"])
        await world.run(task)
        with pytest.raises(Conflict):
            await world.driver.attach(task.id, task.run_dir, BOTH)

    async def test_closing_a_stream_wakes_its_reader(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        _, stream = await world.start(task, BOTH)
        assert stream is not None
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        await stream.close()
        assert await asyncio.wait_for(reading, DEADLINE) == b""

    async def test_terminal(self, world: World) -> None:
        task = world.task(
            "tty; stty size; read x; stty size; test -t 0 && test -t 1 && test -t 2",
            terminal=(20, 70),
            open_stdin=True,
        )
        _, stream = await world.start(task, ALL)
        assert stream is not None
        before = await read_until(stream, b"20 70\r\n")
        assert before.startswith(b"/dev/")
        await world.driver.resize(task.run_dir, 33, 101)
        await stream.write(b"go\n")
        assert await read_all(stream) == b"go\r\n33 101\r\n"
        await stream.close()
        assert (await world.ended(task.id)).code == 0

    async def test_interrupt_from_the_terminal(self, world: World) -> None:
        task = world.task("trap 'exit 4' INT; echo ready; sleep 1000 & wait", terminal=(24, 80))
        task = task._replace(open_stdin=True)
        _, stream = await world.start(task, ALL)
        assert stream is not None
        await read_until(stream, b"ready")
        await stream.write(b"\x03")
        assert (await world.ended(task.id)).code == 4
        await stream.close()

    async def test_resize_without_a_terminal(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        await world.start(task)
        with pytest.raises(Conflict):
            await world.driver.resize(task.run_dir, 24, 80)

    # Exec

    async def test_exec_is_behind_the_same_wall(self, world: World) -> None:
        task = world.task("echo here > /tmp/mark; sleep 1000")
        await world.start(task)
        end, output = await world.exec(
            # The file is there a moment before its line.
            task,
            "until grep -s here /tmp/mark; do sleep 0.01; done; hostname; exit 5",
        )
        assert end.code == 5
        assert output[1].startswith(b"here\n")
        # It sees the container's processes and no others.
        _, output = await world.exec(task, "ps -o pid,args")
        assert b"sleep 1000" in output[1]
        assert len(output[1].splitlines()) <= 6
        # SIGKILL takes along what it has started.
        process = world.exec_task(task, "sleep 97 & sleep 98; true")
        await world.driver.exec(process, world.on_exit, attach=None)
        running = "until ps -o args | grep -q 'sleep 9[78]'; do sleep 0.01; done"
        assert (await world.exec(task, running))[0].code == 0
        await world.driver.signal(task.id, process.run_dir, signal.SIGKILL)
        assert (await world.ended(process.id)).code == 128 + signal.SIGKILL
        ended = "while ps -o args | grep -q 'sleep 9[78]'; do sleep 0.01; done"
        assert (await world.exec(task, ended))[0].code == 0

    async def test_exec_with_input_and_terminal(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        await world.start(task)
        plain = world.exec_task(task, ["cat"], open_stdin=True)
        _, stream = await world.driver.exec(plain, world.on_exit, attach=ALL)
        assert stream is not None
        await stream.write(b"some input")
        await stream.close_stdin()
        assert unframed(await read_all(stream)) == {1: b"some input"}
        await stream.close()
        assert (await world.ended(plain.id)).code == 0

        shell = world.exec_task(task, "read x; stty size", open_stdin=True, terminal=(10, 20))
        _, stream = await world.driver.exec(shell, world.on_exit, attach=ALL)
        assert stream is not None
        await world.driver.resize(shell.run_dir, 44, 55)
        await stream.write(b"\n")
        assert (await read_all(stream)).endswith(b"44 55\r\n")
        await stream.close()

    async def test_exec_of_a_missing_command(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        await world.start(task)
        with pytest.raises(CommandNotFound):
            await world.driver.exec(
                world.exec_task(task, ["no-such-command"]), world.on_exit, attach=None
            )
        assert (await world.exec(task, ["true"]))[0].code == 0

    async def test_exec_in_a_container_that_does_not_run(self, world: World) -> None:
        task = world.task(["true"])
        await world.run(task)
        with pytest.raises(Conflict):
            await world.driver.exec(world.exec_task(task, ["true"]), world.on_exit, attach=None)

    async def test_execs_end_with_their_container(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        await world.start(task)
        process = world.exec_task(task, ["sleep", "1000"])
        await world.driver.exec(process, world.on_exit, attach=None)
        await world.driver.signal(task.id, task.run_dir, signal.SIGKILL)
        assert (await world.ended(process.id)).code == 128 + signal.SIGKILL
        await world.ended(task.id)

    # Control

    async def test_pause_and_resume(self, world: World) -> None:
        task = world.task(
            "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done", open_stdin=False
        )
        _, stream = await world.start(task, BOTH)
        assert stream is not None
        await read_until(stream, b"1\n")
        await world.driver.pause(task.id)
        await world.driver.pause(task.id)
        paused = (await world.driver.stats(task.id)).cpu_total_ns
        assert (await world.driver.stats(task.id)).cpu_total_ns == paused
        await world.driver.resume(task.id)
        await world.driver.resume(task.id)
        size = len(logged(task))
        await until(lambda: len(logged(task)) > size + 2, "it does not go on")
        await stream.close()

    async def test_a_paused_task_can_be_killed(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        await world.start(task)
        await world.driver.pause(task.id)
        await world.driver.signal(task.id, task.run_dir, signal.SIGKILL)
        assert (await world.ended(task.id)).code == 128 + signal.SIGKILL

    async def test_stats_and_update(self, world: World) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["linux"].setdefault("resources", {})["memory"] = {"limit": 64 << 20}
            spec["linux"]["resources"]["pids"] = {"limit": 50}

        task = world.task("sleep 1000 & sleep 1000", change=change)
        await world.start(task)
        stats = await world.driver.stats(task.id)
        assert stats.memory_limit_bytes == 64 << 20
        assert stats.pids_limit == 50
        assert stats.pids >= 1
        assert 0 < stats.memory_bytes < 64 << 20
        assert stats.cpu_total_ns > 0
        await world.driver.update(task.id, {"memory": {"limit": 32 << 20}, "pids": {"limit": 20}})
        stats = await world.driver.stats(task.id)
        assert (stats.memory_limit_bytes, stats.pids_limit) == (32 << 20, 20)

    async def test_out_of_memory_is_told(self, world: World) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["linux"].setdefault("resources", {})["memory"] = {"limit": 16 << 20}

        # One process that fills its buffer in one call: the kernel has no other to choose.
        fill = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]
        end, _ = await world.run(world.task(fill, change=change))
        assert end.oom_killed
        assert end.code == 128 + signal.SIGKILL

        # One that goes on: both what was killed before anybody watched, and after.
        told: list[str] = []
        world.driver.on_oom = lambda id_, _earlier: told.append(id_)
        task = world.task(f"{' '.join(fill)}; sleep 1000", change=change)
        await world.start(task)
        await until(lambda: told == [task.id], "the first is not told")
        await world.exec(task, fill)
        await until(lambda: told == [task.id] * 2, "the second is not told")

    async def test_calls_on_what_does_not_run(self, world: World) -> None:
        task = world.task(["true"])
        await world.run(task)
        driver = world.driver
        calls: list[Awaitable[object]] = [
            driver.pause(task.id),
            driver.resume(task.id),
            driver.stats(task.id),
            driver.pids(task.id),
            driver.update(task.id, {}),
            driver.resize(task.run_dir, 1, 1),
        ]
        for call in calls:
            with pytest.raises(Conflict):
                await call

    # Again, together, delete

    async def test_start_again_after_the_end(self, world: World) -> None:
        task = world.task("read n < /tmp/n || n=0; n=$((n+1)); echo $n > /tmp/n; exit $n")
        for expected in (1, 2, 3):
            await world.start(task)
            assert (await world.ended(task.id)).code == expected
            del world.exits[task.id]

    async def test_a_running_task_is_not_started_twice(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        started, _ = await world.start(task)
        with pytest.raises(Conflict):
            await world.driver.start(task, world.on_exit)
        assert alive(started.pid)

    async def test_many_at_once(self, world: World) -> None:
        count = world.many
        tasks = [world.task(f"echo {number}; exit {number}") for number in range(count)]
        results = await asyncio.gather(*(world.run(task) for task in tasks))
        assert [end.code for end, _ in results] == list(range(count))
        assert [output[1] for _, output in results] == [b"%d\n" % n for n in range(count)]
        await asyncio.gather(*(world.delete(task) for task in tasks))

    async def test_delete_ends_what_runs_and_is_idempotent(self, world: World) -> None:
        task = world.task("sleep 1000 & sleep 1000")
        started, _ = await world.start(task)
        await world.delete(task)
        assert not alive(started.pid)
        assert (await world.ended(task.id)).code == 128 + signal.SIGKILL
        await world.delete(task)
        assert not os.path.exists(task.run_dir)
        assert os.path.isdir(task.state_dir)

    async def test_delete_of_what_never_was(self, world: World) -> None:
        task = world.task(["true"])
        await world.delete(task)
        await world.driver.create(task)
        await world.delete(task)

    # Survival

    async def test_a_task_outlives_the_engine(self, world: World) -> None:
        task = world.task("read x; echo got $x; exit 6", open_stdin=True)
        started, _ = await world.start(task)
        await world.next_engine()
        assert alive(started.pid)
        assert await world.driver.recover(task.id, task.run_dir, world.on_exit) == started
        assert await world.driver.recover(task.id, task.run_dir, world.on_exit) == started
        assert (await world.exec(task, ["true"]))[0].code == 0
        assert started.pid in await world.driver.pids(task.id)
        stream = await world.driver.attach(task.id, task.run_dir, ALL)
        await stream.write(b"it\n")
        assert unframed(await read_all(stream)) == {1: b"got it\n"}
        await stream.close()
        assert (await world.ended(task.id)).code == 6
        assert logged(task) == [("stdout", "got it\n")]

    async def test_an_end_without_an_engine_is_found_later(self, world: World) -> None:
        task = world.task("until test -e /tmp/go; do sleep 0.01; done; echo last; exit 8")
        started, _ = await world.start(task)
        process = world.exec_task(task, "sleep 0.2; touch /tmp/go")
        await world.driver.exec(process, world.on_exit, attach=None)
        await world.next_engine()
        await until(lambda: not alive(started.pid), "it does not end by itself")
        await until(
            lambda: not os.path.exists(os.path.join(task.run_dir, "keeper.sock")), "no record"
        )
        for _ in range(2):
            end = await world.driver.recover(task.id, task.run_dir, world.on_exit)
            assert isinstance(end, Exit)
            assert (end.code, end.error) == (8, "")
        assert logged(task) == [("stdout", "last\n")]
        assert task.id not in world.exits
        await world.delete(task)
        assert await world.driver.recover(task.id, task.run_dir, world.on_exit) is None

    async def test_what_never_started_is_not_found(self, world: World) -> None:
        task = world.task(["true"])
        assert await world.driver.recover(task.id, task.run_dir, world.on_exit) is None
        await world.driver.create(task)
        await world.next_engine()
        assert await world.driver.recover(task.id, task.run_dir, world.on_exit) is None

    async def test_delete_by_a_later_engine(self, world: World) -> None:
        task = world.task(["sleep", "1000"])
        started, _ = await world.start(task)
        await world.next_engine()
        await world.delete(task)
        assert not alive(started.pid)
