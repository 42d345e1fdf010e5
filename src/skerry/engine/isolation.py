"""The contract between the engine and an isolation driver.

Life cycle of a container, as drivers see it::

    create ──> start ──> (pause <──> resume) ──> exit ──> delete
                 │  exec, attach, signal, resize, stats, update, copy
                 └──> snapshot, restore, fork (drivers that can)

Words, fixed here. A *task* is the program with its wall; it exists from `create` to `delete`. The
*keeper* is the process that owns a task's terminal, log and exit record. *Attach* joins the task's
streams, *exec* adds a process behind the same wall.

Rules for every driver:

* A task and its keeper outlive the engine. `recover` finds them again from `run_dir` alone.
* `create`, `delete` and `recover` are idempotent. `delete` of what is half there removes the rest.
* Whatever a killed engine left half-made is removed by `delete`.
* The program's fault (no such command) is a GuestFault, the engine's a SkerryError.
* No method blocks the event loop longer than a system call takes.
"""

from collections.abc import Callable
from typing import Protocol

from skerry.base.errors import GuestFault, MachineFault, SkerryError, Unavailable
from skerry.base.isolation import Attach, ExecTask, Exit, Started, Stats, Task

OnExit = Callable[[str, Exit], None]
"""Told once, with the id, when a task or an exec has ended."""
OnOom = Callable[[str, bool], None]
"""Told, with the id, when the kernel has killed for lack of memory in a task that goes on, and
whether an earlier engine may have been told."""
NOT_STARTED = (
    "failed to create task for container: OCI runtime create failed: "
    "unable to start container process: "
)
NOT_EXECUTED = "OCI runtime exec failed: exec failed: unable to start container process: "


def tell_as_docker(error: SkerryError | GuestFault, words: str) -> None:
    """Put dockerd's words in front of those of a driver's error of a start: scripts look for them.
    What a machine did and what the engine lacks is nobody else's."""
    if not isinstance(error, MachineFault | Unavailable):
        error.message = f"{words}{error.message}"
        error.args = (error.message,)


class Stream(Protocol):
    """The joined streams of a task or an exec, from `attach`.

    What comes out is framed as Docker frames it when the task has no terminal (8 bytes: stream
    number 1 or 2, three zeros, length as big-endian uint32; then the payload), and raw when it has.
    What goes in is raw standard input.
    """

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""

    async def write(self, data: bytes) -> None:
        """Send to standard input; waits while the program does not read."""

    async def close_stdin(self) -> None:
        """Tell the program that no more input comes (half close)."""

    async def close(self) -> None:
        """Leave; the program goes on."""


class Driver(Protocol):
    """What an isolation driver can do. All paths and ids are the caller's."""

    name: str
    on_oom: OnOom | None

    async def create(self, task: Task) -> None:
        """Check and plan, write the bundle. InvalidInput when the spec cannot be run here."""

    async def start(
        self, task: Task, on_exit: OnExit, *, attach: Attach | None = None
    ) -> tuple[Started, Stream | None]:
        """Run it; returns once the program was executed. `on_exit(id, exit)` is called once,
        after this has returned.

        With `attach` the streams are joined before the program's first byte, so none is lost.
        Raises CommandNotFound, CommandNotExecutable, InvalidInput, SystemFault; nothing is left
        then.
        """

    async def attach(self, container_id: str, run_dir: str, how: Attach) -> Stream:
        """Join the streams of a running task or exec."""

    async def exec(
        self, task: ExecTask, on_exit: OnExit, *, attach: Attach | None
    ) -> tuple[Started, Stream | None]:
        """Run a further process behind the wall; errors as `start`."""

    async def resize(self, run_dir: str, rows: int, columns: int) -> None:
        """Set the terminal's size. Conflict when there is no terminal."""

    async def signal(self, container_id: str, run_dir: str, signal: int) -> None:
        """Send a signal to the init; with SIGKILL the whole task ends."""

    async def pause(self, container_id: str) -> None:
        """Freeze every process of the task."""

    async def resume(self, container_id: str) -> None:
        """Thaw them."""

    async def update(self, container_id: str, resources: dict[str, object]) -> None:
        """Change limits of a running task; `resources` is OCI `linux.resources`."""

    async def stats(self, container_id: str) -> Stats:
        """One reading of the counters."""

    async def pids(self, container_id: str) -> list[int]:
        """Every process of the task, in the host's pid namespace."""

    async def refused_forks(self, container_id: str) -> int:
        """How often a process of the task was refused because of its limit."""

    async def recover(
        self, container_id: str, run_dir: str, on_exit: OnExit
    ) -> Started | Exit | None:
        """Find a task of an earlier engine: Started when it runs (`on_exit` will be called), Exit
        when it ended meanwhile, None when it never started."""

    async def delete(self, container_id: str, state_dir: str, run_dir: str) -> None:
        """Kill what still runs and remove every trace but `state_dir`'s own files of the caller."""

    async def close(self) -> None:
        """Let go of everything without ending any task."""
