"""The thickness of a container's wall, and the driver that builds it.

`Walls` is itself a `Driver`: it passes every call on to the driver of the container's wall, so the
services know nothing of the choice. A driver is made when the first container asks for it.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from skerry.base.errors import InvalidInput, Unsupported
from skerry.base.isolation import (
    KERNEL_ANNOTATION,
    Attach,
    ExecTask,
    Exit,
    Overlay,
    SavedInfo,
    Started,
    Stats,
    Task,
    Unpacking,
)
from skerry.engine.isolation import Driver, OnExit, OnOom, Stream
from skerry.engine.record import Record

CONTAINER, VM = "container", "vm"
ANNOTATION = "io.skerry.isolation"
"""The OCI annotation that asks for a wall, for clients that know no other way."""
RUNTIMES = {"skerry": CONTAINER, "runc": CONTAINER, "io.containerd.runc.v2": CONTAINER,
            "skerry-vm": VM}  # fmt: skip
"""Docker's `--runtime`, by wall."""
ISOLATIONS = {"default": CONTAINER, CONTAINER: CONTAINER, VM: VM}


def wall_of(host: Mapping[str, Any]) -> str:
    """The wall that a HostConfig asks for: `Isolation`, the runtime or an annotation;
    whoever names a kernel asks for a machine.

    InvalidInput and Unsupported for what nobody knows, and for two that contradict one another.
    """
    asked: set[str] = set()
    if isolation := host.get("Isolation"):
        if isolation not in ISOLATIONS:
            raise Unsupported(f"this engine has no isolation {isolation!r}")
        if isolation != "default":
            asked.add(ISOLATIONS[isolation])
    if runtime := host.get("Runtime"):
        if runtime not in RUNTIMES:
            raise InvalidInput(f"unknown or invalid runtime name: {runtime}")
        if RUNTIMES[runtime] == VM or runtime != "skerry":
            asked.add(RUNTIMES[runtime])
    if annotated := (host.get("Annotations") or {}).get(ANNOTATION):
        if annotated not in ISOLATIONS:
            raise Unsupported(f"annotation {ANNOTATION}: no isolation {annotated!r}")
        asked.add(ISOLATIONS[annotated])
    if (host.get("Annotations") or {}).get(KERNEL_ANNOTATION):
        asked.add(VM)
    if len(asked) > 1:
        raise InvalidInput("the isolation, the runtime and the annotations contradict one another")
    return asked.pop() if asked else CONTAINER


def runs_in_machine(record: Record) -> bool:
    """Whether it runs, and what it has written is in its machine alone."""
    return record.running and wall_of(record.host) == VM


@runtime_checkable
class Distant(Protocol):
    """What a driver can do whose containers' files and processes the host does not see."""

    async def mirror(self, container_id: str, overlay: Overlay, run_dir: str) -> None:
        """Make `overlay.upper` what the container has written by now."""

    async def look(
        self, container_id: str, overlay: Overlay, folder: str, contents: tuple[str, ...]
    ) -> None:
        """Make `folder` what the running container has written by now, with what long files contain
        only at and below `contents`. Conflict when it does not run."""

    async def unpack(
        self, container_id: str, overlay: Overlay, run_dir: str, archive: Unpacking
    ) -> None:
        """Unpack into the container, running or not; NotFound and InvalidInput as `docker cp`."""

    async def processes(self, container_id: str) -> list[list[str]]:
        """Rows of UID, PID, PPID, C, STIME, TTY, TIME, CMD."""

    async def rewire(self, container_id: str, state_dir: str) -> None:
        """Bring a running container's network in line with what its sandbox and its files of names
        have become; Conflict when it cannot be had now."""


class Walls:
    """Drivers by wall. `choose` gives a container's wall; empty for one that is not known."""

    name = "walls"

    def __init__(
        self, makers: Mapping[str, Callable[[], Driver]], choose: Callable[[str], str]
    ) -> None:
        self._makers = makers
        self._choose = choose
        self._drivers: dict[str, Driver] = {}
        self.on_oom: OnOom | None = None

    def driver(self, wall: str) -> Driver:
        """The driver of a wall, made now if there is none."""
        if wall not in self._drivers:
            self._drivers[wall] = self._makers[wall]()
            self._drivers[wall].on_oom = self._starved
        return self._drivers[wall]

    def _starved(self, container_id: str, earlier: bool) -> None:
        if self.on_oom is not None:
            self.on_oom(container_id, earlier)

    def of(self, container_id: str) -> Driver:
        """The driver of a container."""
        return self.driver(self._choose(container_id) or CONTAINER)

    def _at(self, run_dir: str) -> Driver:
        """By `<run-root>/containers/<id>`, or a folder of an exec below it."""
        parts = run_dir.split(os.sep)
        at = len(parts) - 1 - parts[::-1].index("containers") if "containers" in parts else -2
        return self.of(parts[at + 1] if at + 1 < len(parts) else "")

    async def create(self, task: Task) -> None:
        """See Driver."""
        await self.of(task.id).create(task)

    async def start(
        self, task: Task, on_exit: OnExit, *, attach: Attach | None = None
    ) -> tuple[Started, Stream | None]:
        """See Driver."""
        return await self.of(task.id).start(task, on_exit, attach=attach)

    async def attach(self, container_id: str, run_dir: str, how: Attach) -> Stream:
        """See Driver."""
        return await self.of(container_id).attach(container_id, run_dir, how)

    async def exec(
        self, task: ExecTask, on_exit: OnExit, *, attach: Attach | None
    ) -> tuple[Started, Stream | None]:
        """See Driver."""
        return await self.of(task.container_id).exec(task, on_exit, attach=attach)

    async def resize(self, run_dir: str, rows: int, columns: int) -> None:
        """See Driver."""
        await self._at(run_dir).resize(run_dir, rows, columns)

    async def signal(self, container_id: str, run_dir: str, signal: int) -> None:
        """See Driver."""
        await self.of(container_id).signal(container_id, run_dir, signal)

    async def pause(self, container_id: str) -> None:
        """See Driver."""
        await self.of(container_id).pause(container_id)

    async def resume(self, container_id: str) -> None:
        """See Driver."""
        await self.of(container_id).resume(container_id)

    async def save(
        self, container_id: str, rootfs: Overlay, memory: int = -1, devices: str = ""
    ) -> SavedInfo:
        """See MachineDriver; Unsupported behind another wall."""
        found: SavedInfo = await self._machines(container_id).save(
            container_id, rootfs, memory, devices
        )
        return found

    async def repair(self, container_id: str, rootfs: Overlay) -> None:
        """See MachineDriver."""
        await self._machines(container_id).repair(rootfs)

    async def load_memory(self, container_id: str, path: str) -> int:
        """See MachineDriver."""
        fd: int = await self._machines(container_id).load_memory(path)
        return fd

    def pack_snapshot(
        self, overlay: Overlay, folder: str, made_of: dict[str, Any], target: str
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """See MachineDriver."""
        found: tuple[dict[str, Any], dict[str, str]] = self._of_machines().pack_snapshot(
            overlay, folder, made_of, target
        )
        return found

    def take_snapshot(
        self, said: object, files: dict[str, str], overlay: Overlay, folder: str
    ) -> dict[str, Any]:
        """See MachineDriver."""
        found: dict[str, Any] = self._of_machines().take_snapshot(said, files, overlay, folder)
        return found

    def seal(self, container_id: str, memory: int) -> None:
        """See MachineDriver."""
        self._machines(container_id).seal(memory)

    def _machines(self, container_id: str) -> Any:
        driver = self.of(container_id)
        if not hasattr(driver, "save"):
            raise Unsupported("only machines can be saved with their memory")
        return driver

    async def update(self, container_id: str, resources: dict[str, object]) -> None:
        """See Driver."""
        await self.of(container_id).update(container_id, resources)

    async def stats(self, container_id: str) -> Stats:
        """See Driver."""
        return await self.of(container_id).stats(container_id)

    async def pids(self, container_id: str) -> list[int]:
        """See Driver."""
        return await self.of(container_id).pids(container_id)

    async def refused_forks(self, container_id: str) -> int:
        """See Driver."""
        return await self.of(container_id).refused_forks(container_id)

    async def recover(
        self, container_id: str, run_dir: str, on_exit: OnExit
    ) -> Started | Exit | None:
        """See Driver."""
        return await self.of(container_id).recover(container_id, run_dir, on_exit)

    async def delete(self, container_id: str, state_dir: str, run_dir: str) -> None:
        """See Driver. What belongs to no record may be of any wall: what ends and removes a task
        is the same for all."""
        await self.of(container_id).delete(container_id, state_dir, run_dir)

    async def mirror(self, container_id: str, overlay: Overlay, run_dir: str) -> None:
        """Bring what a container's machine has written to its layer on this host."""
        driver = self.of(container_id)
        if isinstance(driver, Distant):
            await driver.mirror(container_id, overlay, run_dir)

    async def look(
        self, container_id: str, overlay: Overlay, folder: str, contents: tuple[str, ...]
    ) -> None:
        """See Distant."""
        driver = self.of(container_id)
        if isinstance(driver, Distant):
            await driver.look(container_id, overlay, folder, contents)

    async def rewire(self, container_id: str, state_dir: str) -> None:
        """Tell a running container's machine that its networks are others."""
        driver = self.of(container_id)
        if isinstance(driver, Distant):
            await driver.rewire(container_id, state_dir)

    async def unpack(
        self, container_id: str, overlay: Overlay, run_dir: str, archive: Unpacking
    ) -> None:
        """Unpack an archive in a container's machine."""
        driver = self.of(container_id)
        if isinstance(driver, Distant):
            await driver.unpack(container_id, overlay, run_dir, archive)

    async def processes(self, container_id: str) -> list[list[str]] | None:
        """The processes behind the wall as `ps -ef` shows them; None where the host sees them."""
        driver = self.of(container_id)
        return await driver.processes(container_id) if isinstance(driver, Distant) else None

    def machine_leftovers(self, chains: list[Overlay]) -> dict[str, int]:
        """Bytes of what `tidy` would remove, by category of the store's account."""
        if VM not in self._makers:
            return {}
        found: dict[str, int] = self._of_machines().unused(chains).usage()
        return found

    async def tidy(self, chains: list[Overlay]) -> int:
        """Remove what machines have made and nobody uses any more; the bytes that were freed."""
        freed: int = await self._of_machines().tidy(chains) if VM in self._makers else 0
        return freed

    def spares(self) -> list[dict[str, Any]]:
        """See `machine.spares.Spares.rows`; none before a machine was asked for."""
        machines: Any = self._drivers.get(VM)
        return list(machines.spares.rows()) if machines is not None else []

    async def get_ready(self, root: str, folder: str) -> None:
        """Have machines ready for containers as were started in them before; `root` is the
        engine's, `folder` where run directories are made."""
        from skerry.machine import remembered  # Late, as a driver's own module.

        made = os.path.join(root, "machines", remembered.NAME)
        if VM in self._makers and os.path.exists(made):
            await self._of_machines().get_ready(folder)

    def _of_machines(self) -> Any:
        if VM not in self._makers:
            raise Unsupported("this engine has no machines")
        return self.driver(VM)

    async def close(self) -> None:
        """See Driver."""
        await asyncio.gather(*(driver.close() for driver in self._drivers.values()))
