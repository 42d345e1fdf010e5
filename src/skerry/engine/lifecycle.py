"""From created to running to exited, and round again: start, stop, kill, pause, the end, restarts.

Theory. A container changes state only here. `Container.lock` is held while it is started, paused or
removed; ending needs no lock, since the driver tells of it by a callback that runs between two
steps of the event loop and changes the state at once. A program may end before `driver.start` has
returned: the callback then leaves the exit in `early_exit` and the start hands it on.

One record is written per step. A container that is removed at its end is not written first: the
exit is in the keeper's record until the removal has been written.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from skerry.base.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    GuestFault,
    InvalidInput,
    NotModified,
    SkerryError,
    SystemFault,
)
from skerry.base.isolation import Exit, Overlay, Saved, Task
from skerry.base.settings import Settings
from skerry.engine import (
    attach,
    facts,
    health,
    identity,
    log_options,
    record,
    restart,
    sharing,
    shm,
    spec,
    storage_options,
)
from skerry.engine.container import Container
from skerry.engine.endpoints import Endpoints
from skerry.engine.events import Events
from skerry.engine.isolation import NOT_STARTED, Driver, tell_as_docker
from skerry.engine.roster import Roster
from skerry.engine.signals import DEFAULT_STOP, parse_signal
from skerry.engine.volumes import Volumes
from skerry.engine.walls import VM, Walls, runs_in_machine, wall_of
from skerry.store import Store
from skerry.store.trees import remove_tree

log = logging.getLogger(__name__)

STOP_TIMEOUT = 10
_SAVE_AGAIN = 2.0
SIGKILL = 9


class Lifecycle:
    """The service. `remove` is called for containers that go at their end (--rm)."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        driver: Driver,
        events: Events,
        roster: Roster,
        host: facts.Host,
        endpoints: Endpoints,
    ) -> None:
        self._settings = settings
        self._store = store
        self._driver = driver
        self._events = events
        self._roster = roster
        self._host = host
        self._endpoints = endpoints
        self.publish = endpoints.connections.publish
        self.remove: Callable[[Container], Awaitable[None]]
        self.volumes: Volumes
        self.health_probe: Callable[[Container, list[str], float], Awaitable[tuple[int, str]]]
        self._tasks: set[asyncio.Task[None]] = set()
        self.closing = False

    def state_dir(self, id: str) -> str:
        """What survives a reboot."""
        return os.path.join(self._settings.root, "containers", id)

    def run_dir(self, id: str) -> str:
        """What does not."""
        return os.path.join(self._settings.run_root, "containers", id)

    def overlay(self, container: Container) -> Overlay:
        """The container's layers on this host."""
        return self._store.snapshots.overlay(container.id)

    async def settle(self, container: Container, *, running: bool = True) -> None:
        """Bring what a machine has written to the container's layer on this host, for whoever is to
        read it there. Nothing to do for a container without a machine, and without `running` for
        one whose machine can be asked (`Archive`)."""
        if container.running and not running:
            return
        if isinstance(self._driver, Walls) and wall_of(container.record.host) == VM:
            overlay, run_dir = self.overlay(container), self.run_dir(container.id)
            await self._driver.mirror(container.id, overlay, run_dir)

    @contextlib.asynccontextmanager
    async def seen(
        self, container: Container, contents: tuple[str, ...] = ()
    ) -> AsyncIterator[Overlay]:
        """The layers of a container for whoever is to read what it has written by now. Of one in a
        machine that runs those are a copy, in which long files have their contents only at and
        below `contents` (relative to the root): they come all over the line to the guest."""
        overlay = self.overlay(container)
        if not runs_in_machine(container.record) or not isinstance(self._driver, Walls):
            yield overlay
            return
        scratch = self._store.scratch
        folder = scratch.path("look")
        os.makedirs(f"{folder}/upper", 0o700)
        try:
            await self._driver.look(container.id, overlay, f"{folder}/upper", contents)
            yield overlay._replace(upper=f"{folder}/upper", work="")
        finally:
            await asyncio.to_thread(remove_tree, folder)

    async def rewire(self, container: Container) -> None:
        """Tell a container's machine that its networks are others. Nothing to do without one."""
        if isinstance(self._driver, Walls) and wall_of(container.record.host) == VM:
            await self._driver.rewire(container.id, self.state_dir(container.id))

    def save(self, container: Container) -> None:
        """Write the record."""
        self._store.records.put(
            record.KIND, container.id, record.to_plain(container.record), container.record.name
        )

    def note(self, container: Container) -> None:
        """Write the record of what has happened, which no full disk takes back: whoever waits for
        it is told all the same, and the writing is tried again."""
        try:
            self.save(container)
        except SystemFault as error:
            log.warning("%s; trying again", error)
            self.spawn(self._save_later(container))

    async def _save_later(self, container: Container) -> None:
        while True:
            await asyncio.sleep(_SAVE_AGAIN)
            if self._roster.get(container.id) is not container:
                return
            with contextlib.suppress(SystemFault):
                self.save(container)
                return

    def emit(self, container: Container, action: str, **more: str) -> None:
        """Tell of a container."""
        self._events.emit("container", action, container.id, container.attributes(**more))

    def spawn(self, work: Awaitable[None]) -> None:
        """Run something beside; errors are logged, never lost."""

        async def run() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except (SkerryError, GuestFault, OSError) as error:
                log.warning("%s", error)
            except Exception:
                log.exception("unexpected")

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def on_exit(self, id: str, exit: Exit) -> None:
        """The driver's callback."""
        container = self._roster.get(id)
        if container is None or self.closing:
            return
        if container.starting:
            container.early_exit = exit
        else:
            self.ended(container, exit)

    def on_oom(self, id: str, earlier: bool) -> None:
        """The driver's callback: a process of a container that goes on was killed."""
        container = self._roster.get(id)
        if container is None or self.closing or not container.running:
            return
        known = container.state.oom_killed
        container.state.oom_killed = True
        if not known:
            self.note(container)
        if not (known and earlier):
            self.emit(container, "oom")

    async def start(
        self, container: Container, saved: Saved | None = None, *, publish: bool = True
    ) -> None:
        """Run it; returns once the program was executed. With `saved` it goes on in that machine.
        Without `publish` its ports stay closed until they are opened (`Connections.publish`).

        NotModified when it runs, Conflict when it is paused or being removed, InvalidInput and
        GuestFault for what cannot be run.
        """
        async with container.lock:
            if container.removing:
                raise Conflict("container is marked for removal and cannot be started")
            if container.state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.running:
                raise NotModified(f"Container {container.id} is already started")
            self._cancel_restart(container)
            container.record.manually_stopped = False
            container.record.restart_count = 0
            container.restart_pause = 0.0
            await self._start(container, saved, publish=publish)

    async def _start(
        self, container: Container, saved: Saved | None = None, *, publish: bool = True
    ) -> None:
        container.exit_on_next = False
        try:
            await self.volumes.hold(container.record.mounts, container.id)
            with contextlib.ExitStack() as held:
                await self._launch(container, held, saved, publish=publish)
            self.volumes.told(container, "mount")
        except (SkerryError, GuestFault) as error:
            self._start_failed(container, error)
            raise
        self.emit(container, "start")
        health.begin(container, self)
        await self._join_late(container)
        if container.early_exit is not None:
            exit, container.early_exit = container.early_exit, None
            self.ended(container, exit)

    async def _join_late(self, container: Container) -> None:
        """Clients that attached while the start was under way: too late to see the first byte."""
        late, container.pending = container.pending, []
        for pending in late:
            try:
                stream = await self._driver.attach(
                    container.id, self.run_dir(container.id), pending.how
                )
            except SkerryError:
                # It has ended already.
                pending.resolve(None)
            else:
                pending.resolve(stream)

    async def _launch(
        self,
        container: Container,
        held: contextlib.ExitStack,
        machine: Saved | None,
        *,
        publish: bool,
    ) -> None:
        """Plan and execute; on return the state says running and is saved."""
        saved = container.record
        state_dir = self.state_dir(container.id)
        overlay = self._store.snapshots.overlay(container.id)
        run_dir = self.run_dir(container.id)
        joined = await self._endpoints.prepare(container, publish=publish)
        found = facts.gather(
            saved, self._roster, self._host, overlay, state_dir, run_dir, held, joined
        )
        if images := [point.source for point in saved.mounts if point.kind == "image"]:
            layers = {id: self._store.snapshots.layers(id) for id in images}
            found = found._replace(image_mounts=layers)
        if wall_of(saved.host) != VM:
            sharing.check(saved.mounts, self._settings.root)
        plan = spec.build(saved, found)
        task = Task(
            id=container.id,
            spec=plan,
            rootfs=overlay,
            state_dir=state_dir,
            run_dir=run_dir,
            log=log_options.log_options(
                saved.host, f"{state_dir}/{log_options.file_name(container.id, saved.host)}"
            ),
            open_stdin=bool(saved.config.get("OpenStdin")),
            stdin_once=bool(saved.config.get("StdinOnce")),
            init=bool(saved.host.get("Init")),
            saved=machine,
            renew=None if machine else await self._own_files(saved),
            disk=storage_options.disk_size(saved.host),
        )
        waiting, container.pending = container.pending, []
        container.early_exit = None
        container.starting = True
        stream = None
        try:
            await self._driver.create(task)
            started, stream = await self._driver.start(
                task, self.on_exit, attach=attach.union(waiting) if waiting else None
            )
        except (SkerryError, GuestFault) as error:
            tell_as_docker(error, NOT_STARTED)
            raise
        finally:
            container.starting = False
            attach.deliver(stream, waiting, terminal=bool(saved.config.get("Tty")))
        container.process = plan["process"]
        state = record.State(
            status="running",
            pid=started.pid,
            start_time=started.start_time,
            started_at=time.time_ns(),
            finished_at=saved.state.finished_at,
        )
        saved.state = state
        saved.ever_started = True
        # A program that has already ended is written once, as exited.
        if container.early_exit is None:
            self.note(container)

    @staticmethod
    async def _own_files(saved: record.Record) -> dict[str, str] | None:
        """What a copy of a machine that stood still may not share with it, until it has run."""
        if saved.state.started_at or wall_of(saved.host) != VM:
            return None
        if identity.FORK_OF not in (saved.config.get("Labels") or {}):
            return None
        return await asyncio.to_thread(identity.contents, identity.ALL)

    def _start_failed(self, container: Container, error: SkerryError | GuestFault) -> None:
        code = 128
        if isinstance(error, CommandNotFound | CommandNotExecutable):
            code = error.exit_code
        container.early_exit = None
        shm.release(self.run_dir(container.id))
        self._endpoints.part(container.id)
        state = container.state
        state.status = "exited" if container.record.ever_started else "created"
        state.exit_code = code
        state.error = error.message
        state.finished_at = time.time_ns() if container.record.ever_started else 0
        self.note(container)
        self._let_go(container)
        container.tell_exit(Exit(code, False, time.time(), error.message))
        if container.record.host.get("AutoRemove"):
            self.spawn(self.remove(container))

    def _let_go(self, container: Container) -> None:
        """Of the volumes that are mounted for it, unless it has started again meanwhile."""
        if not self.volumes.needs_mounts(container.record.mounts):
            return

        async def release() -> None:
            async with container.lock:
                if not container.running:
                    await self.volumes.release(container.record.mounts, container.id)

        self.spawn(release())

    def ended(self, container: Container, exit: Exit) -> None:
        """The program is over: tell everybody, apply the restart policy."""
        saved = container.record
        state = saved.state
        ran = exit.finished_at - state.started_at / 1e9
        state.status = "exited"
        state.pid = state.start_time = 0
        state.exit_code = exit.code
        told, state.oom_killed = state.oom_killed, exit.oom_killed
        state.error = exit.error
        state.finished_at = int(exit.finished_at * 1e9)
        health.end(container)
        shm.release(self.run_dir(container.id))
        self._endpoints.part(container.id)
        container.process = None
        stopped = container.exit_on_next or container.removing or self.closing
        again = restart.wanted(
            restart.parse(saved.host.get("RestartPolicy")),
            code=exit.code,
            count=saved.restart_count,
            stopped=stopped,
        )
        if exit.oom_killed and not told:
            self.emit(container, "oom")
        self.emit(container, "die", exitCode=str(exit.code), execDuration=str(max(0, int(ran))))
        self.volumes.told(container, "unmount")
        self._let_go(container)
        if again:
            state.status = "restarting"
            saved.restart_count += 1
            container.restart_pause = restart.pause(container.restart_pause, ran)
            self.note(container)
            container.restart_task = asyncio.get_running_loop().create_task(
                self._restart_later(container, container.restart_pause)
            )
        elif saved.host.get("AutoRemove") and not container.kept:
            if not container.removing:
                container.tell_exit(exit)
                self.spawn(self.remove(container))
                return
        else:
            self.note(container)
        container.tell_exit(exit)

    async def _restart_later(self, container: Container, seconds: float) -> None:
        await asyncio.sleep(seconds)
        async with container.lock:
            container.restart_task = None
            if container.removing or container.state.status != "restarting" or self.closing:
                return
            try:
                await self._start(container)
            except (SkerryError, GuestFault) as error:
                log.warning("restart of %s: %s", container.record.name, error)

    def _cancel_restart(self, container: Container) -> bool:
        task, container.restart_task = container.restart_task, None
        if task is None:
            return False
        task.cancel()
        return True

    async def stop(
        self, container: Container, timeout: int | None = None, signal: str = ""
    ) -> None:
        """End it: the stop signal, then SIGKILL after `timeout` seconds (negative: never).

        NotModified when it does not run.
        """
        if not container.running and container.state.status != "restarting":
            raise NotModified(f"Container {container.id} is already stopped")
        await self.end(container, timeout, signal)
        self.emit(container, "stop")

    async def end(
        self,
        container: Container,
        timeout: int | None = None,
        signal: str = "",
        *,
        deed: str = "cannot stop container:",
    ) -> None:
        """As stop, without a word about it; `deed` is what a wrong signal's error says of it."""
        config = container.record.config
        try:
            number = parse_signal(signal or config.get("StopSignal") or DEFAULT_STOP)
        except InvalidInput as wrong:
            name = container.record.name
            raise InvalidInput(f"{deed} {name}: {wrong.message}") from None
        if timeout is None:
            timeout = config.get("StopTimeout", STOP_TIMEOUT)
        container.exit_on_next = True
        container.record.manually_stopped = True
        if self._cancel_restart(container) or container.state.status == "restarting":
            async with container.lock:
                if not container.running:
                    container.state.status = "exited"
                    self.note(container)
                    container.tell_exit(
                        Exit(container.state.exit_code, False, container.state.finished_at / 1e9)
                    )
                    return
        if container.state.status == "paused":
            await self._thaw(container)
        over = asyncio.ensure_future(container.wait_exit())
        try:
            if not container.running:
                return
            await self.send(container, number)
            try:
                await asyncio.wait_for(asyncio.shield(over), timeout if timeout >= 0 else None)
            except TimeoutError:
                await self.send(container, SIGKILL)
                await over
        finally:
            over.cancel()

    async def kill(self, container: Container, signal: str = "") -> None:
        """Send a signal. Conflict when it does not run."""
        name = container.record.name
        try:
            number = parse_signal(signal or "SIGKILL")
        except InvalidInput as wrong:
            raise InvalidInput(f"cannot kill container: {name}: {wrong.message}") from None
        if not container.running:
            raise Conflict(
                f"cannot kill container: {name}: container {container.id} is not running"
            )
        stop_signal = container.record.config.get("StopSignal") or DEFAULT_STOP
        if number in (SIGKILL, parse_signal(stop_signal)):
            container.exit_on_next = True
        container.record.manually_stopped = True
        if number == SIGKILL:
            over = asyncio.ensure_future(container.wait_exit())
            try:
                await self.send(container, number)
                self.emit(container, "kill", signal=str(number))
                await over
            finally:
                over.cancel()
        else:
            await self.send(container, number)
            self.emit(container, "kill", signal=str(number))

    async def send(self, container: Container, number: int) -> None:
        """Send a signal that is nobody's wish to stop it; nothing when it does not run."""
        if container.running:
            # One whose end is on its way here takes no signal any more, and ends all the same.
            with contextlib.suppress(Conflict):
                await self._driver.signal(container.id, self.run_dir(container.id), number)

    async def restart(
        self, container: Container, timeout: int | None = None, signal: str = ""
    ) -> None:
        """Stop it if it runs, then start it."""
        if container.running or container.state.status == "restarting":
            await self.end(container, timeout, signal, deed="Cannot restart container")
        if container.removing:
            raise Conflict("container is marked for removal and cannot be restarted")
        await self.start(container)
        self.emit(container, "restart")

    async def pause(self, container: Container) -> None:
        """Freeze every process."""
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict(f"Container {container.id} is already paused")
            if not container.running:
                raise Conflict(f"container {container.id} is not running")
            await self._driver.pause(container.id)
            container.state.status = "paused"
            self.note(container)
        self.emit(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Thaw them."""
        async with container.lock:
            if container.state.status != "paused":
                raise Conflict(f"Container {container.id} is not paused")
            await self._thaw(container)
            self.note(container)
        self.emit(container, "unpause")

    async def _thaw(self, container: Container) -> None:
        await self._driver.resume(container.id)
        if container.state.status == "paused":
            container.state.status = "running"

    async def wait(self, container: Container, condition: str = "not-running") -> Exit:
        """The end of the program, by Docker's conditions."""
        state = container.state
        if condition == "removed":
            code = await container.wait_removed()
            return Exit(code, state.oom_killed, state.finished_at / 1e9, container.state.error)
        if condition == "next-exit" or container.running or state.status == "restarting":
            return await container.wait_exit()
        return Exit(state.exit_code, state.oom_killed, state.finished_at / 1e9, state.error)

    async def close(self) -> None:
        """Leave everything as it is and running."""
        self.closing = True
        for container in self._roster:
            self._cancel_restart(container)
            health.end(container)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
