"""A container in the engine's memory: its record and the handles that live only as long as the
engine does."""

import asyncio
from typing import TYPE_CHECKING, Any

from skerry.base.isolation import Exit
from skerry.engine import record as records
from skerry.engine.attach import Pending

if TYPE_CHECKING:
    from skerry.engine.exec import Exec
    from skerry.engine.health import Health


class Container:
    """Live state. Only the services of this package change it."""

    __slots__ = (
        "early_exit",
        "execs",
        "exit_on_next",
        "health",
        "kept",
        "listed",
        "lock",
        "next_exit",
        "pending",
        "process",
        "record",
        "removed",
        "removing",
        "restart_pause",
        "restart_task",
        "starting",
        "watched",
    )

    def __init__(self, record: records.Record) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        """Held while the container changes from one state to another, not while it ends."""
        self.execs: dict[str, Exec] = {}
        self.health: Health | None = None
        self.pending: list[Pending] = []
        """Clients that attached before the start."""
        self.process: dict[str, object] | None = None
        """The OCI `process` it was started with; execs start from it."""
        self.next_exit: asyncio.Future[Exit] | None = None
        self.removed: asyncio.Future[int] | None = None
        self.removing = False
        self.kept = False
        """Its programs end so that it can go on elsewhere: --rm does not apply."""
        self.listed: Any = None
        """What a face wrote of it last, with all that it was written from."""
        self.restart_pause = 0.0
        self.restart_task: asyncio.Task[None] | None = None
        self.exit_on_next = False
        """A user asked for the end: no restart policy applies to the next exit."""
        self.starting = False
        self.watched: Any = None
        """What a face told last of its counters."""
        self.early_exit: Exit | None = None
        """The end of a program that was faster than the return of `start`."""

    @property
    def id(self) -> str:
        """64 hex digits."""
        return self.record.id

    @property
    def state(self) -> records.State:
        """The saved state."""
        return self.record.state

    @property
    def running(self) -> bool:
        """Whether a program runs, paused or not."""
        return self.record.running

    def attributes(self, **more: str) -> dict[str, str]:
        """What events tell of it: image, name, labels."""
        labels = self.record.config.get("Labels") or {}
        return {**labels, "image": self.record.image, "name": self.record.name, **more}

    async def wait_exit(self) -> Exit:
        """The next end of the program."""
        if self.next_exit is None:
            self.next_exit = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self.next_exit)

    async def wait_removed(self) -> int:
        """The exit code, once the container is gone."""
        if self.removed is None:
            self.removed = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self.removed)

    def tell_exit(self, exit: Exit) -> None:
        """Wake those who wait for the end."""
        waiting, self.next_exit = self.next_exit, None
        if waiting is not None and not waiting.done():
            waiting.set_result(exit)

    def tell_removed(self) -> None:
        """Wake those who wait for the removal, and those who still wait for an end."""
        code = self.state.exit_code
        if self.removed is not None and not self.removed.done():
            self.removed.set_result(code)
        self.tell_exit(Exit(code, False, self.state.finished_at / 1e9))
        for pending in self.pending:
            pending.resolve(None)
        self.pending.clear()
