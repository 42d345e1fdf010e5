"""Further processes in a running container: create, start, look, resize.

An exec lives in the engine's memory, in its keeper and in a folder below the container's run
folder. When the engine is killed the process goes on, and the next engine finds it by that folder;
what ended meanwhile is still known by its id, with its exit code.
"""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

from skerry.base.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    GuestFault,
    InvalidInput,
    NotFound,
    SkerryError,
    Unavailable,
)
from skerry.base.ids import new_id
from skerry.base.isolation import Attach, ExecTask, Exit, Started
from skerry.engine import exec_files, facts, spec, users
from skerry.engine.container import Container
from skerry.engine.isolation import NOT_EXECUTED, Driver, Stream, tell_as_docker
from skerry.engine.lifecycle import Lifecycle
from skerry.engine.roster import Roster
from skerry.engine.walls import runs_in_machine
from skerry.kernel import processes

KEPT = 300.0
"""Seconds that a finished exec can still be asked about, as in Docker."""
_MOMENT = 0.02
"""Seconds in which most programs that tools run are over, and their clients answered."""
_SWEEP_EVERY = 30.0
"""Seconds: to look at each of some thousands takes longer than to run one."""
PER_CONTAINER = 10_000
KILLED = 137
"""The exit code of what SIGKILL ended."""


class Exec:
    """One exec, live."""

    __slots__ = (
        "code",
        "container",
        "created_at",
        "ended",
        "fault",
        "id",
        "kept",
        "launched",
        "outlived",
        "pid",
        "recovered",
        "running",
        "saved",
        "started",
        "wanted",
    )

    def __init__(
        self, container: Container, wanted: dict[str, Any], *, id: str = "", kept: bool = True
    ) -> None:
        self.id = id or new_id()
        self.kept = kept
        """Whether anybody may ask about it when it is over."""
        self.saved = not kept
        """Whether what outlives the engine is written down, or never will be."""
        self.container = container
        self.wanted = wanted
        self.created_at = time.monotonic()
        self.started = False
        self.running = False
        self.launched = asyncio.Event()
        """Set once it can be signalled, or cannot be run."""
        self.pid = 0
        self.code: int | None = None
        self.fault: SkerryError | None = None
        """Why it was not started, where that is not the command's fault."""
        self.outlived = True
        """Whether its container went on when it was killed."""
        self.recovered = False
        """Whether an earlier engine started it, and whoever had joined its streams lost them."""
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def terminal(self) -> bool:
        """Whether it has one."""
        return bool(self.wanted.get("Tty"))

    def finish(self, code: int) -> None:
        """It is over."""
        self.running = False
        self.code = code
        self.launched.set()
        if not self.ended.done():
            self.ended.set_result(code)


def _told(command: list[str]) -> str:
    """A command as Docker's events have it: a space after the program, arguments or not."""
    return f"{command[0]} {' '.join(command[1:])}"[:512]


def _look_up(container: Container, wanted: dict[str, Any], root: int) -> users.User:
    """The user of an exec below `root`, which is closed."""
    try:
        groups = tuple(container.record.host.get("GroupAdd") or ())
        return facts.lookup_user(root, wanted["User"], groups)
    finally:
        os.close(root)


class Execs:
    """The service."""

    def __init__(
        self, driver: Driver, roster: Roster, lifecycle: Lifecycle, host: facts.Host
    ) -> None:
        self._driver = driver
        self._roster = roster
        self._lifecycle = lifecycle
        self._host = host
        self._by_id: dict[str, Exec] = {}
        self._swept = 0.0
        lifecycle.health_probe = self.probe

    def get(self, id: str) -> Exec:
        """By id; NotFound in Docker's words."""
        found = self._by_id.get(id)
        if found is None:
            matching = [each for key, each in self._by_id.items() if id and key.startswith(id)]
            if len(matching) == 1:
                return matching[0]
            raise NotFound(f"No such exec instance: {id}")
        return found

    def run_dir(self, exec: Exec) -> str:
        """Where its keeper lives: inside the container's, so that it goes with it."""
        return os.path.join(self._lifecycle.run_dir(exec.container.id), "exec", exec.id[:16])

    def create(
        self, reference: str, wanted: dict[str, Any], *, kept: bool = True, told: bool = True
    ) -> Exec:
        """Note what to run. Conflict when the container does not run or is paused.

        One that is not `kept` is forgotten when it ends. One whose id the client is not `told` is
        written down only when it runs.
        """
        if not wanted.get("Cmd"):
            raise InvalidInput("No exec command specified")
        container = self._roster.find(reference)
        self._check(container)
        self._sweep()
        if len(container.execs) >= PER_CONTAINER:
            raise Conflict(f"container {container.id} has too many execs")
        if not runs_in_machine(container.record):  # Whose files are looked at once, when it starts.
            self._user_here(container, wanted)
        exec = Exec(container, wanted, kept=kept)
        container.execs[exec.id] = exec
        self._by_id[exec.id] = exec
        if told:
            self._save(exec)
        command = _told(wanted["Cmd"])
        self._lifecycle.emit(container, f"exec_create: {command}", execID=exec.id)
        return exec

    def check(self, exec: Exec) -> None:
        """Conflict when it cannot be started: it was already, or its container does not run."""
        if exec.started:
            raise Conflict(f"Error: Exec command {exec.id} has already run")
        self._check(exec.container)

    def _check(self, container: Container) -> None:
        if container.state.status == "paused":
            raise Conflict(
                f"Container {container.record.name} is paused, unpause the container before exec"
            )
        if not container.running or container.process is None:
            raise Conflict(f"container {container.id} is not running")

    async def start(
        self,
        exec: Exec,
        how: Attach | None,
        *,
        terminal: bool | None = None,
        console: list[int] | None = None,
    ) -> Stream | None:
        """Run it. With `how` its streams are joined; without it runs on its own.

        GuestFault for a command that is not there, with the exit code noted.
        """
        self.check(exec)
        container = exec.container
        wanted = dict(exec.wanted)
        if terminal is not None:
            wanted["Tty"] = exec.wanted["Tty"] = terminal
        if console:
            wanted["ConsoleSize"] = console
        assert container.process is not None
        exec.started = True
        try:
            user = await self._user(container, wanted)
            process = spec.exec_process(
                container.process, wanted, user, tuple(self._host.known_capabilities)
            )
        except SkerryError:
            # Clients ask for the code of an exec that they could not start.
            self._failed(exec, 126)
            raise
        task = ExecTask(
            id=exec.id,
            container_id=container.id,
            process=process,
            run_dir=self.run_dir(exec),
            open_stdin=bool(wanted.get("AttachStdin")),
            detach=how is None,
        )
        command = _told(wanted["Cmd"])
        self._lifecycle.emit(container, f"exec_start: {command}", execID=exec.id)
        exec.running = True
        try:
            started, stream = await self._driver.exec(task, self._on_exit(exec), attach=how)
        except (SkerryError, GuestFault) as error:
            number = getattr(error, "errno", 0)
            code = 126 if number in (0, errno.EACCES) else 128
            if isinstance(error, CommandNotFound | CommandNotExecutable):
                code = error.exit_code
            elif number in (errno.ENOENT, errno.ENOTDIR):
                code = 127
            tell_as_docker(error, NOT_EXECUTED)
            if isinstance(error, Conflict | Unavailable):
                exec.fault = error
            self._failed(exec, code)
            raise
        if not exec.saved:
            # Nobody knows its id yet, and most of them are over sooner than a file is written.
            asyncio.get_running_loop().call_later(_MOMENT, self._save_running, exec)
        exec.pid = started.pid if exec.running else 0
        exec.launched.set()
        return stream

    def _save_running(self, exec: Exec) -> None:
        if exec.running:
            self._save(exec)

    def _save(self, exec: Exec) -> None:
        if not exec.saved:
            exec.saved = True
            exec_files.save(self.run_dir(exec), exec.id, exec.wanted)

    def _on_exit(self, exec: Exec) -> Callable[[str, Exit], None]:
        def on_exit(_: str, exit: Exit) -> None:
            if exit.code == KILLED:
                exec.outlived = self._goes_on(exec.container)
            self._finished(exec, exit.code)
            self._lifecycle.emit(
                exec.container, "exec_die", execID=exec.id, exitCode=str(exit.code)
            )

        return on_exit

    @staticmethod
    def _goes_on(container: Container) -> bool:
        """Whether the main program does: the engine hears of its end last."""
        return container.running and not processes.ending(container.state.pid)

    def _failed(self, exec: Exec, code: int) -> None:
        """It could not be started; no keeper writes that down."""
        if exec.kept:
            exec_files.save(self.run_dir(exec), exec.id, exec.wanted, code)
        self._finished(exec, code)

    def _finished(self, exec: Exec, code: int) -> None:
        exec.finish(code)
        exec.container.execs.pop(exec.id, None)
        loop = asyncio.get_running_loop()
        loop.call_later(KEPT if exec.kept else _MOMENT, self._forget, exec)

    def _forget(self, exec: Exec) -> None:
        self._by_id.pop(exec.id, None)
        exec.container.execs.pop(exec.id, None)
        shutil.rmtree(self.run_dir(exec), ignore_errors=True)

    async def recover(self, container: Container) -> None:
        """Find the execs of an earlier engine, before the container's run folder goes."""
        folder = os.path.join(self._lifecycle.run_dir(container.id), "exec")
        for saved in exec_files.read_all(folder):
            exec = Exec(container, saved.wanted, id=saved.id)
            self._by_id[exec.id] = exec
            exec.started = exec.recovered = True
            exec.launched.set()
            if saved.code is not None:
                self._finished(exec, saved.code)
                continue
            container.execs[exec.id] = exec
            found = await self._driver.recover(exec.id, saved.folder, self._on_exit(exec))
            if isinstance(found, Started):
                exec.pid, exec.running = found.pid, True
            elif isinstance(found, Exit):
                self._finished(exec, found.code)
            else:
                exec.started = exec.recovered = False
                exec.launched.clear()

    def _sweep(self) -> None:
        """Forget what was created and never started."""
        now = time.monotonic()
        if now < self._swept + _SWEEP_EVERY:
            return
        self._swept = now
        limit = now - KEPT
        for exec in [e for e in self._by_id.values() if not e.started and e.created_at < limit]:
            self._forget(exec)

    async def _user(self, container: Container, wanted: dict[str, Any]) -> users.User | None:
        """Another user than the container's, looked up in its root as it is now."""
        if not wanted.get("User") or not runs_in_machine(container.record):
            return self._user_here(container, wanted)
        async with self._lifecycle.seen(container, ("etc/passwd", "etc/group")) as overlay:
            return _look_up(container, wanted, facts.open_root(overlay))

    def _user_here(self, container: Container, wanted: dict[str, Any]) -> users.User | None:
        if not wanted.get("User"):
            return None
        root = facts.root_of(container.record)
        if root < 0:
            raise Conflict(f"container {container.id} is not running")
        return _look_up(container, wanted, root)

    async def resize(self, exec: Exec, rows: int, columns: int) -> None:
        """Set the terminal's size; Conflict when it does not run."""
        if not exec.running:
            raise Conflict(f"exec process {exec.id} is not running")
        await self._driver.resize(self.run_dir(exec), rows, columns)

    async def kill(self, exec: Exec, number: int) -> None:
        """Send it a signal; SIGKILL goes to its whole process group. Conflict when it does not
        run."""
        if exec.running:
            await exec.launched.wait()
        if not exec.running:
            raise Conflict(f"exec process {exec.id} is not running")
        await self._driver.signal(exec.container.id, self.run_dir(exec), number)

    async def probe(
        self, container: Container, command: list[str], timeout: float, user: str = ""
    ) -> tuple[int, str]:
        """Run a health check to its end: exit code and output; TimeoutError."""
        wanted = {"Cmd": command, "AttachStdout": True, "AttachStderr": True, "User": user}
        exec = self.create(container.id, wanted, kept=False)
        stream = await self.start(exec, Attach())
        assert stream is not None
        from skerry.engine.attach import split_frames

        output, rest = b"", b""
        try:
            async with asyncio.timeout(timeout):
                while data := await stream.read():
                    frames, rest = split_frames(rest + data)
                    output = (output + b"".join(frame[8:] for _, frame in frames))[:65536]
                code = await asyncio.shield(exec.ended)
        except TimeoutError:
            await self._driver.signal(container.id, self.run_dir(exec), 9)
            raise
        finally:
            await stream.close()
        return code, output.decode("utf-8", "replace")
