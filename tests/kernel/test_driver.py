"""The container driver passes the isolation suite."""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from bench import images
from tests.kernel.isolation_suite import IsolationSuite, World, until

from skerry.base.ids import new_id
from skerry.base.isolation import ExecTask, LogOptions, Overlay, Task
from skerry.kernel import cgroups
from skerry.runtime.driver import RuntimeDriver

pytestmark = pytest.mark.root


class ContainerWorld(World):
    """Containers with busybox below an overlay, in a cgroup of the test's own."""

    def __init__(self, home: Path, rootfs: Path) -> None:
        self.home = home
        self.rootfs = rootfs
        self.parent = f"/skerry-test-{os.getpid()}-{home.name}"
        self.layout = cgroups.detect()
        self.tasks: list[Task] = []
        super().__init__(self.new_driver())

    def new_driver(self) -> RuntimeDriver:
        return RuntimeDriver(cgroup_parent=self.parent)

    def task(self, script: str | list[str], **options: Any) -> Task:
        id_ = new_id()
        folder = self.home / id_[:8]
        for name in ("upper", "work", "state"):
            (folder / name).mkdir(parents=True)
        change: Callable[[dict[str, Any]], None] | None = options.pop("change", None)
        terminal = options.pop("terminal", None)
        spec = images.oci_spec(arguments(script), "")
        set_terminal(spec["process"], terminal)
        if change:
            change(spec)
        task = Task(
            id=id_,
            spec=spec,
            rootfs=Overlay((str(self.rootfs),), str(folder / "upper"), str(folder / "work")),
            state_dir=str(folder / "state"),
            run_dir=str(folder / "run"),
            log=LogOptions(path=str(folder / "state" / f"{id_}-json.log")),
            **options,
        )
        self.tasks.append(task)
        return task

    def exec_task(self, task: Task, script: str | list[str], **options: Any) -> ExecTask:
        id_ = new_id()
        process = dict(task.spec["process"], args=arguments(script))
        set_terminal(process, options.pop("terminal", None))
        run_dir = os.path.join(task.run_dir, "exec", id_)
        return ExecTask(id_, task.id, process, run_dir, **options)

    async def next_engine(self) -> None:
        await self.driver.close()
        self.driver = self.new_driver()

    def leftovers(self) -> list[str]:
        trees = cgroups.Cgroup(self.parent, self.layout).directories()
        found = [str(path) for tree in trees for path in Path(tree).glob("*/")]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if b".spawner" in command and holds(int(pid), self.home):
                found.append(f"process {pid} (child of {parent})")
        found += [task.run_dir for task in self.tasks if os.path.exists(task.run_dir)]
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [line for line in mounts.splitlines() if str(self.home) in line]
        return found

    async def close(self) -> None:
        """Delete every task; nothing may be left then."""
        for task in self.tasks:
            await self.delete(task)
        for task in self.tasks:
            assert set(os.listdir(task.state_dir)) <= {os.path.basename(task.log.path)}
        await until(lambda: not self.leftovers(), f"left behind: {self.leftovers()}")
        await self.driver.close()
        cgroups.Cgroup(self.parent, self.layout).remove()


def arguments(script: str | list[str]) -> list[str]:
    return ["/bin/sh", "-c", script] if isinstance(script, str) else script


def set_terminal(process: dict[str, Any], size: tuple[int, int] | None) -> None:
    process["terminal"] = size is not None
    process.pop("consoleSize", None)
    if size is not None:
        process["consoleSize"] = {"height": size[0], "width": size[1]}


def holds(pid: int, home: Path) -> bool:
    """Whether a process has something below `home` open, as every keeper has its lock."""
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
        return any(str(home) in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in fds)
    except OSError:
        return False


@pytest.fixture
async def world(tmp_path: Path, busybox_rootfs: Path) -> AsyncIterator[ContainerWorld]:
    made = ContainerWorld(tmp_path, busybox_rootfs)
    try:
        yield made
        await made.close()
    finally:
        for task in made.tasks:
            await made.delete(task)
        await made.driver.close()
        shutil.rmtree(tmp_path, ignore_errors=True)


class TestContainers(IsolationSuite):
    """All of the suite."""
