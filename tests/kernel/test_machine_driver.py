"""The machine driver passes the isolation suite; what differs from containers is said here."""

import resource
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel import machine_kit
from tests.kernel.isolation_suite import IsolationSuite
from tests.kernel.test_driver import ContainerWorld

from skerry.machine import compiled
from skerry.machine.driver import MachineDriver
from skerry.machine.shape import MIB, Shape
from skerry.machine.templates import Templates

pytestmark = [pytest.mark.root]


class MachineWorld(ContainerWorld):
    """Machines with busybox; the kit and the template are the session's."""

    many, some = 6, 3

    def __init__(self, home: Path, rootfs: Path, root: Path) -> None:
        self.root = root
        super().__init__(home, rootfs)

    def new_driver(self) -> MachineDriver:  # type: ignore[override]
        return MachineDriver(str(self.root), cgroup_parent=self.parent)


@pytest.fixture(scope="session")
def machine_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with the distribution's kernel in its kit; templates are made by the first test."""
    root = tmp_path_factory.mktemp("machines")
    machine_kit.provide(root)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
async def world(
    tmp_path: Path, busybox_rootfs: Path, machine_root: Path
) -> AsyncIterator[MachineWorld]:
    made = MachineWorld(tmp_path, busybox_rootfs, machine_root)
    try:
        yield made
        await made.close()
    finally:
        for task in made.tasks:
            await made.delete(task)
        await made.driver.close()
        shutil.rmtree(tmp_path, ignore_errors=True)


class TestMachines(IsolationSuite):
    """All of the suite."""


async def test_a_container_of_another_kind_than_the_rehearsed_one(world: MachineWorld) -> None:
    """The init that waits in the guest has other namespaces than this one wants."""

    def usual(spec: dict[str, Any]) -> None:
        del spec["process"]["rlimits"]

    def other(spec: dict[str, Any]) -> None:
        usual(spec)
        spec["linux"]["namespaces"].append({"type": "time"})

    script = "readlink /proc/self/ns/time; cat /proc/self/cgroup; ulimit -Sn; ulimit -Hn"
    ends = [await world.run(world.task(script, change=each)) for each in (usual, other)]
    (code, first), (code2, second) = ((end.code, output[1].split()) for end, output in ends)
    assert (code, code2) == (0, 0)
    assert first[0] != second[0]
    assert first[1:] == second[1:]
    cgroup, *limits = first[1:]
    assert cgroup == b"0::/"
    # As behind the other wall, the limits are the engine's, here this process's.
    assert [int(each) for each in limits] == list(resource.getrlimit(resource.RLIMIT_NOFILE))


async def test_a_kit_without_a_compiler_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is the guest's first program then, as it is whatever it is asked."""
    monkeypatch.setattr(compiled, "COMPILERS", ())
    machine_kit.provide(tmp_path)
    templates = Templates(tmp_path)
    try:
        await templates.get(Shape(256 * MIB, 1))
        (made,) = tmp_path.glob("kit/*/initramfs")
        assert b"/usr/bin/python3 -ISE\nimport sys" in made.read_bytes()
    finally:
        templates.close()
        shutil.rmtree(tmp_path, ignore_errors=True)
