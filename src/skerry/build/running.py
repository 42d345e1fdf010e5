"""RUN: a program on a snapshot, through the engine's isolation driver, without being a container.

Its folders lie where containers' do and no record names them, so that after a crash the engine's
recovery ends the program and removes everything, snapshot included.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, NoReturn

from skerry.base.isolation import Attach, Exit, LogOptions, Overlay, Task
from skerry.build import disk, processes
from skerry.engine import facts, spec
from skerry.engine.container import Container
from skerry.engine.engine import Engine
from skerry.engine.isolation import Stream
from skerry.engine.record import MountPoint, Record
from skerry.engine.threads import to_its_end

PIDS_LIMIT: Final = 8192
"""Processes of one step, when nothing else is asked for: a fork bomb ends there."""
LOG_LIMIT: Final = 2 << 20
"""Bytes of output of one step that are passed on from its start, as with BuildKit."""
LOG_TAIL: Final = 16 << 10
"""Bytes from the end of an output that was cut."""
_HEADER: Final = 8

Watch = Coroutine[Any, Any, NoReturn]
Output = Callable[[int, bytes], None]
"""Told what the program writes: 1 or 2, and the bytes."""


class Run(NamedTuple):
    """What to run. `image` stands for the layers below in caches: equal layers, equal text."""

    id: str
    image: str
    overlay: Overlay
    args: list[str]
    env: list[str]
    user: str
    directory: str
    network: str
    """Docker's network mode: none, host, bridge or another network's name."""
    host: dict[str, Any]
    """Further fields of Docker's HostConfig."""
    mounts: tuple[MountPoint, ...] = ()
    disk_limit: int = 0
    """Bytes that it may write; 0 is as many as the disk's reserve leaves."""
    step: str = ""
    """For errors."""


async def run(engine: Engine, what: Run, output: Output) -> Exit:
    """Run it to its end. Errors as the driver's; a step that fills the disk is a SystemFault, one
    that forks without end ForkedWithoutEnd.

    However this ends, also by cancellation, no process and no folder of it is left.
    """
    saved = record_of(what)
    state_dir, run_dir = engine.lifecycle.state_dir(what.id), engine.lifecycle.run_dir(what.id)
    os.makedirs(state_dir, 0o700, exist_ok=True)
    try:
        with contextlib.ExitStack() as held:
            held.callback(engine.endpoints.part, what.id)
            joined = await to_its_end(engine.endpoints.prepare(Container(saved)))
            found = facts.gather(
                saved,
                engine.roster,
                engine.host,
                what.overlay,
                state_dir,
                run_dir,
                held,
                joined,
            )
            task = Task(
                what.id,
                spec.build(saved, found),
                what.overlay,
                state_dir,
                run_dir,
                LogOptions("none"),
            )
            watches = (
                disk.watch(engine.store, what.overlay.upper, what.disk_limit),
                processes.watch(engine.driver, what.id, " ".join(what.args), what.step),
            )
            return await _run(engine, task, output, watches)
    finally:
        await to_its_end(_remove(engine, what.id, state_dir, run_dir))


def record_of(what: Run) -> Record:
    """The container that it would be."""
    return Record(
        id=what.id,
        name=what.id[:12],
        image=what.image,
        image_id=what.image,
        created_at=time.time_ns(),
        config={
            "Cmd": what.args,
            "Env": what.env,
            "User": what.user,
            "WorkingDir": what.directory,
            "Hostname": "buildkitsandbox",
        },
        host={
            "NetworkMode": what.network,
            "PidsLimit": PIDS_LIMIT,
            **what.host,
        },
        network={} if what.network.startswith("container:") else {what.network: {}},
        mounts=list(what.mounts),
    )


async def _run(engine: Engine, task: Task, output: Output, watches: tuple[Watch, ...]) -> Exit:
    over: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def on_exit(_id: str, exit: Exit) -> None:
        if not over.done():
            over.set_result(exit)

    try:
        await engine.driver.create(task)
        _, stream = await engine.driver.start(task, on_exit, attach=Attach())
    except BaseException:
        for each in watches:
            each.close()
        raise
    assert stream is not None
    reading = asyncio.ensure_future(_pass_on(stream, output))
    watching = [asyncio.ensure_future(each) for each in watches]
    work: list[asyncio.Future[Any]] = [reading, *watching]
    try:
        await asyncio.wait([*work[1:], over], return_when=asyncio.FIRST_COMPLETED)
        for watcher in () if over.done() else watching:
            if watcher.done():
                watcher.result()
        ended = await over
        await reading
        return ended
    finally:
        for one in work:
            one.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await stream.close()


async def _pass_on(stream: Stream, output: Output) -> None:
    """Take Docker's frames apart; what is over the limit is left out but for its end."""
    waiting = bytearray()
    sent = 0
    tail = bytearray()
    clipped = False
    last = 1
    while piece := await stream.read():
        waiting += piece
        while len(waiting) >= _HEADER:
            size = int.from_bytes(waiting[4:8], "big")
            if len(waiting) < _HEADER + size:
                break
            last, data = waiting[0], bytes(waiting[_HEADER : _HEADER + size])
            del waiting[: _HEADER + size]
            if sent + len(data) <= LOG_LIMIT:
                sent += len(data)
                output(last, data)
                continue
            if not clipped:
                clipped = True
                sent = LOG_LIMIT
                note = f"\n[output clipped, log limit {LOG_LIMIT >> 20}MiB reached]\n"
                output(last, note.encode())
            tail += data
            del tail[:-LOG_TAIL]
    if tail:
        output(last, bytes(tail))


async def _remove(engine: Engine, id: str, state_dir: str, run_dir: str) -> None:
    try:
        await engine.driver.delete(id, state_dir, run_dir)
    finally:
        for folder in (state_dir, run_dir):
            shutil.rmtree(folder, ignore_errors=True)
