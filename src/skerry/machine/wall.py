"""What every part of the machine driver stands on: templates, disks, lines to the wardens."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skerry.base.errors import Conflict, MachineFault, Unavailable
from skerry.base.isolation import DISK, Overlay
from skerry.machine import clients, orderly, starving
from skerry.machine.chains import on_layers_disk
from skerry.machine.disks import Disks, repair
from skerry.machine.shape import Shape
from skerry.machine.templates import Templates
from skerry.runtime import rundir
from skerry.runtime.driver import RuntimeDriver
from skerry.runtime.driver.link import Control
from skerry.runtime.driver.spawning import Spawner

ANSWER_SECONDS = 20.0
_BOOT = """
import os, sys
os.close(int(sys.argv[2]))
sys.path.insert(1, sys.argv[3])
from skerry.machine.spawner import main
main(int(sys.argv[1]))
"""


class Wall(RuntimeDriver):
    """Machines, as far as all of them need the same."""

    def __init__(self, root: str, *, cgroup_parent: str = "/skerry") -> None:
        """`root` is the engine's; kits, templates and disks are kept below it."""
        super().__init__(cgroup_parent=cgroup_parent, spawner=Spawner(_BOOT))
        self.templates = Templates(Path(root))
        self.disks = Disks(Path(root, "machines"))
        self._lines: dict[str, Control] = {}
        self._busy = 0
        """Starts that may be about to open a template or a disk by its name."""

    @contextmanager
    def _opening(self) -> Iterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    def _ready_disks(self, overlay: Overlay | None) -> str:
        self.disks.prepare()
        if overlay is None or not overlay.lower:
            return ""
        return str(self.disks.layers(on_layers_disk(overlay)))

    async def repair(self, rootfs: Overlay) -> None:
        """Check the writable disk of a container that does not run, if a machine left it open:
        before it is written to or frozen, and the mark goes or stays with it."""
        disk = Path(os.path.dirname(rootfs.upper), DISK)
        if orderly.is_marked(str(disk)):
            await asyncio.to_thread(repair, disk)

    def _shape_of(self, container_id: str) -> Shape:
        facts = self._containers[container_id].facts
        memory, cpus = facts["shape"]
        return Shape(int(memory), int(cpus))

    def _starving(self, _container_id: str, run_dir: str) -> starving.Watched:
        return starving.Watched(run_dir)

    def _hang_up(self, run_dir: str) -> None:
        line = self._lines.pop(run_dir, None)
        if line is not None:
            line.close()

    async def ask(
        self,
        container_id: str,
        op: str,
        *,
        fds: tuple[int, ...] = (),
        seconds: float | None = ANSWER_SECONDS,
        **words: Any,
    ) -> dict[str, Any]:
        """Ask the warden of a running container; Conflict when it does not run, MachineFault when
        the guest does not answer in time, or the machine dies meanwhile. Takes over `fds`."""
        kept = self._containers.get(container_id)
        if kept is None:
            raise Conflict(f"container {container_id} is not running")
        line = self._lines.get(kept.run_dir)
        if line is None or line.closed:
            sock = rundir.connect(kept.run_dir, clients.SOCKET)
            if sock is None:
                raise Conflict(f"container {container_id} is not running")
            line = self._lines[kept.run_dir] = Control(sock, lambda _: None)
        try:
            return await asyncio.wait_for(line.request(op, fds, **words), seconds)
        except TimeoutError:
            raise MachineFault(f"the machine of {container_id} does not answer") from None
        except Unavailable as fault:
            raise MachineFault(
                f"the machine of {container_id} has ended, or is about to: {fault.message}"
            ) from None
