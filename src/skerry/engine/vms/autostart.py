"""Machines that start with the host: one after the other, by their order, the older of equals
first; each waits its delay before.

Done once after each boot of the host (proc_sys_kernel(5), `boot_id`). Whose turn is over is written
down behind its start: an engine that was killed begins with the one that it was starting, and
one that was stopped since then stays off.
"""

import asyncio
import contextlib
import json
import logging
import os

from skerry.base.errors import InvalidInput, NotModified, SkerryError
from skerry.base.settings import Settings
from skerry.engine.vms.life import Life
from skerry.engine.vms.record import Live, Machine
from skerry.engine.vms.shelf import Shelf

log = logging.getLogger(__name__)

FIELDS = ("autostart", "autostart_order", "autostart_delay")
MOST_ORDER = 1_000_000
MOST_DELAY = 3600
"""Seconds."""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MOST_TURNS = 16 << 20


def check(record: Machine) -> None:
    """InvalidInput for an order or a delay that is none."""
    if not 0 <= record.autostart_delay <= MOST_DELAY:
        raise InvalidInput(
            f"autostart delay: {record.autostart_delay} seconds, from 0 to {MOST_DELAY}"
        )
    if abs(record.autostart_order) > MOST_ORDER:
        raise InvalidInput(f"autostart order: {record.autostart_order}, at most {MOST_ORDER}")


class Turns:
    """The ids of those whose turn is over since the host's boot, in a file."""

    def __init__(self, path: str, boot: str) -> None:
        self._path = path
        self._boot = boot
        self._taken: list[str] = []
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
            found = json.loads(file.read(_MOST_TURNS))
            if isinstance(found, dict) and found.get("boot") == boot:
                self._taken = [str(each) for each in found.get("taken", [])]
                self.done = found.get("done") is True
                return
        self.done = False

    def has(self, identity: str) -> bool:
        """Whether this one's turn is over."""
        return identity in self._taken

    def take(self, identity: str) -> None:
        """Its turn is over."""
        self._taken.append(identity)
        self._write()

    def finish(self) -> None:
        """All that had one have had their turn."""
        self.done = True
        self._write()

    def _write(self) -> None:
        part = f"{self._path}.part"
        with open(part, "w", encoding="ascii") as file:
            json.dump({"boot": self._boot, "taken": self._taken, "done": self.done}, file)
        os.rename(part, self._path)


class Autostart:
    """One run of it, beside the engine's other work."""

    def __init__(self, settings: Settings, shelf: Shelf, life: Life) -> None:
        self._path = os.path.join(settings.run_root, "vms", "autostarted")
        self._shelf = shelf
        self._life = life
        self._task: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()

    def begin(self) -> None:
        """Start what is due; returns at once."""
        os.makedirs(os.path.dirname(self._path), mode=0o710, exist_ok=True)
        with open(_BOOT_ID, encoding="ascii") as file:
            turns = Turns(self._path, file.read(64).strip())
        if not turns.done:
            self._task = asyncio.get_running_loop().create_task(self._run(turns))

    async def end(self) -> None:
        """Start no more, but finish a start that is under way; the next engine goes on."""
        self._ending.set()
        if self._task is not None:
            await self._task

    async def _run(self, turns: Turns) -> None:
        try:
            for live in self._shelf:
                if live.record.autostart and live.process is not None:
                    turns.take(live.record.id)
            for live in due(self._shelf, turns):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), live.record.autostart_delay)
                if self._ending.is_set():
                    return
                await self._start(live)
                turns.take(live.record.id)
            turns.finish()
        except OSError as error:
            log.error("autostart of machines: %s", error)

    async def _start(self, live: Live) -> None:
        record = live.record
        try:
            async with live.lock:
                # It may have been removed, or told to stay off, while it waited.
                self._shelf.get(record.id)
                if record.autostart:
                    await self._life.start(live)
        except NotModified:
            return
        except (SkerryError, OSError) as error:
            cause = (error.message if isinstance(error, SkerryError) else str(error))[:500]
            log.error("autostart of machine %s: %s", record.name, cause)
            self._life.tell(live, "autostart-failed", cause=cause)
            with contextlib.suppress(SkerryError):
                self._shelf.change(record, cause=f"autostart failed: {cause}")


def due(shelf: Shelf, turns: Turns) -> list[Live]:
    """Those to start, in order."""
    found = [
        live
        for live in shelf
        if live.record.autostart and live.process is None and not turns.has(live.record.id)
    ]
    return sorted(found, key=lambda live: live.record.autostart_order)
